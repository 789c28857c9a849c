//! A run, as it is read from the record.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::columns::ConsoleBytes;
use super::site::Location;
use crate::monitor::codec::Spec;
use crate::monitor::{Identity, Liveness, Phase, Reason};

/// A run of a sandbox, or a sandbox of another program.
///
/// ```
/// use vmon::registry::Registry;
///
/// # let directory = tempfile::tempdir()?;
/// # let state = directory.path();
/// let registry = Registry::open(state.join("sandbox.db"))?;
/// for run in registry.runs()? {
///     println!("{}/{}: {:?} {:?}", run.config_file, run.name, run.state, run.exit_code);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The run's row in `vmon_runs`; `None` for another program's sandbox.
    pub id: Option<i64>,
    /// The sandbox's row in `sandboxes`, which all its runs share.
    pub sandbox_id: i64,
    /// The sandbox's name.
    pub name: String,
    /// The namespace of its log and record.
    pub config_file: String,
    /// The state on record, in which `DRAINING` does not occur. `None` for a word that this version
    /// does not know.
    pub state: Option<Phase>,
    /// The current status.
    pub status: RunStatus,
    /// The child's pid, once it ran. The process exists only while [`Run::status`] is `Running`.
    pub pid: Option<u32>,
    /// The child's identity, once it ran; `None` for another program's sandbox.
    pub child: Option<Identity>,
    /// The supervisor's pid.
    pub supervisor: Option<u32>,
    /// The supervisor's identity; `None` for another program's sandbox.
    pub supervisor_identity: Option<Identity>,
    /// Whether the supervisor of an unfinished run lives. That takes into account the lock that it
    /// holds for life, which pid namespaces do not hide, and is [`Unknown`](Liveness::Unknown) for
    /// one on another machine. `None` for a run that has ended, and for another program's sandbox.
    pub liveness: Option<Liveness>,
    /// Where the supervisor is or was; `None` for another program's sandbox.
    pub location: Option<Location>,
    /// The host name of its machine; `None` for another program's sandbox, and on records of earlier
    /// versions.
    pub host: Option<String>,
    /// The absolute path of the supervisor's control socket, if it has one.
    pub socket: Option<PathBuf>,
    /// Time of the request to start.
    pub started_at: Option<DateTime<Utc>>,
    /// Time at which the child ran.
    pub running_at: Option<DateTime<Utc>>,
    /// Time of the end of the run; `None` also if unknown.
    pub ended_at: Option<DateTime<Utc>>,
    /// The child's exit code, or 125 to 127 for a child that could not be started. During a run,
    /// that of a child that has exited while its output is still being read.
    pub exit_code: Option<i32>,
    /// The signal that ended the child.
    pub signal: Option<i32>,
    /// Why the run ended, once it has. `None` also for a word that this version does not know.
    pub reason: Option<Reason>,
    /// Bytes of the child's output that are in the log.
    pub bytes_logged: Option<u64>,
    /// Bytes that a log or another output dropped.
    pub bytes_dropped: Option<u64>,
    /// Byte counts of its consoles, from the end of the run on.
    pub consoles: Vec<ConsoleBytes>,
    /// `native:PATH`, `overlayfs:PATH:PATH…`, or empty; that of the sandbox's latest run.
    pub rootfs_paths: String,
    /// The sandbox, its command and its options; `None` for another program's sandbox, or if the column
    /// can't be parsed or the name is invalid.
    pub spec: Option<Spec>,
    /// Whether only our effective user could have written this record: it owns the database files
    /// that were read, their directory and the spool directory, and they are not writable for
    /// others. No process may be signalled, no socket called and no file removed because of any
    /// other record.
    pub trusted: bool,
}

impl Run {
    /// Whether the run is unfinished on record, and its supervisor is dead.
    pub(super) fn is_lost(&self) -> bool {
        self.liveness == Some(Liveness::Dead)
    }

    pub(super) fn is_in_progress(&self) -> bool {
        self.status == RunStatus::Running
    }

    /// The path of the log of this run; `None` if it has [none](crate::monitor::Sandbox::log_off), and
    /// for another program's sandbox.
    pub fn log_path(&self) -> Option<PathBuf> {
        let sandbox = &self.spec.as_ref()?.sandbox;
        (!sandbox.log_off).then(|| sandbox.log_path())
    }
}

/// Whether a run is in progress, judged by its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// The run has not ended, and its supervisor lives, or can't be checked (for example on another
    /// machine).
    Running,
    /// The run has ended, or its supervisor is dead.
    Stopped,
}
