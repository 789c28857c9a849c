//! A socket that we listen at, for a child that connects.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::open;
use nix::sys::stat::Mode;

use super::super::super::console::ConsoleError;
use super::{Opened, Trouble};
use crate::access::DIRECTORY;
use crate::relay::Kind;
use crate::socket::{Bound, PlaceError};

#[derive(Debug)]
pub(in super::super) struct Listener {
    bound: Bound,
    path: PathBuf,
}

impl Listener {
    pub(super) fn new(path: PathBuf, wrong: &Trouble<'_>) -> Result<Self, ConsoleError> {
        let cannot = |error: &io::Error| wrong.system("listen at", &path, error);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory =
            open(parent, DIRECTORY, Mode::empty()).map_err(|error| cannot(&error.into()))?;
        let bound = Bound::at(&path, &directory).map_err(|error| match error {
            PlaceError::InUse => {
                ConsoleError::InUse { name: wrong.name.to_owned(), path: path.clone() }
            }
            PlaceError::NoSocket => wrong.wrong_kind(&path, "a socket"),
            PlaceError::Io { what, source } => wrong.system(what, &path, &source),
        })?;
        bound.listener.set_nonblocking(true).map_err(|error| cannot(&error))?;
        Ok(Self { bound, path })
    }

    /// Takes the next one that has connected.
    pub(super) fn accept(&self) -> io::Result<Option<Opened>> {
        match self.bound.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Opened::two_way(stream.into(), Kind::Socket).map(Some)
            }
            // Nobody has, or he has left again.
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.bound.listener.as_fd()
    }
}
