//! Linux: clone and exec, pidfd, `/proc`.

#[path = "linux/cgroup.rs"]
mod cgroup;
#[path = "linux/exec.rs"]
mod exec;
#[path = "linux/left.rs"]
mod left;
#[path = "linux/members.rs"]
mod members;
#[path = "linux/oom.rs"]
mod oom;
#[path = "linux/pidfd.rs"]
mod pidfd;
#[path = "linux/report.rs"]
mod report;
#[path = "linux/rights.rs"]
mod rights;
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
use nix::sys::termios::InputFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::identity::Process;
use super::lost::{Leftovers, RUN_VARIABLE};
use super::{Identity, Liveness, Signal};
use crate::process::cgroup as cgroup_files;
use crate::process::table::Entry;
pub(crate) use cgroup::Cgroup;
pub(crate) use left::Orphans;
pub use left::reap_children;
pub(super) use left::{ended_status, has_ended, has_no_child, reap_orphans};
use members::{Leader, Scope};
pub(crate) use oom::OomKills;
use pidfd::PidFd;
pub(super) use rights::{has_groups, set_gid, set_groups, set_oom_score_adj, set_uid};
pub(super) use spawn::spawn;

pub(super) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// The first and the last real-time signal for programs (signal(7)).
pub(crate) fn realtime_signals() -> Option<(i32, i32)> {
    Some((libc::SIGRTMIN(), libc::SIGRTMAX()))
}

/// See [`Child::frozen_cgroup`](super::Child::frozen_cgroup).
pub(super) fn frozen_cgroup(pid: Pid) -> Option<PathBuf> {
    cgroup_files::freezes(pid.as_raw())
}

/// Watches for the end of one process, through a pidfd.
#[derive(Debug, Default)]
pub(super) struct ExitWatch(Option<PidFd>);

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        match PidFd::open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self(Some(pidfd))),
            // An old kernel, or a seccomp filter without the system call.
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(Self(None)),
            // Ended, and reaped by the kernel because this process ignores SIGCHLD (wait(2)). The
            // first poll for its end reports that.
            Err(Errno::ESRCH) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// The option of wait(2) for children that were cloned without SIGCHLD too.
pub(super) const ANY_CHILD: libc::c_int = libc::__WALL;

/// Fails with `ECHILD` unless this is an unreaped child of this process. Reaps nothing.
pub(super) fn check_own_child(pid: Pid) -> io::Result<()> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), look | WaitPidFlag::__WALL)?;
    Ok(())
}

/// The input mode of a terminal whose characters are UTF-8.
pub(super) const UTF8_INPUT: InputFlags = InputFlags::IUTF8;

/// A new PTY: its master, close-on-exec and non-blocking, and the path of its slave.
pub(super) fn open_pty() -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    Ok((master.into(), path.into()))
}

/// The start time of a process, and whether it is a zombie; `None` if there is no such process.
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

/// Kills the processes of a lost run: its child, the session and the process group that the child
/// led, and the members of its cgroup.
///
/// The owner of a record can write anything into it, so a record alone is no proof. The proof is
/// the marker of the run in the initial environment of a process ([`RUN_VARIABLE`]). The session is
/// killed if one of its processes has the marker, and so is the cgroup. A process whose environment
/// can't be read proves nothing, and without a marker nothing is killed.
///
/// The caller ensures that `child` belongs to this boot and this pid namespace, and that the record
/// is its own. If another process has the child's pid, the session is not signalled. Processes that
/// started before the child do not count as members. Each process is signalled through a pidfd that
/// is opened before the process table is checked. This process and the cgroup that it is in are
/// never killed.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux; the process table, an
/// environment or the cgroup can't be read; a process can't be signalled.
pub(crate) fn end_lost_session(
    child: &Identity,
    marker: Option<&str>,
    cgroup: Option<&Path>,
) -> io::Result<Leftovers> {
    let mark = |pid: i32| marker.map_or(Ok(Mark::Other), |marker| mark(pid, marker));
    let has_mark = |pid: i32| mark(pid).is_ok_and(|mark| mark == Mark::Run);
    let in_cgroup = match cgroup {
        Some(cgroup) => cgroup::kill_cgroup(cgroup, has_mark)?,
        None => false,
    };
    let killed = |count: usize| match count + usize::from(in_cgroup) {
        0 => Leftovers::Nothing,
        count => Leftovers::Killed(count),
    };
    let Some(leader) = Leader::of(child) else { return Ok(killed(0)) };
    let lost = Scope::Session(leader);
    let found = lost.members()?;
    // One process with the marker proves the whole session, which has only descendants of its
    // leader.
    let mut proof = Mark::Other;
    for member in &found {
        proof = proof.max(mark(member.pid)?);
    }
    match proof {
        Mark::Run => {
            lost.send(&found, Signal::KILL)?;
            Ok(killed(found.len()))
        }
        // The caller checks again, as after a kill.
        Mark::None => Ok(killed(found.len())),
        Mark::Other if found.iter().any(|member| leader.is(member)) => {
            Ok(Leftovers::Unproven(child.pid))
        }
        Mark::Other => Ok(killed(0)),
    }
}

