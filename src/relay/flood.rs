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
const TRICKLE: usize = if cfg!(vmon_coalesce = "always") { 0 } else { 256 };

/// A pause that brings less than this part of what the rate before it promised has made the writer
/// wait: it is one that goes on only when it has been read, as one that answers requests does.
const KEPT: usize = if cfg!(vmon_coalesce = "always") { usize::MAX } else { 4 };

/// How long no pause is tried after that, at first, and at most while it happens again each time.
const DOUBT: Duration = Duration::from_millis(100);
const MOST_DOUBT: Duration = Duration::from_secs(3);

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
    /// What has come is read after each pause; `promised` by the rate before.
    Pausing { pause: Duration, promised: usize },
}

/// The rule for one pipe.
#[derive(Debug)]
pub(super) struct Flood {
    state: State,
    /// Bytes read in this window, or since the last pause.
    bytes: usize,
    /// No pause is tried before this instant.
    not_before: Instant,
    /// How long that is put off when the next pause breaks its promise too.
    doubt: Duration,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        let state = State::Watching { since: now, weight: 0 };
        Self { state, bytes: 0, not_before: now, doubt: DOUBT }
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
        match self.state {
            State::Watching { weight, .. } if weight < FLOOD => Advice::Watch,
            State::Watching { since, .. } => self.flooded(capacity, since, now),
            State::Pausing { pause, promised } => self.paused(capacity, pause, promised, now),
        }
    }

    /// Nothing has come in a pause, or nothing is to be read for now: the flood is over.
    pub(super) fn over(&mut self, now: Instant) {
        self.watch(now);
    }

    fn flooded(&mut self, capacity: usize, since: Instant, now: Instant) -> Advice {
        let measured = now.saturating_duration_since(since).max(SHORTEST);
        let promised = scale(self.bytes, FIRST, measured);
        if promised > capacity / 2 {
            self.watch(now);
            Advice::Grow
        } else if now < self.not_before {
            self.watch(now);
            Advice::Watch
        } else {
            self.pause(FIRST, promised)
        }
    }

    fn paused(&mut self, capacity: usize, was: Duration, promised: usize, now: Instant) -> Advice {
        let bytes = self.bytes;
        if bytes < promised / KEPT {
            self.not_before = now + self.doubt;
            self.doubt = MOST_DOUBT.min(self.doubt * 2);
            self.watch(now);
            return Advice::Watch;
        }
        self.doubt = DOUBT;
        // It was about to fill up, and its writer to wait.
        let too_much = bytes > capacity / 2;
        if too_much && was == FIRST {
            self.watch(now);
            return Advice::Grow;
        }
        if bytes < scale(TRICKLE, was, FIRST) {
            self.watch(now);
            return Advice::Watch;
        }
        let pause = match bytes {
            _ if too_much => FIRST,
            bytes if bytes < capacity / 16 => LONGEST.min(was * 2),
            _ => was,
        };
        self.pause(pause, scale(bytes, pause, was))
    }

    fn watch(&mut self, now: Instant) {
        self.state = State::Watching { since: now, weight: 0 };
        self.bytes = 0;
    }

    fn pause(&mut self, pause: Duration, promised: usize) -> Advice {
        self.state = State::Pausing { pause, promised };
        self.bytes = 0;
        Advice::Pause(pause)
    }
}

/// What comes in `wanted`, when `bytes` came in `measured`.
fn scale(bytes: usize, wanted: Duration, measured: Duration) -> usize {
    let scaled = bytes as u128 * wanted.as_nanos() / measured.as_nanos().max(1);
    usize::try_from(scaled).unwrap_or(usize::MAX)
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

        fn is_pausing(&self) -> bool {
            matches!(self.flood.state, State::Pausing { .. })
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
        assert!(!clock.is_pausing());
        assert_eq!(clock.read(100, 100), Advice::Pause(FIRST));
        assert!(clock.is_pausing());
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
        assert!(!clock.is_pausing());
    }

    /// How many of so many answers were read only after a pause, by a child that writes each as
    /// soon as the one before it has been read.
    fn delayed(answers: usize, micros: u64, count: usize) -> usize {
        let mut clock = Clock::new();
        let mut after = micros;
        let mut delayed = 0;
        for _ in 0..answers {
            after = match clock.read(after, count) {
                Advice::Pause(pause) => {
                    delayed += 1;
                    pause.as_micros() as u64
                }
                Advice::Watch | Advice::Grow => micros,
            };
        }
        delayed
    }

    #[test]
    fn a_child_that_waits_until_it_has_been_read_is_hardly_ever_delayed() {
        for (micros, count) in [(20, 100), (20, 1_500), (50, 4_000), (30, 16_000), (100, 60_000)] {
            let delayed = delayed(100_000, micros, count);
            assert!(delayed < 100, "{delayed} of 100,000, {count} bytes each {micros} us");
        }
    }

    #[test]
    fn after_a_false_alarm_a_real_flood_is_one_again() {
        let mut clock = Clock::flooded();
        assert_eq!(clock.read(1_000, 100), Advice::Watch);
        let waited = (0..).take_while(|_| clock.read(20, 100) == Advice::Watch).count() as u64;
        assert!((DOUBT.as_micros()..2 * DOUBT.as_micros()).contains(&u128::from(waited * 20)));
        assert_eq!(clock.read(1_000, 5_000), Advice::Pause(FIRST));
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
        assert!(!clock.is_pausing());
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
        assert!(!clock.is_pausing());
    }

    #[test]
    fn the_first_pause_ends_the_flood_and_what_comes_next_is_read_at_once() {
        let mut clock = Clock::flooded();
        clock.flood.over(clock.now);
        assert!(!clock.is_pausing());
        assert_eq!(clock.reads(31, 10, 100), Advice::Watch);
    }
}
