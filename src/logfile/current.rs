//! The open log file: its size, its identity, and the bytes that still fit.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::libc::{dev_t, ino_t};
use nix::sys::stat::{FileStat, fstat};

use super::lock::{self, Hold, LogLock};

/// The device and inode of a file, unique among the files that exist at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: dev_t,
    inode: ino_t,
}

impl Identity {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
    pub(super) fn inode(self) -> u64 {
        self.inode as u64
    }
}

/// The result of comparing the open log with the file at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The same file with the same size.
    Same,
    /// The same file, but another process has changed its size.
    Resized,
    /// Another file, or none.
    Replaced,
}

/// The open log. While it is open its inode can't be reused, so an equal [`Identity`] means the
/// same file.
#[derive(Debug)]
pub(super) struct Current {
    file: File,
    identity: Identity,
    size: u64,
    /// Whether the last byte is known to be a newline, so that a rotation cuts no line.
    ends_line: bool,
    /// The size of a torn record at the end.
    torn: u64,
    hold: Hold,
}

impl Current {
    pub(super) fn new(file: File, stat: &FileStat, hold: Hold) -> Self {
        let (identity, size) = (Identity::of(stat), size_of(stat));
        Self { file, identity, size, ends_line: false, torn: 0, hold }
    }

    /// Tries again to lock the file, if another process held the lock before.
    pub(super) fn hold_again(&mut self, path: &Path) {
        if self.hold == Hold::Contended {
            self.hold = lock::hold(&self.file, path);
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Ends writing, and keeps the lock.
    pub(super) fn into_lock(self) -> LogLock {
        LogLock::of(self.file)
    }

    /// The time since the file was created, where the file system records that.
    pub(super) fn age(&self) -> Option<Duration> {
        self.file.metadata().ok()?.created().ok()?.elapsed().ok()
    }

    /// The last known size.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Sets the size of the file to what it is. The bytes stay, and inotify(7) reports a change.
    pub(super) fn touch(&mut self) -> io::Result<()> {
        let size = size_of(&fstat(&self.file)?);
        self.file.set_len(size)
    }

    /// fsync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Whether another open file description has a lock on the file (flock(2)). This one has none.
    pub(super) fn is_locked_elsewhere(&self) -> bool {
        let locked = matches!(self.file.try_lock(), Err(TryLockError::WouldBlock));
        if !locked {
            // It was only a test. A failure means that the file system has no such locks.
            let _ = self.file.unlock();
        }
        locked
    }

    /// Compares with the file at the log's path, and takes over its size.
    pub(super) fn compare(&mut self, found: Option<&FileStat>) -> Change {
        let Some(stat) = found.filter(|stat| Identity::of(stat) == self.identity) else {
            return Change::Replaced;
        };
        let size = size_of(stat);
        if size == self.size {
            return Change::Same;
        }
        self.size = size;
        self.ends_line = false;
        self.torn = 0;
        Change::Resized
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Whether this is the same file.
    pub(super) fn is(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|stat| Identity::of(&stat) == self.identity)
    }

    /// The part of `bytes` that fits into this file; if none, the log is to be rotated. Something
    /// always fits into an empty file.
    pub(super) fn fitting<'a>(&self, bytes: &'a [u8], max_size: u64) -> &'a [u8] {
        if max_size == 0 {
            return bytes;
        }
        let room = usize::try_from(max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        if bytes.len() <= room {
            return bytes;
        }
        let head = bytes.get(..room).unwrap_or_default();
        match head.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => head.get(..=newline).unwrap_or_default(),
            None if self.ends_line => &[],
            None => head,
        }
    }

    /// One write(2) of at least one byte, which may be short. `O_APPEND` puts the bytes at the end,
    /// also after another process has truncated the file.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size = self.size.saturating_add(count as u64);
                    self.ends_line = bytes.get(count - 1) == Some(&b'\n');
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Current {
    /// Appends records. Returns the number of bytes of whole records that were written, and the
    /// error of a short write.
    pub(super) fn append_records(&mut self, records: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let mut outcome = Ok(());
        while let Some(rest) = records.get(written..).filter(|rest| !rest.is_empty()) {
            match self.append(rest) {
                Ok(count) => written += count,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let whole = match records.get(..written).and_then(|part| memchr::memrchr(b'\n', part)) {
            Some(at) => at + 1,
            None => 0,
        };
        // A failure is retried before the next write.
        let _ = self.cut((written - whole) as u64);
        (whole, outcome)
    }

    /// Cuts off the last `torn` bytes.
    pub(super) fn cut(&mut self, torn: u64) -> io::Result<()> {
        self.torn = torn;
        self.cut_torn()
    }

    /// Cuts off the torn record at the end, if there is one.
    pub(super) fn cut_torn(&mut self) -> io::Result<()> {
        if self.torn == 0 {
            return Ok(());
        }
        let size = size_of(&fstat(&self.file)?);
        // If another process has changed the size, the bytes at the end are unknown.
        if size == self.size {
            let whole = size.saturating_sub(self.torn);
            self.file.set_len(whole)?;
            self.size = whole;
            self.ends_line = true;
        }
        self.torn = 0;
        Ok(())
    }
}

pub(super) fn size_of(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
