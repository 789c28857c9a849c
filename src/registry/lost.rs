//! What a lost run has left behind: where its processes are, by what the record says, and the marker
//! that proves that they are its own.

use std::io;
use std::path::{Path, PathBuf};

use super::read::{Run, Status};
use super::spool;
use crate::child::Signal;
use crate::child::lost::{
    Leftovers, check_parent, end_lost_session, end_marked, run_marker, signal_marked,
};
use crate::monitor::Identity;
use crate::socket;

/// Where the processes of a lost run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostRun {
    /// What the environment of its command began with; `None` for a child that was handed over:
    /// nothing proves what is that one's.
    marker: Option<String>,
    /// The child; `None` where the supervisor was lost before it could record it.
    child: Option<Identity>,
    cgroup: Option<PathBuf>,
}

impl LostRun {
    /// Of `run`, which is lost; `open` are all that stand open on record. `None` where no process
    /// of it can be here.
    pub(super) fn of(run: &Run, open: &[Run]) -> Option<Self> {
        let supervisor = run.supervisor_identity.as_ref()?;
        // The supervisor was of our boot and namespace if its child can be anything here.
        let here = Identity::current();
        let same = supervisor.boot_id == here.boot_id
            && supervisor.pid_namespace == here.pid_namespace
            && !here.boot_id.is_empty();
        let spec = run.spec.as_ref();
        // It had ended before the supervisor was lost, and what it left was to go on.
        let kept =
            run.ended_at.is_some() && spec.is_some_and(|spec| spec.sandbox.leave_descendants);
        if !same || kept {
            return None;
        }
        let cgroup = spec.and_then(|spec| spec.sandbox.cgroup.clone());
        let cgroup = cgroup.filter(|cgroup| !is_used(cgroup, open));
        Some(Self { marker: marker(run), child: run.child.clone(), cgroup })
    }

    /// Kills what is left. Never waits.
    ///
    /// # Errors
    ///
    /// It can't be found out what is left, or a process of it can't be signalled.
    pub(super) fn end(&self) -> io::Result<Leftovers> {
        // No process has pid 0, nor its session: only the cgroup counts.
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
            // Where sessions can't be looked through, a child that has no supervisor any more is
            // its user's.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Leftovers::Nothing),
            found => found,
        }
    }
}

/// Removes the files that the supervisor of a lost run, which has ended, was about to put into their
/// places when it was killed: its control socket, and the end of a run.
pub(super) fn sweep(run: &Run, spool: &Path) {
    let Some(pid) = run.supervisor else { return };
    if let Some(directory) = run.socket.as_deref().and_then(Path::parent) {
        socket::sweep(directory, pid);
    }
    spool::sweep(spool, pid);
}

impl Leftovers {
    /// Why a run that has left something behind stays open on record.
    pub(super) fn reason(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Killed(count) => {
                Some(format!("{count} processes were sent SIGKILL and have not ended yet"))
            }
            Self::Unproven(pid) => Some(format!(
                "pid {pid} on record as its command still runs, and its environment does not prove that it is this run's"
            )),
        }
    }
}

impl Run {
    /// Sends `signal` to the child itself, for a command that finds no supervisor at the control
    /// socket. The record alone does not decide which process that reaches: it must be
    /// [trusted](Self::trusted), the environment of the process must have begun with the marker of
    /// this run, and on Linux the signal goes through a pidfd.
    ///
    /// # Errors
    ///
    /// `ESRCH` where the child has ended, [`PermissionDenied`](io::ErrorKind::PermissionDenied)
    /// where nothing proves that the process is this run's, or another user could have written the
    /// record, [`Unsupported`](io::ErrorKind::Unsupported) where the system can't tell; kill(2)'s.
    pub fn signal_child(&self, signal: Signal) -> io::Result<()> {
        let (child, marker) = self.proof()?;
        signal_marked(child, &marker, signal)
    }

    /// As [`signal_child`](Self::signal_child), to the supervisor: the process on record as such
    /// must be the parent of the child, whose environment proves that it is this run's.
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

/// What the environment of a run's command began with, where vmon has started it.
fn marker(run: &Run) -> Option<String> {
    let handed_over = run.child.is_some() && run.spec.as_ref()?.command.is_none();
    let (supervisor, at) = run.supervisor_identity.as_ref().zip(run.started_at)?;
    (!handed_over).then(|| run_marker(supervisor, at))
}

/// Whether a run that goes on has this cgroup, one above it or one below it.
fn is_used(cgroup: &Path, open: &[Run]) -> bool {
    let live = open.iter().filter(|run| run.status == Status::Running);
    let mut theirs = live.filter_map(|run| run.spec.as_ref()?.sandbox.cgroup.as_deref());
    theirs.any(|other| other.starts_with(cgroup) || cgroup.starts_with(other))
}
