//! `DRAINING` and the way to `STOPPED`: the tail of the output, its sinks, and the report.

use std::mem;

use chrono::Utc;
use tracing::{info, warn};

use super::keys::{Cx, Timer};
use super::logs::end_mark;
use super::{Drain, End, Monitor, Outcome, State, Transition};

impl Monitor {
    /// Ends the drain once everything has been read and has reached its sinks.
    pub(super) fn drain(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = &self.state else { return };
        if drain.limit_passed {
            self.channels.stop_accepting();
            self.channels.end_complete(cx);
        }
        if !self.channels.are_finished() || drain.remains.is_some() {
            return;
        }
        if self.channels.finish_logs() {
            self.drained(cx);
        } else {
            self.channels.follow_logs(cx);
        }
    }

    /// Nothing has come for the grace time.
    pub(super) fn quiet(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = &mut self.state else { return };
        drain.quiet = None;
        // Timers come before sources: what came while this process did not run (suspended, or on
        // a busy machine) is still to be read.
        if self.channels.read_all(cx) {
            return self.output_moved(true, cx);
        }
        // A stream that waits for its sinks is not quiet: the grace begins when it is read again.
        // Nor is it over while somebody is left who may have last words.
        if self.channels.are_quiet() && drain.remains.is_none() {
            self.channels.end_complete(cx);
            // A peer that has connected meanwhile gets a quiet period of its own.
            if !self.channels.have_ended() {
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
        let State::Draining(drain) = &mut self.state else { return };
        if !self.channels.are_flushed() {
            warn!(name = %self.sandbox.name, "stopped while output was still waiting to be written");
        }
        self.channels.abandon(cx);
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
        let (logs, (bytes_logged, bytes_dropped)) = self.channels.close(end_mark(&outcome), cx);
        // Whatever its pipes took: the timers that would have given it back find them no more.
        cx.budget.give_back(usize::MAX);
        self.keep_logs(logs);
        self.hand_on(cx);
        let end = End { outcome, bytes_logged, bytes_dropped, consoles: self.channels.consoles() };
        match self.restart_after(&end) {
            Some(after) => self.restarting(end, after, cx),
            None => self.over(end, cx),
        }
    }

    /// `STOPPED`.
    pub(super) fn over(&mut self, end: End, cx: &mut Cx<'_>) {
        info!(name = %self.sandbox.name, reason = end.reason(), "stopped");
        self.channels.finish_attachments(cx);
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
