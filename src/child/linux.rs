//! Linux: clone and exec, pidfd, `/proc`.

#[path = "linux/cgroup.rs"]
mod cgroup;
#[path = "linux/exec.rs"]
mod exec;
#[path = "linux/left.rs"]
mod left;
#[path = "linux/members.rs"]
mod members;
#[path = "linux/pidfd.rs"]
mod pidfd;
#[path = "linux/spawn.rs"]
mod spawn;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::identity::Process;
use super::lost::RUN_VARIABLE;
use super::{Identity, Liveness, Signal};
use crate::process::cgroup::members;
use crate::process::table::Entry;
pub(crate) use cgroup::Cgroup;
pub(super) use left::{Left, has_ended, has_no_child, reap_orphans};
use members::{Leader, Scope};
use pidfd::PidFd;
pub(super) use spawn::spawn;

pub(super) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// The real-time signals that programs may use (signal(7)).
pub(super) fn realtime_signals() -> Option<(i32, i32)> {
    Some((libc::SIGRTMIN(), libc::SIGRTMAX()))
}

/// Tells the end of one child through a pidfd.
#[derive(Debug)]
pub(super) struct ExitWatch(Option<PidFd>);

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        match PidFd::open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self(Some(pidfd))),
            // An older kernel, or a seccomp filter that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(Self(None)),
            // Gone already, and reaped by the kernel, since this process ignores SIGCHLD
            // (wait(2)). It did run, and the first look for its end finds that out.
            Err(Errno::ESRCH) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// Fails with `ECHILD` unless this is an unreaped child of ours. Reaps nothing.
pub(super) fn check_own_child(pid: Pid) -> io::Result<()> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), look)?;
    Ok(())
}

/// A new PTY: its master, close-on-exec and non-blocking from the start, and its slave's path.
pub(super) fn open_pty() -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    Ok((master.into(), path.into()))
}

/// Start time and whether it is a zombie; `None` when there is no such process.
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let entry = Entry::of(pid)?;
    Ok(entry.map(|entry| Process { start: entry.start, ended: entry.has_ended() }))
}

/// See [`Identity::signal`].
pub(super) fn signal(identity: &Identity, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(identity.pid).map_err(io::Error::other)?;
    pidfd::send_to(pid, signal, || identity.liveness() == Liveness::Alive)
}

/// See [`end_lost_session`](super::lost::end_lost_session).
pub(super) fn end_lost_session(
    child: &Identity,
    marker: Option<&str>,
    cgroup: Option<&Path>,
) -> io::Result<usize> {
    let leader = Leader::of(child);
    let cgroup = cgroup.filter(|cgroup| !is_another_runs(cgroup, leader, marker));
    let in_cgroup = usize::from(cgroup.is_some_and(cgroup::kill_cgroup));
    let Some(leader) = leader else { return Ok(in_cgroup) };
    let lost = Scope::Lost(leader);
    let found = lost.members()?;
    // Without its leader the number may be that of a later session, whose leader has ended too.
    let ours = match marker {
        _ if Entry::of(leader.pid)?.is_some() => Mark::Ours,
        Some(marker) => found.iter().map(|one| mark(one.pid, marker)).max().unwrap_or(Mark::Other),
        None => Mark::Other,
    };
    match ours {
        Mark::Other => return Ok(in_cgroup),
        // To be asked again, as of one that was killed.
        Mark::None => {}
        Mark::Ours => lost.send(&found, Signal::KILL),
    }
    Ok(found.len() + in_cgroup)
}

/// See [`end_marked`](super::lost::end_marked).
pub(super) fn end_marked(marker: &str) -> io::Result<usize> {
    let is_marked = |pid: i32| mark(pid, marker) == Mark::Ours;
    let mut count = 0;
    let us = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let others = Entry::all()?.into_iter().filter(|process| process.pid != us);
    for process in others.filter(|process| is_marked(process.pid)) {
        pidfd::send_to(process.pid, Signal::KILL, || is_marked(process.pid))?;
        count += 1;
    }
    Ok(count)
}

/// Whether the cgroup that a lost child was put into is another run's by now, as one of another
/// record: nobody in it is known to be the lost run's, and somebody to be another's.
fn is_another_runs(cgroup: &Path, leader: Option<Leader>, marker: Option<&str>) -> bool {
    let mut others = false;
    for pid in members(cgroup) {
        let entry = Entry::of(pid).ok().flatten();
        if leader.zip(entry).is_some_and(|(leader, entry)| leader.is(&entry)) {
            return false;
        }
        match (environment(pid).as_deref().and_then(run_of), marker) {
            (Some(run), Some(marker)) if run == marker.as_bytes() => return false,
            (Some(_), _) => others = true,
            (None, _) => {}
        }
    }
    others
}

/// What the environment that a process began with says of the run it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// Another one, or none.
    Other,
    /// It has none now: in the middle of execve(2), or about to be gone.
    None,
    /// This one.
    Ours,
}

fn mark(pid: i32, marker: &str) -> Mark {
    match environment(pid) {
        // Who never had any can't be told from a stranger, however often it is asked.
        Some(environment) if environment.is_empty() => {
            if Entry::began_without_environment(pid) {
                Mark::Other
            } else {
                Mark::None
            }
        }
        Some(environment) if run_of(&environment) == Some(marker.as_bytes()) => Mark::Ours,
        // Gone, or another user's, who is not to be signalled by us.
        Some(_) | None => Mark::Other,
    }
}

/// The environment that a process began with; `None` where we may not see it.
fn environment(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

/// The run that a process with this environment belongs to.
fn run_of(environment: &[u8]) -> Option<&[u8]> {
    let mut variables = environment.split(|&byte| byte == 0);
    variables.find_map(|it| it.strip_prefix(RUN_VARIABLE.as_bytes())?.strip_prefix(b"="))
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim_end().to_owned())
        .unwrap_or_default()
}

pub(super) fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}
