//! `RUNNING` and `STOPPING`: stop requests, the kill, the child's end, and what follows from output
//! that moves.

use std::mem;
use std::time::{Duration, Instant};

use chrono::Utc;
use tracing::{debug, info, warn};

use super::descendants::Trouble;
use super::keys::{Cx, OutputId, Timer};
use super::{Cause, Drain, Monitor, QUIET, Reason, StartError, State, Stop, Transition};
use crate::child::{Cgroup, Child, ExitStatus, Left, Signal};
use crate::reactor::Interest;

/// A stop request that follows another one sooner is the same one, told twice: a signal to the
/// process group and one to the process, say.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// As good as never, for a stop timeout beyond all clocks.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long after a KILL that has not ended the child the next one is sent.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// How often an ended child is looked for where the kernel has no descriptor that tells.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// How a stop is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Repeated, it kills.
    Urgent,
    /// Repeated, it changes nothing.
    Once,
    /// To kill after this time, or after the sandbox's own.
    Within(Option<Duration>),
}

impl Monitor {
    pub(super) fn stop_requested(&mut self, request: Request, cx: &mut Cx<'_>) {
        let now = Instant::now();
        let within = match request {
            Request::Within(time) => time,
            Request::Urgent | Request::Once => None,
        };
        match &mut self.state {
            State::Starting { .. } => self.not_started(StartError::Stopped, cx),
            State::Running(_) => self.stopping(Cause::Request, within, cx),
            State::Stopping(_, stop) => {
                let again = now.duration_since(stop.asked) >= SAME_REQUEST;
                // KILL may have failed, so each request after it repeats it.
                if stop.killed || (request == Request::Urgent && again) {
                    stop.asked = now;
                    self.kill("a second stop was asked for", cx);
                } else if let Some(time) = within
                    && let Some(at) = now.checked_add(time).filter(|at| *at < stop.kill_at)
                {
                    cx.timers.cancel(stop.kill);
                    stop.kill = cx.timers.set(time, Timer::Kill.key());
                    stop.kill_at = at;
                }
            }
            State::Restarting(..) => self.not_started_again(cx),
            State::Draining(drain) => {
                let told_twice =
                    drain.asked.is_some_and(|asked| now.duration_since(asked) < SAME_REQUEST);
                if !told_twice {
                    // Asked for while it drains, it is a stop all the same: no run follows.
                    drain.asked = Some(now);
                    self.abandon(cx);
                }
            }
            State::Stopped(_) | State::Moving => {}
        }
    }

    /// `RUNNING → STOPPING`.
    pub(super) fn stopping(&mut self, cause: Cause, within: Option<Duration>, cx: &mut Cx<'_>) {
        let State::Running(_) = self.state else { return };
        let State::Running(mut running) = mem::replace(&mut self.state, State::Moving) else {
            return;
        };
        info!(name = %self.sandbox.name, pid = running.child.pid(), ?cause, "stopping");
        running.limits.lift(cx);
        send(&running.child, self.sandbox.stop_signal);
        // A child that is stopped could not act on it.
        send(&running.child, Signal::CONT);
        let (asked, timeout) = (Instant::now(), within.unwrap_or(self.sandbox.stop_timeout));
        let kill = cx.timers.set(timeout, Timer::Kill.key());
        // What no clock can name is never.
        let kill_at = asked.checked_add(timeout).unwrap_or(asked + FAR);
        let (killed, trouble) = (false, Trouble::default());
        self.state =
            State::Stopping(running, Stop { cause, asked, kill, kill_at, killed, trouble });
        self.tell(&Transition::Stopping { at: Utc::now() }, cx);
    }

    /// Sends KILL, and sends it again until the child has ended.
    pub(super) fn kill(&mut self, why: &str, cx: &mut Cx<'_>) {
        let State::Stopping(running, stop) = &mut self.state else { return };
        let (name, pid) = (&self.sandbox.name, running.child.pid());
        if !mem::replace(&mut stop.killed, true) {
            info!(%name, pid, "killing: {why}");
        }
        if let Err(error) = running.child.signal(Signal::KILL)
            && error.raw_os_error() != Some(libc::ESRCH)
            && let Some(error) = stop.trouble.new_error(&error)
        {
            warn!(%name, pid, "can't send SIGKILL: {error}; trying again");
        }
        cx.timers.cancel(stop.kill);
        stop.kill = cx.timers.set(KILL_AGAIN, Timer::Kill.key());
    }

