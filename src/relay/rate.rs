//! How many bytes of a source are taken in a time, and what happens to the rest.
//!
//! A token bucket, one token a byte, fills at the rate and holds the burst. Bytes that are read
//! take their tokens away. Without tokens nothing is read until there are enough for a read that
//! justifies a wake-up; or, under `drop`, bytes are read faster by a factor, and those without
//! tokens are left out.
//!
//! This file is the rule alone: it knows no descriptor and no timer, and gets the time as an
//! argument.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::values::words;

/// Under `drop` a source is read this many times as fast as the rate, and waits then, so that it
/// can't take more than a part of the processor either.
const EXCESS: u64 = 8;

/// A source that has waited is read for this many bytes, or for those that come within these times.
const WORTH: u64 = 4096;
const SOON: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(100);

const NANOS: u128 = 1_000_000_000;

/// How fast each stream of a sandbox may fill its log: a token bucket.
///
/// Each of the child's streams has a bucket of its own, full at the start of each run. After the
/// child's end, the rest of its pipes is read at any rate.
///
/// The text form is `SIZE/s[,burst=SIZE][,over=POLICY]`.
///
/// ```
/// use std::num::NonZeroU64;
/// use vmon::monitor::{LogRate, OverRate, Sandbox};
///
/// let rate = LogRate::new(NonZeroU64::new(1 << 20).unwrap());
/// assert_eq!((rate.burst, rate.over), (1 << 20, OverRate::Block));
/// assert_eq!("1MiB/s".parse(), Ok(rate));
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?
///     .log_rate(rate.over(OverRate::Drop));
/// # Ok::<(), vmon::monitor::NameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRate {
    /// Bytes per second.
    pub per_second: NonZeroU64,
    /// The size of the bucket: the most bytes at once, after a pause. The minimum is the larger
    /// of two numbers: the bytes of 10 ms at this rate, and the lesser of 4 KiB and the bytes of
    /// 100 ms. A smaller value means the minimum.
    pub burst: u64,
    /// What happens to output that exceeds the rate.
    pub over: OverRate,
}

/// What happens to output that exceeds its [`LogRate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverRate {
    /// It is read later, when the rate allows it: the child blocks on its full pipe.
    #[default]
    Block,
    /// It is read and dropped: neither the log nor any other reader gets it. Once half of the burst
    /// is available again, or no output is left, a line in its place says how many bytes were
    /// dropped; they count as dropped. It is read at eight times the rate at most; more waits.
    Drop,
}

words!(OverRate { Block = "block", Drop = "drop" });

impl LogRate {
    /// The smallest burst that [`new`](Self::new) gives.
    const BURST: u64 = 64 << 10;

    /// A rate in bytes per second, with a burst of one second's bytes, at least 64 KiB, and
    /// [`OverRate::Block`].
    pub fn new(per_second: NonZeroU64) -> Self {
        let burst = per_second.get().max(Self::BURST);
        Self { per_second, burst, over: OverRate::Block }
    }

    /// Sets the size of the bucket.
    #[must_use]
    pub fn burst(mut self, burst: u64) -> Self {
        self.burst = burst;
        self
    }

    /// Sets what happens to output that exceeds the rate.
    #[must_use]
    pub fn over(mut self, over: OverRate) -> Self {
        self.over = over;
        self
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_second: NonZeroU64,
    size: u64,
    tokens: u64,
    /// The time at which the number of tokens was computed.
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    fn new(per_second: NonZeroU64, burst: u64, now: Instant) -> Self {
        let size = burst.max(worth(per_second));
        Self { per_second, size, tokens: size, at: now }
    }

    /// The tokens at this time.
    fn refill(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let rate = u128::from(self.per_second.get());
        let gained = passed.saturating_mul(rate) / NANOS;
        if gained >= u128::from(self.size - self.tokens) {
            (self.tokens, self.at) = (self.size, now.max(self.at));
        } else {
            // Less than the size, which is a u64. The rest of a token's time is carried over.
            self.tokens += gained as u64;
            self.at += nanoseconds((gained * NANOS).div_ceil(rate));
        }
        self.tokens
    }

    fn take(&mut self, count: u64) {
        self.tokens = self.tokens.saturating_sub(count);
    }

    /// The time from `now` until there are `wanted` tokens, or as many as the bucket holds.
    fn time_until(&mut self, wanted: u64, now: Instant) -> Duration {
        let lacking = wanted.min(self.size).saturating_sub(self.refill(now));
        let time = (u128::from(lacking) * NANOS).div_ceil(self.per_second.get().into());
        nanoseconds(time).saturating_sub(now.saturating_duration_since(self.at))
    }
}

/// The number of bytes that justify a wake-up at this rate.
fn worth(per_second: NonZeroU64) -> u64 {
    let within = |time: Duration| {
        let bytes = u128::from(per_second.get()) * time.as_nanos() / NANOS;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    within(SOON).max(WORTH.min(within(LATE))).max(1)
}

fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    /// Nothing: the source waits.
    Waits,
    /// Nothing at the moment.
    Kept,
    /// This many bytes in a row.
    LeftOut(u64),
}

/// The rule for one source.
#[derive(Debug)]
pub(super) struct Limit {
    /// Limits the bytes that are kept.
    kept: Bucket,
    /// Limits the bytes that are read, if those are more.
    read: Option<Bucket>,
    excess: Excess,
    /// Whether the source waits until a read justifies a wake-up.
    waiting: bool,
}

impl Limit {
    pub(super) fn new(rate: LogRate, now: Instant) -> Self {
        let LogRate { per_second, burst, over } = rate;
        let kept = Bucket::new(per_second, burst, now);
        let times = NonZeroU64::MIN.saturating_add(EXCESS - 1);
        let faster =
            || Bucket::new(per_second.saturating_mul(times), kept.size.saturating_mul(EXCESS), now);
        let (read, excess) = match over {
            OverRate::Block => (None, Excess::Waits),
            OverRate::Drop => (Some(faster()), Excess::Kept),
        };
        Self { kept, read, excess, waiting: false }
    }

