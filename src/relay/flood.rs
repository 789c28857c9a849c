//! When to read a pipe less often, and more at a time.
//!
//! A child that writes a little very often costs a wake-up, a read and a write each time. When
//! reads come at a high rate, the pipe is left alone for a millisecond or a few, so that one read
//! takes many writes; it must be large enough not to fill up meanwhile. At the first pause, and
//! when little comes, everything is read at once again.
//!
//! This is the rule alone: it knows no descriptor and no timer, and is told the time.

use std::time::{Duration, Instant};

/// The first pause, and the longest. A poll's timeout counts whole milliseconds.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(4);

/// Reads are weighed over this time.
const WINDOW: Duration = Duration::from_millis(4);
/// A rate is not taken from less than this time.
const SHORTEST: Duration = Duration::from_micros(250);

/// The weight of a flood. A read weighs one, and up to [`FULL`] more as it found the pipe fuller:
/// it takes 32 small reads within the window, or four of a full pipe.
///
/// All tests are run with coalescing forced on and off, too: `--cfg vmon_coalesce="always"` and
/// `"never"`.
const FLOOD: usize = match () {
    () if cfg!(vmon_coalesce = "always") => 1,
    () if cfg!(vmon_coalesce = "never") => usize::MAX,
    () => 32,
};
const FULL: usize = 8;

/// Fewer bytes than this, for each millisecond of a pause, are not worth a delay.
const TRICKLE: u128 = if cfg!(vmon_coalesce = "always") { 0 } else { 256 };

/// What to do after a read that has left the pipe empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Read when something comes.
    Watch,
    /// The same, and let the pipe grow: in a pause, more would come than it holds.
    Grow,
    /// Read again after this time, and not before.
    Pause(Duration),
}

#[derive(Debug)]
enum State {
    /// Each arrival is read at once, and weighed.
    Watching { since: Instant, weight: usize },
    /// What has come is read after each pause.
    Pausing(Duration),
}

