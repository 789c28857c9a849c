//! A FIFO that the child writes to.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, lstat};
use nix::unistd::{Uid, mkfifo, unlink};

use super::{ErrorContext, one_way};
use crate::access::{PRIVATE_NODE, lacks_rights};
use crate::child;
use crate::monitor::channel::backend::Opened;
use crate::monitor::console::ConsoleError;
use crate::relay::Kind;

#[derive(Debug)]
pub(in super::super) struct Fifo {
    path: PathBuf,
    /// Until it is opened.
    reader: Option<OwnedFd>,
    /// Keeps the FIFO from its end when the child closes it and opens it again.
    writer: Option<OwnedFd>,
    /// The file, if this process has made it.
    made: Option<FileStat>,
}

impl Fifo {
    pub(super) fn new(
        path: PathBuf,
        owner: Option<Uid>,
        context: &ErrorContext<'_>,
    ) -> Result<Self, ConsoleError> {
        let cannot = |what, error: Errno| context.system(what, &path, error.into());
        let made = match mkfifo(&path, PRIVATE_NODE) {
            Ok(()) => {
                let made = lstat(&path).map_err(|error| cannot("look at", error))?;
                if lacks_rights(&made) {
                    fchmodat(AT_FDCWD, &path, PRIVATE_NODE, FchmodatFlags::NoFollowSymlink)
                        .map_err(|error| cannot("set the mode of", error))?;
                }
                Some(made)
            }
            Err(Errno::EEXIST) => None,
            Err(error) => return Err(cannot("make", error)),
        };
        let mut fifo = Self { path: path.clone(), reader: None, writer: None, made };
        // The reader first: with it, the writer opens without blocking, and so does the child's.
        for (access, end) in
            [(OFlag::O_RDONLY, &mut fifo.reader), (OFlag::O_WRONLY, &mut fifo.writer)]
        {
            // Checked before, since opening a device can have an effect, and after, since the file
            // can have been replaced.
            if !is_fifo(&nix::sys::stat::stat(&path).map_err(|error| cannot("look at", error))?) {
                return Err(context.wrong_kind(&path, "a FIFO"));
            }
            let flags = access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            let opened =
                open(&path, flags, Mode::empty()).map_err(|error| cannot("open", error))?;
            if !is_fifo(&fstat(&opened).map_err(|error| cannot("look at", error))?) {
                return Err(context.wrong_kind(&path, "a FIFO"));
            }
            *end = Some(opened);
        }
        // One that was there before, or has replaced ours, keeps its owner.
        if let (Some(owner), Some(made), Some(reader)) = (owner, &fifo.made, &fifo.reader)
            && fstat(reader).is_ok_and(|found| is_same(made, &found))
        {
            child::give_to(reader, owner);
        }
        match fifo.reader.take().map(lock) {
            Some(Ok(reader)) => fifo.reader = Some(reader),
            // The console that reads it needs it in its place, even if we have made it.
            Some(Err(Taken)) => {
                fifo.made = None;
                return Err(ConsoleError::InUse { name: context.name.to_owned(), path });
            }
            None => {}
        }
        Ok(fifo)
    }

    pub(super) fn open(&mut self) -> io::Result<Option<Opened>> {
        Ok(self.reader.take().map(|reader| one_way(reader, Kind::Pipe)))
    }

    pub(super) fn let_end(&mut self) {
        self.writer = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Fifo {
    /// Removes it, if this process has made it and it is still in its place.
    fn drop(&mut self) {
        let is_there = |made: &FileStat| lstat(&self.path).is_ok_and(|found| is_same(made, &found));
        if self.made.as_ref().is_some_and(is_there) {
            let _ = unlink(&self.path);
        }
    }
}

/// Another console reads the same FIFO.
struct Taken;

/// Keeps other consoles, also those of other supervisors, from reading it while it is open: each
/// would get a part of the bytes. A system without such locks for a FIFO does not keep them.
fn lock(reader: OwnedFd) -> Result<OwnedFd, Taken> {
    let reader = File::from(reader);
    match reader.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Taken),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(reader.into()),
    }
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn is_fifo(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
}
