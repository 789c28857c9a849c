//! The column `spec` of a run: the JSON form of the sandbox and its command
//! ([`codec`](crate::monitor::codec)), with a `log_dir` in the state directory relative to it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::state_dir::StateDir;
use crate::child::Command;
use crate::monitor::codec::Spec;
use crate::monitor::{Name, Starting};

/// The first version in which a relative `log_dir` is relative to the state directory.
const RELATIVE_TO_STATE: u64 = 3;

/// What is recorded of a start; `options` are what the program that starts it has added.
pub(super) fn record(starting: &Starting<'_>, options: &Value, state: &StateDir) -> String {
    let mut sandbox = starting.sandbox.clone();
    sandbox.log_dir = state.record(&sandbox.log_dir);
    let command = starting.command.cloned().map(|command| match directory(&command) {
        Some(directory) => command.current_dir(directory),
        None => command,
    });
    Spec::new(sandbox, command, options.clone()).to_json().to_string()
}

/// The directory that the command runs in, absolute: another process reads the record.
fn directory(command: &Command) -> Option<PathBuf> {
    // An empty path is the working directory.
    std::path::absolute(Path::new(".").join(command.get_current_dir().unwrap_or(Path::new(""))))
        .ok()
}

/// Reads what [`record`] or an earlier vmon has written for a sandbox of this name. `None` for
/// anything else, and, with a warning, where the path of the log leads out of the state directory.
pub(super) fn read(text: &str, name: &str, config_file: &str, state: &StateDir) -> Option<Spec> {
    let value: Value = serde_json::from_str(text).ok()?;
    let (name, config_file) = (Name::new(name).ok()?, Name::new(config_file).ok()?);
    let mut spec = Spec::from_json(&value, name, config_file)?;
    let version = value.get("version").and_then(Value::as_u64);
    if version.is_none_or(|version| version < RELATIVE_TO_STATE) {
        return Some(spec);
    }
    let Some(log_dir) = state.resolve(&spec.sandbox.log_dir) else {
        tracing::warn!(
            log_dir = %spec.sandbox.log_dir.display(),
            "the options of a run on record are ignored: the log directory is not in the state \
             directory",
        );
        return None;
    };
    spec.sandbox.log_dir = log_dir;
    Some(spec)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use serde_json::json;

    use super::*;
    use crate::monitor::{Identity, Sandbox};

    #[test]
    fn a_log_directory_in_the_state_directory_is_recorded_relative_to_it() {
        let (a, b) = (
            StateDir::new("/a".into(), "/a/run".into()),
            StateDir::new("/b".into(), "/b/run".into()),
        );
        let log_dir = |log_dir: &str, version: &str| {
            let sandbox = Sandbox::new("web", log_dir).unwrap().config_file("x".parse().unwrap());
            let (supervisor, command) = (Identity::current(), Command::new("true"));
            let starting = Starting {
                sandbox: &sandbox,
                command: Some(&command),
                supervisor: &supervisor,
                at: Utc::now(),
                restarts: 0,
                socket: None,
            };
            let text = record(&starting, &Value::Null, &a).replace("\"version\":3", version);
            let spec = read(&text, "web", "x", &b)?;
            assert!(spec.command.unwrap().get_current_dir().unwrap().is_absolute());
            Some(spec.sandbox.log_dir.to_str().unwrap().to_owned())
        };
        assert_eq!(log_dir("/a/log", "\"version\":3").as_deref(), Some("/b/log"));
        assert_eq!(log_dir("/var/log", "\"version\":3").as_deref(), Some("/var/log"));
        // As an earlier vmon has recorded a host's.
        for version in ["\"version\":2", "\"version\":null"] {
            assert_eq!(log_dir("/a/log", version).as_deref(), Some("log"));
        }
        let outside = json!({ "version": 3, "log_dir": "../x" }).to_string();
        assert_eq!(read(&outside, "web", "x", &b), None);
    }

    #[test]
    fn a_record_under_a_name_that_no_sandbox_can_have_describes_none() {
        let state = StateDir::new("/a".into(), "/a/run".into());
        let text = json!({ "version": 3, "log_dir": "log" }).to_string();
        assert!(read(&text, "web", "x", &state).is_some());
        assert_eq!(read(&text, "../web", "x", &state), None);
        assert_eq!(read(&text, "web", "..", &state), None);
    }
}