/// The rule for one pipe.
#[derive(Debug)]
pub(super) struct Flood {
    state: State,
    /// Bytes read in this window, or since the last pause.
    bytes: usize,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: State::Watching { since: now, weight: 0 }, bytes: 0 }
    }

    pub(super) fn is_pausing(&self) -> bool {
        matches!(self.state, State::Pausing(_))
    }

    /// A read gave `count` bytes, and there may be more in the pipe.
    pub(super) fn read(&mut self, count: usize, capacity: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(count);
        if let State::Watching { since, weight } = &mut self.state {
            if now.saturating_duration_since(*since) > WINDOW {
                (*since, *weight, self.bytes) = (now, 0, count);
            }
            let fullness = count.saturating_mul(FULL) / capacity.max(1);
            *weight = weight.saturating_add(1 + fullness.min(FULL));
        }
    }

    /// The pipe is empty after that.
    pub(super) fn emptied(&mut self, capacity: usize, now: Instant) -> Advice {
        let advice = match self.state {
            State::Watching { weight, .. } if weight < FLOOD => return Advice::Watch,
            State::Watching { since, .. } => {
                let measured = now.saturating_duration_since(since).max(SHORTEST);
                let expected = self.bytes as u128 * FIRST.as_nanos() / measured.as_nanos();
                if expected > capacity as u128 / 2 { Advice::Grow } else { Advice::Pause(FIRST) }
            }
            State::Pausing(pause) => match self.bytes {
                // It was about to fill up, and its writer to wait.
                bytes if bytes > capacity / 2 && pause == FIRST => Advice::Grow,
                bytes if bytes > capacity / 2 => Advice::Pause(FIRST),
                bytes if (bytes as u128) < TRICKLE * pause.as_millis() => Advice::Watch,
                bytes if bytes < capacity / 16 => Advice::Pause(LONGEST.min(pause * 2)),
                _ => Advice::Pause(pause),
            },
        };
        match advice {
            Advice::Pause(pause) => *self = Self { state: State::Pausing(pause), bytes: 0 },
            Advice::Watch | Advice::Grow => *self = Self::new(now),
        }
        advice
    }

    /// Nothing has come in a pause, or nothing is to be read for now: the flood is over.
    pub(super) fn over(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

#[cfg(all(test, not(any(vmon_coalesce = "always", vmon_coalesce = "never"))))]
mod tests {
    use super::*;

    const CAPACITY: usize = 64 * 1024;

    /// A pipe and a clock that moves only when told to.
    struct Clock {
        flood: Flood,
        now: Instant,
        capacity: usize,
    }

    impl Clock {
        fn new() -> Self {
            let now = Instant::now();
            Self { flood: Flood::new(now), now, capacity: CAPACITY }
        }

        /// After this many microseconds, this many bytes are read and the pipe is empty.
        fn read(&mut self, after: u64, count: usize) -> Advice {
            self.now += Duration::from_micros(after);
            self.flood.read(count, self.capacity, self.now);
            self.flood.emptied(self.capacity, self.now)
        }

        /// So many reads of this kind, and the last one's advice.
        fn reads(&mut self, times: usize, after: u64, count: usize) -> Advice {
            (0..times).map(|_| self.read(after, count)).last().unwrap()
        }

        /// In a flood of small writes.
        fn flooded() -> Self {
            let mut clock = Self::new();
            assert_eq!(clock.reads(32, 20, 100), Advice::Pause(FIRST));
            clock
        }
    }

    #[test]
    fn thirty_two_reads_within_four_milliseconds_are_a_flood() {
        let mut clock = Clock::new();
        assert_eq!(clock.reads(31, 100, 100), Advice::Watch);
        assert!(!clock.flood.is_pausing());
        assert_eq!(clock.read(100, 100), Advice::Pause(FIRST));
        assert!(clock.flood.is_pausing());
    }

    #[test]
    fn a_slower_stream_never_is_one() {
        let mut clock = Clock::new();
        for _ in 0..10_000 {
            assert_eq!(clock.read(140, 100), Advice::Watch);
        }
    }

    #[test]
    fn reads_of_a_full_pipe_let_it_grow_instead_of_pausing() {
        let mut clock = Clock::new();
        assert_eq!(clock.reads(3, 50, CAPACITY), Advice::Watch);
        assert_eq!(clock.read(50, CAPACITY), Advice::Grow);
        assert!(!clock.flood.is_pausing());
    }

    #[test]
    fn a_pipe_that_has_grown_enough_is_left_alone_for_a_pause() {
        let mut clock = Clock::new();
        // 100 bytes a microsecond: more than half of the pipe in a millisecond.
        assert_eq!(clock.reads(32, 10, 1_000), Advice::Grow);
        clock.capacity = 1 << 20;
        assert_eq!(clock.reads(32, 10, 1_000), Advice::Pause(FIRST));
    }

    #[test]
    fn pauses_get_longer_while_little_comes_up_to_four_milliseconds() {
        let mut clock = Clock::flooded();
        assert_eq!(clock.read(1_000, 2_000), Advice::Pause(2 * FIRST));
        assert_eq!(clock.read(2_000, 2_000), Advice::Pause(LONGEST));
        assert_eq!(clock.read(4_000, 2_000), Advice::Pause(LONGEST));
    }

    #[test]
    fn a_pause_that_suits_the_rate_stays() {
        let mut clock = Clock::flooded();
        for _ in 0..100 {
            assert_eq!(clock.read(1_000, CAPACITY / 4), Advice::Pause(FIRST));
        }
    }

    #[test]
    fn a_pipe_that_nearly_fills_up_gets_the_shortest_pause_and_then_none() {
        let mut clock = Clock::flooded();
        assert_eq!(clock.reads(2, 1_000, 2_000), Advice::Pause(LONGEST));
        assert_eq!(clock.read(4_000, CAPACITY - 1), Advice::Pause(FIRST));
        assert_eq!(clock.read(1_000, CAPACITY - 1), Advice::Grow);
        assert!(!clock.flood.is_pausing());
    }

    #[test]
    fn what_several_reads_take_after_a_pause_counts_together() {
        let mut clock = Clock::flooded();
        for _ in 0..3 {
            clock.flood.read(CAPACITY / 4, CAPACITY, clock.now);
        }
        assert_eq!(clock.flood.emptied(CAPACITY, clock.now), Advice::Grow);
    }

    #[test]
    fn a_trickle_ends_the_flood() {
        let mut clock = Clock::flooded();
        assert_eq!(clock.read(1_000, 255), Advice::Watch);
        assert!(!clock.flood.is_pausing());
    }

    #[test]
    fn the_first_pause_ends_the_flood_and_what_comes_next_is_read_at_once() {
        let mut clock = Clock::flooded();
        clock.flood.over(clock.now);
        assert!(!clock.flood.is_pausing());
        assert_eq!(clock.reads(31, 10, 100), Advice::Watch);
    }
}
