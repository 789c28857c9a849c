//! Reads a source at the pace that its flood asks for.
//!
//! Carries out what [`Flood`] advises: the source is muted for the length of a pause, a timer ends
//! it, and a pipe grows while the flood lasts. A source at rest has neither timer nor more room
//! than it came with.

use std::fs::File;
use std::time::{Duration, Instant};

use tracing::debug;

use super::Kind;
use super::flood::{Advice, Flood};
use super::pipe::Size;
use crate::reactor::{Context, SourceId, TimerId};

/// How often a pipe that has grown is looked at: one without a flood since goes back to its size.
const TRIM: Duration = Duration::from_millis(100);

/// How soon a source is read again that the kernel has no room to watch.
const RETRY: Duration = Duration::from_millis(5);

/// What the handler calls the timers of one source.
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
    /// Ends the pause under way.
    pause: Option<TimerId>,
    /// Set while the pipe has grown.
    trim: Option<TimerId>,
    /// Whether it was flooded since that was set.
    flooded: bool,
    /// Bytes read since it was last empty.
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

    /// Leaves the pipe as large as it is: one that is not read as fast as it fills has no use for
    /// what others lack then.
    pub(super) fn keep_size(&mut self) {
        self.grows = false;
    }

    /// A read gave `count` bytes; `empty` is whether it left nothing in the source.
    pub(super) fn read<S: Copy>(
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
            self.over(id, cx);
            return self.look_again(cx);
        }
        self.flood.read(count, self.size.capacity(), now);
        self.unbroken += count;
        // Of its own size it could not have held what was in it.
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
        self.look_again(cx);
    }

    /// The source is not to be paced any more, or not for now.
    pub(super) fn over<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        self.flood.over(Instant::now());
        self.watch(id, cx);
    }

    /// The time to give back what the pipe took to grow, unless it is still flooded. One that holds
    /// too much while it is not read (`blocked`) can't, and is looked at when it is read again.
    pub(super) fn trim<S: Copy>(
        &mut self,
        pipe: Option<&File>,
        blocked: bool,
        cx: &mut Context<'_, S, T>,
    ) {
        self.trim = None;
        let flooded = std::mem::take(&mut self.flooded) && pipe.is_some();
        if flooded || (!self.size.shrink(pipe, &mut cx.budget) && !blocked) {
            self.look_again(cx);
        }
    }

    /// Has the kernel tell of it again; where it has no room for that, the timer goes on.
    fn watch<S: Copy>(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) {
        match cx.sources.arm(id) {
            Ok(()) => {
                if let Some(pause) = self.pause.take() {
                    cx.timers.cancel(pause);
                }
            }
            Err(error) => {
                debug!("a stream is read by the clock: {error}");
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

    fn look_again<S: Copy>(&mut self, cx: &mut Context<'_, S, T>) {
        if self.trim.is_none() && self.size.has_grown() {
            self.trim = Some(cx.timers.set(TRIM, self.names.trim));
        }
    }
}
