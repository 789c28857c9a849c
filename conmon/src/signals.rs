//! Signals before the container is monitored: blocked, and read from a descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing::warn;

use crate::failure::Failure;

/// The signals that are passed on to the container.
pub const PASSED_ON: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// A descriptor that is readable when a signal is pending.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks SIGTERM, which ends this program with 1 while nothing is started.
    ///
    /// # Errors
    ///
    /// No descriptor is available.
    pub fn of_the_start() -> Result<Self, Failure> {
        let set = set([Signal::SIGTERM]);
        let blocked = set.thread_block();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let made = blocked.and_then(|()| SignalFd::with_flags(&set, flags));
        made.map(Self).map_err(Failure::of("can't read signals"))
    }

    /// Blocks also the other signals that are passed on, and the notice of a child's end.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn add_those_of_the_container(&self) -> Result<(), Failure> {
        let set = set(PASSED_ON.into_iter().chain([Signal::SIGCHLD]));
        let added = set.thread_block().and_then(|()| self.0.set_mask(&set));
        added.map_err(Failure::of("can't read signals"))
    }

    /// The next pending signal. Never waits.
    pub fn next(&self) -> Option<Signal> {
        match self.0.read_signal() {
            Ok(info) => i32::try_from(info?.ssi_signo).ok()?.try_into().ok(),
            Err(error) => {
                warn!("can't read signals: {error}");
                None
            }
        }
    }
}

/// Discards the signals that are blocked and pending. None of them ends this program, or is passed on.
pub fn discard_pending() {
    let set = set(PASSED_ON.into_iter().chain([Signal::SIGCHLD]));
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    if let Ok(pending) = SignalFd::with_flags(&set, flags) {
        while let Ok(Some(_)) = pending.read_signal() {}
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set(signals: impl IntoIterator<Item = Signal>) -> SigSet {
    signals.into_iter().collect()
}
