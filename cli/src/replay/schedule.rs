//! Computes when each entry of a log is played.

use std::time::Duration;

use vmon::logfile::Mark;
use vmon::logfile::read::Entry;

use crate::timeline::Timeline;

/// The pace of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Speed factor.
    pub speed: f64,
    /// The longest pause, before the speed factor is applied.
    pub max_idle: Option<Duration>,
}

/// Computes times from the beginning of the replay, so that rounding errors do not add up.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    timeline: Timeline,
    /// Time of the session at the last entry.
    planned: Duration,
    /// Total time by which pauses have been shortened.
    skipped: Duration,
}

impl Schedule {
    pub fn new(pace: Pace) -> Self {
        let (planned, skipped) = (Duration::ZERO, Duration::ZERO);
        Self { pace, timeline: Timeline::default(), planned, skipped }
    }

    /// The time from the beginning of the replay to this entry.
    pub fn due(&mut self, entry: &Entry<'_>) -> Duration {
        let at = match *entry {
            Entry::Mark { time, mark: mark @ Mark::Start { .. } } => self.timeline.mark(time, mark),
            // Other marks have no effect, so they do not prolong the replay.
            Entry::Mark { time, mark } => {
                self.timeline.mark(time, mark);
                self.planned
            }
            Entry::Bytes { time, .. } => self.timeline.at(time),
        };
        let pause = at.saturating_sub(self.planned);
        if let Some(max_idle) = self.pace.max_idle {
            self.skipped += pause.saturating_sub(max_idle);
        }
        self.planned = at;
        // At a tenth of the speed the result is centuries at most: no overflow.
        (at - self.skipped).div_f64(self.pace.speed)
    }
}

#[cfg(test)]
mod tests {
    use vmon::logfile::{RunEnd, Timestamp};

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(milliseconds * 1_000_000)
    }

    fn bytes(milliseconds: u64) -> Entry<'static> {
        Entry::Bytes { time: Some(at(milliseconds)), stream: None, bytes: b"x" }
    }

    const UNKNOWN: Entry<'static> = Entry::Bytes { time: None, stream: None, bytes: b"x" };

    fn start(milliseconds: u64) -> Entry<'static> {
        Entry::Mark { time: at(milliseconds), mark: Mark::Start { pid: 1 } }
    }

    /// In milliseconds.
    fn due(speed: f64, max_idle: Option<u64>, entries: &[Entry<'_>]) -> Vec<u128> {
        let max_idle = max_idle.map(Duration::from_millis);
        let mut schedule = Schedule::new(Pace { speed, max_idle });
        entries.iter().map(|entry| schedule.due(entry).as_millis()).collect()
    }

    #[test]
    fn a_session_is_played_at_its_original_pace() {
        let entries = [start(1000), bytes(1500), bytes(1500), bytes(9000)];
        assert_eq!(due(1.0, None, &entries), [0, 500, 500, 8000]);
        assert_eq!(due(2.0, None, &entries), [0, 250, 250, 4000]);
        assert_eq!(due(0.1, None, &entries), [0, 5000, 5000, 80_000]);
    }

    #[test]
    fn pauses_are_limited_before_the_speed_is_applied() {
        let entries = [bytes(0), bytes(10_000), bytes(10_500), bytes(20_000)];
        assert_eq!(due(1.0, Some(1000), &entries), [0, 1000, 1500, 2500]);
        assert_eq!(due(2.0, Some(1000), &entries), [0, 500, 750, 1250]);
        assert_eq!(due(1.0, Some(0), &entries), [0, 0, 0, 0]);
    }

    #[test]
    fn bytes_without_a_time_are_played_at_once() {
        assert_eq!(due(1.0, None, &[UNKNOWN, UNKNOWN]), [0, 0]);
        assert_eq!(due(1.0, None, &[UNKNOWN, bytes(700), bytes(900), UNKNOWN]), [0, 0, 200, 200]);
    }

    #[test]
    fn neither_marks_nor_the_time_between_runs_delay_the_replay() {
        let end = Entry::Mark { time: at(5000), mark: Mark::Stop(RunEnd::Exited(0)) };
        let size = Entry::Mark { time: at(300), mark: Mark::Resize { columns: 1, rows: 1 } };
        let entries = [start(0), size, bytes(400), end, start(90_000), bytes(90_100)];
        assert_eq!(due(1.0, None, &entries), [0, 0, 400, 400, 400, 500]);
    }

    #[test]
    fn a_long_session_does_not_drift() {
        let mut schedule = Schedule::new(Pace { speed: 3.0, max_idle: None });
        let mut last = Duration::ZERO;
        for third in 0..100_000 {
            last = schedule.due(&bytes(third));
        }
        assert_eq!(last, Duration::from_millis(99_999).div_f64(3.0));
    }
}
