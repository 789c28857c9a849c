//! The JSON form of a sandbox and its command: the column `spec` of the record, and a part of the
//! plan that a detached supervisor receives.
//!
//! A JSON object, written by [`Spec::to_json`] and read by [`Spec::from_json`]:
//!
//! - A word or a path is a string; one that is not UTF-8 is `{"bytes": [104, 255, …]}`, so that a
//!   command can be started again with the same bytes.
//! - A console is a word in the text form of a [`Console`](crate::monitor::Console), with its name.
//! - `labels` is an object of strings. Labels that this version does not allow are not read.
//! - Durations are seconds. A value that is absent or `null` was not given.
//! - `options` is set by the program that started the run.
//! - `log_dir` is a path. In the record it is relative to the state directory if it is inside that.
//! - An attribute of the command that can't be read, such as a negative user id, makes the command
//!   `None`: it must not be started without. Of descriptors only the numbers are written.
//! - `version` is 3. In version 2 a relative `log_dir` is relative to the working directory. The
//!   first version has no number; its writer also replaced bytes that are not UTF-8 with U+FFFD.
//!
//! The name, the config file and its modification time are columns of their own. The environment is
//! never written, because it can contain secrets.

mod attributes;

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chrono::{SubsecRound, Utc};
use serde_json::{Value, json};

use super::{
    DEFAULT_KEEP_RUNS, DEFAULT_STOP_TIMEOUT, LogOptions, LogRate, Name, Rootfs, Sandbox, Signal,
};
use crate::child::{Attributes, Command};
use crate::logfile::Retention;
use crate::monitor::labels::json as labels_json;

const VERSION: u64 = 3;

/// A sandbox, its command, and the options of the program that started it.
///
/// ```
/// use vmon::monitor::codec::Spec;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorded = serde_json::from_str(r#"{"version": 3, "command": ["echo", {"bytes": [255]}]}"#)?;
/// let spec = Spec::from_json(&recorded, "web".parse()?, "Sandboxfile".parse()?).unwrap();
/// assert!(spec.exact);
/// assert_eq!(spec.command.as_ref().unwrap().get_program(), "echo");
/// assert_eq!(spec.to_json()["command"], recorded["command"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// The sandbox. Its `log_dir` is absolute in a `Run` of the registry.
    pub sandbox: Sandbox,
    /// The command, without changes of its environment; `None` for a child that the host started
    /// itself, which can't be started again from the record. Its directory is absolute in the record,
    /// and `None` if it was not known.
    pub command: Option<Command>,
    /// The options of the program that started the run; `Null` without any.
    pub options: Value,
    /// Whether no byte was replaced. The first version of the format replaced bytes that are not
    /// UTF-8.
    pub exact: bool,
}

impl Spec {
    /// The description of a start.
    pub fn new(sandbox: Sandbox, command: Option<Command>, options: Value) -> Self {
        Self { sandbox, command, options, exact: true }
    }

