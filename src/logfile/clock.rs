//! The two clocks, read together.

use std::time::{Duration, Instant};

use super::entry::Timestamp;

/// One reading of the wall clock and of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) monotonic: Instant,
}

impl Moment {
    /// Both readings go through the vDSO: no system call.
    pub(super) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: Timestamp::now() }
    }

    /// What the wall clock shows at `later` unless it is stepped in between.
    pub(super) fn expected_at(&self, later: &Self) -> Timestamp {
        self.wall.after(later.monotonic.saturating_duration_since(self.monotonic))
    }

    /// By how much the wall clock has been stepped between this reading and a later one.
    pub(super) fn step_to(&self, later: &Self) -> Duration {
        let expected = self.expected_at(later);
        later.wall.since(expected).max(expected.since(later.wall))
    }
}
