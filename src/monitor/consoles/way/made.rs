//! A PTY of ours, for a child that is told its path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::pty::Winsize;

use super::super::super::console::ConsoleError;
use super::{Opened, Trouble};
use crate::child::{self, Pty};
use crate::relay::Kind;

#[derive(Debug)]
pub(in super::super) struct Made {
    path: PathBuf,
    /// Until it is read.
    master: Option<OwnedFd>,
    /// Kept open, so that it does not end when the child closes it and opens it again.
    slave: Option<OwnedFd>,
    size: Winsize,
}

impl Made {
    pub(super) fn new(size: &Winsize, wrong: &Trouble<'_>) -> Result<Self, ConsoleError> {
        let Pty { master, slave, path } = child::open_raw_pty(size)
            .map_err(|error| wrong.refused("make a PTY".to_owned(), &error))?;
        Ok(Self { path, master: Some(master), slave: Some(slave), size: *size })
    }

    pub(super) fn open(&mut self) -> io::Result<Option<Opened>> {
        let open = |master| Opened::two_way(master, Kind::RawTerminal);
        self.master.take().map(open).transpose()
    }

    pub(super) fn let_end(&mut self) {
        self.slave = None;
    }

    pub(super) fn size(&self) -> Winsize {
        self.size
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
