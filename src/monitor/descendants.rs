//! What the child left behind: it gets the stop signal when the child has ended, and KILL after the
//! stop timeout, while its output is being drained.

use std::io;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Cx, Monitor, Running, State, Stop, Timer};
use crate::child::{self, Cgroup, ExitStatus, Left, Parting, Reach, Signal};
use crate::reactor::TimerId;

/// When it is looked at for the first time; each further look comes after twice as long, up to
/// [`LONGEST`].
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(320);

/// How long after KILL the end waits for processes that the kernel does not let die: they hang in
/// a system call, of a network file system say.
const UNKILLABLE: Duration = Duration::from_secs(5);

/// What is left, and how far its end has come.
pub(super) struct Remains {
    left: Option<Left>,
    cgroup: Option<Cgroup>,
    killed: Option<Instant>,
    look: TimerId,
    wait: Duration,
}

impl Remains {
    fn are_gone(&mut self) -> bool {
        if self.left.as_mut().is_some_and(Left::is_gone) {
            self.left = None;
        }
        self.left.is_none() && self.cgroup.as_ref().is_none_or(Cgroup::is_empty)
    }

    fn kill(&mut self) {
        if let Some(left) = &mut self.left {
            left.kill();
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.signal(Signal::KILL, None);
        }
    }

    fn look_later(&mut self, cx: &mut Cx<'_>) {
        self.wait = (self.wait * 2).min(LONGEST);
        self.look = cx.timers.set(self.wait, Timer::Remains);
    }
}

impl Monitor {
    /// Reaps the child if it has ended, and tells what of it is left.
    pub(super) fn try_end(
        &self,
        running: &Running,
    ) -> io::Result<Option<(ExitStatus, Option<Left>)>> {
        let Some((identity, _)) = self.child.as_ref().filter(|_| !self.sandbox.leave_descendants)
        else {
            return Ok(running.child.try_reap()?.map(|status| (status, None)));
        };
        let parting = self.parting(match &self.state {
            State::Stopping(_, stop) => Some(stop),
            _ => None,
        });
        running.child.try_end(identity, self.reach, parting)
    }

    /// What those get at once whom the child leaves behind.
    fn parting(&self, stop: Option<&Stop>) -> Parting {
        let killed = stop.is_some_and(|stop| stop.killed);
        let signal = if killed { Signal::KILL } else { self.sandbox.stop_signal };
        Parting { signal, group_has_had_it: stop.is_some() }
    }

    /// What the drain has to wait for. Of those in the cgroup, who may be others as well, this is
    /// the parting.
    pub(super) fn remains(
        &self,
        left: Option<Left>,
        cgroup: Option<Cgroup>,
        stop: Option<&Stop>,
        cx: &mut Cx<'_>,
    ) -> Option<Remains> {
        if self.sandbox.leave_descendants {
            if let Some(cgroup) = cgroup.filter(Cgroup::is_empty) {
                cgroup.remove();
            }
            return None;
        }
        let parting = self.parting(stop);
        let look = cx.timers.set(FIRST, Timer::Remains);
        let killed = (parting.signal == Signal::KILL).then(Instant::now);
        let mut remains = Remains { left, cgroup, killed, look, wait: FIRST };
        if remains.are_gone() {
            cx.timers.cancel(look);
            self.clear(&remains);
            return None;
        }
        info!(name = %self.sandbox.name, "ending what the child has left behind");
        if let Some(cgroup) = &remains.cgroup {
            // The group has had it; and where all that is below us has, that is the whole of it but
            // for processes that somebody else has put there: those are killed with the others.
            if self.reach == Reach::Group || remains.left.is_none() {
                let group = self.child.as_ref().map(|(child, _)| child.pid);
                let group = group.and_then(|pid| i32::try_from(pid).ok());
                cgroup.signal(parting.signal, group);
                cgroup.signal(Signal::CONT, group);
            }
        }
        Some(remains)
    }

    /// Goes on as soon as nobody is left.
    pub(super) fn look_at_remains(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = &mut self.state else { return };
        let Some(remains) = &mut drain.remains else { return };
        let gone = remains.are_gone();
        let late = remains.killed.is_some_and(|killed| killed.elapsed() >= UNKILLABLE);
        if !gone && !late {
            if remains.killed.is_some() {
                // Whoever has been started meanwhile.
                remains.kill();
            }
            return remains.look_later(cx);
        }
        if !gone {
            warn!(name = %self.sandbox.name, "what the child has left behind can't be killed: it stays");
        }
        if let Some(remains) = drain.remains.take() {
            self.clear(&remains);
        }
        // Their last words may still be in the pipes.
        self.output_moved(true, cx);
    }

    /// Kills what is left. A child's end is not waited for any longer than that takes.
    pub(super) fn kill_remains(&mut self, why: &str, cx: &mut Cx<'_>) {
        let State::Draining(drain) = &mut self.state else { return };
        let Some(remains) = &mut drain.remains else { return };
        if remains.killed.is_none() {
            info!(name = %self.sandbox.name, "killing what the child has left behind: {why}");
            remains.killed = Some(Instant::now());
            remains.kill();
            cx.timers.cancel(remains.look);
            remains.wait = FIRST;
            remains.look = cx.timers.set(FIRST, Timer::Remains);
        }
    }

    /// A process below this one has ended.
    pub(super) fn orphan_ended(&mut self, cx: &mut Cx<'_>) {
        if self.reach == Reach::Group {
            return;
        }
        match &mut self.state {
            State::Draining(drain) => {
                if let Some(remains) = &mut drain.remains {
                    cx.timers.cancel(remains.look);
                    self.look_at_remains(cx);
                }
            }
            _ => {
                if let Some((child, _)) = &self.child {
                    child::reap_orphans(child, self.reach);
                }
            }
        }
    }

    fn clear(&self, remains: &Remains) {
        if let Some(cgroup) = &remains.cgroup {
            cgroup.remove();
        }
    }
}
