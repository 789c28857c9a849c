//! A FIFO that the child writes to.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat};
use nix::unistd::{mkfifo, unlink};

use super::super::super::console::ConsoleError;
use super::{Opened, Trouble};
use crate::relay::Kind;

#[derive(Debug)]
pub(in super::super) struct Fifo {
    path: PathBuf,
    /// Until it is read.
    reader: Option<OwnedFd>,
    /// Kept open, so that it does not end when the child closes it and opens it again.
    writer: Option<OwnedFd>,
    /// Which file it is, where we have made it.
    made: Option<FileStat>,
}

impl Fifo {
    pub(super) fn new(path: PathBuf, wrong: &Trouble<'_>) -> Result<Self, ConsoleError> {
        let cannot = |what, error: Errno| wrong.system(what, &path, &error.into());
        let made = match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) => Some(lstat(&path).map_err(|error| cannot("look at", error))?),
            Err(Errno::EEXIST) => None,
            Err(error) => return Err(cannot("make", error)),
        };
        let mut fifo = Self { path: path.clone(), reader: None, writer: None, made };
        // With a reader there, the writer opens without waiting, as the child's will.
        for (access, end) in
            [(OFlag::O_RDONLY, &mut fifo.reader), (OFlag::O_WRONLY, &mut fifo.writer)]
        {
            // To open a device may do something by itself; one that is put there only now is not
            // written to.
            if !is_fifo(&nix::sys::stat::stat(&path).map_err(|error| cannot("look at", error))?) {
                return Err(wrong.wrong_kind(&path, "a FIFO"));
            }
            let flags = access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            let opened =
                open(&path, flags, Mode::empty()).map_err(|error| cannot("open", error))?;
            if !is_fifo(&fstat(&opened).map_err(|error| cannot("look at", error))?) {
                return Err(wrong.wrong_kind(&path, "a FIFO"));
            }
            *end = Some(opened);
        }
        match fifo.reader.take().map(lock) {
            Some(Ok(reader)) => fifo.reader = Some(reader),
            // Whoever has it may need it where it is, also if we have made it.
            Some(Err(Taken)) => {
                fifo.made = None;
                return Err(ConsoleError::InUse { name: wrong.name.to_owned(), path });
            }
            None => {}
        }
        Ok(fifo)
    }

    pub(super) fn open(&mut self) -> io::Result<Option<Opened>> {
        let open = |reader| Opened { reader, writer: None, kind: Kind::Pipe };
        Ok(self.reader.take().map(open))
    }

    pub(super) fn let_end(&mut self) {
        self.writer = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Fifo {
    /// Removes it, if we have made it and it is the one that is there.
    fn drop(&mut self) {
        let is_there = |made: &FileStat| {
            lstat(&self.path)
                .is_ok_and(|found| (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino))
        };
        if self.made.as_ref().is_some_and(is_there) {
            let _ = unlink(&self.path);
        }
    }
}

/// Another console reads the same FIFO.
struct Taken;

/// Keeps other consoles, of whatever supervisor, from reading it for as long as it is open: each
/// would get a part of the bytes. Where the system has no such lock for a FIFO, nothing does.
fn lock(reader: OwnedFd) -> Result<OwnedFd, Taken> {
    let reader = File::from(reader);
    match reader.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Taken),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(reader.into()),
    }
}

fn is_fifo(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
}
