//! Requests to attach a client, and their answers.

/// Identifies an attached client of a monitor. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

use super::name::Name;

/// The stream that a client gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AttachTo {
    /// The child's stdout, or its terminal if it has one.
    Stdout,
    /// The child's stderr.
    Stderr,
    /// The child's terminal.
    Tty,
    /// The console of this name, beside the child's own streams.
    Console(Name),
}

impl AttachTo {
    /// `stdout`, `stderr`, `tty` or `console`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Tty => "tty",
            Self::Console(_) => "console",
        }
    }
}

/// A request to attach a client. Each field has a method of its name that sets it.
///
/// ```
/// use vmon::monitor::{Attach, AttachTo};
/// let request = Attach::default().to(AttachTo::Stderr).read_only(true).tail(1 << 10);
/// assert_eq!(request.tail, 1024);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attach {
    /// The stream; `None` is the sandbox's interactive console, else the terminal of a child that
    /// has one, else its stdout.
    pub to: Option<AttachTo>,
    /// Whether what the client sends is discarded instead of being the child's input.
    pub read_only: bool,
    /// How many of the log's last bytes the client gets first, at most.
    pub tail: u64,
}

impl Attach {
    /// Sets the stream.
    #[must_use]
    pub fn to(mut self, to: impl Into<Option<AttachTo>>) -> Self {
        self.to = to.into();
        self
    }

    /// Sets whether what the client sends is discarded.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets how many of the log's last bytes the client gets first.
    #[must_use]
    pub fn tail(mut self, bytes: u64) -> Self {
        self.tail = bytes;
        self
    }
}

/// The answer to a client that is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// Its identifier.
    pub session: SessionId,
    /// The stream.
    pub to: AttachTo,
    /// How many bytes of the log come first.
    pub tail: u64,
    /// The control sequences that put a terminal into the modes that the output has set, such as
    /// the alternate screen or bracketed paste, before the tail and the output. Empty if all are at
    /// their defaults. [`Modes`](crate::terminal::Modes) undoes them.
    pub modes: String,
}

/// What the end of a packet client's input does to the child: an empty packet, a shutdown(2) of its
/// sending side, or the close of its socket.
///
/// See [`Monitor::attach_packets`](super::Monitor::attach_packets).
///
/// ```
/// use std::os::fd::OwnedFd;
/// use vmon::monitor::{EndOfInput, ServiceContext};
///
/// /// Attaches a client that has connected to a container's socket. `interactive` is whether the
/// /// container was created to take input.
/// fn accepted(client: OwnedFd, interactive: bool, cx: &mut ServiceContext<'_, '_>) {
///     let end = if interactive { EndOfInput::ClosesStdin } else { EndOfInput::Ignored };
///     if let Err((error, _)) = cx.attach_packets(client, end) {
///         eprintln!("can't attach a client: {error}");
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndOfInput {
    /// The child's stdin is closed once it has taken all pending input, also while other clients
    /// are attached. A terminal stays open, but what clients send from then on is discarded.
    ClosesStdin,
    /// Nothing: the child's stdin stays as it is.
    Ignored,
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
    /// There is no console of that name.
    #[error("the sandbox has no console {0}")]
    NoSuchConsole(Name),
    /// The most packet clients are attached.
    #[error("{0} clients are attached already, which is the limit")]
    TooMany(usize),
    /// The socket is not one of type `SOCK_SEQPACKET`.
    #[error("the client's socket does not preserve packets: use one of type SOCK_SEQPACKET")]
    NoPacketSocket,
    /// No descriptor or no room in the poller is available.
    #[error("no resources for another session: {0}")]
    System(#[from] std::io::Error),
}

/// One attached client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionReport {
    /// Its identifier.
    pub session: SessionId,
    /// The stream that it gets. A packet client of a child on pipes gets stderr as well.
    pub to: AttachTo,
    /// Whether its input is discarded.
    pub read_only: bool,
    /// Bytes that it missed because it did not keep up.
    pub missed: u64,
}
