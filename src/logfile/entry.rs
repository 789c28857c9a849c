//! What a log holds: bytes of streams, and marks between them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where bytes of a log come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The child's standard output.
    Stdout,
    /// The child's standard error.
    Stderr,
    /// The child's terminal, which is both.
    Tty,
    /// A line of our own, in the place of bytes that were left out.
    Notice,
}

/// Something that happened between two bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A run began, with this process.
    Start {
        /// The child's pid.
        pid: u32,
    },
    /// It ended, and this is all of its output.
    Stop(End),
    /// The child's terminal has had this size from here on.
    Resize {
        /// Width in characters.
        columns: u16,
        /// Height in lines.
        rows: u16,
    },
    /// A console that had closed was opened again.
    Reopen,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// Nobody knows.
    Unknown,
}

/// A moment of the wall clock (`CLOCK_REALTIME`), in nanoseconds since the Unix epoch.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use vmon::logfile::Timestamp;
///
/// let at = Timestamp::from(UNIX_EPOCH + Duration::from_millis(1_500));
/// assert_eq!(at.nanoseconds(), 1_500_000_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Now. A clock before 1970 counts as 1970.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// So many nanoseconds after the Unix epoch.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Until the year 2554, when nanoseconds no longer fit into 64 bits.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
