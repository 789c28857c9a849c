//! What is known of a sandbox at one moment, for those who ask.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::attach::SessionReport;
use super::console_report::ConsoleReport;
use super::name::Name;
use super::transition::End;
use crate::child::Identity;

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
