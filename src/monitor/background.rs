//! Commands that run beside the child of a sandbox: how their end is noticed and reported. Nothing
//! here waits for one.

use std::fmt::Display;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::warn;

use super::keys::{Cx, Source, Timer};
use crate::child::{Child, ExitStatus};
use crate::reactor::{Detached, Interest, SourceId};

/// How often the end of a process is polled if no descriptor reports it.
const EXIT_POLL: Duration = Duration::from_millis(50);

/// Watches for the end of a process; without a descriptor that is polled.
#[derive(Debug)]
pub(super) struct EndWatch {
    exit: Option<SourceId>,
    timer: Timer,
}

impl EndWatch {
    /// Watches the descriptor that becomes readable at the end. Its source or this timer expires
    /// then, or earlier.
    pub(super) fn new(
        exit: Option<BorrowedFd<'_>>,
        source: Source,
        timer: Timer,
        cx: &mut Cx<'_>,
    ) -> Self {
        let register = |fd| cx.sources.register(&fd, Interest::READ, source.key()).ok();
        let exit = exit.and_then(register);
        if exit.is_none() {
            cx.timers.set(EXIT_POLL, timer.key());
        }
        Self { exit, timer }
    }

    /// The process has not ended.
    pub(super) fn poll_later(&self, cx: &mut Cx<'_>) {
        // kqueue may report the end before waitpid(2) does, and reports it once.
        if let Some(exit) = self.exit {
            cx.sources.would_block(exit, Interest::READ);
        }
        cx.timers.set(EXIT_POLL, self.timer.key());
    }

    /// Watches no more.
    pub(super) fn end(self, cx: &mut Cx<'_>) {
        if let Some(exit) = self.exit {
            cx.sources.deregister(exit);
        }
    }
}

/// The status of a command that has ended.
pub(super) fn reaped(child: &Child) -> Option<ExitStatus> {
    child.try_reap().unwrap_or(Some(ExitStatus::Unknown))
}

/// Warns of a failure, after the words `failed`; returns whether there was none.
pub(super) fn report(status: ExitStatus, failed: &impl Display) -> bool {
    match status {
        ExitStatus::Code(0) => return true,
        // Another part of the program has reaped it.
        ExitStatus::Unknown => return true,
        ExitStatus::Code(code) => warn!("{failed}: exit code {code}"),
        ExitStatus::Signal(signal) => warn!("{failed}: {signal}"),
    }
    false
}

/// A command that outlives what it was started for.
#[derive(Debug)]
pub(super) struct LeftCommand {
    pub(super) child: Child,
    /// The words of a warning about its failure; `None` for no warning.
    pub(super) failed: Option<String>,
}

impl Detached for LeftCommand {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.exit_fd()
    }

    fn poll(&mut self) -> bool {
        let Some(status) = reaped(&self.child) else { return false };
        if let Some(failed) = &self.failed {
            report(status, failed);
        }
        true
    }
}
