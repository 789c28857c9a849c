//! The two clocks, read together.

use std::time::{Duration, Instant};

use super::entry::Timestamp;

/// Readings that are this close together are of one moment.
const CLOSE: Duration = Duration::from_millis(1);

const ATTEMPTS: usize = 5;

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

    /// As [`now`](Self::now), with the two readings close together: between them the process may have
    /// been suspended.
    pub(super) fn precise() -> Self {
        let mut closest: Option<(Duration, Self)> = None;
        for _ in 0..ATTEMPTS {
            let moment = Self::now();
            let apart = moment.monotonic.elapsed();
            if closest.is_none_or(|(before, _)| apart < before) {
                closest = Some((apart, moment));
            }
            if apart < CLOSE {
                break;
            }
        }
        closest.map_or_else(Self::now, |(_, moment)| moment)
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
