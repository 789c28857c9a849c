//! Timers in the order in which they expire.

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
struct Entry<T> {
    id: TimerId,
    handler: HandlerId,
    timer: T,
}

/// The first to expire is the last in the vector. Most timers are set for soon and expire or are
/// taken back soon, so few have to make way; those for a distant time lie still at the beginning.
#[derive(Debug)]
pub(super) struct Queue<T> {
    timers: Vec<Entry<T>>,
    sequence: u64,
}

impl<T: Copy> Queue<T> {
    pub(super) fn new() -> Self {
        Self { timers: Vec::new(), sequence: 0 }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.last().map(|entry| entry.id.at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(HandlerId, T)> {
        let entry = self.timers.pop_if(|entry| entry.id.at <= now)?;
        Some((entry.handler, entry.timer))
    }

    pub(super) fn forget(&mut self, handler: HandlerId) {
        self.timers.retain(|entry| entry.handler != handler);
    }

    /// The timer's place, or where it would have to be.
    fn place(&self, id: TimerId) -> Result<usize, usize> {
        self.timers.binary_search_by(|entry| id.cmp(&entry.id))
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
    #[inline(never)]
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
        if let Err(place) = self.queue.place(id) {
            self.queue.timers.insert(place, Entry { id, handler: self.handler, timer });
        }
        id
    }

    /// Takes a timer back; one that has expired is none any more.
    pub fn cancel(&mut self, timer: TimerId) {
        if let Ok(place) = self.queue.place(timer) {
            self.queue.timers.remove(place);
        }
    }
}
