//! The logs of the container, opened before anything is started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use tracing::{info, warn};
use vmon::journal::{Field, Journal, JournalOptions};
use vmon::logfile::{K8sFile, K8sFileOptions, Stream};
use vmon::monitor::{LogDriver, LogRate};

use crate::checks::{Config, SHORT_ID};
use crate::failure::Failure;

/// The variable with a limit of the log's rate, such as `1MiB/s` or `1MiB/s,burst=4MiB,over=drop`.
/// An engine sets it for every container: `conmon_env_vars` of containers.conf, `monitor_env` of
/// crio.conf. Without `over` the container waits while it writes faster.
const RATE: &str = "VMON_CONMON_LOG_RATE";

/// The log drivers. They are lent to the monitor, and get the words of a runtime that failed.
#[derive(Debug)]
pub struct Logs {
    drivers: Vec<LogDriver>,
    /// Whether they are written to the disk at the end.
    sync: bool,
}

impl Logs {
    /// Opens the logs.
    ///
    /// # Errors
    ///
    /// The file can't be opened.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let mut drivers = Vec::new();
        if let Some(path) = &config.drivers.k8s_file {
            let file = K8sFile::open(path, file_options(config));
            let file = file.map_err(Failure::of("Failed to open log file"))?;
            drivers.push(LogDriver::K8sFile(file));
        }
        if config.drivers.journald {
            drivers.push(LogDriver::Journal(Journal::new(journal_options(config))));
        }
        Ok(Self { drivers, sync: !config.options.no_sync_log })
    }

    /// Lends the drivers to a monitor.
    pub fn lend(&mut self) -> Vec<LogDriver> {
        std::mem::take(&mut self.drivers)
    }

    /// Takes them back, complete.
    pub fn take_back(&mut self, drivers: Vec<LogDriver>) {
        self.drivers = drivers;
    }

    /// Has the system write the logs to the disk (fsync(2)), unless that is not wanted.
    pub fn sync(&self) {
        for driver in self.drivers.iter().filter(|_| self.sync) {
            if let Err(error) = driver.sync() {
                info!("{error}");
            }
        }
    }

    /// Logs what can be read now from a pipe that is not blocking: what a runtime has left in it.
    pub fn take_rest(&mut self, stream: Stream, mut pipe: &File) {
        let mut buffer = [0; 4096];
        // The end of the pipe, or nothing in it.
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            self.write(stream, buffer.get(..count).unwrap_or_default());
        }
    }

    /// Logs bytes of the runtime, to files: the entries of a journal are sent by a monitor.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for driver in &mut self.drivers {
            let written = match driver {
                LogDriver::K8sFile(file) => file.write(stream, bytes),
                _ => Ok(()),
            };
            if let Err(error) = written {
                warn!("{error}");
            }
        }
    }
}

fn file_options(config: &Config) -> K8sFileOptions {
    let options = &config.options;
    let limit = |size: i64| u64::try_from(size).unwrap_or(0);
    let generations = options.log_max_files.unwrap_or(1);
    let generations = u32::try_from(generations).unwrap_or(1);
    K8sFileOptions {
        max_size: limit(options.log_size_max),
        global_max: limit(options.log_global_size_max),
        rotate: options.log_rotate.then_some(generations),
        allowed: options.log_allowlist_dirs.iter().map(PathBuf::from).collect(),
    }
}

