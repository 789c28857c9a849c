//! The report of a sandbox at one moment.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::attach::SessionReport;
use super::channel::Channel;
use super::console_report::ConsoleReport;
use super::labels::Labels;
use super::name::Name;
use super::parts::Parts;
use super::transition::End;
use super::wait::Wait;
use crate::child::Identity;
use crate::values::words;

/// The state of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Asked for, and not running yet.
    Starting,
    /// The child runs.
    Running,
    /// It has been asked to stop.
    Stopping,
    /// It has ended; its output is being read to the end.
    Draining,
    /// It has ended, and will be started again.
    Restarting,
    /// It has ended, or was never started.
    Stopped,
}

impl Phase {
    /// The word of the control protocol: `STARTING`, `RUNNING`, `STOPPING`, `DRAINING`,
    /// `RESTARTING` or `STOPPED`. The record has the same words, without `DRAINING`.
    pub const fn as_str(self) -> &'static str {
        self.word()
    }
}

words!(Phase {
    Starting = "STARTING",
    Running = "RUNNING",
    Stopping = "STOPPING",
    Draining = "DRAINING",
    Restarting = "RESTARTING",
    Stopped = "STOPPED",
});

/// A sandbox at one moment: [`Monitor::report`](super::Monitor::report).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// Its labels.
    pub labels: Labels,
    /// The state of its child.
    pub phase: Phase,
    /// This process.
    pub supervisor: Identity,
    /// The child, from its start until it has been reaped.
    pub child: Option<Identity>,
    /// When this run was asked for.
    pub started_at: DateTime<Utc>,
    /// When the child of this run was seen to run.
    pub running_at: Option<DateTime<Utc>>,
    /// How often the child has been started again.
    pub restarts: u32,
    /// When the child is started again, in the state `RESTARTING`.
    pub restart_at: Option<DateTime<Utc>>,
    /// Whether the child has a terminal; `None` while it has no streams.
    pub tty: Option<bool>,
    /// The log of the child's own output. `None` if that goes to [log
    /// drivers](super::Builder::log_drivers), or the sandbox has [no
    /// logs](super::Sandbox::log_off).
    pub log: Option<PathBuf>,
    /// Bytes of this run's output that are in the log.
    pub bytes_logged: u64,
    /// Bytes that the log, or the host's stdout and stderr, lack; those of consoles included.
    pub bytes_dropped: u64,
    /// The consoles beside the child's own streams, in the order in which they were given.
    pub consoles: Vec<ConsoleReport>,
    /// The attached clients.
    pub sessions: Vec<SessionReport>,
    /// What holds it up. Empty for a sandbox that only runs, or ends as it should.
    pub waits: Vec<Wait>,
    /// How the last run ended, if one has.
    pub end: Option<End>,
}

impl Report {
    /// The report of a child in this state; `end` is that of the last run.
    pub(super) fn new(parts: &Parts, phase: Phase, end: Option<&End>) -> Self {
        let Parts { sandbox, supervisor, run, channels, .. } = parts;
        let is_alive = matches!(phase, Phase::Running | Phase::Stopping);
        let child = run.child.as_ref().filter(|_| is_alive).map(|(child, _)| child.clone());
        let bytes = end.map(|end| (end.bytes_logged, end.bytes_dropped));
        let (bytes_logged, bytes_dropped) = bytes.unwrap_or_else(|| channels.bytes());
        Self {
            name: sandbox.name.clone(),
            config_file: sandbox.config_file.clone(),
            labels: sandbox.labels.clone(),
            phase,
            supervisor: supervisor.clone(),
            child,
            started_at: run.asked,
            running_at: run.child.as_ref().map(|(_, at)| *at),
            restarts: run.restarts,
            restart_at: None,
            tty: channels.stdio().map(Channel::is_terminal),
            log: parts.own_log.then(|| sandbox.log_path()),
            bytes_logged,
            bytes_dropped,
            consoles: channels.consoles(),
            sessions: channels.attachments(),
            waits: Vec::new(),
            end: end.cloned(),
        }
    }
}
