//! A plan describes one start. It is checked before anything is created on disk, and has an encoded
//! form.
//!
//! `vmon run` makes the plan from its arguments, `vmon restart` from the record. The supervisor of a
//! detached run reads the encoded form, which has been checked already.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use nix::unistd::AccessFlags;
use serde_json::{Value, json};
use vmon::child::Command;
use vmon::logfile::Retention;
use vmon::monitor::codec::{self, Spec};
use vmon::monitor::{Console, ConsoleError, Name, Rootfs, Sandbox};

use super::options::Options;
use crate::args::{self, ValueError};
use crate::name_choice::NameChoice;
use crate::places::{Places, absolute, check_directory};
use crate::{Failure, reason};

/// The sandbox, its command and options, and the paths of its state.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub places: Places,
    pub name: NameChoice,
    /// Has the first name of `name`.
    pub sandbox: Sandbox,
    pub command: Command,
    pub options: Options,
}

impl Plan {
    /// Checks the plan and makes its paths absolute, since other processes read the record in other
    /// directories. Invalid and contradictory options are errors. Only the directories of the PID
    /// file and the exit file are checked on disk.
    pub fn checked(mut self) -> Result<Self, Failure> {
        let Self { places, sandbox, options, .. } = &mut self;
        check_retention(&sandbox.log.retention, sandbox.rotate_command.is_some())?;
        check_consoles(&sandbox.consoles, sandbox.interactive.as_ref())?;
        let Retention { max_age, rotate_every, .. } = sandbox.log.retention;
        for (time, option) in [
            (max_age, "--log-max-age"),
            (rotate_every, "--log-rotate-every"),
            (sandbox.max_duration, "--max-duration"),
            (sandbox.idle_timeout, "--idle-timeout"),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(Failure::Value(ValueError::NoTime, option));
            }
        }
        for console in &mut sandbox.consoles {
            if let Some(path) = console.path() {
                *console = console.clone().at(absolute(path)?);
            }
            console.check()?;
        }
        match &mut sandbox.rootfs {
            Some(Rootfs::Native(path)) => *path = absolute(path)?,
            Some(Rootfs::Overlayfs(layers)) => {
                for layer in layers {
                    args::layer(layer.clone().into())
                        .map_err(|error| Failure::Value(error, "--overlayfs-layer"))?;
                    *layer = absolute(layer)?;
                }
            }
            _ => {}
        }
        sandbox.log_dir = absolute(&sandbox.log_dir)?;
        let cgroup = sandbox.cgroup.as_deref().map(absolute).transpose()?;
        sandbox.cgroup = cgroup;
        let default = places.runtime_dir();
        let runtime_dir = options.runtime_dir.as_deref().map(absolute).transpose()?;
        options.runtime_dir = runtime_dir.filter(|path| *path != default);
        let files = &mut options.files;
        check_file(&mut files.pid, "directory of the PID file", "--pid-file")?;
        check_file(&mut files.exit, "directory of the exit file", "--exit-file")?;
        Ok(self)
    }

    /// The directory of control sockets.
    pub fn runtime_dir(&self) -> PathBuf {
        self.options.runtime_dir.clone().unwrap_or_else(|| self.places.runtime_dir())
    }

    /// Encodes the plan for [`decode`](Self::decode), with the changes of the command's environment.
    pub fn encode(&self) -> Vec<u8> {
        let Self { places: Places { state_dir, db }, name, sandbox, command, options } = self;
        let spec = Spec::new(sandbox.clone(), Some(command.clone()), options.to_json());
        let variable = |(key, value): &(OsString, Option<OsString>)| {
            json!([codec::word(key), value.as_deref().map(codec::word)])
        };
        let modified = sandbox.config_last_modified;
        let plan = json!({
            "state_dir": codec::word(state_dir.as_os_str()),
            "db": codec::word(db.path.as_os_str()),
            "name": name.first.as_str(),
            "name_is_given": name.is_given,
            "config_file": sandbox.config_file.as_str(),
            "config_last_modified": modified.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            "spec": spec.to_json(),
            "env": command.get_envs().iter().map(variable).collect::<Value>(),
        });
        plan.to_string().into_bytes()
    }

    /// Reads the output of [`encode`](Self::encode); `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let plan: Value = serde_json::from_slice(bytes).ok()?;
        let word = |key: &str| codec::read_word(plan.get(key)?);
        let text = |key: &str| plan.get(key)?.as_str();
        let (state_dir, db) = (PathBuf::from(word("state_dir")?), PathBuf::from(word("db")?));
        let first: Name = text("name")?.parse().ok()?;
        let name = NameChoice { first, is_given: plan.get("name_is_given")?.as_bool()? };
        let config_file = text("config_file")?.parse().ok()?;
        let spec = Spec::from_json(plan.get("spec")?, name.first.clone(), config_file)?;
        let options = Options::from_json(&spec.options)?;
        let mut sandbox = spec.sandbox;
        let modified = DateTime::parse_from_rfc3339(text("config_last_modified")?);
        sandbox.config_last_modified = modified.ok()?.with_timezone(&Utc);
        let mut command = spec.command?;
        for variable in plan.get("env")?.as_array()? {
            let [key, value] = variable.as_array()?.as_slice() else { return None };
            let key = codec::read_word(key)?;
            command = match codec::read_word(value) {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let places = Places::new(&state_dir, Some(&db)).ok()?;
        Some(Self { places, name, sandbox, command, options })
    }
}