    /// Returns the JSON form. The path of `log_dir` is not changed.
    pub fn to_json(&self) -> Value {
        // No `..`, so that a new field that is missing here does not compile.
        let Self { sandbox, command, options, exact: _ } = self;
        let Sandbox {
            name: _,
            config_file: _,
            config_last_modified: _,
            labels,
            log_dir,
            log_off,
            log: LogOptions { retention, format, index },
            rotate_command,
            journal,
            on_log_error,
            log_rate,
            rootfs,
            forward,
            input,
            stop_signal,
            stop_command,
            stop_timeout,
            restart,
            max_duration,
            idle_timeout,
            leave_descendants,
            cgroup,
            consoles,
            interactive,
            keep_runs,
        } = sandbox;
        let Retention { max_size, max_files, max_age, rotate_every, total_size } = retention;
        let rate = log_rate.map(|LogRate { per_second, burst, over }| (per_second, burst, over));
        let (command, directory, tty, given) = match command {
            None => (Value::Null, Value::Null, Value::Null, None),
            Some(Command {
                program,
                args,
                directory,
                pty,
                env_clear: _,
                env: _,
                file_limit: _,
                parent_death: _,
                background: _,
                attributes,
            }) => {
                let words = std::iter::once(program).chain(args).map(|it| word(it)).collect();
                (words, path(directory.as_deref()), json!(pty), attributes.as_deref())
            }
        };
        let none = Attributes::default();
        let mut object = json!({
            "version": VERSION,
            "command": command,
            "directory": directory,
            "tty": tty,
            "labels": labels_json::write(labels),
            "rootfs": rootfs.as_ref().map(write_rootfs),
            "log_dir": word(log_dir.as_os_str()),
            "log_off": log_off,
            "log_max_size": max_size,
            "log_max_files": max_files,
            "log_max_age_seconds": seconds(*max_age),
            "log_rotate_every_seconds": seconds(*rotate_every),
            "log_total_size": total_size,
            "log_rotate_command": rotate_command.as_deref().map(word),
            "log_format": format.word(),
            "log_index": index,
            "journal": journal,
            "log_rate": rate.map(|(per_second, ..)| per_second.get()),
            "log_burst": rate.map(|(_, burst, _)| burst),
            "over_rate": rate.map(|(.., over)| over.word()),
            "on_log_error": on_log_error.word(),
            "forward": forward.word(),
            "stdin": input.word(),
            "consoles": consoles.iter().map(|it| word(&it.to_os_string())).collect::<Value>(),
            "interactive": interactive.as_ref().map(Name::as_str),
            // A real-time signal is written as its number.
            "stop_signal": stop_signal.to_string().trim_start_matches("signal "),
            "stop_command": stop_command.as_deref().map(word),
            "stop_timeout_seconds": stop_timeout.as_secs_f64(),
            "restart": restart.to_string(),
            "max_duration_seconds": seconds(*max_duration),
            "idle_timeout_seconds": seconds(*idle_timeout),
            "leave_descendants": leave_descendants,
            "cgroup": path(cgroup.as_deref()),
            "keep_runs": keep_runs,
            "options": options,
        });
        if let Value::Object(object) = &mut object {
            object.extend(attributes::write(given.unwrap_or(&none)));
        }
        object
    }

    /// Reads the output of [`to_json`](Self::to_json), of this or an earlier version, for the sandbox
    /// of this name. `None` if the value is not a JSON object. The modification time of the config
    /// file is set to now.
    pub fn from_json(value: &Value, name: Name, config_file: Name) -> Option<Self> {
        value.is_object().then_some(())?;
        let default = Retention::default();
        let retention = Retention {
            max_size: value["log_max_size"].as_u64().unwrap_or(default.max_size),
            max_files: value["log_max_files"]
                .as_u64()
                .and_then(|files| files.try_into().ok())
                .unwrap_or(default.max_files),
            max_age: read_seconds(&value["log_max_age_seconds"]),
            rotate_every: read_seconds(&value["log_rotate_every_seconds"]),
            total_size: value["log_total_size"].as_u64(),
        };
        let consoles = read_words(&value["consoles"]).unwrap_or_default();
        let sandbox = Sandbox {
            name,
            config_file,
            config_last_modified: Utc::now().trunc_subsecs(6),
            labels: labels_json::read(&value["labels"]),
            log_dir: read_path(&value["log_dir"]).unwrap_or_default(),
            log_off: value["log_off"].as_bool().unwrap_or(false),
            log: LogOptions {
                retention,
                format: read(&value["log_format"]).unwrap_or_default(),
                index: value["log_index"].as_bool().unwrap_or(true),
            },
            rotate_command: read_word(&value["log_rotate_command"]),
            journal: value["journal"].as_bool().unwrap_or(false),
            on_log_error: read(&value["on_log_error"]).unwrap_or_default(),
            log_rate: read_rate(value),
            rootfs: read_rootfs(&value["rootfs"]),
            forward: read(&value["forward"]).unwrap_or_default(),
            input: read(&value["stdin"]).unwrap_or_default(),
            stop_signal: read(&value["stop_signal"]).unwrap_or(Signal::TERM),
            stop_command: read_word(&value["stop_command"]),
            stop_timeout: read_seconds(&value["stop_timeout_seconds"])
                .unwrap_or(DEFAULT_STOP_TIMEOUT),
            restart: read(&value["restart"]).unwrap_or_default(),
            max_duration: read_seconds(&value["max_duration_seconds"]),
            idle_timeout: read_seconds(&value["idle_timeout_seconds"]),
            leave_descendants: value["leave_descendants"].as_bool().unwrap_or(false),
            cgroup: read_path(&value["cgroup"]),
            consoles: consoles.iter().filter_map(|word| word.as_os_str().try_into().ok()).collect(),
            interactive: read(&value["interactive"]),
            keep_runs: value["keep_runs"]
                .as_u64()
                .and_then(|runs| runs.try_into().ok())
                .unwrap_or(DEFAULT_KEEP_RUNS),
        };
        // In the first version, a replaced byte looks the same as U+FFFD itself.
        let exact = value["version"].is_u64() || !value.to_string().contains('\u{fffd}');
        Some(Self {
            sandbox,
            command: read_command(value),
            options: value["options"].clone(),
            exact,
        })
    }
}

