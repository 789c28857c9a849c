//! The descriptors that a program which we start would inherit.

#![allow(unsafe_code)] // for descriptors that are known by number only

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first descriptor that is not stdin, stdout or stderr.
const FIRST: RawFd = 3;

/// Where the descriptors of this process are listed (proc(5), fd(4)).
#[cfg(any(target_os = "linux", target_os = "android"))]
const LIST: &str = "/proc/self/fd";
/// Where the descriptors of this process are listed (proc(5), fd(4)).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const LIST: &str = "/dev/fd";

/// Keeps from programs that this process starts whatever descriptor beside stdin, stdout and
/// stderr it has inherited itself (`FD_CLOEXEC`, fcntl(2)): for one that starts a program which is
/// to outlive it, and must not hold a caller's pipe open.
///
/// Nothing is closed here, and what other processes have is not changed.
///
/// # Errors
///
/// The system's, when it does not list the descriptors.
pub fn keep_descriptors_from_programs() -> io::Result<()> {
    for entry in fs::read_dir(LIST)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(number) = number.filter(|number| *number >= FIRST) {
            keep(number)?;
        }
    }
    Ok(())
}

fn keep(number: RawFd) -> io::Result<()> {
    // SAFETY: borrowed for this one call, which uses the number only and finds out by itself
    // (EBADF) whether it is still a descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    match fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) | Err(Errno::EBADF) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
