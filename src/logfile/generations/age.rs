//! How old a generation is, without belief in a single reading of the clock.
//!
//! A wrong clock, such as one that is years ahead until it has been set, must not remove anything. So
//! an age counts the time that has passed on the clock that stamped the files, and since the last
//! step of that clock what has passed on the monotonic one. The time between two runs counts once a
//! later run has begun: then the log itself has a byte from after it.

use std::time::Duration;

use crate::logfile::clock::Moment;
use crate::logfile::entry::Timestamp;

/// A difference between the clocks that counts as a step. The time in which the machine was
/// suspended is one too.
const STEP: Duration = Duration::from_secs(60);

/// What is known of the time that has passed.
#[derive(Debug)]
pub(super) struct Ages {
    /// The last time that is known from before the last step of the clock.
    before: Timestamp,
    /// The first reading after it.
    since: Moment,
}

impl Ages {
    /// `newest`: the time of the log's newest byte, which an earlier run has written; `None` if there
    /// is none.
    pub(super) fn new(newest: Option<Timestamp>, now: Moment) -> Self {
        Self { before: newest.unwrap_or(now.wall), since: now }
    }

    /// Notices a step of the clock since the last call.
    pub(super) fn look(&mut self, now: Moment) {
        if self.since.step_to(&now) > STEP {
            *self = Self { before: self.since.expected_at(&now), since: now };
        }
    }

    /// The age of a file that was last written at `written`; `None` if that is in the future, and so
    /// not known.
    pub(super) fn age(&self, written: Timestamp, now: Moment) -> Option<Duration> {
        if written > now.wall {
            return None;
        }
        let since = now.monotonic.saturating_duration_since(self.since.monotonic);
        Some(now.wall.since(written).min(self.before.since(written).saturating_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

    /// The moment this many days after the start, with a clock that is ahead.
    fn at(start: Moment, days: u32, ahead: Duration) -> Moment {
        let passed = DAY * days;
        Moment {
            wall: start.wall.after(passed + ahead),
            monotonic: start.monotonic.checked_add(passed).unwrap(),
        }
    }

    fn days(ages: &Ages, written: Timestamp, now: Moment) -> Option<u64> {
        ages.age(written, now).map(|age| age.as_secs() / DAY.as_secs())
    }

    #[test]
    fn a_clock_that_is_years_ahead_makes_nothing_older() {
        let start = Moment::now();
        let newest = start.wall;
        let wrong = at(start, 0, YEARS);
        let mut ages = Ages::new(Some(newest), wrong);
        assert_eq!(days(&ages, newest, wrong), Some(0));
        // Time that really passes counts.
        let later = at(start, 5, YEARS);
        ages.look(later);
        assert_eq!(days(&ages, newest, later), Some(5));
        // Once the clock is right again, what it has stamped meanwhile is of unknown age.
        let right = at(start, 6, Duration::ZERO);
        ages.look(right);
        assert_eq!(days(&ages, newest, right), Some(6));
        assert_eq!(days(&ages, later.wall, right), None);
    }

    #[test]
    fn a_step_of_the_clock_in_a_run_makes_nothing_older() {
        let start = Moment::now();
        let mut ages = Ages::new(Some(start.wall), start);
        let generation = at(start, 40, Duration::ZERO).wall;
        let stepped = at(start, 41, YEARS);
        ages.look(stepped);
        assert_eq!(days(&ages, generation, stepped), Some(1));
        assert_eq!(days(&ages, start.wall, stepped), Some(41));
    }

    #[test]
    fn the_time_between_runs_counts_when_the_log_has_a_byte_from_after_it() {
        let start = Moment::now();
        let old = start.wall;
        let next_run = at(start, 30, Duration::ZERO);
        let begun = Moment { wall: next_run.wall, monotonic: start.monotonic };
        assert_eq!(days(&Ages::new(Some(old), begun), old, begun), Some(0));
        let third = Moment { wall: at(start, 31, Duration::ZERO).wall, ..begun };
        assert_eq!(days(&Ages::new(Some(next_run.wall), third), old, third), Some(30));
    }
}
