//! Timers in the order in which they expire.

use std::time::{Duration, Instant};

use super::handler_id::HandlerId;

/// Identifies a timer that has been set. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId {
    at: Instant,
    /// Orders timers of one instant by the time at which they were set.
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

/// Sorted, the next timer to expire last. Most timers are set for a near time and expire or are
/// cancelled soon, so an insertion moves few entries.
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

    /// The timer's index, or the index to insert it at.
    fn position(&self, id: TimerId) -> Result<usize, usize> {
        self.timers.binary_search_by(|entry| id.cmp(&entry.id))
    }
}

/// The timers of one handler.
///
/// ```
/// use std::time::Duration;
/// use vmon::reactor::{Context, Handler, Reactor, Ready};
///
/// /// Counts down, once a millisecond.
/// struct Countdown(u32);
///
/// impl Handler for Countdown {
///     type Source = ();
///     type Timer = &'static str;
///     type Event = std::convert::Infallible;
///
///     fn start(&mut self, cx: &mut Context<'_, (), &'static str>) {
///         cx.timers.set(Duration::from_millis(1), "tick");
///     }
///
///     fn ready(&mut self, (): (), _: Ready, _: &mut Context<'_, (), &'static str>) {}
///
///     fn timer(&mut self, tick: &'static str, cx: &mut Context<'_, (), &'static str>) {
///         self.0 -= 1;
///         if self.0 > 0 {
///             cx.timers.set(Duration::from_millis(1), tick);
///         }
///     }
///
///     fn is_done(&self) -> bool {
///         self.0 == 0
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new()?;
/// reactor.add(Countdown(3));
/// reactor.run()
/// # }
/// ```
#[derive(Debug)]
pub struct Timers<'a, T> {
    handler: HandlerId,
    queue: &'a mut Queue<T>,
}

impl<'a, T: Copy> Timers<'a, T> {
    pub(super) fn new(handler: HandlerId, queue: &'a mut Queue<T>) -> Self {
        Self { handler, queue }
    }

    /// Calls the handler once, `after` this time or as soon as possible after that.
    #[inline(never)]
    pub fn set(&mut self, after: Duration, timer: T) -> TimerId {
        let now = Instant::now();
        // An instant beyond the clock's range: a century from now.
        let at = now.checked_add(after).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        self.set_at(at, timer)
    }

    /// Calls the handler once, at this instant or as soon as possible after it.
    pub fn set_at(&mut self, at: Instant, timer: T) -> TimerId {
        self.queue.sequence += 1;
        let id = TimerId { at, sequence: self.queue.sequence };
        if let Err(index) = self.queue.position(id) {
            self.queue.timers.insert(index, Entry { id, handler: self.handler, timer });
        }
        id
    }

    /// Cancels all timers of the handler whose key matches.
    pub(crate) fn cancel_where(&mut self, matches: impl Fn(T) -> bool) {
        let handler = self.handler;
        self.queue.timers.retain(|entry| entry.handler != handler || !matches(entry.timer));
    }

    /// Cancels a timer; does nothing if it has expired.
    pub fn cancel(&mut self, timer: TimerId) {
        if let Ok(index) = self.queue.position(timer) {
            self.queue.timers.remove(index);
        }
    }
}
