//! When to read a source less often, and more bytes at a time.
//!
//! A child that writes a few bytes very often costs a wake-up, a read and a write each time: a VMM
//! writes each byte of a serial port separately. When reads come at a high rate, the source is not
//! read for one to four milliseconds, so that one read takes many writes. It must have the capacity
//! for that. When nothing comes in a pause, or little, every byte is read at once again.
//!
//! This file is the rule alone: it knows no descriptor and no timer, and gets the time as an
//! argument.

use std::time::{Duration, Instant};

/// The first and the longest pause. The timeout of a poll counts whole milliseconds.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(4);

/// The window in which reads are weighed.
const WINDOW: Duration = Duration::from_millis(4);
/// The shortest time that a rate is computed from.
const SHORTEST: Duration = Duration::from_micros(250);

/// The weight of a flood. A read weighs one, and up to [`FULL`] more the fuller the pipe was: 32
/// small reads within the window are a flood, or four reads of a full pipe.
///
/// The tests also run with coalescing always on and always off: `--cfg vmon_coalesce="always"` and
/// `"never"`.
const FLOOD: usize = match () {
    () if cfg!(vmon_coalesce = "always") => 1,
    () if cfg!(vmon_coalesce = "never") => usize::MAX,
    () => 32,
};
const FULL: usize = 8;

/// Fewer bytes than this for each millisecond of a pause do not justify a delay, unless it took
/// more than [`FEW`] reads to get as many before.
const TRICKLE: usize = if cfg!(vmon_coalesce = "always") { 0 } else { 256 };
const FEW: usize = 4;

/// A pause that brings less than this part of the predicted bytes has made the writer wait: it
/// continues only when its output has been read, as a program that answers requests does.
const KEPT: usize = if cfg!(vmon_coalesce = "always") { usize::MAX } else { 4 };

/// How long no pause is tried after a wrong prediction, at first, and at most if that repeats. A
/// pause after right predictions in the same flood does not count: then the flood has ended.
const BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(3);

/// How long after a flood its next part is expected, which has to weigh a quarter only.
const PART: Duration = Duration::from_millis(100);
const KNOWN: usize = FLOOD / 4 * 3;

/// What to do after a read that has left the pipe empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Read when bytes arrive.
    Watch,
    /// The same, and let the pipe grow: in a pause, more would arrive than it holds.
    Grow,
    /// Read again after this time, and not before.
    Pause(Duration),
}

#[derive(Debug)]
enum State {
    /// Bytes are read as they arrive, and the reads are weighed.
    Watching { since: Instant, weight: usize },
    /// Bytes are read after each pause.
    Pausing(Pause),
}

/// A pause.
#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    /// The bytes that it brings at the rate before it.
    predicted: usize,
    /// The fewest bytes a millisecond that justify it.
    worth: usize,
    /// The number of pauses before it, in a row, whose prediction was right.
    kept: u32,
}

/// The rule for one source.
#[derive(Debug)]
pub(super) struct Flood {
    state: State,
    /// Bytes read in this window, or since the last pause.
    bytes: usize,
    /// And how many reads that were.
    reads: usize,
    /// No pause is tried before this instant.
    not_before: Instant,
    /// How long pauses are put off if the next prediction is wrong too.
    backoff: Duration,
    /// The next part of a flood is expected until this instant.
    parts_until: Instant,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        let state = State::Watching { since: now, weight: 0 };
        Self { state, bytes: 0, reads: 0, not_before: now, backoff: BACKOFF, parts_until: now }
    }

    /// A read returned `count` bytes, and there may be more in the source.
    pub(super) fn read(&mut self, count: usize, capacity: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(count);
        self.reads = self.reads.saturating_add(1);
        if let State::Watching { since, weight } = &mut self.state {
            if now.saturating_duration_since(*since) > WINDOW {
                let known = if now < self.parts_until { KNOWN } else { 0 };
                (*since, *weight, self.bytes, self.reads) = (now, known, count, 1);
            }
            let fullness = count.saturating_mul(FULL) / capacity.max(1);
            *weight = weight.saturating_add(1 + fullness.min(FULL));
        }
    }

    /// The source is empty after that.
    pub(super) fn emptied(&mut self, capacity: usize, now: Instant) -> Advice {
        match self.state {
            State::Watching { weight, .. } if weight < FLOOD => Advice::Watch,
            State::Watching { since, .. } => self.flooded(capacity, since, now),
            State::Pausing(pause) => self.paused(capacity, pause, now),
        }
    }

    /// Nothing has come in a pause, or the source is not to be read now: the flood is over.
    pub(super) fn over(&mut self, now: Instant) {
        self.watch(now);
    }

    fn flooded(&mut self, capacity: usize, since: Instant, now: Instant) -> Advice {
        let measured = now.saturating_duration_since(since).max(SHORTEST);
        let predicted = scale(self.bytes, FIRST, measured);
        let few = self.bytes.saturating_mul(FEW) / self.reads.max(1);
        if predicted > capacity / 2 {
            self.watch(now);
            Advice::Grow
        } else if now < self.not_before {
            self.watch(now);
            Advice::Watch
        } else {
            self.pause(Pause { length: FIRST, predicted, worth: TRICKLE.min(few), kept: 0 })
        }
    }

    fn paused(&mut self, capacity: usize, was: Pause, now: Instant) -> Advice {
        let bytes = self.bytes;
        if bytes < was.predicted / KEPT {
            if was.kept == 0 {
                self.not_before = now + self.backoff;
                self.backoff = LONGEST_BACKOFF.min(self.backoff * 2);
            }
            self.watch(now);
            return Advice::Watch;
        }
        self.backoff = BACKOFF;
        // The pipe was about to fill up, and its writer to block.
        let too_much = bytes > capacity / 2;
        if too_much && was.length == FIRST {
            self.watch(now);
            return Advice::Grow;
        }
        if bytes < scale(was.worth, was.length, FIRST) {
            self.watch(now);
            return Advice::Watch;
        }
        let length = match bytes {
            _ if too_much => FIRST,
            bytes if bytes < capacity / 16 => LONGEST.min(was.length * 2),
            _ => was.length,
        };
        let predicted = scale(bytes, length, was.length);
        self.pause(Pause { length, predicted, kept: was.kept.saturating_add(1), ..was })
    }

    fn watch(&mut self, now: Instant) {
        if let State::Pausing(Pause { kept: 1.., .. }) = self.state {
            self.parts_until = now + PART;
        }
        let weight = if now < self.parts_until { KNOWN } else { 0 };
        self.state = State::Watching { since: now, weight };
        (self.bytes, self.reads) = (0, 0);
    }

    fn pause(&mut self, pause: Pause) -> Advice {
        self.state = State::Pausing(pause);
        (self.bytes, self.reads) = (0, 0);
        Advice::Pause(pause.length)
    }
}

