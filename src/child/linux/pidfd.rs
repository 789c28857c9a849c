//! Signals for processes that are not our own children: through a pidfd that was opened first and
//! looked at afterwards, so that none can reach a stranger that has the pid by then.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use crate::child::Signal;

/// A process that can't be taken for another (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub(in crate::child) struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has this pid now.
    pub(in crate::child) fn open(pid: i32) -> nix::Result<Self> {
        // SAFETY: pidfd_open takes two integers; flags 0. It sets CLOEXEC by itself.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The one that clone(2) gave with the process.
    pub(in crate::child) fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(in crate::child) fn send(&self, signal: Signal) -> nix::Result<()> {
        let no_info = ptr::null::<libc::siginfo_t>();
        // SAFETY: takes a live descriptor, an integer, and a null pointer that stands for what
        // kill(2) would tell; flags 0.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal.number(),
                no_info,
                0,
            )
        };
        Errno::result(result).map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `signal` to the process that has this pid, if `is_meant` says so after it can't be
/// exchanged any more. Nothing is sent to ourselves, and one that is gone is no error.
///
/// # Errors
///
/// pidfd_open(2)'s and pidfd_send_signal(2)'s.
pub(in crate::child) fn send_to(
    pid: i32,
    signal: Signal,
    is_meant: impl FnOnce() -> bool,
) -> io::Result<()> {
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Ok(());
    }
    let process = match PidFd::open(pid) {
        Ok(process) => process,
        Err(Errno::ESRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !is_meant() {
        return Ok(());
    }
    match process.send(signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
