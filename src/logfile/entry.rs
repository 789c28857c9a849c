//! The content of a log: bytes of streams, and marks between them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The source of bytes in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stream {
    /// The child's standard output.
    Stdout,
    /// The child's standard error.
    Stderr,
    /// The child's terminal: its standard output and error together.
    Tty,
    /// A line that vmon wrote in place of bytes that were left out.
    Notice,
}

/// An event between two bytes of a log.
///
/// ```
/// use vmon::logfile::{RunEnd, LogFile, LogOptions, Mark, Stream};
///
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let mut log = LogFile::open(log_dir, "Sandboxfile", "vm", LogOptions::default())?;
/// log.mark(Mark::Start { pid: 4711 });
/// log.write(Stream::Tty, b"login: ")?;
/// log.mark(Mark::Stop(RunEnd::Exited(0)));
/// log.finish()?;
/// assert!(log_dir.join("Sandboxfile/vm.log.idx").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mark {
    /// A run started.
    Start {
        /// The child's pid.
        pid: u32,
    },
    /// The run ended, and all of its output is in the log.
    Stop(RunEnd),
    /// The child's terminal was resized.
    Resize {
        /// Width in characters.
        columns: u16,
        /// Height in lines.
        rows: u16,
    },
    /// A console that had closed was opened again.
    Reopen,
    /// The wall clock was stepped here. The time of the mark is what it would show otherwise. Missing
    /// if that is not known, as between two processes.
    BeforeStep,
    /// The wall clock was stepped here. The time of the mark is that of the clock as it is set now, as
    /// those of all that follows.
    AfterStep,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// With this exit code.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// The exit status is unknown.
    Unknown,
}

/// A time of the wall clock (`CLOCK_REALTIME`), in nanoseconds since the Unix epoch.
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
    /// The current time. A clock before 1970 counts as 1970.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The time `nanoseconds` after the Unix epoch.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// The time this much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// The largest [`Timestamp`] from the year 2554 on, when nanoseconds exceed 64 bits.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
