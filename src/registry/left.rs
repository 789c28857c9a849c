//! What a lost run has left behind: which processes those are, by what the record says of it.

use std::io;
use std::path::{Path, PathBuf};

use super::read::{Run, Status};
use crate::child::lost::{end_lost_session, end_marked, run_marker};
use crate::monitor::Identity;

/// Where the processes of a lost run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leftovers {
    child: Lead,
    cgroup: Option<PathBuf>,
}

/// What leads to the child and what it has started.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lead {
    /// The child, whose session it is, and what its environment says; nothing if it was handed
    /// over.
    Session { child: Identity, marker: Option<String> },
    /// The supervisor was lost before it could record the child: what its environment says.
    Marker { marker: String, supervisor: Identity },
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing is left of it.
    Nothing,
    /// So many processes, which have been killed; look again.
    Killed(usize),
}

impl Leftovers {
    /// Those of `run`, which is lost; `open` are all that stand open on record. `None` where
    /// there can be none, or none that is known.
    pub(super) fn of(run: &Run, open: &[Run]) -> Option<Self> {
        let supervisor = run.supervisor_identity.clone()?;
        // The supervisor was of our boot and namespace if its child can be anything here.
        let here = Identity::current();
        let same = supervisor.boot_id == here.boot_id
            && supervisor.pid_namespace == here.pid_namespace
            && !here.boot_id.is_empty();
        let spec = run.spec.as_ref();
        // It had ended before the supervisor was lost, and what it left was to go on.
        let kept = run.ended_at.is_some() && spec.is_some_and(|spec| spec.leave_descendants);
        if !same || kept {
            return None;
        }
        let cgroup = spec.and_then(|spec| spec.cgroup.clone());
        let cgroup = cgroup.filter(|cgroup| !is_used(cgroup, open));
        let child = match (&run.child, run.started_at) {
            (Some(child), started_at) => {
                let spawned = spec.is_some_and(|spec| spec.command.is_some());
                let started_at = started_at.filter(|_| spawned);
                let marker = started_at.map(|at| run_marker(&supervisor, at));
                Lead::Session { child: child.clone(), marker }
            }
            (None, Some(started_at)) => {
                Lead::Marker { marker: run_marker(&supervisor, started_at), supervisor }
            }
            (None, None) => return None,
        };
        Some(Self { child, cgroup })
    }

    /// Kills what is left. Never waits.
    ///
    /// # Errors
    ///
    /// It can't be found out.
    pub(super) fn end(&self) -> io::Result<Left> {
        let cgroup = self.cgroup.as_deref();
        let found = match &self.child {
            Lead::Session { child, marker } => end_lost_session(child, marker.as_deref(), cgroup),
            Lead::Marker { marker, supervisor } => {
                // Nobody has pid 0, nor its session: only the cgroup counts.
                let nobody = Identity { pid: 0, start: 0, ..supervisor.clone() };
                end_lost_session(&nobody, Some(marker), cgroup)
                    .and_then(|count| Ok(count + end_marked(marker)?))
            }
        };
        match found {
            Ok(0) => Ok(Left::Nothing),
            Ok(count) => Ok(Left::Killed(count)),
            // Where sessions can't be looked through, a child that has no supervisor any more is
            // its user's.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Left::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// Whether a run that goes on has this cgroup, one above it or one below it.
fn is_used(cgroup: &Path, open: &[Run]) -> bool {
    let live = open.iter().filter(|run| run.status == Status::Running);
    let mut theirs = live.filter_map(|run| run.spec.as_ref()?.cgroup.as_deref());
    theirs.any(|other| other.starts_with(cgroup) || cgroup.starts_with(other))
}
