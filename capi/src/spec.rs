//! The description of a sandbox, as the JSON of the library's codec.
//!
//! Setters and JSON of the caller's set keys of one object, which the codec reads at the start. So an
//! option of the library needs no code here. What the codec leaves out, the environment above all, is
//! beside the object.

use std::ffi::{OsStr, OsString};

use serde_json::{Map, Value, json};
use vmon::child::{Command, Signal};
use vmon::monitor::codec::{Spec, word};
use vmon::monitor::{Input, Name, Sandbox};

use crate::failure::Failure;

/// A description.
#[derive(Clone)]
pub struct Description {
    name: Name,
    config_file: Name,
    options: Map<String, Value>,
    env_clear: bool,
    env: Vec<(OsString, Option<OsString>)>,
    parent_death: bool,
}

impl Description {
    pub fn new(name: &str) -> Result<Self, Failure> {
        let sandbox =
            Sandbox::new(name, "").map_err(|error| Failure::invalid(error.to_string()))?;
        let (name, config_file) = (sandbox.name.clone(), sandbox.config_file.clone());
        let options = match Spec::new(sandbox, None, Value::Null).to_json() {
            Value::Object(options) => options,
            _ => Map::new(),
        };
        let (env_clear, env, parent_death) = (false, Vec::new(), true);
        Ok(Self { name, config_file, options, env_clear, env, parent_death })
    }

    pub fn config_file(&mut self, name: &str) -> Result<(), Failure> {
        self.config_file = Name::new(name).map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(())
    }

    pub fn log_dir(&mut self, directory: &OsStr) -> Result<(), Failure> {
        if directory.is_empty() {
            return Err(Failure::invalid("the log directory is empty: name one"));
        }
        self.set("log_dir", word(directory));
        Ok(())
    }

    pub fn command(&mut self, words: &[&OsStr]) -> Result<(), Failure> {
        if words.first().is_none_or(|program| program.is_empty()) {
            return Err(Failure::invalid("the command is empty: name a program"));
        }
        self.set("command", words.iter().map(|it| word(it)).collect());
        Ok(())
    }

    pub fn env(&mut self, name: &OsStr, value: Option<&OsStr>) -> Result<(), Failure> {
        if name.is_empty() || name.as_encoded_bytes().contains(&b'=') {
            let message = format!("{name:?} is not the name of a variable: leave out \"=\"");
            return Err(Failure::invalid(message));
        }
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.map(OsStr::to_owned)));
        Ok(())
    }

    pub fn env_clear(&mut self) {
        self.env_clear = true;
        self.env.clear();
    }

    pub fn directory(&mut self, directory: &OsStr) {
        self.set("directory", word(directory));
    }

    pub fn pty(&mut self, pty: bool) {
        self.set("tty", pty.into());
    }

    pub fn input(&mut self, input: i32) -> Result<(), Failure> {
        let input = match input {
            0 => Input::Null,
            1 => Input::Forward,
            2 => Input::Attached,
            other => {
                let message = format!("{other} is no input: give one of VMON_INPUT_");
                return Err(Failure::invalid(message));
            }
        };
        self.set("stdin", input.to_string().into());
        Ok(())
    }

    pub fn stop_signal(&mut self, signal: Signal) {
        // As the codec writes it: a real-time signal is its number.
        let signal = signal.to_string();
        self.set("stop_signal", signal.trim_start_matches("signal ").into());
    }

    pub fn stop_timeout(&mut self, milliseconds: u64) {
        self.set("stop_timeout_seconds", json!(milliseconds as f64 / 1000.0));
    }

    pub fn log_limit(&mut self, max_size: u64, max_files: u32) {
        self.set("log_max_size", max_size.into());
        self.set("log_max_files", max_files.into());
    }

    pub fn parent_death(&mut self, parent_death: bool) {
        self.parent_death = parent_death;
    }

    /// Sets the options of a JSON object, all or none.
    ///
    /// The codec takes a value that it can't read for one that was not given. Here that is an error: an
    /// option that was read is written again with the value that was given.
    pub fn merge(&mut self, json: &str) -> Result<(), Failure> {
        let given: Map<String, Value> = serde_json::from_str(json)
            .map_err(|error| Failure::invalid(format!("not a JSON object: {error}")))?;
        let defaults = Self::new(self.name.as_str())?.options;
        let mut merged = self.clone();
        for (key, value) in &given {
            if key == "preserve_fds" && !value.is_null() {
                // The record has the numbers only, so no start would succeed.
                let message = format!("{key:?} can't be set: descriptors can't be given in JSON");
                return Err(Failure::invalid(message));
            }
            let default = defaults.get(key).filter(|_| is_option(key));
            let default = default.ok_or_else(|| Failure::invalid(format!("no option {key:?}")))?;
            merged.set(key, if value.is_null() { default.clone() } else { value.clone() });
        }
        let mut complete = merged.clone();
        if merged.options.get("command").is_none_or(Value::is_null) {
            // Without a command the codec leaves out what belongs to it.
            complete.set("command", json!(["true"]));
        }
        let read = complete.read()?.to_json();
        for (key, value) in &given {
            let taken = read.get(key).unwrap_or(&Value::Null);
            if !value.is_null() && !is_same(value, taken) {
                let message = format!(
                    "{value} is not a value of {key:?}: write it as vmon inspect prints it"
                );
                return Err(Failure::invalid(message));
            }
        }
        *self = merged;
        Ok(())
    }

    pub fn to_json(&self) -> Value {
        Value::Object(self.options.clone())
    }

    /// The sandbox, and its command if it has one. The log directory is empty if none was set.
    pub fn parts(&self) -> Result<(Sandbox, Option<Command>), Failure> {
        let Spec { sandbox, command, .. } = self.read()?;
        let command = command.map(|mut command| {
            if self.env_clear {
                command = command.env_clear();
            }
            for (name, value) in &self.env {
                command = match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command.parent_death(self.parent_death)
        });
        Ok((sandbox, command))
    }

    fn read(&self) -> Result<Spec, Failure> {
        Spec::from_json(&self.to_json(), self.name.clone(), self.config_file.clone())
            .ok_or_else(|| Failure::invalid("the description is not a JSON object"))
    }

    fn set(&mut self, key: &str, value: Value) {
        self.options.insert(key.to_owned(), value);
    }
}

/// Whether this key of the codec is an option of the sandbox or its command.
fn is_option(key: &str) -> bool {
    !matches!(key, "options" | "version")
}

/// Whether both are the same value. Durations are numbers of any JSON form, in nanoseconds at best.
fn is_same(given: &Value, taken: &Value) -> bool {
    match (given.as_f64(), taken.as_f64()) {
        (Some(given), Some(taken)) => (given - taken).abs() <= 1e-6,
        _ => given == taken,
    }
}

#[cfg(test)]
mod tests;
