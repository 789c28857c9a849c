//! Signals to processes that are not children of this one, through a pidfd. The pidfd is opened
//! before the process is checked, so a signal can't reach a process that reuses the pid.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use crate::child::Signal;

/// A pidfd: it refers to the same process also after the pid is reused (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub(in crate::child) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this pid now.
    pub(in crate::child) fn open(pid: i32) -> nix::Result<Self> {
        // SAFETY: pidfd_open takes two integers; flags 0. It sets CLOEXEC by itself.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The pidfd that clone(2) has returned.
    pub(in crate::child) fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(in crate::child) fn send(&self, signal: Signal) -> nix::Result<()> {
        let no_info = ptr::null::<libc::siginfo_t>();
        // SAFETY: takes an open descriptor, an integer, and a null pointer for the default siginfo;
        // flags 0.
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

/// Sends `signal` to the process with this pid, if `is_meant` returns true after the pidfd was
/// opened. Nothing is sent to this process. A process that has ended is not an error.
///
/// # Errors
///
/// Those of pidfd_open(2) and pidfd_send_signal(2).
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
