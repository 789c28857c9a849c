//! How one gets to a console, for each kind: what is made before the start, what is looked for
//! afterwards, and what is left behind at the end, which is nothing of ours.

mod appearing;
mod fifo;
mod listen;
mod made;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::Winsize;

use super::super::console::{Console, ConsoleError, Way as Wanted};
use crate::child;
use crate::relay::Kind;
use crate::socket;
use crate::terminal;
use fifo::Fifo;
use listen::Listener;
use made::Made;

/// The way to one console.
#[derive(Debug)]
pub(super) enum Way {
    /// The child listens here.
    Connect(PathBuf),
    /// We do.
    Listen(Listener),
    /// A PTY of ours.
    Made(Made),
    /// A PTY of the child's, here.
    Appearing(PathBuf),
    Fifo(Fifo),
    /// The host's, until it is used.
    Given(Option<OwnedFd>),
}

/// What a console's bytes go through, non-blocking.
pub(super) struct Opened {
    pub(super) reader: OwnedFd,
    pub(super) writer: Option<OwnedFd>,
    pub(super) kind: Kind,
}

impl Opened {
    /// One descriptor for both, under two numbers: each can be watched for itself.
    fn two_way(reader: OwnedFd, kind: Kind) -> io::Result<Self> {
        let writer = Some(reader.try_clone()?);
        Ok(Self { reader, writer, kind })
    }
}

impl Way {
    /// Makes what has to be there before the child is started. `size` is for a PTY.
    pub(super) fn prepare(console: &Console, size: &Winsize) -> Result<Self, ConsoleError> {
        let wrong = Trouble { name: console.name.as_str() };
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| wrong.system("find", path, &error))
        };
        Ok(match &console.way {
            Wanted::Connect(path) => Self::Connect(absolute(path)?),
            Wanted::Listen(path) => Self::Listen(Listener::new(absolute(path)?, &wrong)?),
            Wanted::Pty => Self::Made(Made::new(size, &wrong)?),
            Wanted::PtyAt(path) => Self::Appearing(absolute(path)?),
            Wanted::Fifo(path) => Self::Fifo(Fifo::new(absolute(path)?, &wrong)?),
        })
    }

    /// What is to be read, if it is there now. `child` is the one that is to have made it.
    pub(super) fn open(&mut self, child: u32) -> io::Result<Option<Opened>> {
        match self {
            Self::Connect(path) => connect(path),
            Self::Listen(listener) => listener.accept(),
            Self::Made(made) => made.open(),
            Self::Appearing(path) => appearing::find(path, child),
            Self::Fifo(fifo) => fifo.open(),
            Self::Given(descriptor) => descriptor.take().map(given).transpose(),
        }
    }

    /// Whether there may be another one after an end.
    pub(super) fn may_come_again(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Listen(_) | Self::Appearing(_))
    }

    /// The child has ended: what we hold so that it never comes to its end is let go of.
    pub(super) fn let_end(&mut self) {
        match self {
            Self::Made(made) => made.let_end(),
            Self::Fifo(fifo) => fifo.let_end(),
            Self::Connect(_) | Self::Listen(_) | Self::Appearing(_) | Self::Given(_) => {}
        }
    }

    /// What is to be watched for somebody who connects.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Listen(listener) => Some(listener.as_fd()),
            _ => None,
        }
    }

    /// The path of a PTY of ours.
    pub(super) fn made(&self) -> Option<&Path> {
        match self {
            Self::Made(made) => Some(made.path()),
            _ => None,
        }
    }

    /// The size that a PTY of ours was made with.
    pub(super) fn size(&self) -> Option<Winsize> {
        match self {
            Self::Made(made) => Some(made.size()),
            _ => None,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Connect(path) | Self::Appearing(path) => Some(path),
            Self::Listen(listener) => Some(listener.path()),
            Self::Made(made) => Some(made.path()),
            Self::Fifo(fifo) => Some(fifo.path()),
            Self::Given(_) => None,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Connect(_) => "unix",
            Self::Listen(_) => "listen",
            Self::Made(_) | Self::Appearing(_) => "pty",
            Self::Fifo(_) => "fifo",
            Self::Given(_) => "descriptor",
        }
    }
}

/// Says of which console an error is.
struct Trouble<'a> {
    name: &'a str,
}

impl Trouble<'_> {
    fn system(&self, what: &str, path: &Path, error: &io::Error) -> ConsoleError {
        self.refused(format!("{what} {}", path.display()), error)
    }

    fn refused(&self, what: String, error: &io::Error) -> ConsoleError {
        ConsoleError::System { name: self.name.to_owned(), what, reason: error.to_string() }
    }

    fn wrong_kind(&self, path: &Path, wanted: &'static str) -> ConsoleError {
        ConsoleError::WrongKind { name: self.name.to_owned(), path: path.to_owned(), wanted }
    }
}

fn connect(path: &Path) -> io::Result<Option<Opened>> {
    match socket::try_dial(path) {
        Ok(stream) => Opened::two_way(stream.into(), Kind::Socket).map(Some),
        Err(error) => match error.kind() {
            // Not there yet; there and nobody listens; and, on Linux, nobody accepts just now.
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        },
    }
}

fn given(descriptor: OwnedFd) -> io::Result<Opened> {
    child::set_nonblocking(descriptor.as_fd())?;
    let kind = match terminal::is_pty_master(descriptor.as_fd()) {
        true => Kind::RawTerminal,
        false => Kind::of(&descriptor)?,
    };
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDWR => Opened::two_way(descriptor, kind),
        OFlag::O_RDONLY => Ok(Opened { reader: descriptor, writer: None, kind }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it can't be read")),
    }
}
