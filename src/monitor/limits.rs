//! How long a child may run, and how long without a sign of life.

use std::time::Instant;

use super::keys::{Cx, Timer};
use super::{Cause, Monitor, State};
use crate::reactor::TimerId;

/// The timers that limit a run.
#[derive(Debug, Default)]
pub(super) struct Limits {
    max_duration: Option<TimerId>,
    idle: Option<TimerId>,
}

impl Limits {
    /// They no longer matter: the child is stopped, or has ended.
    pub(super) fn lift(&mut self, cx: &mut Cx<'_>) {
        for timer in [self.max_duration.take(), self.idle.take()].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
    }
}

impl Monitor {
    /// Those of a child that runs from now on.
    pub(super) fn limits(&mut self, cx: &mut Cx<'_>) -> Limits {
        self.note_moved();
        let max_duration = self.sandbox.max_duration;
        let idle = self.sandbox.idle_timeout;
        Limits {
            max_duration: max_duration.map(|time| cx.timers.set(time, Timer::MaxDuration.key())),
            idle: idle.map(|time| cx.timers.set(time, Timer::Idle.key())),
        }
    }

    /// There was output or input.
    pub(super) fn note_moved(&mut self) {
        if self.sandbox.idle_timeout.is_some() {
            self.moved = Some(Instant::now());
        }
    }

    /// The idle timeout has passed since the timer was set, but perhaps not since the last byte:
    /// to set it anew at each of them would cost too much.
    pub(super) fn look_for_idleness(&mut self, cx: &mut Cx<'_>) {
        let (Some(allowed), State::Running(running)) = (self.sandbox.idle_timeout, &mut self.state)
        else {
            return;
        };
        // What waits for a full disk or a reader was written, and the child may want to go on.
        let waits = !self.channels.are_flushed();
        let idle = self.moved.filter(|_| !waits).map_or_else(Default::default, |at| at.elapsed());
        match allowed.checked_sub(idle).filter(|left| !left.is_zero()) {
            Some(left) => running.limits.idle = Some(cx.timers.set(left, Timer::Idle.key())),
            None => self.stopping(Cause::IdleTimeout, None, cx),
        }
    }
}
