//! What holds a sandbox up.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};

use crate::values::words;

/// Something that a sandbox waits for at one moment: [`Report::waits`](super::Report::waits).
///
/// An [observer](super::Observer::waits_for) that is late makes one too:
///
/// ```
/// use std::time::Instant;
/// use vmon::monitor::{Wait, WaitKind};
///
/// let wait = Wait::new(WaitKind::Record, "the database is locked", Instant::now());
/// assert_eq!(wait.kind.as_str(), "record");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// What is waited for.
    pub kind: WaitKind,
    /// What prevents it, with its path or pid and the system's error.
    pub reason: String,
    /// Since when. Measured by the monotonic clock.
    pub since: DateTime<Utc>,
}

/// What a sandbox waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitKind {
    /// A log that can't be written, on a full disk for example.
    Log,
    /// The record, or another observer, that is late.
    Record,
    /// A console that the command has not opened yet.
    Console,
    /// The end of the command, which was asked to stop: a signal can't be sent, or has no effect.
    Command,
    /// The end of processes that the command has left behind.
    Processes,
    /// A reader of stdout or stderr, after the end of the command.
    Reader,
}

impl WaitKind {
    /// `log`, `record`, `console`, `command`, `processes` or `reader`.
    pub const fn as_str(self) -> &'static str {
        self.word()
    }
}

words!(WaitKind {
    Log = "log",
    Record = "record",
    Console = "console",
    Command = "command",
    Processes = "processes",
    Reader = "reader",
});

impl Wait {
    /// A wait that has begun at this instant.
    pub fn new(kind: WaitKind, reason: impl Into<String>, since: Instant) -> Self {
        let waited = TimeDelta::from_std(since.elapsed()).unwrap_or(TimeDelta::MAX);
        let now = Utc::now();
        let since = now.checked_sub_signed(waited).unwrap_or(now);
        Self { kind, reason: reason.into(), since }
    }
}
