//! The drain: the rest of the output of a child that has ended.
//!
//! It ends when every output is at its end and no process is left, after a quiet period, or at the
//! stop timeout. With [`Drain::Available`] an output is at its end once the child's own bytes have
//! been read.

use std::time::{Duration, Instant};

use tracing::warn;

use super::cleanup::Cleanup;
use super::process::is_further_request;
use crate::child::ExitStatus;
use crate::monitor::channels::Channels;
use crate::monitor::drain::Drain;
use crate::monitor::keys::{Cx, Timer};
use crate::monitor::sandbox::Sandbox;
use crate::monitor::transition::Reason;
use crate::monitor::wait::{Wait, WaitKind};
use crate::reactor::TimerId;

/// How long the outputs must be silent to count as ended although a process has them open.
const QUIET: Duration = Duration::from_millis(200);

/// A drain, and what it ends with.
pub(super) struct Draining {
    pub(super) status: ExitStatus,
    pub(super) reason: Reason,
    begun: Instant,
    /// Ends the quiet period.
    quiet: Option<TimerId>,
    limit: TimerId,
    limit_passed: bool,
    /// Processes that the child left behind and the drain waits for.
    cleanup: Option<Cleanup>,
    /// The last stop request before or during the drain.
    stop_asked: Option<Instant>,
    drain: Drain,
}

impl Draining {
    pub(super) fn new(
        status: ExitStatus,
        reason: Reason,
        stop_asked: Option<Instant>,
        cleanup: Option<Cleanup>,
        drain: Drain,
        sandbox: &Sandbox,
        cx: &mut Cx<'_>,
    ) -> Self {
        let limit = cx.timers.set(sandbox.stop_timeout, Timer::DrainLimit.key());
        let begun = Instant::now();
        Self {
            status,
            reason,
            begun,
            quiet: None,
            limit,
            limit_passed: false,
            cleanup,
            stop_asked,
            drain,
        }
    }

    /// Whether a stop was asked for before or during the drain.
    pub(super) fn was_stopped(&self) -> bool {
        self.stop_asked.is_some()
    }

    /// Output has moved: each byte begins a new quiet period. So does an output that is read again
    /// after it waited for its sinks.
    pub(super) fn renew_quiet(&mut self, read: bool, cx: &mut Cx<'_>) {
        if read || self.quiet.is_none() {
            let renewed = cx.timers.set(QUIET, Timer::Quiet.key());
            if let Some(quiet) = self.quiet.replace(renewed) {
                cx.timers.cancel(quiet);
            }
        }
    }

    /// No byte has come for the quiet period. Returns whether output has moved all the same.
    pub(super) fn end_quiet(&mut self, channels: &mut Channels, cx: &mut Cx<'_>) -> Option<bool> {
        self.quiet = None;
        // Timers are called before sources: bytes that came while this process did not run
        // (suspended, or on a busy machine) are still to be read.
        if channels.read_all(cx) {
            return Some(true);
        }
        // An output that waits for its sinks is not quiet, and a process that is left may still
        // write.
        if channels.are_quiet() && self.cleanup.is_none() {
            channels.end_complete(false, cx);
            // A peer that has connected meanwhile gets a quiet period of its own.
            if !channels.have_ended() {
                return Some(false);
            }
        }
        None
    }

    /// The stop timeout has passed. A stop is bounded by it: what a full disk or a reader that
    /// blocks has not taken is given up then. A child that has ended by itself loses nothing.
    pub(super) fn pass_limit(&mut self, why: &str, channels: &mut Channels, cx: &mut Cx<'_>) {
        self.limit_passed = true;
        if self.was_stopped() {
            abandon(channels, cx);
        }
        if let Some(cleanup) = &mut self.cleanup {
            cleanup.kill(why, cx);
        }
    }

    /// A stop request during the drain. A reader that blocks gets no more, bytes of other processes
    /// are taken no longer, and the rest of the child's own goes to the log, unless that can't be
    /// written. Returns whether that has changed anything.
    pub(super) fn stop(&mut self, channels: &mut Channels, cx: &mut Cx<'_>) -> bool {
        if !is_further_request(self.stop_asked) {
            return false;
        }
        self.stop_asked = Some(Instant::now());
        self.pass_limit("a stop was asked for", channels, cx);
        true
    }

    /// Polls the processes that are left; returns whether the last of them has gone, whose last
    /// output is read then. `early` is whether the timer has not expired.
    pub(super) fn poll_leftovers(
        &mut self,
        early: bool,
        channels: &mut Channels,
        cx: &mut Cx<'_>,
    ) -> bool {
        let Some(cleanup) = &mut self.cleanup else { return false };
        let gone = if early { cleanup.poll_early(cx) } else { cleanup.poll(cx) };
        if gone {
            self.cleanup = None;
            channels.read_all(cx);
        }
        gone
    }

    /// Whether everything has been read and has reached its sinks, and no process is left.
    pub(super) fn is_over(&self, channels: &mut Channels, cx: &mut Cx<'_>) -> bool {
        if self.limit_passed {
            channels.stop_accepting();
            channels.end_complete(true, cx);
        } else if self.drain == Drain::Available && self.cleanup.is_none() {
            channels.end_complete(false, cx);
        }
        if !channels.are_finished() || self.cleanup.is_some() {
            return false;
        }
        if channels.finish_logs() {
            return true;
        }
        if self.limit_passed && self.was_stopped() {
            abandon(channels, cx);
            return channels.are_finished();
        }
        channels.follow_logs(cx);
        false
    }

    /// What the drain waits for.
    pub(super) fn waits(&self, channels: &Channels) -> impl Iterator<Item = Wait> {
        let reason = "its output waits for a reader that does not read";
        let wait = || Wait::new(WaitKind::Reader, reason, self.begun);
        let reader = channels.wait_for_reader().then(wait);
        self.cleanup.as_ref().map(|cleanup| cleanup.wait(self.begun)).into_iter().chain(reader)
    }

    /// Cancels the timers.
    pub(super) fn release(&self, cx: &mut Cx<'_>) {
        for timer in [Some(self.limit), self.quiet].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
    }
}

/// Gives up what waits for a reader, or for a log that can't be written.
fn abandon(channels: &mut Channels, cx: &mut Cx<'_>) {
    let (flushed, (_, before)) = (channels.are_flushed(), channels.bytes());
    channels.abandon(cx);
    let (_, after) = channels.bytes();
    if !flushed || after > before {
        let missing = after.saturating_sub(before);
        warn!("stopped while output was still waiting to be written: {missing} bytes are missing");
    }
}
