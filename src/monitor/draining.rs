//! `DRAINING` and the way to `STOPPED`: the tail of the output, its sinks, and the report.

use std::mem;

use chrono::Utc;
use tracing::{info, warn};

use super::keys::{Cx, Timer};
use super::logging::end_mark;
use super::{Drain, End, Monitor, Outcome, State, Transition, sessions};

impl Monitor {
    /// Ends the drain once everything has been read and has reached its sinks.
    pub(super) fn drain(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&self.state, &mut self.streams) else {
            return;
        };
        if drain.limit_passed {
            streams.end_complete(&mut cx.sources);
            self.consoles.last_call();
            self.consoles.end_complete(cx);
        }
        let finished = streams.are_finished() && self.consoles.are_finished();
        if !finished || drain.remains.is_some() {
            return;
        }
        let own = streams.finish_log();
        if self.consoles.finish_logs() && own {
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
        let read = streams.read_again(&mut self.sessions, cx);
        if self.consoles.read_again(&mut self.sessions, cx) || read {
            return self.output_moved(true, cx);
        }
        // A stream that waits for its sinks is not quiet: the grace begins when it is read again.
        // Nor is it over while somebody is left who may have last words.
        if streams.are_quiet() && self.consoles.are_quiet() && drain.remains.is_none() {
            streams.end_complete(&mut cx.sources);
            self.consoles.end_complete(cx);
            // One that has connected meanwhile has a grace of its own.
            if !self.consoles.have_ended() {
                return self.output_moved(false, cx);
            }
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
        if !streams.are_flushed() || !self.consoles.are_flushed() {
            warn!(name = %self.sandbox.name, "stopped while output was still waiting to be written");
        }
        if streams.wait_for_log() {
            streams.close(&mut cx.sources);
        } else {
            streams.abandon_sinks(&mut cx.sources);
        }
        self.consoles.abandon(cx);
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
            self.keep_logs([streams.into_log()]);
        }
        let logs = self.consoles.close(end_mark(&outcome), cx);
        // Whatever its pipes took: the timers that would have given it back find them no more.
        cx.budget.give_back(usize::MAX);
        self.keep_logs(logs);
        self.hand_on(cx);
        self.close_log(cx);
        let (bytes_logged, bytes_dropped) = bytes;
        let bytes_dropped = bytes_dropped + self.consoles.dropped();
        let end = End { outcome, bytes_logged, bytes_dropped, consoles: self.consoles.report() };
        match self.restart_after(&end) {
            Some(after) => self.restarting(end, after, cx),
            None => self.over(end, cx),
        }
    }

    /// `STOPPED`.
    pub(super) fn over(&mut self, end: End, cx: &mut Cx<'_>) {
        info!(name = %self.sandbox.name, reason = end.reason(), "stopped");
        if self.sessions.finish(&mut cx.sources) {
            cx.timers.set(sessions::LAST_WORDS, Timer::Sessions.key());
        }
        self.again = None;
        self.leave_rotations(cx);
        self.state = State::Stopped(end.clone());
        self.tell(&Transition::Stopped { at: Utc::now(), end }, cx);
    }

    pub(super) fn tell(&mut self, transition: &Transition, cx: &mut Cx<'_>) {
        self.reports.tell(transition, &mut cx.timers, |index| Timer::Observer(index).key());
        if self.services_open > 0 {
            self.untold.push_back(transition.clone());
            self.tell_services(cx);
        }
    }
}