/// The bytes that come in `wanted`, if `bytes` came in `measured`.
fn scale(bytes: usize, wanted: Duration, measured: Duration) -> usize {
    let scaled = bytes as u128 * wanted.as_nanos() / measured.as_nanos().max(1);
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[cfg(not(any(vmon_coalesce = "always", vmon_coalesce = "never")))]
mod tests {
    use super::*;

    const CAPACITY: usize = 64 * 1024;

    /// A pipe, and a clock that the test moves.
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

        /// This many reads of this kind; returns the last advice.
        fn reads(&mut self, times: usize, after: u64, count: usize) -> Advice {
            (0..times).map(|_| self.read(after, count)).last().unwrap()
        }

        fn is_pausing(&self) -> bool {
            matches!(self.flood.state, State::Pausing(_))
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

    /// How many of `answers` answers were read only after a pause, if the child writes each one as
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
    fn a_child_that_answers_requests_is_seldom_delayed() {
        for (micros, count) in
            [(20, 1), (120, 1), (20, 100), (20, 1_500), (50, 4_000), (30, 16_000), (100, 60_000)]
        {
            let delayed = delayed(100_000, micros, count);
            assert!(delayed < 100, "{delayed} of 100,000, {count} bytes each {micros} us");
        }
    }

    #[test]
    fn after_a_wrong_prediction_a_real_flood_is_detected_again() {
        let mut clock = Clock::flooded();
        assert_eq!(clock.read(1_000, 100), Advice::Watch);
        let waited = (0..).take_while(|_| clock.read(20, 100) == Advice::Watch).count() as u64;
        assert!((BACKOFF.as_micros()..2 * BACKOFF.as_micros()).contains(&u128::from(waited * 20)));
        assert_eq!(clock.read(1_000, 5_000), Advice::Pause(FIRST));
    }

    #[test]
    fn the_end_of_a_part_of_a_flood_is_not_a_wrong_prediction() {
        for end in [100, 0] {
            let mut clock = Clock::flooded();
            for _ in 0..100 {
                assert_eq!(clock.read(1_000, 5_000), Advice::Pause(FIRST));
                if end > 0 {
                    assert_eq!(clock.read(1_000, end), Advice::Watch);
                } else {
                    clock.flood.over(clock.now);
                }
                // A gap is not part of the rate.
                clock.now += Duration::from_millis(20);
                assert_eq!(clock.reads(7, 20, 100), Advice::Watch);
                assert_eq!(clock.read(20, 100), Advice::Pause(FIRST));
            }
            clock.flood.over(clock.now);
            clock.now += PART;
            assert_eq!(clock.reads(31, 20, 100), Advice::Watch);
            assert_eq!(clock.read(20, 100), Advice::Pause(FIRST));
        }
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
    fn several_reads_after_a_pause_count_together() {
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
    fn a_flood_of_single_bytes_goes_on_with_less_than_that() {
        let mut clock = Clock::new();
        assert_eq!(clock.reads(32, 20, 1), Advice::Pause(FIRST));
        assert_eq!(clock.read(1_000, 50), Advice::Pause(2 * FIRST));
        assert_eq!(clock.read(2_000, 100), Advice::Pause(LONGEST));
        for _ in 0..100 {
            assert_eq!(clock.read(4_000, 200), Advice::Pause(LONGEST));
        }
        // Three reads a millisecond do not justify a pause.
        assert_eq!(clock.read(4_000, 3 * 4), Advice::Watch);
    }

    #[test]
    fn the_first_pause_ends_the_flood_and_what_comes_next_is_read_at_once() {
        let mut clock = Clock::flooded();
        clock.flood.over(clock.now);
        assert!(!clock.is_pausing());
        assert_eq!(clock.reads(31, 10, 100), Advice::Watch);
    }
}
