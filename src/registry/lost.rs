//! The remaining processes of a lost run: where the record places them, and the marker in their
//! environment that proves that they belong to the run.

use std::io;
use std::path::{Path, PathBuf};

use super::run::{Run, RunStatus};
use super::site::Location;
use super::spool;
use crate::child::Signal;
use crate::child::lost::{
    Leftovers, check_parent, end_lost_session, end_marked, run_marker, signal_marked,
};
use crate::monitor::Identity;
use crate::socket;

/// Where the processes of a lost run may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostRun {
    /// The marker at the start of the environment of the run's command; `None` for a child that a
    /// host has handed over, for which no proof exists.
    marker: Option<String>,
    /// The child; `None` if the supervisor was lost before it recorded the child.
    child: Option<Identity>,
    cgroup: Option<PathBuf>,
}

impl LostRun {
    /// From `run`, which is lost, and `open`, all unfinished runs on record. `None` if no process
    /// of it can exist here.
    pub(super) fn of(run: &Run, open: &[Run]) -> Option<Self> {
        let supervisor = run.supervisor_identity.as_ref()?;
        // After a reboot none of its processes exists.
        let here = Identity::current();
        let are_known = !supervisor.boot_id.is_empty() && !here.boot_id.is_empty();
        let is_rebooted = are_known && supervisor.boot_id != here.boot_id;
        // In another pid namespace its pids mean other processes here, but the environment of one
        // proves that it belongs to the run.
        let is_here = are_known && supervisor.pid_namespace == here.pid_namespace;
        let spec = run.spec.as_ref();
        // The child had ended, and its descendants were configured to survive.
        let leaves_descendants =
            run.ended_at.is_some() && spec.is_some_and(|spec| spec.sandbox.leave_descendants);
        if is_rebooted || leaves_descendants {
            return None;
        }
        let cgroup = spec.and_then(|spec| spec.sandbox.cgroup.clone());
        let cgroup = cgroup.filter(|cgroup| is_here && !is_used(cgroup, open));
        Some(Self { marker: marker(run), child: run.child.clone().filter(|_| is_here), cgroup })
    }

    /// Kills the remaining processes of `run` and returns why some may remain. Never waits.
    pub(super) fn end_all(run: &Run, open: &[Run]) -> Option<String> {
        Self::of(run, open)?.end().map_or_else(|error| Some(error.to_string()), Leftovers::reason)
    }

    /// Kills the remaining processes. Never waits.
    ///
    /// # Errors
    ///
    /// The remaining processes can't be determined, or one of them can't be signalled.
    pub(super) fn end(&self) -> io::Result<Leftovers> {
        // No process has pid 0 and no session has id 0: only the cgroup is searched.
        let none = Identity { pid: 0, start: 0, ..Identity::current() };
        let child = self.child.as_ref().unwrap_or(&none);
        let found = end_lost_session(child, self.marker.as_deref(), self.cgroup.as_deref());
        let found = match (found, &self.marker) {
            (Ok(Leftovers::Nothing), Some(marker)) if self.child.is_none() => end_marked(marker)
                .map(|count| match count {
                    0 => Leftovers::Nothing,
                    count => Leftovers::Killed(count),
                }),
            (found, _) => found,
        };
        match found {
            // Where the system can't list a session, a child without a supervisor is left to the
            // user.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Leftovers::Nothing),
            found => found,
        }
    }
}

/// Removes the temporary files of the supervisor of a lost run, which has ended: those of its
/// control socket and of its spooled ends.
pub(super) fn sweep(run: &Run, spool: &Path) {
    // In another pid namespace another supervisor may have this pid.
    let Some(pid) = run.supervisor.filter(|_| run.location == Some(Location::Here)) else { return };
    if let Some(directory) = run.socket.as_deref().and_then(Path::parent) {
        socket::sweep(directory, pid);
    }
    if let Some(supervisor) = &run.supervisor_identity {
        spool::sweep(spool, supervisor);
    }
}

impl Leftovers {
    /// Why a run with remaining processes stays open on record.
    pub(super) fn reason(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Killed(count) => Some(format!("{count} processes have not ended yet")),
            Self::Unproven(pid) => Some(format!(
                "pid {pid} is on record as its command and still runs, but its environment does not prove that it belongs to this run"
            )),
        }
    }
}

impl Run {
    /// Sends `signal` to the child directly, for a command that finds no supervisor at the control
    /// socket. The record must be [trusted](Self::trusted), the environment of the process must
    /// begin with the marker of this run, and on Linux the signal goes through a pidfd.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the child has ended. [`PermissionDenied`](io::ErrorKind::PermissionDenied) if
    /// nothing proves that the process is this run's, or another user could have written the
    /// record. [`Unsupported`](io::ErrorKind::Unsupported) if the system can't read the
    /// environment. Else the error of kill(2).
    pub fn signal_child(&self, signal: Signal) -> io::Result<()> {
        let (child, marker) = self.proof()?;
        signal_marked(child, &marker, signal)
    }

    /// Sends `signal` to the supervisor. The recorded supervisor must be the parent of the child,
    /// whose environment proves that it is this run's.
    ///
    /// # Errors
    ///
    /// As [`signal_child`](Self::signal_child).
    pub fn signal_supervisor(&self, signal: Signal) -> io::Result<()> {
        let (child, marker) = self.proof()?;
        let supervisor =
            self.supervisor_identity.as_ref().ok_or(io::ErrorKind::PermissionDenied)?;
        check_parent(supervisor, child, &marker)?;
        supervisor.signal(signal)
    }

    fn proof(&self) -> io::Result<(&Identity, String)> {
        let proof = self.child.as_ref().zip(marker(self)).filter(|_| self.trusted);
        Ok(proof.ok_or(io::ErrorKind::PermissionDenied)?)
    }
}

/// The marker at the start of the environment of a run's command, if vmon has started it.
fn marker(run: &Run) -> Option<String> {
    let handed_over = run.child.is_some() && run.spec.as_ref()?.command.is_none();
    let (supervisor, at) = run.supervisor_identity.as_ref().zip(run.started_at)?;
    (!handed_over).then(|| run_marker(supervisor, at))
}

/// Whether a live run uses this cgroup, an ancestor or a descendant of it.
fn is_used(cgroup: &Path, open: &[Run]) -> bool {
    let live = open.iter().filter(|run| run.status == RunStatus::Running);
    let mut cgroups = live.filter_map(|run| run.spec.as_ref()?.sandbox.cgroup.as_deref());
    cgroups.any(|other| other.starts_with(cgroup) || cgroup.starts_with(other))
}
