//! The keys by which a monitor knows its sources and timers.
//!
//! Opaque outside the monitor: a host sees [`SourceKey`] and [`TimerKey`] only.

use super::attach::SessionId;

/// A console among those of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConsoleId(pub(super) u16);

/// One stream of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
    /// A console, beside the child's own streams.
    Console(ConsoleId),
}

/// The key of a source of a [`Monitor`](super::Monitor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceKey(pub(super) Source);

/// The key of a timer of a [`Monitor`](super::Monitor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey(pub(super) Timer);

/// The sources of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Output of the child.
    Output(Stream),
    /// The host's stream that output is forwarded to, while bytes wait for it.
    Sink(Stream),
    /// The host's stdin.
    Stdin,
    /// The child's input, while bytes wait for it.
    ChildInput,
    /// A console, while input waits for it.
    #[cfg(feature = "consoles")]
    ConsoleInput(ConsoleId),
    /// The listening socket of a console.
    #[cfg(feature = "consoles")]
    Listener(ConsoleId),
    /// The end of the child.
    Exit,
    /// Input of an attached client.
    SessionInput(SessionId),
    /// An attached client, while output waits for it.
    SessionOutput(SessionId),
    /// The end of the process that works on a generation of a log.
    Rotation,
    /// A source of a service.
    Service { service: usize, key: u32 },
}

/// The timers of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The observers are asked for the claim again.
    Claim,
    /// The observer of this index is called again.
    Observer(usize),
    /// Bytes are offered to the logs again.
    Log,
    /// A log's own deadline.
    LogTurn,
    /// The child is polled for its end.
    Exit,
    /// The stop timeout.
    Kill,
    /// The quiet period of a drain.
    Quiet,
    /// The upper bound of a drain.
    DrainLimit,
    /// Processes that the child left behind are polled.
    Remains,
    /// A stream whose reads are delayed is read.
    Pause(Stream),
    /// A pipe that has grown for a flood gets its size back.
    Trim(Stream),
    /// A console is tried again.
    #[cfg(feature = "consoles")]
    Console(ConsoleId),
    /// The command is started again.
    Restart,
    /// The maximum duration of a run.
    MaxDuration,
    /// The idle timeout.
    Idle,
    /// The time that attached clients have to take the end of the output.
    Sessions,
    /// The process that works on a generation of a log is polled.
    Rotation,
    /// A timer of a service.
    Service { service: usize, key: u32 },
}

impl Source {
    /// The key that is registered.
    pub(super) const fn key(self) -> SourceKey {
        SourceKey(self)
    }
}

impl Timer {
    /// The key that is set.
    pub(super) const fn key(self) -> TimerKey {
        TimerKey(self)
    }
}

/// What a part of a monitor may do to the loop.
pub(super) type Cx<'a> = crate::reactor::Context<'a, SourceKey, TimerKey>;

/// The sources of a monitor.
pub(super) type Sources<'a> = crate::reactor::Sources<'a, SourceKey>;