    /// How many bytes may be read now; for none, [`wait`](Self::wait) returns how long.
    pub(super) fn room(&mut self, now: Instant) -> u64 {
        let waiting = self.waiting;
        let bucket = self.bucket();
        let (tokens, worth) = (bucket.refill(now), worth(bucket.per_second));
        let room = if waiting && tokens < worth { 0 } else { tokens };
        self.waiting = room == 0;
        room
    }

    /// The source has more bytes: it is read again when that justifies a wake-up, and not for the
    /// few tokens that have come meanwhile.
    pub(super) fn left_more(&mut self) {
        self.waiting = true;
    }

    /// How long nothing may be read.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let bucket = self.bucket();
        bucket.time_until(worth(bucket.per_second), now)
    }

    /// Counts bytes that were read; returns how many of them, the first ones, are kept.
    pub(super) fn read(&mut self, count: usize, now: Instant) -> usize {
        let all = count as u64;
        if let Some(read) = &mut self.read {
            read.take(all);
        }
        let kept = match &mut self.excess {
            Excess::Waits => all,
            Excess::LeftOut(bytes) => {
                *bytes = bytes.saturating_add(all);
                0
            }
            Excess::Kept => {
                let kept = all.min(self.kept.refill(now));
                if kept < all {
                    self.excess = Excess::LeftOut(all - kept);
                }
                kept
            }
        };
        self.kept.take(kept);
        usize::try_from(kept).unwrap_or(count)
    }

    /// How long bytes are left out from now on; `None` if none are. That is until half of the burst
    /// can be kept, so that a flood has few gaps.
    pub(super) fn gap(&mut self, now: Instant) -> Option<Duration> {
        let wanted = self.kept.size.div_ceil(2);
        matches!(self.excess, Excess::LeftOut(_)).then(|| self.kept.time_until(wanted, now))
    }

    /// Ends a gap; returns how many bytes it has.
    pub(super) fn end_gap(&mut self) -> u64 {
        match self.excess {
            Excess::LeftOut(bytes) => {
                self.excess = Excess::Kept;
                bytes
            }
            Excess::Waits | Excess::Kept => 0,
        }
    }

