//! Those who are attached: each a stream socket that gets one of the child's outputs, and whose
//! bytes may go to the child's input.

use std::os::unix::net::UnixStream;

use super::{Cx, Monitor, RequestError, Stream};

/// Names an attached client among those of its monitor. Never names another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachTo {
    /// The child's stdout; of a child with a terminal, that.
    Stdout,
    /// The child's stderr.
    Stderr,
    /// The child's terminal.
    Tty,
}

impl AttachTo {
    /// `stdout`, `stderr` or `tty`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Tty => "tty",
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attach {
    /// The stream; `None` is the terminal of a child that has one, else its stdout.
    pub to: Option<AttachTo>,
    /// Whether what the client sends is discarded instead of being the child's input.
    pub read_only: bool,
    /// How many of the log's last bytes the client gets first, at most.
    pub tail: u64,
}

/// What a client has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Names it from here on.
    pub session: SessionId,
    /// The stream.
    pub to: AttachTo,
    /// How many bytes of the log come first.
    pub tail: u64,
}

/// Why a client can't be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no child, or it has ended.
    #[error("the sandbox is not running")]
    NotRunning,
    /// The child has no such stream.
    #[error("the sandbox has no {}", .0.as_str())]
    NoSuchStream(AttachTo),
    /// No descriptor or no place in the poller was to be had.
    #[error("no resources for another session: {0}")]
    System(#[from] std::io::Error),
}

/// One attached client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionReport {
    /// Its name.
    pub session: SessionId,
    /// What it gets.
    pub to: AttachTo,
    /// Whether its input is discarded.
    pub read_only: bool,
    /// Bytes that it was too slow for.
    pub missed: u64,
}

impl Monitor {
    /// Attaches a client: `preamble` goes to it first, then the end of the log as asked for, then
    /// what the child writes from here on, without a gap. What it sends goes to the child.
    ///
    /// The monitor owns the stream from here on and makes it non-blocking. A client that does not
    /// keep up is skipped forward, with a line that says how many bytes it has missed; it never
    /// holds the child up.
    ///
    /// # Errors
    ///
    /// Nothing has been sent then, and the stream comes back.
    pub fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        let _ = (request, cx, preamble, Stream::Out);
        Err((AttachError::NotRunning, client))
    }

    /// Gives the child's terminal the size of a session's.
    ///
    /// # Errors
    ///
    /// No such session, one that is read-only, or a child without a terminal.
    pub fn resize(
        &mut self,
        session: SessionId,
        rows: u16,
        columns: u16,
    ) -> Result<(), RequestError> {
        let _ = (rows, columns);
        Err(RequestError::NoSuchSession(session))
    }
}
