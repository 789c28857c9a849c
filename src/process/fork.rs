//! Continuing in a copy of this process. Linux only.

// fork has no safe wrapper: its caller answers for the number of threads.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{ForkResult, fork as fork_process};

/// Where a [`fork`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In this process; the copy has this pid.
    Parent {
        /// The pid of the copy, a child that has to be reaped.
        child: u32,
    },
    /// In the copy.
    Child,
}

/// Makes a copy of this process (fork(2)): for a program that goes to the background, or that needs
/// more between fork and exec than [`Command`](crate::child::Command) offers.
///
/// A copy has only one thread. If this process has several, the copy may find a lock of the
/// allocator or of this library held for ever by a thread that it does not have, so the call is
/// refused.
///
/// The copy shares every open file description with this process, a poller's too: a
/// [`Reactor`](crate::reactor::Reactor) made before must be used by one of the two only.
///
/// # Errors
///
/// [`ResourceBusy`](io::ErrorKind::ResourceBusy) in a process with several threads; the system's if
/// `/proc` can't be read, and those of fork(2): `EAGAIN` at a limit of processes, `ENOMEM`.
pub fn fork() -> io::Result<Forked> {
    if threads()? > 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // SAFETY: the process has one thread, this one, and no other can come into being meanwhile: the
    // copy has every thread of the process, so it may do what the process may.
    match unsafe { fork_process() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw().unsigned_abs() }),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// The number of threads of this process: each is a directory, which is a link of the directory
/// above it (proc_pid_task(5)).
fn threads() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_copied() {
        // The test runs in a thread beside the main one.
        assert!(threads().unwrap() > 1);
        assert_eq!(fork().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
}