/// Encodes a word or a path: a string, or `{"bytes": […]}` if it is not UTF-8.
pub fn word(word: &OsStr) -> Value {
    match word.to_str() {
        Some(text) => text.into(),
        None => json!({ "bytes": word.as_bytes() }),
    }
}

/// Reads the output of [`word()`]; `None` for anything else.
pub fn read_word(value: &Value) -> Option<OsString> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    let numbers = value["bytes"].as_array()?.iter();
    let bytes: Option<Vec<u8>> = numbers.map(|byte| byte.as_u64()?.try_into().ok()).collect();
    bytes.map(OsString::from_vec)
}

fn read_words(value: &Value) -> Option<Vec<OsString>> {
    value.as_array()?.iter().map(read_word).collect()
}

/// Encodes a path, or `null`.
pub(crate) fn path(path: Option<&Path>) -> Value {
    path.map_or(Value::Null, |path| word(path.as_os_str()))
}

pub(crate) fn read_path(value: &Value) -> Option<PathBuf> {
    read_word(value).map(PathBuf::from)
}

fn read<T: FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn read_command(value: &Value) -> Option<Command> {
    let mut words = read_words(&value["command"])?.into_iter();
    let command = Command::new(words.next()?).args(words);
    let mut command = command.pty(value["tty"].as_bool().unwrap_or(false));
    command.attributes = attributes::read(value)?;
    Some(match read_path(&value["directory"]) {
        Some(directory) => command.current_dir(directory),
        None => command,
    })
}

fn write_rootfs(rootfs: &Rootfs) -> Value {
    match rootfs {
        Rootfs::Native(path) => json!({ "native": word(path.as_os_str()) }),
        Rootfs::Overlayfs(layers) => {
            let layers: Value = layers.iter().map(|layer| word(layer.as_os_str())).collect();
            json!({ "overlayfs": layers })
        }
    }
}

fn read_rootfs(value: &Value) -> Option<Rootfs> {
    // The first version has the text of `rootfs_paths`.
    if value.is_string() {
        return read(value);
    }
    let native = read_path(&value["native"]).map(Rootfs::Native);
    let layers = |words: Vec<OsString>| words.into_iter().map(PathBuf::from).collect();
    native.or_else(|| Some(Rootfs::Overlayfs(layers(read_words(&value["overlayfs"])?))))
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

fn read_seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn read_rate(value: &Value) -> Option<LogRate> {
    let rate = LogRate::new(NonZeroU64::new(value["log_rate"].as_u64()?)?);
    let burst = value["log_burst"].as_u64().unwrap_or(rate.burst);
    Some(LogRate { burst, over: read(&value["over_rate"]).unwrap_or_default(), ..rate })
}

#[cfg(test)]
mod tests;
