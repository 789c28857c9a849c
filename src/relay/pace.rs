//! Reads a pipe at the pace that its flood asks for.
//!
//! Carries out what [`Flood`] advises: the source is muted for the length of a pause, a timer ends
//! it, and the pipe grows while the flood lasts. A pipe at rest has neither timer nor more room
//! than it came with.

use std::fs::File;
use std::time::{Duration, Instant};

use super::flood::{Advice, Flood};
use super::pipe::Size;
use crate::reactor::{Context, Handler, SourceId, Sources, TimerId};

/// How often a pipe that has grown is looked at: one without a flood since goes back to its size.
const SETTLE: Duration = Duration::from_millis(100);

/// What the handler calls the timers of one pipe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaceTimers<T> {
    /// Calls [`Output::turn`](super::Output::turn).
    pub(crate) pause: T,
    /// Calls [`Output::settle`](super::Output::settle).
    pub(crate) settle: T,
}

/// The pace of one pipe.
#[derive(Debug)]
pub(super) struct Pace<T> {
    flood: Flood,
    size: Size,
    names: PaceTimers<T>,
    /// Ends the pause under way.
    pause: Option<TimerId>,
    /// Set while the pipe has grown.
    settle: Option<TimerId>,
    /// Whether it was flooded since that was set.
    flooded: bool,
}

impl<T: Copy> Pace<T> {
    pub(super) fn new(pipe: &File, names: PaceTimers<T>) -> Self {
        Self {
            flood: Flood::new(Instant::now()),
            size: Size::of(pipe),
            names,
            pause: None,
            settle: None,
            flooded: false,
        }
    }

    /// A read gave `count` bytes; `empty` is whether it left nothing in the pipe.
    pub(super) fn read<H>(
        &mut self,
        pipe: &File,
        id: SourceId,
        count: usize,
        empty: bool,
        cx: &mut Context<'_, H>,
    ) where
        H: Handler<Timer = T>,
    {
        if let Some(pause) = self.pause.take() {
            cx.timers.cancel(pause);
        }
        let now = Instant::now();
        if count == 0 {
            return self.over(id, &mut cx.sources);
        }
        self.flood.read(count, self.size.capacity(), now);
        if !empty {
            return;
        }
        match self.flood.emptied(self.size.capacity(), now) {
            Advice::Watch => cx.sources.unmute(id),
            Advice::Grow => {
                self.flooded = true;
                self.size.grow(pipe, &mut cx.allowance);
                self.look_again(cx);
                cx.sources.unmute(id);
            }
            Advice::Pause(pause) => {
                self.flooded = true;
                cx.sources.mute(id);
                self.pause = Some(cx.timers.set(pause, self.names.pause));
            }
        }
    }

    /// The pipe is not to be paced any more, or not for now.
    pub(super) fn over<S: Copy>(&mut self, id: SourceId, sources: &mut Sources<'_, S>) {
        if self.flood.is_pausing() {
            self.flood.over(Instant::now());
        }
        sources.unmute(id);
    }

    /// The time to give back what the pipe took to grow, unless it is still flooded.
    pub(super) fn settle<H>(&mut self, pipe: Option<&File>, cx: &mut Context<'_, H>)
    where
        H: Handler<Timer = T>,
    {
        self.settle = None;
        let over = pipe.is_none() || !std::mem::take(&mut self.flooded);
        if !over || !self.size.shrink(pipe, &mut cx.allowance) {
            self.look_again(cx);
        }
    }

    fn look_again<H>(&mut self, cx: &mut Context<'_, H>)
    where
        H: Handler<Timer = T>,
    {
        if self.settle.is_none() && self.size.has_grown() {
            self.settle = Some(cx.timers.set(SETTLE, self.names.settle));
        }
    }
}