fn check_retention(retention: &Retention, command: bool) -> Result<(), Failure> {
    let Retention { max_size, max_files, total_size, .. } = *retention;
    if command && max_files == 0 {
        return Err(Failure::NothingToRotate);
    }
    let Some(total) = total_size else { return Ok(()) };
    if total < Retention::SMALLEST_TOTAL {
        return Err(Failure::TotalTooSmall);
    }
    let most = Retention::largest_max_size(total, command);
    match max_size {
        0 => Err(Failure::TotalWithoutEnd),
        _ if max_size > most => Err(Failure::LargerThanTotal { max_size, total, most, command }),
        _ => Ok(()),
    }
}

fn check_consoles(consoles: &[Console], interactive: Option<&Name>) -> Result<(), ConsoleError> {
    for (at, console) in consoles.iter().enumerate() {
        if consoles.iter().take(at).any(|other| other.name() == console.name()) {
            return Err(ConsoleError::Duplicate(console.name().to_string()));
        }
    }
    match interactive {
        Some(name) if !consoles.iter().any(|console| console.name() == name) => {
            Err(ConsoleError::NoSuchConsole(name.to_string()))
        }
        _ => Ok(()),
    }
}

/// Makes the path absolute, and checks that the file can be replaced: its directory is writable.
fn check_file(
    file: &mut Option<PathBuf>,
    what: &'static str,
    option: &'static str,
) -> Result<(), Failure> {
    let Some(path) = file else { return Ok(()) };
    *path = absolute(path)?;
    let failed =
        |path: &Path, reason| Failure::Directory { what, path: path.to_owned(), reason, option };
    let (Some(parent), Some(_), false) = (path.parent(), path.file_name(), path.is_dir()) else {
        return Err(failed(path, "it names a directory, not a file"));
    };
    // A rename would replace a device or a FIFO by a regular file.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(failed(path, "it is not a regular file, and would be replaced by one"));
    }
    let flags = AccessFlags::W_OK | AccessFlags::X_OK;
    check_directory(parent, flags).map_err(|error| failed(parent, reason(&error)))
}

/// The time, limited to what every system's clock can add to the current time.
pub fn limited(time: Duration) -> Duration {
    time.min(vmon::values::MAX_TIME)
}

#[cfg(test)]
mod tests;
