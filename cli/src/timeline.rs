//! Converts the times of a recorded session to times since its beginning.

use std::time::Duration;

use vmon::logfile::{Mark, Timestamp};

/// Computes times since the beginning. They never decrease: an entry without a time gets the time
/// of the one before. The time between two runs does not count.
#[derive(Debug, Default)]
pub struct Timeline {
    /// A time of the log and the corresponding time since the beginning.
    known: Option<(Timestamp, Duration)>,
    reached: Duration,
}

impl Timeline {
    /// The time since the beginning of an entry logged at `time`.
    pub fn at(&mut self, time: Option<Timestamp>) -> Duration {
        if let Some(time) = time {
            let (moment, when) = *self.known.get_or_insert((time, self.reached));
            self.reached = self.reached.max(when.saturating_add(time.since(moment)));
        }
        self.reached
    }

    /// Handles a mark. A step of the clock takes no time, but what passed before it.
    pub fn mark(&mut self, time: Timestamp, mark: Mark) -> Duration {
        match mark {
            Mark::Start { .. } | Mark::AfterStep => self.begin(time),
            Mark::BeforeStep => self.at(Some(time)),
            _ => self.reached,
        }
    }

    /// Handles the start of a run at `time`, or a clock that was stepped to it.
    fn begin(&mut self, time: Timestamp) -> Duration {
        self.known = Some((time, self.reached));
        self.reached
    }

    /// The time of the log at the beginning; `None` until a time is known.
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
    fn times_start_at_the_first_known_one_and_never_decrease() {
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

    #[test]
    fn a_step_of_the_clock_takes_no_time_and_the_pause_before_it_counts() {
        let mut timeline = Timeline::default();
        assert_eq!(at(&mut timeline, 1000), 0);
        timeline.mark(second(1007), Mark::BeforeStep);
        timeline.mark(second(20), Mark::AfterStep);
        assert_eq!(at(&mut timeline, 21), 8);
        timeline.mark(second(90_000), Mark::AfterStep);
        assert_eq!(at(&mut timeline, 90_001), 9);
    }
}
