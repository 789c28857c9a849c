//! `DRAINING` and the way to `STOPPED`: the tail of the output, its sinks, and the report.

use std::mem;

use chrono::Utc;
use tracing::{info, warn};

use super::logging::end_mark;
use super::{Cx, Drain, End, Monitor, Outcome, State, Timer, Transition, sessions};

impl Monitor {
    /// Ends the drain once everything has been read and has reached its sinks.
    pub(super) fn drain(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&self.state, &mut self.streams) else {
            return;
        };
        if drain.limit_passed {
            streams.end_complete(&mut cx.sources);
        }
        if !streams.are_finished() || drain.remains.is_some() {
            return;
        }
        if streams.finish_log() {
            self.drained(cx);
        } else {
            self.try_log_later(cx);
        }
    }

    /// Nothing has come for the grace time.
    pub(super) fn quiet(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&mut self.state, &mut self.streams) else {
            return;
        };
        drain.quiet = None;
        // Timers come before sources: what came while this process did not run (suspended, or on
        // a busy machine) is still to be read.
        if streams.read_again(&mut self.sessions, cx) {
            return self.output_moved(true, cx);
        }
        // A stream that waits for its sinks is not quiet: the grace begins when it is read again.
        // Nor is it over while somebody is left who may have last words.
        if streams.are_quiet() && drain.remains.is_none() {
            streams.end_complete(&mut cx.sources);
        }
        self.drain(cx);
    }

    pub(super) fn drain_limit(&mut self, cx: &mut Cx<'_>) {
        if let State::Draining(drain) = &mut self.state {
            drain.limit_passed = true;
        }
        self.kill_remains("the stop timeout has passed", cx);
        self.drain(cx);
    }

    /// A stop request while the output drains: a reader that blocks gets no more, a descendant's
    /// bytes are taken no longer, and the rest of the child's own goes to the log, unless that
    /// can't be written.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&mut self.state, &mut self.streams) else {
            return;
        };
        if !streams.are_flushed() {
            warn!(name = %self.sandbox.name, "stopped while output was still waiting to be written");
        }
        if streams.wait_for_log() {
            streams.close(&mut cx.sources);
        } else {
            streams.abandon_sinks(&mut cx.sources);
        }
        drain.limit_passed = true;
        self.kill_remains("a stop was asked for", cx);
        self.output_moved(false, cx);
    }

    pub(super) fn drained(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = mem::replace(&mut self.state, State::Moving) else { return };
        cx.timers.cancel(drain.limit);
        if let Some(quiet) = drain.quiet {
            cx.timers.cancel(quiet);
        }
        let Drain { status, reason, asked, .. } = drain;
        if asked.is_some() {
            self.again = None;
        }
        self.ended(Outcome::Ended { status, reason }, cx);
    }

    /// This run is over: `DRAINING → STOPPED`, or `RESTARTING` where the command is started again;
    /// `STARTING → STOPPED` for what never ran.
    pub(super) fn ended(&mut self, outcome: Outcome, cx: &mut Cx<'_>) {
        let mut bytes = (0, 0);
        if let Some(mut streams) = self.streams.take() {
            streams.close(&mut cx.sources);
            streams.end_log(end_mark(&outcome));
            bytes = streams.bytes();
            self.keep_log_for_rotations(streams.into_log());
            self.hand_on(cx);
        }
        self.close_log(cx);
        let (bytes_logged, bytes_dropped) = bytes;
        let end = End { outcome, bytes_logged, bytes_dropped };
        match self.restart_after(&end) {
            Some(after) => self.restarting(end, after, cx),
            None => self.over(end, cx),
        }
    }

    /// `STOPPED`.
    pub(super) fn over(&mut self, end: End, cx: &mut Cx<'_>) {
        info!(name = %self.sandbox.name, reason = end.reason(), "stopped");
        if self.sessions.finish(&mut cx.sources) {
            cx.timers.set(sessions::LAST_WORDS, Timer::Sessions);
        }
        self.again = None;
        self.leave_rotations(cx);
        self.state = State::Stopped(end.clone());
        self.tell(&Transition::Stopped { at: Utc::now(), end }, cx);
    }

    pub(super) fn tell(&mut self, transition: &Transition, cx: &mut Cx<'_>) {
        self.reports.tell(transition, &mut cx.timers, Timer::Observer);
        if self.services_open > 0 {
            self.untold.push_back(transition.clone());
            self.tell_services(cx);
        }
    }
}
