//! A PTY that this process makes, whose path the child gets in its arguments.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::pty::Winsize;
use nix::unistd::Uid;

use super::{ErrorContext, two_way};
use crate::child::{self, Pty};
use crate::monitor::channel::backend::Opened;
use crate::monitor::console::ConsoleError;
use crate::relay::Kind;

#[derive(Debug)]
pub(in super::super) struct Made {
    path: PathBuf,
    /// Until it is opened.
    master: Option<OwnedFd>,
    /// Keeps the PTY from its end when the child closes it and opens it again.
    slave: Option<OwnedFd>,
}

impl Made {
    pub(super) fn new(
        size: &Winsize,
        owner: Option<Uid>,
        context: &ErrorContext<'_>,
    ) -> Result<Self, ConsoleError> {
        let Pty { master, slave, path } = child::open_raw_pty(size)
            .map_err(|error| context.refused("make a PTY".to_owned(), error))?;
        if let Some(owner) = owner {
            child::give_to(&slave, owner);
        }
        Ok(Self { path, master: Some(master), slave: Some(slave) })
    }

    pub(super) fn open(&mut self) -> io::Result<Option<Opened>> {
        self.master.take().map(|master| two_way(master, Kind::RawTerminal)).transpose()
    }

    pub(super) fn let_end(&mut self) {
        self.slave = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
