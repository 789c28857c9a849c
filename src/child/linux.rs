//! Linux: clone and exec, pidfd, `/proc`.

#[path = "linux/exec.rs"]
mod exec;
#[path = "linux/spawn.rs"]
mod spawn;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::kill;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::identity::Process;
pub(super) use spawn::spawn;

pub(super) fn last_signal() -> i32 {
    libc::SIGRTMAX()
}

/// The real-time signals that programs may use (signal(7)).
pub(super) fn realtime_signals() -> Option<(i32, i32)> {
    Some((libc::SIGRTMIN(), libc::SIGRTMAX()))
}

/// Tells the end of one child through a pidfd (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub(super) struct ExitWatch(Option<OwnedFd>);

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers; flags 0. It sets CLOEXEC by itself.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        match Errno::result(fd) {
            Ok(fd) => {
                let fd = i32::try_from(fd).map_err(io::Error::other)?;
                // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                Ok(Self(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
            }
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

/// Start time (field 22) and state (field 3) of `/proc/PID/stat`; `None` when there is no such
/// process.
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Without /proc, or behind its `hidepid`, there may be one all the same (proc(5)).
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            return match kill(Pid::from_raw(pid), None) {
                Err(Errno::ESRCH) => Ok(None),
                _ => Err(error),
            };
        }
        // The process ended between open and read.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let malformed = || io::Error::other(format!("/proc/{pid}/stat is malformed"));
    // The second field is the command's name in parentheses, which may itself hold any of them.
    let name_end = stat.iter().rposition(|&byte| byte == b')').ok_or_else(malformed)?;
    let rest = stat.get(name_end + 1..).unwrap_or_default();
    let mut fields = std::str::from_utf8(rest).map_err(io::Error::other)?.split_ascii_whitespace();
    let state = fields.next().ok_or_else(malformed)?;
    let start = fields.nth(18).ok_or_else(malformed)?.parse().map_err(io::Error::other)?;
    Ok(Some(Process { start, ended: matches!(state, "Z" | "X") }))
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim_end().to_owned())
        .unwrap_or_default()
}

pub(super) fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}
