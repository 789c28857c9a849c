//! What the child left behind: it gets the stop signal when the child has ended, and KILL after the
//! stop timeout, while its output is being drained.

use std::io;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::keys::{Cx, Timer};
use super::{Monitor, Name, Running, State, Stop};
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
    trouble: Trouble,
}

impl Remains {
    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// It can't be found out: what is not known to be gone is still there.
    fn are_gone(&mut self) -> io::Result<bool> {
        if let Some(left) = &mut self.left
            && left.is_gone()?
        {
            self.left = None;
        }
        let empty = self.cgroup.as_ref().map_or(Ok(true), Cgroup::is_empty)?;
        Ok(self.left.is_none() && empty)
    }

    /// Sends KILL to all of it.
    fn kill(&mut self) -> io::Result<()> {
        let left = self.left.as_mut().map_or(Ok(()), Left::kill);
        let cgroup =
            self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.signal(Signal::KILL, None));
        left.and(cgroup)
    }

    fn look_later(&mut self, cx: &mut Cx<'_>) {
        self.wait = (self.wait * 2).min(LONGEST);
        self.look = cx.timers.set(self.wait, Timer::Leftovers.key());
    }
}

/// Something that fails again and again: each different error is reported once.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<String>);

impl Trouble {
    /// The text of an error that has not been reported yet.
    pub(super) fn new_error(&mut self, error: &io::Error) -> Option<&str> {
        let text = error.to_string();
        if self.0.as_ref() == Some(&text) {
            return None;
        }
        Some(self.0.insert(text))
    }

    /// The last error.
    fn last(&self) -> Option<&str> {
        self.0.as_deref()
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
            // rmdir(2) refuses one that is not empty.
            if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.is_empty().unwrap_or(false)) {
                cgroup.remove();
            }
            return None;
        }
        let parting = self.parting(stop);
        let look = cx.timers.set(FIRST, Timer::Leftovers.key());
        let killed = (parting.signal == Signal::KILL).then(Instant::now);
        let trouble = Trouble::default();
        let mut remains = Remains { left, cgroup, killed, look, wait: FIRST, trouble };
        // What can't be found out now is looked at again.
        if remains.are_gone().unwrap_or(false) {
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
                // KILL follows where they do not arrive, and its errors are reported.
                let _ = cgroup.signal(parting.signal, group);
                let _ = cgroup.signal(Signal::CONT, group);
            }
        }
        Some(remains)
    }

    /// Goes on as soon as no process is left.
    pub(super) fn look_at_remains(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = &mut self.state else { return };
        let Some(remains) = &mut drain.remains else { return };
        let name = &self.sandbox.name;
        let gone = remains.are_gone();
        let late = remains.killed.is_some_and(|killed| killed.elapsed() >= UNKILLABLE);
        if !late && !matches!(gone, Ok(true)) {
            // Also for processes that have been started meanwhile.
            let killed = if remains.killed.is_some() { remains.kill() } else { Ok(()) };
            report(gone.map(drop).and(killed), &mut remains.trouble, name);
            return remains.look_later(cx);
        }
        if !matches!(gone, Ok(true)) {
            let reason = remains.trouble.last().unwrap_or("KILL has not ended it");
            warn!(%name, "what the child has left behind may still be there: {reason}");
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
            report(remains.kill(), &mut remains.trouble, &self.sandbox.name);
            cx.timers.cancel(remains.look);
            remains.wait = FIRST;
            remains.look = cx.timers.set(FIRST, Timer::Leftovers.key());
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

/// Warns of a look or a KILL that failed; the next look tries again.
fn report(outcome: io::Result<()>, trouble: &mut Trouble, name: &Name) {
    if let Err(error) = outcome
        && let Some(error) = trouble.new_error(&error)
    {
        warn!(%name, "can't end what the child has left behind: {error}; trying again");
    }
}