/// As [`end_lost_session`], for a run whose supervisor was killed between the start of the child
/// and the record of its pid. Kills every process with this marker in its initial environment, and
/// returns their number.
///
/// # Errors
///
/// As [`end_lost_session`].
pub(crate) fn end_marked(marker: &str) -> io::Result<usize> {
    let us = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let (mut count, mut outcome) = (0, Ok(()));
    for process in Entry::all()?.into_iter().filter(|process| process.pid != us) {
        if mark(process.pid, marker)? == Mark::Run {
            let has_mark = || mark(process.pid, marker).is_ok_and(|mark| mark == Mark::Run);
            outcome = outcome.and(pidfd::send_to(process.pid, Signal::KILL, has_mark));
            count += 1;
        }
    }
    outcome.map(|()| count)
}

/// Sends `signal` to the child of a run, if its initial environment has the run's marker.
///
/// # Errors
///
/// `ESRCH` if it has ended; [`PermissionDenied`](io::ErrorKind::PermissionDenied) if nothing proves
/// that it belongs to this run; [`Unsupported`](io::ErrorKind::Unsupported) if that can't be
/// checked; those of pidfd_send_signal(2).
pub(crate) fn signal_marked(child: &Identity, marker: &str, signal: Signal) -> io::Result<()> {
    check_marked(child, marker)?;
    let pid = i32::try_from(child.pid).map_err(io::Error::other)?;
    pidfd::send_to(pid, signal, || check_marked(child, marker).is_ok())
}

/// Checks that `parent` is the supervisor of a run: the parent of the run's child, whose initial
/// environment has the run's marker.
///
/// # Errors
///
/// As [`signal_marked`].
pub(crate) fn check_parent(parent: &Identity, child: &Identity, marker: &str) -> io::Result<()> {
    check_marked(child, marker)?;
    let pid = i32::try_from(child.pid).map_err(io::Error::other)?;
    let entry = Entry::of(pid)?.ok_or(Errno::ESRCH)?;
    match u32::try_from(entry.parent) == Ok(parent.pid) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn check_marked(child: &Identity, marker: &str) -> io::Result<()> {
    match child.liveness() {
        Liveness::Alive => {}
        Liveness::Dead => return Err(Errno::ESRCH.into()),
        Liveness::Unknown => return Err(io::ErrorKind::Unsupported.into()),
    }
    match mark(i32::try_from(child.pid).map_err(io::Error::other)?, marker)? {
        Mark::Run => Ok(()),
        Mark::None | Mark::Other => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Whether the initial environment of a process has the marker of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// No, or the environment can't be read, as that of another user's process.
    Other,
    /// Unknown: the process has no environment now, because it is in execve(2) or about to exit.
    None,
    /// Yes.
    Run,
}

/// Compares the marker in the environment of a process.
///
/// # Errors
///
/// The environment can't be read for a reason unrelated to the process, such as `EMFILE`.
fn mark(pid: i32, marker: &str) -> io::Result<Mark> {
    let environment = match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) if environment.is_empty() => {
            // A main thread that has ended shows none (pthread_exit(3)).
            let thread = Entry::of(pid).ok().flatten().map_or(pid, |entry| entry.memory_thread());
            fs::read(format!("/proc/{thread}/environ"))
        }
        read => read,
    };
    match environment {
        // A process that started without an environment can never be proven.
        Ok(environment) if environment.is_empty() => match Entry::began_without_environment(pid) {
            true => Ok(Mark::Other),
            false => Ok(Mark::None),
        },
        Ok(environment) if run_of(&environment) == Some(marker.as_bytes()) => Ok(Mark::Run),
        Ok(_) => Ok(Mark::Other),
        Err(error) => match error.raw_os_error() {
            // It has ended, belongs to another user, or is not dumpable (PR_SET_DUMPABLE,
            // prctl(2)).
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM) => Ok(Mark::Other),
            _ => Err(error),
        },
    }
}

/// The marker in an environment.
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