    /// The bucket that limits reading.
    fn bucket(&mut self) -> &mut Bucket {
        self.read.as_mut().unwrap_or(&mut self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MS: Duration = Duration::from_millis(1);

    /// A source that always has more, read as the rule allows, and a clock that the test moves.
    struct Clock {
        limit: Limit,
        now: Instant,
        read: u64,
        kept: u64,
        wakes: u64,
        gaps: Vec<u64>,
    }

    impl Clock {
        fn new(per_second: u64, burst: u64, over: OverRate) -> Self {
            let now = Instant::now();
            let per_second = NonZeroU64::new(per_second).unwrap();
            let limit = Limit::new(LogRate { per_second, burst, over }, now);
            Self { limit, now, read: 0, kept: 0, wakes: 0, gaps: Vec::new() }
        }

        /// A flood for this time.
        fn flood(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now <= end {
                if self.limit.gap(self.now) == Some(Duration::ZERO) {
                    self.gaps.push(self.limit.end_gap());
                }
                let room = self.limit.room(self.now);
                if room == 0 {
                    assert!(self.limit.waiting);
                    self.now += self.limit.wait(self.now);
                    self.wakes += 1;
                    continue;
                }
                let kept = self.limit.read(room as usize, self.now);
                self.read = self.read.saturating_add(room);
                self.kept = self.kept.saturating_add(kept as u64);
            }
        }
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate() {
        let mut clock = Clock::new(MIB, 256 << 10, OverRate::Block);
        clock.flood(Duration::ZERO);
        assert_eq!(clock.read, 256 << 10);
        clock.flood(Duration::from_secs(10));
        let over_ten_seconds = clock.read - (256 << 10);
        assert!(over_ten_seconds.abs_diff(10 * MIB) <= MIB / 50, "{over_ten_seconds}");
        assert_eq!(clock.kept, clock.read);
    }

    #[test]
    fn a_source_at_its_limit_is_woken_for_a_hundred_times_a_second_at_most() {
        for per_second in [1, 100, 5_000, 100_000, MIB, 1 << 30, u64::MAX] {
            let mut clock = Clock::new(per_second, 1, OverRate::Block);
            clock.flood(Duration::from_secs(3));
            assert!(clock.wakes <= 301, "{per_second}: {}", clock.wakes);
            assert!(clock.read <= per_second.saturating_mul(4), "{per_second}: {}", clock.read);
        }
    }

    #[test]
    fn a_source_that_has_more_is_not_read_for_the_tokens_that_come_while_it_is_read() {
        let mut clock = Clock::new(MIB, 1, OverRate::Block);
        let mut reads = 0;
        for _ in 0..100_000 {
            clock.now += Duration::from_micros(10);
            let room = clock.limit.room(clock.now);
            if room > 0 {
                clock.limit.read(room as usize, clock.now);
                clock.limit.left_more();
                reads += 1;
            }
        }
        assert!(reads <= 102, "{reads}");
    }

    #[test]
    fn a_slow_rate_lets_something_through_ten_times_a_second() {
        let mut clock = Clock::new(1_000, 1, OverRate::Block);
        assert_eq!(clock.limit.room(clock.now), 100);
        clock.limit.read(100, clock.now);
        assert_eq!(clock.limit.room(clock.now), 0);
        assert_eq!(clock.limit.wait(clock.now), 100 * MS);
    }

    #[test]
    fn no_part_of_a_tokens_time_is_lost_however_often_it_is_read() {
        let mut clock = Clock::new(1_000, 1_000, OverRate::Block);
        clock.limit.read(1_000, clock.now);
        for _ in 0..10_000 {
            clock.now += Duration::from_nanos(70_001);
            clock.limit.room(clock.now);
        }
        assert_eq!(clock.limit.room(clock.now), 700);
    }

    #[test]
    fn tokens_never_exceed_the_burst_however_long_it_was_silent() {
        let mut clock = Clock::new(MIB, MIB, OverRate::Block);
        clock.now += Duration::from_secs(100 * 365 * 86_400);
        assert_eq!(clock.limit.room(clock.now), MIB);
        // Nor if a clock goes back.
        let earlier = clock.now - Duration::from_secs(5);
        assert_eq!(clock.limit.room(earlier), MIB);
    }

    #[test]
    fn a_few_bytes_after_a_wait_do_not_end_it() {
        let mut clock = Clock::new(MIB, MIB, OverRate::Block);
        clock.limit.read(MIB as usize, clock.now);
        assert_eq!(clock.limit.room(clock.now), 0);
        clock.now += MS;
        assert_eq!(clock.limit.room(clock.now), 0);
        let wait = clock.limit.wait(clock.now);
        clock.now += wait;
        assert_eq!(clock.limit.room(clock.now), MIB / 100);
        assert!(!clock.limit.waiting);
    }

    #[test]
    fn dropped_and_kept_bytes_are_all_bytes_read() {
        let mut clock = Clock::new(MIB, MIB, OverRate::Drop);
        clock.flood(Duration::from_secs(10));
        let left_out: u64 = clock.gaps.iter().sum::<u64>() + clock.limit.end_gap();
        assert_eq!(clock.kept + left_out, clock.read);
        assert!(clock.kept.abs_diff(11 * MIB) <= MIB, "{}", clock.kept);
    }

    #[test]
    fn dropped_bytes_are_read_at_most_eight_times_as_fast() {
        let mut clock = Clock::new(MIB, MIB, OverRate::Drop);
        clock.flood(Duration::from_secs(10));
        assert!(clock.read <= 8 * 11 * MIB + MIB, "{}", clock.read);
        assert!(clock.wakes <= 1_001, "{}", clock.wakes);
    }

    #[test]
    fn a_flood_has_a_gap_for_each_half_of_a_burst_and_no_more() {
        let mut clock = Clock::new(MIB, MIB, OverRate::Drop);
        clock.flood(Duration::from_secs(10));
        assert!((15..=21).contains(&clock.gaps.len()), "{}", clock.gaps.len());
        let mut quiet = Clock::new(MIB, MIB, OverRate::Drop);
        assert_eq!(quiet.limit.read(MIB as usize, quiet.now), MIB as usize);
        assert_eq!(quiet.limit.gap(quiet.now), None);
    }
}
