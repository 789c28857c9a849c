//! The descriptors that a started program would inherit.

// Descriptors that are known by number only.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first descriptor that is not stdin, stdout or stderr.
const FIRST: RawFd = 3;

/// The directory that lists the descriptors of this process (proc(5), fd(4)).
#[cfg(any(target_os = "linux", target_os = "android"))]
const LIST: &str = "/proc/self/fd";
/// The directory that lists the descriptors of this process (proc(5), fd(4)).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const LIST: &str = "/dev/fd";

/// Sets `FD_CLOEXEC` (fcntl(2)) on every descriptor of this process but stdin, stdout and stderr.
/// For a process that starts a program which outlives it: the program must not keep an inherited
/// pipe of the caller open.
///
/// No descriptor is closed, and other processes are not affected.
///
/// # Errors
///
/// The system's, if the descriptors can't be listed.
pub fn keep_descriptors_from_programs() -> io::Result<()> {
    open_descriptors()?.into_iter().try_for_each(keep)
}

/// The descriptors of this process but stdin, stdout and stderr, now owned by the caller: for a
/// program that was started with descriptors which it has to pass on, or to close at a certain time.
/// Their flags stay as they are.
///
/// # Safety
///
/// Nothing in the process owns one of them: the program has opened no file yet that is still open.
///
/// # Errors
///
/// The system's, if the descriptors can't be listed.
pub unsafe fn inherited_descriptors() -> io::Result<Vec<OwnedFd>> {
    let mut open = open_descriptors()?;
    // That of the list itself is closed again.
    open.retain(|number| is_open(*number));
    // SAFETY: the descriptor is open, and the caller ensures that it has no other owner.
    Ok(open.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// The numbers of the open descriptors from [`FIRST`] on, and that of the list, which is closed.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(LIST)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        open.extend(number.filter(|number| *number >= FIRST));
    }
    Ok(open)
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: borrowed for this one call, which fails with EBADF if the number is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_GETFD).is_ok()
}

fn keep(number: RawFd) -> io::Result<()> {
    // SAFETY: borrowed for this one call, which fails with EBADF if the number is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    match fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) | Err(Errno::EBADF) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
