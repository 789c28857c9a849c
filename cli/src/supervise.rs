//! What a detached supervisor says: to the one who has started it until the command runs, then to
//! a rotating log of its own.

use std::io::Write;
use std::panic;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use serde_json::{Value, json};
use vmon::logfile::{Format, LogFile, LogOptions, Retention, Stream};
use vmon::monitor::{Name, Sandbox};
use vmon::terminal::Messages;

use super::tell::{Listener, failure_line};

/// How much of it is kept: it says little.
pub const LOG: LogOptions = LogOptions {
    retention: Retention {
        max_size: 1 << 20,
        max_files: 1,
        max_age: None,
        rotate_every: None,
        total_size: None,
    },
    format: Format::Raw,
    index: false,
};

/// Speaks for the supervisor. Clones are one voice: what is said in the library goes where it
/// goes.
#[derive(Clone)]
pub struct Voice(Arc<Mutex<Ear>>);

/// Who listens.
enum Ear {
    /// The process that waits for the start, through a pipe.
    Starter(Messages),
    /// The log, which is made when there is something to say.
    Log { log_dir: PathBuf, config_file: Name, name: String, log: Option<Box<LogFile>> },
}

impl Voice {
    /// Speaks to the one who waits for the start.
    pub fn new(starter: Messages) -> Self {
        Self(Arc::new(Mutex::new(Ear::Starter(starter))))
    }

    /// Tells that the command runs, and speaks to the log from here on.
    pub fn ready(&self, sandbox: &Sandbox, pid: u32) {
        let name = sandbox.name();
        self.with(|ear| {
            if let Ear::Starter(starter) = ear {
                word(starter, &json!({ "running": name.as_str(), "pid": pid }));
                *ear = Ear::Log {
                    log_dir: sandbox.log_dir().to_owned(),
                    config_file: sandbox.config_file().clone(),
                    name: format!("{name}@supervisor"),
                    log: None,
                };
            }
        });
    }

    /// Tells why the command was not started, or what went wrong with it later.
    pub fn failed(&self, why: &str, code: u8) {
        self.with(|ear| match ear {
            Ear::Starter(starter) => word(starter, &json!({ "failed": why, "code": code })),
            ear => ear.line(&failure_line(why)),
        });
    }

    /// Has a panic told too: stderr is nobody's.
    pub fn take_panics(&self) {
        let voice = self.clone();
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            voice.line(&failure_line(&panic.to_string()));
            next(panic);
        }));
    }

    /// What is said while something is being said, as by the log itself, is left out.
    fn with(&self, speak: impl FnOnce(&mut Ear)) {
        if let Ok(mut ear) = self.0.try_lock() {
            speak(&mut ear);
        }
    }
}

impl Listener for Voice {
    fn line(&self, line: &str) {
        self.with(|ear| ear.line(line));
    }
}

impl Ear {
    fn line(&mut self, line: &str) {
        match self {
            Self::Starter(starter) => word(starter, &json!({ "said": line })),
            Self::Log { log_dir, config_file, name, log } => {
                if log.is_none() {
                    let opened = LogFile::open(&*log_dir, config_file.as_str(), name, LOG);
                    *log = opened.ok().map(Box::new);
                }
                let at = vmon::timestamp::rfc3339(Utc::now());
                if let Some(log) = log {
                    // A full disk: the next line may fit.
                    let _ = log.write(Stream::Stderr, format!("{at} {line}").as_bytes());
                }
            }
        }
    }
}

/// One line of JSON; `vmon run --detach` reads them.
fn word(starter: &mut Messages, word: &Value) {
    // Every write of `Messages` succeeds.
    let _ = starter.write_all(format!("{word}\n").as_bytes());
}
