//! The end of the processes that a child leaves behind: they get the stop signal when the child has
//! ended, and KILL after the stop timeout, while the output is drained.

use std::io;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::child::{Cgroup, FinalSignal, KillScope, Orphans, Signal};
use crate::monitor::keys::{Cx, Timer};
use crate::monitor::parts::Parts;
use crate::monitor::wait::{Wait, WaitKind};
use crate::reactor::TimerId;

/// The time to the first poll; each further one comes after twice the time, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(320);

/// How long after KILL the end of the sandbox waits for processes that hang in a system call, of a
/// network file system for example.
const UNKILLABLE: Duration = Duration::from_secs(5);

/// Processes that a child has left behind, and how far their end has come.
pub(super) struct Cleanup {
    left: Option<Orphans>,
    cgroup: Option<Cgroup>,
    killed: Option<Instant>,
    timer: TimerId,
    delay: Duration,
    error: RepeatedError,
}

/// An operation that fails again and again: each different error is reported once. Boxed, since
/// there is room for it in every child.
#[derive(Debug, Default)]
pub(super) struct RepeatedError(Option<Box<(String, Instant)>>);

impl RepeatedError {
    /// An error that has not been reported yet.
    pub(super) fn new_error(&mut self, error: String) -> Option<&str> {
        if self.last().is_some_and(|(last, _)| last == error) {
            return None;
        }
        let since = self.0.take().map_or_else(Instant::now, |failed| failed.1);
        Some(&self.0.insert(Box::new((error, since))).0)
    }

    /// The operation has succeeded.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// The last error, and since when the operation has failed.
    pub(super) fn last(&self) -> Option<(&str, Instant)> {
        self.0.as_deref().map(|(error, since)| (error.as_str(), *since))
    }
}

impl Cleanup {
    /// What the drain has to wait for; `None` if no process is left. Processes in the cgroup get
    /// `signal` here; the others have got it already.
    pub(super) fn begin(
        left: Option<Orphans>,
        cgroup: Option<Cgroup>,
        signal: FinalSignal,
        parts: &Parts,
        cx: &mut Cx<'_>,
    ) -> Option<Self> {
        if parts.sandbox.leave_descendants {
            // rmdir(2) refuses a cgroup that is not empty.
            if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.is_empty().unwrap_or(false)) {
                cgroup.remove();
            }
            return None;
        }
        let mut cleanup = Self {
            left,
            cgroup,
            killed: (signal.signal == Signal::KILL).then(Instant::now),
            timer: cx.timers.set(FIRST, Timer::Leftovers.key()),
            delay: FIRST,
            error: RepeatedError::default(),
        };
        // If that can't be found out now, it is polled.
        if cleanup.is_done().unwrap_or(false) {
            cx.timers.cancel(cleanup.timer);
            cleanup.remove_cgroup();
            return None;
        }
        info!("ending what the child has left behind");
        if let Some(cgroup) = &cleanup.cgroup
            // Otherwise all processes below this one have got the signal, which is the whole
            // cgroup but for processes that others have moved there: those get KILL.
            && (parts.scope == KillScope::Group || cleanup.left.is_none())
        {
            // The process group has got the signal already.
            let group = parts.run.child.as_ref().and_then(|(child, _)| child.pid.try_into().ok());
            // KILL follows where these do not arrive, and its errors are reported.
            let _ = cgroup.signal(signal.signal, group);
            let _ = cgroup.signal(Signal::CONT, group);
        }
        Some(cleanup)
    }

    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// That can't be found out, so processes have to be expected.
    fn is_done(&mut self) -> io::Result<bool> {
        if let Some(left) = &mut self.left
            && left.is_gone()?
        {
            self.left = None;
        }
        let empty = self.cgroup.as_ref().map_or(Ok(true), Cgroup::is_empty)?;
        Ok(self.left.is_none() && empty)
    }

    /// Polls the processes. Returns whether none is left, or those that are left can't be killed.
    pub(super) fn poll(&mut self, cx: &mut Cx<'_>) -> bool {
        let done = self.is_done();
        if !matches!(done, Ok(true)) {
            if self.killed.is_none_or(|killed| killed.elapsed() < UNKILLABLE) {
                // Processes may have been started since the last KILL.
                let killed = if self.killed.is_some() { self.send_kill() } else { Ok(()) };
                self.warn_of(done.map(drop).and(killed));
                self.delay = (self.delay * 2).min(LONGEST);
                self.set_timer(cx);
                return false;
            }
            let reason = self.error.last().map_or("KILL has not ended it", |(error, _)| error);
            warn!("what the child has left behind may still be there: {reason}");
        }
        self.remove_cgroup();
        true
    }

    /// Polls now instead of when the timer expires.
    pub(super) fn poll_early(&mut self, cx: &mut Cx<'_>) -> bool {
        cx.timers.cancel(self.timer);
        self.poll(cx)
    }

    /// Sends KILL, if it has not been sent yet.
    pub(super) fn kill(&mut self, why: &str, cx: &mut Cx<'_>) {
        if self.killed.is_some() {
            return;
        }
        info!("killing what the child has left behind: {why}");
        self.killed = Some(Instant::now());
        let killed = self.send_kill();
        self.warn_of(killed);
        cx.timers.cancel(self.timer);
        self.delay = FIRST;
        self.set_timer(cx);
    }

    /// What the end of the sandbox waits for, since its child has ended.
    pub(super) fn wait(&self, since: Instant) -> Wait {
        let reason = match self.error.last() {
            Some((error, _)) => format!("can't end what the command has left behind: {error}"),
            None => "processes that the command has left behind have not ended".to_owned(),
        };
        Wait::new(WaitKind::Processes, reason, since)
    }

    fn send_kill(&mut self) -> io::Result<()> {
        let left = self.left.as_mut().map_or(Ok(()), Orphans::kill);
        let cgroup =
            self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.signal(Signal::KILL, None));
        left.and(cgroup)
    }

    fn set_timer(&mut self, cx: &mut Cx<'_>) {
        self.timer = cx.timers.set(self.delay, Timer::Leftovers.key());
    }

    /// Warns of a poll or a KILL that failed; the next poll tries again.
    fn warn_of(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome
            && let Some(error) = self.error.new_error(error.to_string())
        {
            warn!("can't end what the child has left behind: {error}; trying again");
        }
    }

    fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}
