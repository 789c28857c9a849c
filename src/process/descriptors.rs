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

/// One descriptor that this process was started with, close-on-exec and owned by the caller from now
/// on: for a program whose user names it.
///
/// Only a descriptor that is not close-on-exec can be one. The standard library and this one open none
/// without that flag.
///
/// # Safety
///
/// Nothing in the process owns the descriptor of this number: no code has opened one without
/// `FD_CLOEXEC`, or has cleared that flag.
///
/// # Errors
///
/// `EBADF` if no descriptor of that number was inherited, or if it has been returned before.
pub unsafe fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for these calls, which fail with EBADF if the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number.max(0)) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if number < FIRST || flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(Errno::EBADF.into());
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, and the caller ensures that it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
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
