//! What a monitor gives back when it releases a child that runs.

use std::os::fd::OwnedFd;

use super::name::Name;
use crate::child::ChildIo;
use crate::logfile::Stream;

/// A child that its monitor has [released](super::Monitor::release), with its streams.
///
/// The host reads, writes, signals and reaps from here on. Bytes that the child writes wait in its
/// pipes or its terminal meanwhile, so what is read from the descriptors follows what is in the log
/// and in [`unwritten`](Self::unwritten) without a gap.
#[derive(Debug)]
#[non_exhaustive]
pub struct Released {
    /// Its pid, which is not reaped.
    pub pid: u32,
    /// Its streams. One that was at its end, or that was closed since nothing was to write to it, is
    /// absent; a PTY whose master was closed is `Piped` without any.
    pub io: ChildIo,
    /// Input that has not been written to it yet.
    pub input: Vec<u8>,
    /// The consoles that were open. Those that were not are closed, as are listening sockets.
    pub consoles: Vec<ReleasedConsole>,
    /// Output that was read and has not reached the log, or the host's stdout and stderr.
    pub unwritten: Vec<Unwritten>,
}

/// A console of a released child.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReleasedConsole {
    /// Its name.
    pub name: Name,
    /// The descriptor: the one that the host gave, the master of a PTY, a connected socket, or the
    /// reader of a FIFO.
    pub descriptor: OwnedFd,
    /// Input that has not been written to it yet.
    pub input: Vec<u8>,
}

/// Bytes of one output that were read and have not been written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unwritten {
    /// The console that they came from; `None` for the child's own stdio.
    pub console: Option<Name>,
    /// The stream.
    pub stream: Stream,
    /// Bytes that the log can't take now, as on a full disk. They have not been forwarded, nor given
    /// to clients, either.
    pub unlogged: Vec<u8>,
    /// Bytes that the host's stdout or stderr has not taken: the log has them.
    pub unforwarded: Vec<u8>,
}
