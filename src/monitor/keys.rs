//! The keys by which a monitor knows its sources and timers.
//!
//! Opaque outside the monitor: a host sees [`SourceKey`] and [`TimerKey`] only.

use super::attach::SessionId;
use crate::logfile::Stream;

/// A channel of a sandbox. Never reused for another channel of the same monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelId(pub(super) u16);

impl ChannelId {
    /// The child's own stdio.
    pub(super) const STDIO: Self = Self(0);
}

/// One output of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutputId {
    pub(super) channel: ChannelId,
    pub(super) stream: Stream,
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
    /// An output of a channel.
    Output(OutputId),
    /// The host's stream that an output is forwarded to, while bytes wait for it.
    Sink(OutputId),
    /// The host's stdin.
    HostInput,
    /// The input of a channel, while bytes wait for it.
    Input(ChannelId),
    /// What the log of a channel waits for.
    Log(ChannelId),
    /// The listening socket of a channel.
    #[cfg(feature = "consoles")]
    Listener(ChannelId),
    /// The end of the child.
    Exit,
    /// Input of an attached client.
    ClientInput(SessionId),
    /// An attached client, while output waits for it.
    ClientOutput(SessionId),
    /// A client on a packet socket: its input, and output that waits for it.
    PacketClient(SessionId),
    /// The end of the process that works on a generation of a log.
    PostRotate,
    /// The end of the stop command.
    StopCommand,
    /// A source of a service.
    Service { service: usize, key: u32 },
    /// A source of a handler of the host's, which a monitor never has.
    Host(u32),
}

/// The timers of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The observers are asked for the claim again.
    Claim,
    /// The observer of this index is called again.
    Observer(usize),
    /// Bytes are offered to the logs again.
    LogRetry,
    /// A log's own deadline.
    LogTurn,
    /// The child is polled for its end.
    Exit,
    /// The stop timeout, and the repetition of KILL.
    Kill,
    /// The quiet period of a drain.
    Quiet,
    /// The upper bound of a drain.
    DrainLimit,
    /// Processes that the child left behind are polled.
    Leftovers,
    /// An output whose reads are delayed is read.
    ReadOutput(OutputId),
    /// A pipe that has grown for a flood gets its size back.
    TrimPipe(OutputId),
    /// A channel whose peer was not there is tried again.
    #[cfg(feature = "consoles")]
    Connect(ChannelId),
    /// The command is started again.
    Restart,
    /// The maximum duration of a run.
    MaxDuration,
    /// The idle timeout.
    Idle,
    /// The window of a PTY that is wider for a redraw gets its size back, or a redraw begins.
    Redraw(ChannelId),
    /// The time that attached clients have to take the end of the output.
    Attachments,
    /// The time of a packet client that takes nothing.
    PacketClients,
    /// The process that works on a generation of a log is polled.
    PostRotate,
    /// The stop command is polled.
    StopCommand,
    /// A timer of a service.
    Service { service: usize, key: u32 },
    /// A timer of a handler of the host's, which a monitor never has.
    Host(u32),
}

impl SourceKey {
    /// The key of a source of a handler that the host has beside monitors in one reactor.
    pub const fn of_host(key: u32) -> Self {
        Self(Source::Host(key))
    }

    /// The number that [`of_host`](Self::of_host) was given; `None` for a monitor's own key.
    pub const fn host_key(self) -> Option<u32> {
        match self.0 {
            Source::Host(key) => Some(key),
            _ => None,
        }
    }
}

impl TimerKey {
    /// The key of a timer of a handler that the host has beside monitors in one reactor.
    pub const fn of_host(key: u32) -> Self {
        Self(Timer::Host(key))
    }

    /// The number that [`of_host`](Self::of_host) was given; `None` for a monitor's own key.
    pub const fn host_key(self) -> Option<u32> {
        match self.0 {
            Timer::Host(key) => Some(key),
            _ => None,
        }
    }
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
