//! Reads a source no faster than its rate allows.
//!
//! Carries out the rule of [`Limit`]: a source that has to wait is disarmed, so that its writer
//! causes no wake-ups, and a timer ends the wait. Another timer ends a gap if no more bytes come. A
//! silent source has neither.

use std::time::{Duration, Instant};

use tracing::debug;

use super::rate::{Limit, LogRate};
use crate::reactor::{Context, SourceId, TimerId};

/// A gap that ends within this time is over: timers and tokens are rounded.
const SLACK: Duration = Duration::from_millis(1);

/// The shortest wait, also for a source that the poller has no room for.
const SOONEST: Duration = Duration::from_millis(5);

/// The limit of one source.
#[derive(Debug)]
pub(super) struct Throttle<T> {
    limit: Limit,
    /// Calls [`Output::turn`](super::Output::turn).
    timer: T,
    /// Ends the wait.
    wait: Option<TimerId>,
    /// Ends the gap.
    gap: Option<TimerId>,
    left_out: u64,
}

impl<T: Copy> Throttle<T> {
    pub(super) fn new(rate: LogRate, timer: T) -> Self {
        Self { limit: Limit::new(rate, Instant::now()), timer, wait: None, gap: None, left_out: 0 }
    }

    /// Bytes that were read and left out.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether the source is not read until its wait is over.
    pub(super) fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }

    /// How many bytes may be read now; for none, the caller calls [`wait`](Self::wait).
    pub(super) fn room<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) -> usize {
        let room = self.limit.room(Instant::now());
        if room > 0
            && let Some(wait) = self.wait
        {
            if let Err(error) = cx.sources.arm(id) {
                debug!("a stream can't be watched yet: {error}");
                return 0;
            }
            cx.timers.cancel(wait);
            self.wait = None;
        }
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// The source has more bytes than were read.
    pub(super) fn left_more(&mut self) {
        self.limit.left_more();
    }

    /// Stops reading the source until the rate allows it.
    pub(super) fn wait<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        let time = self.limit.wait(Instant::now()).max(SOONEST);
        cx.sources.disarm(id);
        if let Some(last) = self.wait.replace(cx.timers.set(time, self.timer)) {
            cx.timers.cancel(last);
        }
    }

    /// Counts bytes that were read; returns how many of them, the first ones, are kept.
    pub(super) fn read<S: Copy>(&mut self, count: usize, cx: &mut Context<'_, S, T>) -> usize {
        let now = Instant::now();
        let kept = self.limit.read(count, now);
        self.left_out += (count - kept) as u64;
        if self.gap.is_none()
            && let Some(time) = self.limit.gap(now)
        {
            self.gap = Some(cx.timers.set(time, self.timer));
        }
        kept
    }

    /// Ends the gap if that is due, or `anyway`; returns how many bytes it has.
    pub(super) fn end_gap<S: Copy>(&mut self, anyway: bool, cx: &mut Context<'_, S, T>) -> u64 {
        let Some(timer) = self.gap else { return 0 };
        if !anyway && !self.gap_is_over() {
            return 0;
        }
        cx.timers.cancel(timer);
        self.take_gap()
    }

    /// Whether bytes can be kept again, however many were left out.
    pub(super) fn gap_is_over(&mut self) -> bool {
        self.limit.gap(Instant::now()).unwrap_or_default() <= SLACK
    }

    /// The bytes of a gap that is over; its timer has no effect any more.
    pub(super) fn take_gap(&mut self) -> u64 {
        self.gap = None;
        self.limit.end_gap()
    }

    /// Something else keeps the source from being read, and resumes it later. The wait ends now:
    /// its timer would expire while the source can't be read, and nothing would arm it afterwards.
    pub(super) fn wait_no_more<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        let Some(wait) = self.wait else { return };
        match cx.sources.arm(id) {
            Ok(()) => {
                cx.timers.cancel(wait);
                self.wait = None;
            }
            Err(error) => {
                debug!("a stream can't be watched yet: {error}");
                self.wait(id, cx);
            }
        }
    }

    /// Ends the wait, whatever the limit.
    pub(super) fn lift<S: Copy>(&mut self, id: Option<SourceId>, cx: &mut Context<'_, S, T>) {
        if let Some(wait) = self.wait.take() {
            cx.timers.cancel(wait);
            // A source whose child has ended is read by the drain too.
            if let Some(id) = id
                && let Err(error) = cx.sources.arm(id)
            {
                debug!("a stream can't be watched: {error}");
            }
        }
    }
}
