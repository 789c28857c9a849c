//! Messages of a detached supervisor: to the process that started it until the command runs, then
//! to a rotating log of its own.

use std::io::Write;
use std::panic;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use serde_json::{Value, json};
use vmon::logfile::{LogFile, LogOptions, Retention, Stream, names};
use vmon::monitor::{Name, Sandbox};
use vmon::terminal::Messages;

use super::messages::{Listener, failure_line};

/// Options of the supervisor's log. It gets few messages, so that a small limit suffices.
pub fn log_options() -> LogOptions {
    let retention = Retention::default().max_size(1 << 20).max_files(1);
    LogOptions::default().retention(retention).index(false)
}

/// The name of the log of the supervisor of a sandbox.
pub fn log_name(sandbox: &str) -> String {
    names::further(sandbox, "supervisor")
}

/// The destination of a supervisor's messages. Clones share it.
#[derive(Clone)]
pub struct SupervisorLog(Arc<Mutex<Destination>>);

enum Destination {
    /// A pipe to the process that waits for the start.
    Starter(Messages),
    /// The log file, created at the first message.
    Log { log_dir: PathBuf, config_file: Name, name: String, log: Option<Box<LogFile>> },
}

impl SupervisorLog {
    /// Writes to the process that waits for the start.
    pub fn new(starter: Messages) -> Self {
        Self(Arc::new(Mutex::new(Destination::Starter(starter))))
    }

    /// Reports that the command runs. Later messages go to the log file.
    pub fn ready(&self, sandbox: &Sandbox, pid: u32) {
        let name = &sandbox.name;
        self.with(|destination| {
            if let Destination::Starter(starter) = destination {
                send(starter, &json!({ "running": name.as_str(), "pid": pid }));
                *destination = Destination::Log {
                    log_dir: sandbox.log_dir.clone(),
                    config_file: sandbox.config_file.clone(),
                    name: log_name(name.as_str()),
                    log: None,
                };
            }
        });
    }

    /// Reports why the command was not started, or what failed later.
    pub fn failed(&self, why: &str, code: u8) {
        self.with(|destination| match destination {
            Destination::Starter(starter) => send(starter, &json!({ "failed": why, "code": code })),
            Destination::Log { .. } => destination.line(&failure_line(why)),
        });
    }

    /// Installs a panic hook that writes the panic here, since stderr is the null device.
    pub fn install_panic_hook(&self) {
        let log = self.clone();
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            log.line(&failure_line(&panic.to_string()));
            next(panic);
        }));
    }

    /// Drops a message that is caused by the writing of another one, such as a warning of the log
    /// file.
    fn with(&self, write: impl FnOnce(&mut Destination)) {
        if let Ok(mut destination) = self.0.try_lock() {
            write(&mut destination);
        }
    }
}

impl Listener for SupervisorLog {
    fn line(&self, line: &str) {
        self.with(|destination| destination.line(line));
    }
}

impl Destination {
    fn line(&mut self, line: &str) {
        match self {
            Self::Starter(starter) => send(starter, &json!({ "said": line })),
            Self::Log { log_dir, config_file, name, log } => {
                if log.is_none() {
                    let opened =
                        LogFile::open(&*log_dir, config_file.as_str(), name, log_options());
                    *log = opened.ok().map(Box::new);
                }
                let at = vmon::timestamp::rfc3339(Utc::now());
                if let Some(log) = log {
                    // The disk may be full; the next line is tried again.
                    let _ = log.write(Stream::Stderr, format!("{at} {line}").as_bytes());
                }
            }
        }
    }
}

/// Sends one line of JSON. `vmon run --detach` reads them.
fn send(starter: &mut Messages, message: &Value) {
    // Every write of `Messages` succeeds.
    let _ = starter.write_all(format!("{message}\n").as_bytes());
}
