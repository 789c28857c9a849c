//! Timers in the order in which they expire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::HandlerId;

/// A timer that has been set. Never names another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId {
    at: Instant,
    /// Tells timers of one instant apart, in the order in which they were set.
    sequence: u64,
}

impl TimerId {
    /// When it expires.
    pub fn at(self) -> Instant {
        self.at
    }
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    timers: BTreeMap<TimerId, (HandlerId, T)>,
    sequence: u64,
}

impl<T: Copy> Queue<T> {
    pub(super) fn new() -> Self {
        Self { timers: BTreeMap::new(), sequence: 0 }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|(id, _)| id.at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(HandlerId, T)> {
        let first = self.timers.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    pub(super) fn forget(&mut self, handler: HandlerId) {
        self.timers.retain(|_, (owner, _)| *owner != handler);
    }
}

/// The timers of one handler.
#[derive(Debug)]
pub struct Timers<'a, T> {
    handler: HandlerId,
    queue: &'a mut Queue<T>,
}

impl<'a, T: Copy> Timers<'a, T> {
    pub(super) fn new(handler: HandlerId, queue: &'a mut Queue<T>) -> Self {
        Self { handler, queue }
    }

    /// Calls the handler once, `after` this time or as soon as the loop comes to it.
    pub fn set(&mut self, after: Duration, timer: T) -> TimerId {
        let now = Instant::now();
        // A time that no clock can name is as good as never: a century.
        let at = now.checked_add(after).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        self.set_at(at, timer)
    }

    /// Calls the handler once, at this time or as soon as the loop comes to it.
    pub fn set_at(&mut self, at: Instant, timer: T) -> TimerId {
        self.queue.sequence += 1;
        let id = TimerId { at, sequence: self.queue.sequence };
        self.queue.timers.insert(id, (self.handler, timer));
        id
    }

    /// Takes a timer back; one that has expired is none any more.
    pub fn cancel(&mut self, timer: TimerId) {
        self.queue.timers.remove(&timer);
    }
}
