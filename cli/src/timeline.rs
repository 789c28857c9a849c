//! When each part of a recorded session comes, counted from its beginning.

use std::time::Duration;

use vmon::logfile::Timestamp;

/// Turns the times of a log into times since the beginning. They never decrease: what has no time
/// comes with what is before it. The time between two runs does not count.
#[derive(Debug, Default)]
pub struct Timeline {
    /// A moment, and when that comes.
    known: Option<(Timestamp, Duration)>,
    reached: Duration,
}

impl Timeline {
    /// When something comes that happened at `time`.
    pub fn at(&mut self, time: Option<Timestamp>) -> Duration {
        if let Some(time) = time {
            let (moment, when) = *self.known.get_or_insert((time, self.reached));
            self.reached = self.reached.max(when.saturating_add(time.since(moment)));
        }
        self.reached
    }

    /// A run begins at `time`, which is now.
    pub fn begin(&mut self, time: Timestamp) -> Duration {
        self.known = Some((time, self.reached));
        self.reached
    }

    /// The moment from which it is counted; `None` until a time is known.
    pub fn moment(&self) -> Option<Timestamp> {
        self.known.map(|(moment, _)| moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: &mut Timeline, seconds: u64) -> u64 {
        timeline.at(Some(second(seconds))).as_secs()
    }

    fn second(seconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(seconds * 1_000_000_000)
    }

    #[test]
    fn times_count_from_the_first_that_is_known_and_never_decrease() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.at(None), Duration::ZERO);
        assert_eq!(at(&mut timeline, 100), 0);
        assert_eq!(at(&mut timeline, 103), 3);
        assert_eq!(timeline.at(None).as_secs(), 3);
        assert_eq!(at(&mut timeline, 90), 3);
        assert_eq!(at(&mut timeline, 105), 5);
    }

    #[test]
    fn the_time_between_two_runs_does_not_count() {
        let mut timeline = Timeline::default();
        timeline.begin(second(10));
        assert_eq!(at(&mut timeline, 12), 2);
        assert_eq!(timeline.begin(second(5000)).as_secs(), 2);
        assert_eq!(at(&mut timeline, 5001), 3);
    }
}
