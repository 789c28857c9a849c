//! The limits of a running child: how long it may run, and how long without a sign of life.

use std::time::{Duration, Instant};

use crate::monitor::keys::{Cx, Timer};
use crate::monitor::sandbox::Sandbox;
use crate::reactor::TimerId;

/// The timers that limit a run.
#[derive(Debug)]
pub(super) struct Limits {
    max_duration: Option<TimerId>,
    idle: Option<Idle>,
}

/// The idle timeout.
#[derive(Debug)]
struct Idle {
    allowed: Duration,
    /// The last input or output.
    last: Instant,
    timer: TimerId,
}

impl Limits {
    /// Those of a child that runs from now on.
    pub(super) fn new(sandbox: &Sandbox, cx: &mut Cx<'_>) -> Self {
        Self {
            max_duration: sandbox
                .max_duration
                .map(|time| cx.timers.set(time, Timer::MaxDuration.key())),
            idle: sandbox.idle_timeout.map(|allowed| Idle {
                allowed,
                last: Instant::now(),
                timer: cx.timers.set(allowed, Timer::Idle.key()),
            }),
        }
    }

    /// Cancels the timers: the child is being stopped, or has ended.
    pub(super) fn lift(&self, cx: &mut Cx<'_>) {
        let idle = self.idle.as_ref().map(|idle| idle.timer);
        for timer in [self.max_duration, idle].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
    }

    /// Notes input or output.
    pub(super) fn note_activity(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.last = Instant::now();
        }
    }

    /// The idle timer has expired. Returns whether the child has been idle for the whole time;
    /// else sets the timer for the rest, since setting it at each byte would cost too much.
    /// `waits` is whether output waits for a full disk or a reader: then the child is not idle.
    pub(super) fn is_idle(&mut self, waits: bool, cx: &mut Cx<'_>) -> bool {
        let Some(idle) = &mut self.idle else { return false };
        let passed = if waits { Duration::ZERO } else { idle.last.elapsed() };
        match idle.allowed.checked_sub(passed).filter(|left| !left.is_zero()) {
            Some(left) => {
                idle.timer = cx.timers.set(left, Timer::Idle.key());
                false
            }
            None => true,
        }
    }
}
