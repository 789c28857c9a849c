//! Writing to pipes in a process that does not ignore SIGPIPE.

// sigaction and sigpending without safe wrappers.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Calls `f` with `SIGPIPE` blocked for this thread, and discards one that it has raised: a write to a
/// pipe or socket without a reader fails with `EPIPE` only. Does nothing else if the process ignores
/// the signal, as Rust programs do.
///
/// For a host that is not a Rust program, and may leave the signal at its default action or have a
/// handler for it, around the turns of its reactor. A `SIGPIPE` that another process sends meanwhile
/// may be discarded too.
///
/// ```
/// use std::io::{ErrorKind, Write};
///
/// # fn main() -> std::io::Result<()> {
/// let (reader, mut writer) = std::io::pipe()?;
/// drop(reader);
/// let written = vmon::process::without_sigpipe(|| writer.write_all(b"lost"));
/// assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
/// # Ok(())
/// # }
/// ```
pub fn without_sigpipe<R>(f: impl FnOnce() -> R) -> R {
    if is_ignored() { f() } else { without(f) }
}

/// Calls `write`, which gets `EPIPE` and no signal from a pipe without a reader: for a process that
/// SIGPIPE [kills](kills).
pub(crate) fn without<R>(write: impl FnOnce() -> R) -> R {
    let _blocked = Blocked::new();
    write()
}

/// SIGPIPE is blocked for this thread while this exists, also during a panic.
struct Blocked {
    former: Option<SigSet>,
    /// Whether one had come before, which is not ours to take.
    was_pending: bool,
}

impl Blocked {
    fn new() -> Self {
        let was_pending = is_pending();
        // Fails only for an invalid operation.
        let former = pipe().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        Self { former, was_pending }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let Some(former) = self.former else { return };
        if !self.was_pending && is_pending() {
            take();
        }
        let _ = former.thread_set_mask();
    }
}

/// Takes a pending SIGPIPE. The kernel sends it to the thread that writes (pipe(7)), but one that another
/// process has sent may be taken by another thread first, so this does not wait for it.
#[cfg(not(target_vendor = "apple"))]
fn take() {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: sigtimedwait(2) reads a set and a time from live references, and writes nothing to a null
    // pointer.
    unsafe { libc::sigtimedwait(pipe().as_ref(), std::ptr::null_mut(), &raw const now) };
}

/// Takes a pending SIGPIPE; macOS has no sigtimedwait(2).
#[cfg(target_vendor = "apple")]
fn take() {
    let _ = pipe().wait();
}

/// The set of SIGPIPE alone.
fn pipe() -> SigSet {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    pipe
}

/// Whether SIGPIPE has its default action now, which ends the process. Rust's runtime ignores the
/// signal; a host in C may not.
pub(crate) fn kills() -> bool {
    action() == Some(libc::SIG_DFL)
}

fn is_ignored() -> bool {
    action() == Some(libc::SIG_IGN)
}

/// The action of SIGPIPE.
fn action() -> Option<libc::sighandler_t> {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
    // which is valid for one sigaction.
    let queried = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), current.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
    (queried == 0).then(|| unsafe { current.assume_init() }.sa_sigaction)
}

/// Whether a blocked SIGPIPE waits for this thread.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending(2) writes one set to the pointer, which is valid for one.
    let queried = unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: zeroed is a valid set, and on success the kernel has filled it.
    queried == 0 && unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 }
}

#[cfg(all(test, not(target_vendor = "apple")))]
mod tests {
    #[test]
    fn a_signal_that_another_thread_has_taken_is_not_waited_for() {
        super::take();
    }
}
