//! The signals that a monitor handles.

use std::ops::RangeInclusive;

use crate::child::{self, Signal};

/// Signals without a meaning of their own here whose default action ends a process (signal(7)).
/// They are for the command: without a handler, `kill -USR2` would end the supervisor, and with it
/// the command.
const PASSED_ON: [i32; 6] =
    [libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGXCPU, libc::SIGIO];

/// As [`PASSED_ON`], on Linux only.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PASSED_ON_HERE: [i32; 2] = [libc::SIGPWR, libc::SIGSTKFLT];
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const PASSED_ON_HERE: [i32; 0] = [];

/// The signals that a monitor handles: requests to stop (TERM, INT, QUIT and HUP), USR1, at which
/// it closes the log and opens it again by its name, the terminal's WINCH, TSTP and CONT, and XFSZ,
/// which would end the process when the log reaches a file size limit.
///
/// Others that would end the process are passed on to the child's process group: USR2, ALRM,
/// VTALRM, PROF, XCPU, IO, on Linux PWR and STKFLT, and the real-time signals. All but TERM, USR1,
/// WINCH, CONT and XFSZ are left out if this process ignores them, as under `nohup` and in a
/// shell's background.
///
/// For [`Reactor::watch_signals`](crate::reactor::Reactor::watch_signals), in a program that is a command.
pub fn command_signals() -> Vec<Signal> {
    own_signals().into_iter().chain(forwarded_signals()).collect()
}

/// The part of [`command_signals`] that is not passed on.
pub fn own_signals() -> Vec<Signal> {
    let always = [Signal::TERM, Signal::USR1, Signal::WINCH, Signal::CONT, Signal::XFSZ];
    let unless_ignored = [Signal::INT, Signal::QUIT, Signal::HUP, Signal::TSTP];
    let handled = unless_ignored.into_iter().filter(|&signal| !child::is_ignored(signal));
    always.into_iter().chain(handled).collect()
}

/// The part of [`command_signals`] that is passed on to the child.
///
/// Registering some forty handlers takes as long as a tenth of a short run. A program can
/// [block](hold_forwarded_signals) them at first, and watch them when its child has run for a while.
pub fn forwarded_signals() -> Vec<Signal> {
    passed_on().filter(|&signal| !child::is_ignored(signal)).collect()
}

/// Blocks the [forwarded signals](forwarded_signals) for this thread: they stay pending until
/// [`unblock_signals`](crate::child::unblock_signals). Children that a monitor starts do not inherit
/// that, but those of [`std::process::Command`] do.
pub fn hold_forwarded_signals() {
    child::block_signals(passed_on());
}

fn passed_on() -> impl Iterator<Item = Signal> {
    let numbers = PASSED_ON.into_iter().chain(PASSED_ON_HERE).chain(realtime());
    numbers.filter_map(Signal::from_number)
}

/// Whether the child's process group gets this signal of ours.
pub(super) fn is_passed_on(signal: Signal) -> bool {
    let number = signal.number();
    PASSED_ON.contains(&number) || PASSED_ON_HERE.contains(&number) || realtime().contains(&number)
}

fn realtime() -> RangeInclusive<i32> {
    match child::realtime_signals() {
        Some((first, last)) => first..=last,
        None => RangeInclusive::new(1, 0),
    }
}
