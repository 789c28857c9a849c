//! Schedules the reads of a flooded source: disarms it for each pause, and grows its pipe. It reads
//! nothing itself.
//!
//! [`Flood`] decides when to pause and for how long; a timer ends the pause. A source at rest has no
//! timer, and a pipe at rest its own size.

use std::fs::File;
use std::time::{Duration, Instant};

use tracing::debug;

use super::flood::{Advice, Flood};
use super::kind::Kind;
use super::pipe::Size;
use crate::reactor::{Context, SourceId, TimerId};

/// How often a pipe that has grown is checked: it gets its size back if there was no flood since.
const TRIM: Duration = Duration::from_millis(100);

/// Delay between reads of a source that could not be armed.
const RETRY: Duration = Duration::from_millis(5);

/// The keys of a source's timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaceTimers<T> {
    /// Calls [`Output::turn`](super::Output::turn).
    pub(crate) pause: T,
    /// Calls [`Output::trim`](super::Output::trim).
    pub(crate) trim: T,
}

/// The pace of one source.
#[derive(Debug)]
pub(super) struct Pace<T> {
    flood: Flood,
    size: Size,
    names: PaceTimers<T>,
    /// Ends the pause.
    pause: Option<TimerId>,
    /// Set while the pipe has grown.
    trim: Option<TimerId>,
    /// Whether there was a flood since that was set.
    flooded: bool,
    /// Bytes read since the source was last empty.
    unbroken: usize,
    /// Whether the pipe may grow.
    grows: bool,
}

impl<T: Copy> Pace<T> {
    pub(super) fn new(source: &File, kind: Kind, names: PaceTimers<T>) -> Self {
        Self {
            flood: Flood::new(Instant::now()),
            size: Size::of(source),
            names,
            pause: None,
            trim: None,
            flooded: false,
            unbroken: 0,
            grows: kind == Kind::Pipe,
        }
    }

    /// Keeps the pipe at its size: memory for pipes is scarce, and of no use for a source that is
    /// read more slowly than it fills.
    pub(super) fn keep_size(&mut self) {
        self.grows = false;
    }

    /// Notes a read that returned `count` bytes; `empty` is whether it left the source empty.
    pub(super) fn note_read<S: Copy>(
        &mut self,
        source: &File,
        id: SourceId,
        count: usize,
        empty: bool,
        cx: &mut Context<'_, S, T>,
    ) {
        let now = Instant::now();
        if count == 0 {
            self.unbroken = 0;
            self.end_flood(id, cx);
            return self.check_later(cx);
        }
        self.flood.read(count, self.size.capacity(), now);
        self.unbroken += count;
        // At its own size the pipe could not have held these bytes.
        self.flooded |= self.unbroken > self.size.usual();
        if empty {
            self.unbroken = 0;
        }
        let advice =
            if empty { self.flood.emptied(self.size.capacity(), now) } else { Advice::Watch };
        self.flooded |= advice != Advice::Watch;
        match advice {
            Advice::Watch => self.watch(id, cx),
            Advice::Grow => {
                if self.grows {
                    self.size.grow(source, &mut cx.budget, now);
                }
                self.watch(id, cx);
            }
            Advice::Pause(pause) => {
                cx.sources.disarm(id);
                self.read_after(pause, cx);
            }
        }
        self.check_later(cx);
    }

    /// Ends pacing until the next flood.
    pub(super) fn end_flood<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        self.flood.over(Instant::now());
        self.watch(id, cx);
    }

    /// Gives back what the pipe took to grow, unless it is still flooded. A pipe that holds too
    /// much while it is not read (`blocked`) can't shrink; it is checked again when it is read.
    pub(super) fn trim<S: Copy>(
        &mut self,
        pipe: Option<&File>,
        blocked: bool,
        cx: &mut Context<'_, S, T>,
    ) {
        self.trim = None;
        let flooded = std::mem::take(&mut self.flooded) && pipe.is_some();
        if flooded || (!self.size.shrink(pipe, &mut cx.budget) && !blocked) {
            self.check_later(cx);
        }
    }

    /// Gives a pipe that has grown its size back, if it does not hold too much for that.
    pub(super) fn end<S: Copy>(&mut self, pipe: &File, cx: &mut Context<'_, S, T>) {
        for timer in [self.pause.take(), self.trim.take()].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
        self.size.shrink(Some(pipe), &mut cx.budget);
    }

    /// Arms the source; if the poller has no room for it, the timer continues.
    fn watch<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        match cx.sources.arm(id) {
            Ok(()) => {
                if let Some(pause) = self.pause.take() {
                    cx.timers.cancel(pause);
                }
            }
            Err(error) => {
                debug!("can't poll a stream, reading it every 5 ms: {error}");
                self.read_after(RETRY, cx);
            }
        }
    }

    fn read_after<S: Copy>(&mut self, pause: Duration, cx: &mut Context<'_, S, T>) {
        let next = cx.timers.set(pause, self.names.pause);
        if let Some(last) = self.pause.replace(next) {
            cx.timers.cancel(last);
        }
    }

    fn check_later<S: Copy>(&mut self, cx: &mut Context<'_, S, T>) {
        if self.trim.is_none() && self.size.has_grown() {
            self.trim = Some(cx.timers.set(TRIM, self.names.trim));
        }
    }
}
