//! The options of `vmon run` that are not part of `Sandbox`. The record stores them beside the
//! sandbox, and `vmon restart` reads them from it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;
use vmon::monitor::codec;

use super::lifecycle_files::LifecycleFiles;
use crate::args;

/// The options, with the defaults of those that were not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `None` for the default, `run` in the state directory in use, wherever that was moved to.
    pub runtime_dir: Option<PathBuf>,
    pub files: LifecycleFiles,
    pub on_exit: Option<OsString>,
    pub metrics_interval: Option<Duration>,
    pub log_level: LevelFilter,
    /// The socket of the host that has started it: `vmon serve`.
    pub host: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            runtime_dir: None,
            files: LifecycleFiles::default(),
            on_exit: None,
            metrics_interval: None,
            log_level: LevelFilter::WARN,
            host: None,
        }
    }
}

impl Options {
    /// A JSON object of the options that were given: the name without leading dashes, and the value
    /// as [`codec::word`] writes it.
    pub fn to_json(&self) -> Value {
        let Self { runtime_dir, files, on_exit, metrics_interval, log_level, host } = self;
        let LifecycleFiles { pid, exit } = files;
        let level = log_level.to_string();
        let interval = metrics_interval.map(|time| format!("{}ms", time.as_millis()));
        let options: [(&str, Option<&OsStr>); 7] = [
            ("runtime-dir", runtime_dir.as_ref().map(AsRef::as_ref)),
            ("pid-file", pid.as_ref().map(AsRef::as_ref)),
            ("exit-file", exit.as_ref().map(AsRef::as_ref)),
            ("on-exit", on_exit.as_deref()),
            ("metrics-interval", interval.as_ref().map(AsRef::as_ref)),
            ("log-level", Some(level.as_ref())),
            ("host", host.as_ref().map(AsRef::as_ref)),
        ];
        let mut given = Map::new();
        for (name, value) in options {
            given.extend(value.map(|value| (name.to_owned(), codec::word(value))));
        }
        Value::Object(given)
    }

    /// Reads the output of [`to_json`](Self::to_json), and `null`, which a host without options
    /// records. `None` for other options of a host.
    pub fn from_json(recorded: &Value) -> Option<Self> {
        let mut options = Self::default();
        if recorded.is_null() {
            return Some(options);
        }
        for (name, value) in recorded.as_object()? {
            let value = codec::read_word(value)?;
            match name.as_str() {
                "runtime-dir" => options.runtime_dir = Some(value.into()),
                "pid-file" => options.files.pid = Some(value.into()),
                "exit-file" => options.files.exit = Some(value.into()),
                "on-exit" => options.on_exit = Some(value),
                "metrics-interval" => {
                    options.metrics_interval = Some(args::positive_time(value.to_str()?).ok()?);
                }
                "log-level" => options.log_level = value.to_str()?.parse().ok()?,
                "host" => options.host = Some(value.into()),
                _ => return None,
            }
        }
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn recorded_options_are_read_back_unchanged() {
        let options = Options {
            runtime_dir: Some("/run/vmon".into()),
            files: LifecycleFiles {
                pid: Some(OsString::from_vec(vec![b'/', 0xff]).into()),
                exit: Some("/exit".into()),
            },
            on_exit: Some("--x y".into()),
            metrics_interval: Some(Duration::from_millis(1500)),
            log_level: LevelFilter::DEBUG,
            host: Some("/host".into()),
        };
        let recorded = json!({
            "runtime-dir": "/run/vmon", "pid-file": { "bytes": [47, 255] }, "exit-file": "/exit",
            "on-exit": "--x y", "metrics-interval": "1500ms", "log-level": "debug", "host": "/host",
        });
        assert_eq!(options.to_json(), recorded);
        assert_eq!(Options::from_json(&recorded), Some(options));
        assert_eq!(Options::default().to_json(), json!({ "log-level": "warn" }));
        assert_eq!(Options::from_json(&Value::Null), Some(Options::default()));
        for other in [json!({ "on-exit": 1 }), json!({ "tenant": "x" }), json!("x")] {
            assert_eq!(Options::from_json(&other), None, "{other}");
        }
    }
}
