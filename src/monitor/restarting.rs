//! `RESTARTING`: whether a command that has ended is started again, and when.

use std::time::{Duration, Instant};

use chrono::Utc;
use tracing::info;

use super::keys::{Cx, Timer};
use super::{CLAIM_TIMEOUT, End, Launch, Monitor, Outcome, Reason, Restart, State, Transition};
use crate::child::{Command, ExitStatus};
use crate::logfile::{LogFile, LogLock};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// A command that has run for so long is no longer in trouble: its next delay is the first one.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What is kept of a command that may be started again.
pub(super) struct Again {
    command: Command,
    delay: Duration,
    /// When it was last seen to run.
    since: Option<Instant>,
    /// Of the logs, between two runs.
    locks: Vec<LogLock>,
}

impl Again {
    pub(super) fn new(command: Command) -> Self {
        Self { command, delay: FIRST_DELAY, since: None, locks: Vec::new() }
    }

    /// The child runs.
    pub(super) fn runs(&mut self) {
        self.since = Some(Instant::now());
        // The logs are open.
        self.locks = Vec::new();
    }

    /// Closes these logs, but for their locks.
    pub(super) fn keep_locked(&mut self, logs: impl IntoIterator<Item = LogFile>) {
        self.locks.extend(logs.into_iter().filter_map(LogFile::into_lock));
    }

    /// How long to wait now; the next time twice as long.
    fn step(&mut self) -> Duration {
        if self.since.take().is_some_and(|since| since.elapsed() >= GOOD_RUN) {
            self.delay = FIRST_DELAY;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST_DELAY);
        delay
    }
}

impl Monitor {
    /// How long after this end the command is to be started again; `None` for never.
    pub(super) fn restart_after(&mut self, end: &End) -> Option<Duration> {
        let again = self.again.as_mut()?;
        let wanted = match self.sandbox.restart {
            Restart::No => false,
            Restart::OnFailure { max } => {
                has_failed(&end.outcome) && max.is_none_or(|max| self.restarts < max)
            }
            Restart::Always => true,
        };
        (wanted && is_no_stop(&end.outcome, self.restarts)).then(|| again.step())
    }

    /// `DRAINING → RESTARTING`.
    pub(super) fn restarting(&mut self, end: End, after: Duration, cx: &mut Cx<'_>) {
        info!(name = %self.sandbox.name, reason = end.reason(), ?after, "starting again");
        let timer = cx.timers.set(after, Timer::Restart.key());
        self.state = State::Restarting(end.clone(), timer);
        self.tell(&Transition::Restarting { at: Utc::now(), end, after }, cx);
    }

    /// `RESTARTING → STARTING`.
    pub(super) fn start_again(&mut self, cx: &mut Cx<'_>) {
        let (State::Restarting(..), Some(again)) = (&self.state, &self.again) else { return };
        let launch = Launch::Spawn(again.command.clone());
        self.restarts = self.restarts.saturating_add(1);
        self.asked = Utc::now();
        self.child = None;
        self.state = State::Starting { launch, give_up: Instant::now() + CLAIM_TIMEOUT };
        self.claim(cx);
    }

    /// `RESTARTING → STOPPED`: a stop comes before the next run.
    pub(super) fn not_started_again(&mut self, cx: &mut Cx<'_>) {
        let State::Restarting(end, timer) = &self.state else { return };
        let end = end.clone();
        cx.timers.cancel(*timer);
        self.over(end, cx);
    }
}

fn has_failed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ended { status, .. } => *status != ExitStatus::Code(0),
        Outcome::NotStarted(_) => true,
    }
}

/// Whether this end is one that a restart may follow: not the end of a stop, and not a first start
/// that failed.
fn is_no_stop(outcome: &Outcome, restarts: u32) -> bool {
    match outcome {
        Outcome::Ended { reason, .. } => {
            matches!(reason, Reason::Exited | Reason::Signalled | Reason::OutOfMemory)
        }
        Outcome::NotStarted(error) => restarts > 0 && error.may_pass(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::StartError;

    #[test]
    fn the_delay_doubles_up_to_half_a_minute() {
        let mut again = Again::new(Command::new("true"));
        let delays: Vec<u128> = (0..11).map(|_| again.step().as_millis()).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(delays, expected);
    }

    #[test]
    fn a_good_run_makes_the_next_delay_the_first_one() {
        let mut again = Again::new(Command::new("true"));
        again.step();
        again.runs();
        assert_eq!(again.step(), FIRST_DELAY * 2, "a run that was over at once");
        again.since = Instant::now().checked_sub(GOOD_RUN);
        assert_eq!(again.step(), FIRST_DELAY);
    }

    #[test]
    fn a_stop_is_never_followed_by_a_restart() {
        let ended = |reason| Outcome::Ended { status: ExitStatus::Code(1), reason };
        for reason in [Reason::Stopped, Reason::Killed, Reason::MaxDuration, Reason::IdleTimeout] {
            assert!(!is_no_stop(&ended(reason), 1), "{reason:?}");
        }
        for reason in [Reason::Exited, Reason::Signalled, Reason::OutOfMemory] {
            assert!(is_no_stop(&ended(reason), 0), "{reason:?}");
        }
        assert!(!is_no_stop(&Outcome::NotStarted(StartError::Stopped), 1));
        // Somebody of the last run may hang in it, where not even KILL ends him.
        let in_use = Outcome::NotStarted(StartError::Cgroup("it has processes".to_owned()));
        assert!(is_no_stop(&in_use, 1) && !is_no_stop(&in_use, 0));
    }
}