    pub(super) fn look_for_exit(&mut self, cx: &mut Cx<'_>) {
        let (State::Running(running) | State::Stopping(running, _)) = &self.state else { return };
        match self.try_end(running) {
            Ok(Some((status, left))) => self.exited(status, left, cx),
            Ok(None) => {
                // kqueue may tell of the end before waitpid(2) knows of it, and tells once.
                if let Some(exit) = running.exit {
                    cx.sources.would_block(exit, Interest::READ);
                }
                cx.timers.set(LOOK, Timer::Exit.key());
            }
            Err(error) => {
                warn!(pid = running.child.pid(), "can't wait for the child: {error}");
                self.exited(ExitStatus::Unknown, None, cx);
            }
        }
    }

    /// `RUNNING → DRAINING` and `STOPPING → DRAINING`.
    pub(super) fn exited(&mut self, status: ExitStatus, left: Option<Left>, cx: &mut Cx<'_>) {
        let (mut running, stop) = match mem::replace(&mut self.state, State::Moving) {
            State::Running(running) => (running, None),
            State::Stopping(running, stop) => (running, Some(stop)),
            other => {
                self.state = other;
                return;
            }
        };
        info!(name = %self.sandbox.name, pid = running.child.pid(), ?status, "ended; draining");
        running.limits.lift(cx);
        if let Some(exit) = running.exit {
            cx.sources.deregister(exit);
        }
        if let Some(stop) = &stop {
            cx.timers.cancel(stop.kill);
        }
        let limit = cx.timers.set(self.sandbox.stop_timeout, Timer::DrainLimit.key());
        self.state = State::Draining(Drain {
            status,
            reason: reason(status, stop.as_ref(), running.cgroup.as_ref()),
            quiet: None,
            limit,
            limit_passed: false,
            remains: self.remains(left, running.cgroup, stop.as_ref(), cx),
            asked: stop.map(|stop| stop.asked),
        });
        self.channels.begin_drain(cx);
        self.tell(&Transition::Draining { at: Utc::now(), status }, cx);
        self.output_moved(true, cx);
    }

    pub(super) fn read_output(&mut self, output: OutputId, cx: &mut Cx<'_>) {
        let read = self.channels.read(output, cx);
        self.output_moved(read, cx);
    }

    /// Output has been `read`, or only logged or forwarded: what follows from it.
    pub(super) fn output_moved(&mut self, read: bool, cx: &mut Cx<'_>) {
        if read {
            self.note_moved();
        }
        self.hand_on(cx);
        // A write to a client may have shown that it has gone.
        self.channels.follow_sizes();
        self.channels.follow_logs(cx);
        if let State::Draining(drain) = &mut self.state {
            // Each byte renews the grace; a stream that waited for its sinks begins it anew.
            if read || drain.quiet.is_none() {
                let renewed = cx.timers.set(QUIET, Timer::Quiet.key());
                if let Some(quiet) = drain.quiet.replace(renewed) {
                    cx.timers.cancel(quiet);
                }
            }
            self.drain(cx);
        }
    }
}

fn send(child: &Child, signal: Signal) {
    match child.signal(signal) {
        Ok(()) => {}
        // Its end is on the way.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            debug!(pid = child.pid(), "{signal} not sent: {error}");
        }
        Err(error) => warn!(pid = child.pid(), "can't send {signal}: {error}"),
    }
}

fn reason(status: ExitStatus, stop: Option<&Stop>, cgroup: Option<&Cgroup>) -> Reason {
    let killed = stop.is_some_and(|stop| stop.killed);
    if status == ExitStatus::Signal(Signal::KILL)
        && !killed
        && cgroup.is_some_and(Cgroup::ran_out_of_memory)
    {
        return Reason::OutOfMemory;
    }
    match (status, stop) {
        (_, Some(Stop { cause: Cause::MaxDuration, .. })) => Reason::MaxDuration,
        (_, Some(Stop { cause: Cause::IdleTimeout, .. })) => Reason::IdleTimeout,
        (ExitStatus::Signal(Signal::KILL), Some(Stop { killed: true, .. })) => Reason::Killed,
        (_, Some(_)) => Reason::Stopped,
        (ExitStatus::Signal(_), None) => Reason::Signalled,
        (ExitStatus::Code(_) | ExitStatus::Unknown, None) => Reason::Exited,
    }
}
