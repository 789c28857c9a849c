//! What is known of a sandbox at one moment, for those who ask.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::attach::SessionReport;
use super::channel::Channel;
use super::console_report::ConsoleReport;
use super::name::Name;
use super::transition::End;
use super::{Identity, Monitor, State};

/// Where a monitor is in the life of its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// All is over.
    Stopped,
}

impl Phase {
    /// In the words of the record: `STARTING`, `RUNNING`, `STOPPING`, `DRAINING`, `RESTARTING` or
    /// `STOPPED`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Draining => "DRAINING",
            Self::Restarting => "RESTARTING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// A sandbox as it is at one moment: [`Monitor::report`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// How far it is.
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
    /// Whether the child has a terminal; `None` while it has no streams.
    pub tty: Option<bool>,
    /// The log.
    pub log: PathBuf,
    /// Bytes of this run's output that are in the log.
    pub bytes_logged: u64,
    /// Bytes that the log, or our own stdout and stderr, lack; those of consoles included.
    pub bytes_dropped: u64,
    /// The consoles beside the child's own streams, in the order in which they were given.
    pub consoles: Vec<ConsoleReport>,
    /// Those who are attached.
    pub sessions: Vec<SessionReport>,
    /// How the last run ended, once one has.
    pub end: Option<End>,
}

impl Monitor {
    /// What is known of the sandbox now.
    pub fn report(&self) -> Report {
        let stdio = self.channels.stdio();
        let (logged, dropped) = match &self.state {
            State::Stopped(end) | State::Restarting(end, _) if stdio.is_none() => {
                (end.bytes_logged, end.bytes_dropped)
            }
            _ => self.channels.bytes(),
        };
        Report {
            name: self.sandbox.name.clone(),
            config_file: self.sandbox.config_file.clone(),
            phase: self.phase(),
            supervisor: self.supervisor.clone(),
            child: self.pid().and(self.child.as_ref().map(|(child, _)| child.clone())),
            started_at: self.asked,
            running_at: self.child.as_ref().map(|(_, at)| *at),
            restarts: self.restarts,
            tty: stdio.map(Channel::is_terminal),
            log: self.sandbox.log_path(),
            bytes_logged: logged,
            bytes_dropped: dropped,
            consoles: self.channels.consoles(),
            sessions: self.channels.attachments(),
            end: match &self.state {
                State::Stopped(end) | State::Restarting(end, _) => Some(end.clone()),
                _ => None,
            },
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Starting { .. } | State::Moving => Phase::Starting,
            State::Running(_) => Phase::Running,
            State::Stopping(..) => Phase::Stopping,
            State::Draining(_) => Phase::Draining,
            State::Restarting(..) => Phase::Restarting,
            State::Stopped(_) => Phase::Stopped,
        }
    }
}
