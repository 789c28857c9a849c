//! Whether a command that has ended is started again, and when.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::sandbox::Restart;
use super::transition::{Outcome, Reason};
use crate::child::{Command, ExitStatus};
use crate::logfile::{LogFile, LogLock};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// After a run of this length the next delay is the first one again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// A command that may be started again, and the delay until then.
pub(super) struct RestartBackoff {
    command: Command,
    delay: Duration,
    /// When the child was last seen to run.
    since: Option<Instant>,
    /// The locks of the logs by their paths, between two runs: one for each log, however many
    /// starts have failed since.
    locks: Vec<(PathBuf, LogLock)>,
}

impl RestartBackoff {
    pub(super) fn new(command: Command) -> Self {
        Self { command, delay: FIRST_DELAY, since: None, locks: Vec::new() }
    }

    /// The child runs.
    pub(super) fn runs(&mut self) {
        self.since = Some(Instant::now());
        // The open logs hold the locks now.
        self.locks = Vec::new();
    }

    /// Closes these logs and keeps their locks.
    pub(super) fn keep_locked(&mut self, logs: impl IntoIterator<Item = LogFile>) {
        for log in logs {
            let path = log.path().to_owned();
            if let Some(lock) = log.into_lock() {
                self.locks.retain(|(locked, _)| *locked != path);
                self.locks.push((path, lock));
            }
        }
    }

    /// The command.
    pub(super) fn command(&self) -> &Command {
        &self.command
    }

    /// How long after this outcome the command is to be started again; `None` for never.
    /// `restarts` is how often it has been started again already.
    pub(super) fn delay_after(
        &mut self,
        outcome: &Outcome,
        policy: Restart,
        restarts: u32,
    ) -> Option<Duration> {
        let wanted = match policy {
            Restart::No => false,
            Restart::OnFailure { max } => {
                has_failed(outcome) && max.is_none_or(|max| restarts < max)
            }
            Restart::Always => true,
        };
        (wanted && may_follow(outcome, restarts)).then(|| self.step())
    }

    /// The delay now; the next one is twice as long.
    fn step(&mut self) -> Duration {
        if self.since.take().is_some_and(|since| since.elapsed() >= GOOD_RUN) {
            self.delay = FIRST_DELAY;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST_DELAY);
        delay
    }
}

fn has_failed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ended { status, .. } => *status != ExitStatus::Code(0),
        Outcome::NotStarted(_) => true,
    }
}

/// Whether a restart may follow this outcome: not after a stop, and not after a first start that
/// failed.
fn may_follow(outcome: &Outcome, restarts: u32) -> bool {
    match outcome {
        Outcome::Ended { reason, .. } => {
            matches!(reason, Reason::Exited | Reason::Signalled | Reason::OutOfMemory)
        }
        Outcome::NotStarted(error) => restarts > 0 && error.may_pass(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::child::CgroupError;
    use crate::monitor::StartError;

    #[test]
    fn the_delay_doubles_up_to_half_a_minute() {
        let mut backoff = RestartBackoff::new(Command::new("true"));
        let delays: Vec<u128> = (0..11).map(|_| backoff.step().as_millis()).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        assert_eq!(delays, expected);
    }

    #[test]
    fn a_good_run_makes_the_next_delay_the_first_one() {
        let mut backoff = RestartBackoff::new(Command::new("true"));
        backoff.step();
        backoff.runs();
        assert_eq!(backoff.step(), FIRST_DELAY * 2, "a run that was over at once");
        backoff.since = Instant::now().checked_sub(GOOD_RUN);
        assert_eq!(backoff.step(), FIRST_DELAY);
    }

    #[test]
    fn a_stop_is_never_followed_by_a_restart() {
        let ended = |reason| Outcome::Ended { status: ExitStatus::Code(1), reason };
        for reason in [
            Reason::Stopped,
            Reason::Killed,
            Reason::MaxDuration,
            Reason::IdleTimeout,
            Reason::SupervisorPanicked,
        ] {
            assert!(!may_follow(&ended(reason), 1), "{reason:?}");
        }
        for reason in [Reason::Exited, Reason::Signalled, Reason::OutOfMemory] {
            assert!(may_follow(&ended(reason), 0), "{reason:?}");
        }
        let not_started = |error| Outcome::NotStarted(Arc::new(error));
        assert!(!may_follow(&not_started(StartError::Stopped), 1));
        // A process of the last run may hang in it, which KILL does not end.
        let in_use = CgroupError::InUse { path: "/sys/fs/cgroup/x".into() };
        let in_use = not_started(in_use.into());
        assert!(may_follow(&in_use, 1) && !may_follow(&in_use, 0));
    }
}
