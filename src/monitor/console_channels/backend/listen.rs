//! A socket that this process listens at, for a child that connects.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::open;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::{ErrorContext, two_way};
use crate::access::DIRECTORY;
use crate::monitor::channel::backend::Opened;
use crate::monitor::console::ConsoleError;
use crate::relay::Kind;
use crate::socket::{Bound, PlaceError};

#[derive(Debug)]
pub(in super::super) struct Listener {
    bound: Bound,
    path: PathBuf,
}

/// A listening socket whose file is gone.
#[derive(Debug)]
pub(in super::super) struct OldListener(#[expect(dead_code, reason = "kept open")] Bound);

impl Listener {
    pub(super) fn new(path: PathBuf, context: &ErrorContext<'_>) -> Result<Self, ConsoleError> {
        let bound = Self::bind(&path, context)?;
        Ok(Self { bound, path })
    }

    /// Listens again if the file is gone, and returns the socket that has been replaced. One at which
    /// a peer waits is not replaced, since the peer would be lost.
    pub(super) fn renew(
        &mut self,
        context: &ErrorContext<'_>,
    ) -> Result<Option<OldListener>, ConsoleError> {
        let mut waits = [PollFd::new(self.bound.listener.as_fd(), PollFlags::POLLIN)];
        if !self.bound.is_gone() || poll(&mut waits, PollTimeout::ZERO) != Ok(0) {
            return Ok(None);
        }
        let bound = Self::bind(&self.path, context)?;
        Ok(Some(OldListener(mem::replace(&mut self.bound, bound))))
    }

    fn bind(path: &Path, context: &ErrorContext<'_>) -> Result<Bound, ConsoleError> {
        let cannot = |error: io::Error| context.system("listen at", path, error);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory =
            open(parent, DIRECTORY, Mode::empty()).map_err(|error| cannot(error.into()))?;
        let bound = Bound::at(path, &directory).map_err(|error| match error {
            PlaceError::InUse => {
                ConsoleError::InUse { name: context.name.to_owned(), path: path.to_owned() }
            }
            PlaceError::NoSocket => context.wrong_kind(path, "a socket"),
            PlaceError::Io { what, source } => context.system(what, path, source),
        })?;
        bound.listener.set_nonblocking(true).map_err(cannot)?;
        Ok(bound)
    }

    /// Accepts the next connection.
    pub(super) fn accept(&self) -> io::Result<Option<Opened>> {
        match self.bound.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                two_way(stream.into(), Kind::Socket).map(Some)
            }
            // None, or closed already.
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
