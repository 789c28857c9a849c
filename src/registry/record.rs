//! What the database is to say of one run, whatever it says now.
//!
//! Transitions change the record; the store brings the rows up to it, however far they are behind.
//! So transitions that could not be written need no queue: the record holds them, merged.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::columns::ConsoleBytes;
use super::site::Site;
use super::spec;
use super::state_dir::StateDir;
use crate::child::ExitStatus;
use crate::logfile::KeptGenerations;
use crate::monitor::{End, Identity, Rootfs, Starting, Transition};
use crate::timestamp::rfc3339;

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Its row in `vmon_runs`, once it has been written.
    pub(super) row: Option<i64>,
    pub(super) name: String,
    pub(super) config_file: String,
    pub(super) config_last_modified: String,
    pub(super) rootfs_paths: String,
    /// The directory that paths of this and other records are relative to.
    pub(super) state: Arc<StateDir>,
    pub(super) spec: String,
    /// As it is recorded.
    pub(super) socket: Option<PathBuf>,
    pub(super) supervisor: Identity,
    /// With the lock that proves that this process lives, until the end of the run is written.
    pub(super) site: Arc<Site>,
    pub(super) started_at: String,
    pub(super) child: Option<Child>,
    /// How the child has ended, from its end on.
    pub(super) reaped: Option<ExitStatus>,
    pub(super) stage: Stage,
    /// Whether it takes over from an earlier run of the same supervisor.
    pub(super) follows: bool,
    /// How many runs of the same supervisor came before.
    pub(super) restarts: u32,
    /// How many runs of the sandbox are kept; 0 for all.
    pub(super) keep_runs: u32,
}

/// The child, once it runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) running_at: String,
}

/// The `state` of the run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    Starting,
    Running,
    Stopping,
    /// Over, and to be followed by another run of the same supervisor, which keeps the name.
    Restarting(Ending),
    Stopped(Ending),
}

/// How it ended, in the words of the record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub(super) at: String,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) reason: String,
    pub(super) bytes_logged: u64,
    pub(super) bytes_dropped: u64,
    pub(super) consoles: Vec<ConsoleBytes>,
    pub(super) rotated: Vec<KeptGenerations>,
}

impl Stage {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Restarting(_) => "RESTARTING",
            Self::Stopped(_) => "STOPPED",
        }
    }
}

impl Record {
    /// A run that begins; `options` are what its starter has added to the spec.
    pub(super) fn new(starting: &Starting<'_>, options: &Value, state: &Arc<StateDir>) -> Self {
        let Starting { sandbox, supervisor, at, socket, .. } = starting;
        Self {
            row: None,
            name: sandbox.name.to_string(),
            config_file: sandbox.config_file.to_string(),
            config_last_modified: rfc3339(sandbox.config_last_modified),
            rootfs_paths: sandbox.rootfs.as_ref().map(Rootfs::to_string).unwrap_or_default(),
            state: Arc::clone(state),
            // As long as it is: it stays for the life of the run.
            spec: spec::record(starting, options, state).into_boxed_str().into(),
            socket: socket.map(|socket| state.record(socket)),
            supervisor: (*supervisor).clone(),
            site: Site::of(supervisor, &state.spool),
            started_at: rfc3339(*at),
            child: None,
            reaped: None,
            stage: Stage::Starting,
            follows: starting.restarts > 0,
            restarts: starting.restarts,
            keep_runs: sandbox.keep_runs,
        }
    }

    /// Whether `starting` is the start of this very run.
    pub(super) fn is_of(&self, starting: &Starting<'_>) -> bool {
        self.started_at == rfc3339(starting.at)
            && self.name == starting.sandbox.name.as_str()
            && self.config_file == starting.sandbox.config_file.as_str()
    }

    /// Whether nothing follows: neither a transition nor another run.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Stopped(_))
    }

    /// How it ended, whether or not another run follows.
    pub(super) fn ending(&self) -> Option<&Ending> {
        match &self.stage {
            Stage::Restarting(ending) | Stage::Stopped(ending) => Some(ending),
            Stage::Starting | Stage::Running | Stage::Stopping => None,
        }
    }

    /// The same, but that nothing follows a run which has ended.
    pub(super) fn finished(mut self) -> Self {
        if let Stage::Restarting(ending) = self.stage {
            self.stage = Stage::Stopped(ending);
        }
        self
    }

    /// The child's exit code, as far as it is known.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let reaped = || self.reaped.and_then(ExitStatus::code);
        self.ending().map_or_else(reaped, |ending| ending.exit_code)
    }

    /// The signal that ended the child, as far as it is known.
    pub(super) fn signal(&self) -> Option<i32> {
        let reaped = || self.reaped.and_then(ExitStatus::signal).map(|signal| signal.number());
        self.ending().map_or_else(reaped, |ending| ending.signal)
    }

    /// Takes in a transition; says whether the rows are to follow it at once.
    pub(super) fn apply(&mut self, transition: &Transition) -> Follow {
        match transition {
            Transition::Running { at, child } => {
                let (pid, start) = (child.pid, child.start);
                self.child = Some(Child { pid, start, running_at: rfc3339(*at) });
                self.stage = Stage::Running;
            }
            Transition::Stopping { .. } => self.stage = Stage::Stopping,
            // The record has no such state. Usually the end follows at once, with all that is known
            // now.
            Transition::Draining { status, .. } => {
                self.reaped = Some(*status);
                return Follow::Later;
            }
            Transition::Restarting { at, end, .. } => {
                self.stage = Stage::Restarting(Ending::new(*at, end));
            }
            Transition::Stopped { at, end } => self.stage = Stage::Stopped(Ending::new(*at, end)),
        }
        Follow::Now
    }
}

/// When the rows follow the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    Now,
    Later,
}

impl Ending {
    fn new(at: DateTime<Utc>, end: &End) -> Self {
        Self {
            at: rfc3339(at),
            exit_code: end.recorded_code(),
            signal: end.signal().map(|signal| signal.number()),
            reason: end.reason().to_string(),
            bytes_logged: end.bytes_logged,
            bytes_dropped: end.bytes_dropped,
            consoles: end.consoles.iter().map(ConsoleBytes::of).collect(),
            rotated: end.rotated.clone(),
        }
    }
}
