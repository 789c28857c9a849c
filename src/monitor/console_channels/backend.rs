//! The back ends of consoles: what each kind makes before the child is started, how it is opened
//! without blocking, and what it removes at the end.

mod appearing;
mod connect;
mod fifo;
mod listen;
mod made;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::Winsize;
use nix::unistd::Uid;

use crate::logfile::Stream;
use crate::monitor::channel::backend::Opened;
use crate::monitor::console::{Console, ConsoleAddress, ConsoleError};
use crate::relay::Kind;
use crate::terminal;
use fifo::Fifo;
use listen::Listener;
pub(super) use listen::OldListener;
use made::Made;

/// The back end of one console.
#[derive(Debug)]
pub(super) enum ConsoleBackend {
    /// A stream socket that the child, or any process, listens at.
    Connect { path: PathBuf, any: bool },
    /// A stream socket that this process listens at.
    Listen(Listener),
    /// A PTY that this process has made.
    Made(Made),
    /// A PTY that the child makes at this path.
    Appearing(PathBuf),
    /// A FIFO that the child writes to.
    Fifo(Fifo),
    /// A descriptor of the host's, until it is opened.
    Given(Option<OwnedFd>),
}

/// A console that is read only.
fn one_way(reader: OwnedFd, kind: Kind) -> Opened {
    Opened { outputs: vec![(Stream::Tty, reader, kind)], input: None }
}

/// A console that is read and written through one open file description, under two descriptors:
/// each can be registered by itself.
fn two_way(reader: OwnedFd, kind: Kind) -> io::Result<Opened> {
    let input = Some(reader.try_clone()?);
    Ok(Opened { input, ..one_way(reader, kind) })
}

impl ConsoleBackend {
    /// Makes what has to exist before the child is started. `size` is that of a PTY, and `owner` the
    /// child's user, if that is not ours.
    pub(super) fn prepare(
        console: &Console,
        size: &Winsize,
        owner: Option<Uid>,
    ) -> Result<Self, ConsoleError> {
        let context = ErrorContext { name: console.name.as_str() };
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| context.system("find", path, error))
        };
        Ok(match &console.address {
            ConsoleAddress::Connect { path, any } => {
                Self::Connect { path: absolute(path)?, any: *any }
            }
            ConsoleAddress::Listen(path) => Self::Listen(Listener::new(absolute(path)?, &context)?),
            ConsoleAddress::Pty => Self::Made(Made::new(size, owner, &context)?),
            ConsoleAddress::PtyAt(path) => Self::Appearing(absolute(path)?),
            ConsoleAddress::Fifo(path) => Self::Fifo(Fifo::new(absolute(path)?, owner, &context)?),
        })
    }

    /// The descriptors, if the peer is there now. `child` is the process that has to have made it.
    pub(super) fn open(&mut self, child: u32) -> io::Result<Option<Opened>> {
        match self {
            Self::Connect { path, any } => connect::connect(path, (!*any).then_some(child)),
            Self::Listen(listener) => listener.accept(),
            Self::Made(made) => made.open(),
            Self::Appearing(path) => appearing::find(path, child),
            Self::Fifo(fifo) => fifo.open(),
            Self::Given(descriptor) => descriptor.take().map(given).transpose(),
        }
    }

    /// Whether it can be opened again after it has been closed.
    pub(super) fn reopens(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Listen(_) | Self::Appearing(_))
    }

    /// The child has ended: closes the descriptors that keep the output from its end.
    pub(super) fn let_end(&mut self) {
        match self {
            Self::Made(made) => made.let_end(),
            Self::Fifo(fifo) => fifo.let_end(),
            Self::Connect { .. } | Self::Listen(_) | Self::Appearing(_) | Self::Given(_) => {}
        }
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Listen(listener) => Some(listener.as_fd()),
            _ => None,
        }
    }

    /// Listens again if the listening socket is gone; returns the old one, which is to be deregistered.
    /// `name` is the console's.
    pub(super) fn listen_again(&mut self, name: &str) -> Result<Option<OldListener>, ConsoleError> {
        match self {
            Self::Listen(listener) => listener.renew(&ErrorContext { name }),
            _ => Ok(None),
        }
    }

    /// The path of a PTY that this process has made.
    pub(super) fn pty_path(&self) -> Option<&Path> {
        match self {
            Self::Made(made) => Some(made.path()),
            _ => None,
        }
    }

    /// The path of its socket, FIFO or PTY.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Connect { path, .. } | Self::Appearing(path) => Some(path),
            Self::Listen(listener) => Some(listener.path()),
            Self::Made(made) => Some(made.path()),
            Self::Fifo(fifo) => Some(fifo.path()),
            Self::Given(_) => None,
        }
    }

    /// The word for its kind.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "unix",
            Self::Listen(_) => "listen",
            Self::Made(_) | Self::Appearing(_) => "pty",
            Self::Fifo(_) => "fifo",
            Self::Given(_) => "descriptor",
        }
    }
}

/// Names the console in errors.
struct ErrorContext<'a> {
    name: &'a str,
}

impl ErrorContext<'_> {
    fn system(&self, what: &str, path: &Path, source: io::Error) -> ConsoleError {
        self.refused(format!("{what} {}", path.display()), source)
    }

    fn refused(&self, what: String, source: io::Error) -> ConsoleError {
        ConsoleError::System { name: self.name.to_owned(), what, source }
    }

    fn wrong_kind(&self, path: &Path, wanted: &'static str) -> ConsoleError {
        ConsoleError::WrongKind { name: self.name.to_owned(), path: path.to_owned(), wanted }
    }
}

fn given(descriptor: OwnedFd) -> io::Result<Opened> {
    let kind = match terminal::is_pty_master(descriptor.as_fd()) {
        true => Kind::RawTerminal,
        false => Kind::of(&descriptor)?,
    };
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDWR => two_way(descriptor, kind),
        OFlag::O_RDONLY => Ok(one_way(descriptor, kind)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it can't be read")),
    }
}
