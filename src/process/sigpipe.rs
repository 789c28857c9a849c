//! Writing to pipes in a process that does not ignore SIGPIPE.

// sigaction and sigpending without safe wrappers.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Calls `write`, which gets `EPIPE` and no signal from a pipe without a reader: for a process that
/// SIGPIPE [kills](kills).
pub(crate) fn without<R>(write: impl FnOnce() -> R) -> R {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let was_pending = is_pending();
    let Ok(former) = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return write() };
    let written = write();
    if !was_pending && is_pending() {
        // The kernel sends it to the thread that writes (pipe(7)), so this takes it and returns.
        let _ = pipe.wait();
    }
    let _ = former.thread_set_mask();
    written
}

/// Whether SIGPIPE has its default action now, which ends the process. Rust's runtime ignores the
/// signal; a host in C may not.
pub(crate) fn kills() -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
    // which is valid for one sigaction.
    let queried = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), current.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
    queried == 0 && unsafe { current.assume_init() }.sa_sigaction == libc::SIG_DFL
}

/// Whether a blocked SIGPIPE waits for this thread.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending(2) writes one set to the pointer, which is valid for one.
    let queried = unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: zeroed is a valid set, and on success the kernel has filled it.
    queried == 0 && unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 }
}
