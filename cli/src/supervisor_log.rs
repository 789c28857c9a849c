//! Messages of a detached supervisor: to the process that started it until the command runs, then
//! to a rotating log of its own.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::Utc;
use serde_json::{Value, json};
use vmon::logfile::{LogFile, LogOptions, Retention, Stream, names};
use vmon::monitor::{Name, Sandbox};
use vmon::terminal::Messages;

use super::messages::{Listener, failure_line};

/// The socket of the system log.
const SYSLOG: &str = "/dev/log";

/// The most lines that are kept while they can't be written.
const MOST_UNWRITTEN: usize = 16;

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
    /// The log file.
    Log(OwnLog),
}

/// The log file of a supervisor, created at the first message.
struct OwnLog {
    log_dir: PathBuf,
    config_file: Name,
    name: String,
    file: Option<Box<LogFile>>,
    /// Lines that could not be written, oldest first: they are tried again before the next one, and
    /// at the end.
    unwritten: VecDeque<Vec<u8>>,
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
                *destination = Destination::Log(OwnLog::of(sandbox));
            }
        });
    }

    /// Has messages go to the log file if the process that waits for the start has gone. Returns
    /// whether it has.
    pub fn leave_lost_starter(&self, sandbox: &Sandbox) -> bool {
        let mut lost = false;
        self.with(|destination| {
            if let Destination::Starter(starter) = destination
                && starter.reader_is_gone()
            {
                *destination = Destination::Log(OwnLog::of(sandbox));
                lost = true;
            }
        });
        lost
    }

    /// Reports why the command was not started, or what failed later.
    pub fn failed(&self, why: &str, code: u8) {
        self.with(|destination| match destination {
            Destination::Starter(starter) => send(starter, &json!({ "failed": why, "code": code })),
            Destination::Log(log) => log.line(&failure_line(why), Path::new(SYSLOG)),
        });
    }

    /// Writes lines that could not be written before, at the end of the supervisor.
    pub fn flush(&self) {
        self.with(|destination| {
            if let Destination::Log(log) = destination {
                log.flush();
            }
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
            Self::Log(log) => log.line(line, Path::new(SYSLOG)),
        }
    }
}

impl OwnLog {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            log_dir: sandbox.log_dir.clone(),
            config_file: sandbox.config_file.clone(),
            name: log_name(sandbox.name.as_str()),
            file: None,
            unwritten: VecDeque::new(),
        }
    }

    /// Writes a line. If that fails, as on the full disk that the line is about, it goes to the
    /// system log as well.
    fn line(&mut self, line: &str, syslog: &Path) {
        let at = vmon::timestamp::rfc3339(Utc::now());
        self.unwritten.push_back(format!("{at} {line}").into_bytes());
        if !self.flush() {
            send_to_syslog(syslog, line);
            if self.unwritten.len() > MOST_UNWRITTEN {
                self.unwritten.pop_front();
            }
        }
    }

    /// Writes the lines that could not be written before; returns whether none is left.
    fn flush(&mut self) -> bool {
        let Self { log_dir, config_file, name, file, unwritten } = self;
        while let Some(line) = unwritten.front_mut() {
            if file.is_none() {
                let opened = LogFile::open(&*log_dir, config_file.as_str(), name, log_options());
                *file = opened.ok().map(Box::new);
            }
            let Some(file) = file else { return false };
            if let Err(error) = file.write(Stream::Stderr, line) {
                line.drain(..error.written);
                return false;
            }
            unwritten.pop_front();
        }
        true
    }
}

/// Sends a line to the system log (syslog(3), RFC 3164) without waiting, if there is one.
fn send_to_syslog(socket: &Path, line: &str) {
    // Facility daemon, severity warning.
    let message = format!("<28>vmon[{}]: {}", std::process::id(), line.trim_end());
    let sent = UnixDatagram::unbound().and_then(|unbound| {
        unbound.set_nonblocking(true)?;
        unbound.send_to(message.as_bytes(), socket)
    });
    // There is nowhere left to report a failure.
    let _ = sent;
}

/// Sends one line of JSON. `vmon run --detach` reads them.
fn send(starter: &mut Messages, message: &Value) {
    // Every write of `Messages` succeeds.
    let _ = starter.write_all(format!("{message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_that_can_not_be_written_goes_to_the_system_log_and_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let (log_dir, socket) = (directory.path().join("log"), directory.path().join("syslog"));
        let syslog = UnixDatagram::bind(&socket).unwrap();
        syslog.set_nonblocking(true).unwrap();
        // No directory can be made here, as on a full disk.
        fs::write(&log_dir, "").unwrap();
        let mut log = OwnLog::of(&Sandbox::new("web", &log_dir).unwrap());
        let mut received = [0; 200];
        for number in 0..=MOST_UNWRITTEN {
            log.line(&format!("vmon: warn: line {number}\n"), &socket);
            let count = syslog.recv(&mut received).unwrap();
            let text = std::str::from_utf8(&received[..count]).unwrap();
            let expected = format!("]: vmon: warn: line {number}");
            assert!(text.starts_with("<28>vmon[") && text.ends_with(&expected), "{text}");
        }
        fs::remove_file(&log_dir).unwrap();
        log.line("vmon: warn: the last\n", &socket);
        assert!(syslog.recv(&mut received).is_err(), "the log has it");
        let text = fs::read_to_string(log_dir.join("Sandboxfile/web@supervisor.log")).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.split(": ").last()).collect();
        assert_eq!(lines.len(), MOST_UNWRITTEN + 1, "the oldest ones are given up: {text}");
        assert_eq!((lines[0], lines[MOST_UNWRITTEN]), ("line 1", "the last"));
    }
}