/// The fields of an entry of the journal, in conmon's order.
fn journal_options(config: &Config) -> JournalOptions {
    let (cid, options) = (config.cid.as_bytes(), &config.options);
    let short_id = cid.get(..SHORT_ID).unwrap_or(cid);
    let bytes = |value: &Option<OsString>| value.as_ref().map(|it| it.as_bytes().to_vec());
    let (tag, name) = (bytes(&options.log_tag), bytes(&options.name));
    let identifier = tag.clone().or_else(|| name.clone()).unwrap_or_else(|| short_id.to_vec());
    let after_priority = [
        Some(("CONTAINER_ID", short_id.to_vec())),
        tag.map(|tag| ("CONTAINER_TAG", tag)),
        name.map(|name| ("CONTAINER_NAME", name)),
        Some(("SYSLOG_IDENTIFIER", identifier)),
    ];
    let after_priority = after_priority.into_iter().flatten();
    let partial = (!options.no_container_partial_message).then_some("CONTAINER_PARTIAL_MESSAGE");
    JournalOptions {
        before_priority: field("CONTAINER_ID_FULL", cid).into_iter().collect(),
        after_priority: after_priority.filter_map(|(name, value)| field(name, &value)).collect(),
        partial: partial.and_then(|name| field(name, b"true")),
        last: options.log_labels.iter().filter_map(|label| label_field(label)).collect(),
        level: Some("CONTAINER_PRIORITY"),
        keep_newline: true,
        ..JournalOptions::default()
    }
}

/// The field of a label, `NAME=VALUE`.
fn label_field(label: &OsStr) -> Option<Field> {
    let bytes = label.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (bytes.get(..at)?, bytes.get(at + 1..)?);
    field(&String::from_utf8_lossy(name), value)
}

fn field(name: &str, value: &[u8]) -> Option<Field> {
    Field::new(name, value).inspect_err(|error| warn!("{error}; the field is left out")).ok()
}

/// The limit of the log's rate, if there is one.
pub fn rate() -> Option<LogRate> {
    let value = std::env::var_os(RATE)?;
    match value.to_string_lossy().parse() {
        Ok(rate) => Some(rate),
        Err(error) => {
            warn!("{RATE} is ignored: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks;
    use crate::options::{Parsed, parse};

    #[track_caller]
    fn config(words: &str) -> Config {
        let words = format!("-c 0123456789abcdef -u u -r /tmp {words}");
        let words = words.split_whitespace().map(OsString::from);
        let Ok(Parsed::Run(options)) = parse(words) else { panic!() };
        checks::rest(options.cid.clone().unwrap(), *options).unwrap()
    }

    fn fields<const N: usize>(fields: [(&str, &str); N]) -> Vec<Field> {
        fields.iter().map(|(name, value)| Field::new(name, value).unwrap()).collect()
    }

    #[test]
    fn an_entry_of_the_journal_has_the_fields_that_podman_reads() {
        let options = journal_options(&config("-l journald"));
        assert_eq!(options.before_priority, fields([("CONTAINER_ID_FULL", "0123456789abcdef")]));
        let short = "0123456789ab";
        let expected = fields([("CONTAINER_ID", short), ("SYSLOG_IDENTIFIER", short)]);
        assert_eq!(options.after_priority, expected);
        assert!(options.partial.is_some() && options.last.is_empty() && options.keep_newline);
    }

    #[test]
    fn the_tag_the_name_and_labels_are_fields() {
        let words = "-l journald -n web --log-tag tag --log-label A=b --log-label _C=d \
                     --no-container-partial-message";
        let options = journal_options(&config(words));
        let short = "0123456789ab";
        let expected = [
            ("CONTAINER_ID", short),
            ("CONTAINER_TAG", "tag"),
            ("CONTAINER_NAME", "web"),
            ("SYSLOG_IDENTIFIER", "tag"),
        ];
        assert_eq!(options.after_priority, fields(expected));
        // journald keeps names with a leading underscore for itself.
        assert_eq!((options.last, options.partial), (fields([("A", "b")]), None));
        let options = journal_options(&config("-l journald -n web"));
        assert_eq!(options.after_priority.last(), fields([("SYSLOG_IDENTIFIER", "web")]).last());
    }

    #[test]
    fn limits_of_0_and_less_are_none() {
        let options = file_options(&config("-l /log"));
        assert_eq!((options.max_size, options.global_max, options.rotate), (0, 0, None));
        let words = "-l /log --log-size-max 0 --log-global-size-max 5 --log-rotate \
                     --log-max-files 3 --log-allowlist-dir /a";
        let options = file_options(&config(words));
        assert_eq!((options.max_size, options.global_max, options.rotate), (0, 5, Some(3)));
        assert_eq!(options.allowed, [PathBuf::from("/a")]);
    }
}
