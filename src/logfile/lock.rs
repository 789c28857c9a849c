//! The lock of a writer on its log. It keeps the log from being removed while it is written, also
//! when the record says that the run is over.
//!
//! It is a shared flock(2) on the open file, which several writers may hold. A program that removes
//! logs takes the exclusive lock first. The lock belongs to the open file description: it ends with
//! the process, and an executed program does not inherit it (`O_CLOEXEC`).

use std::fs::{File, TryLockError};
use std::path::Path;

use nix::sys::stat::fstat;

/// Whether this writer has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// It has the lock while the file is open.
    Held,
    /// Another process has the exclusive lock: it removes the log, or is about to give up.
    Contended,
    /// The file system has no such lock: NFS grants a shared lock only on a file that is open for
    /// reading. The log is written all the same.
    Unsupported,
}

/// Takes the lock, without waiting.
pub(super) fn hold(file: &File, path: &Path) -> Hold {
    match file.try_lock_shared() {
        Ok(()) => Hold::Held,
        Err(TryLockError::WouldBlock) => Hold::Contended,
        Err(TryLockError::Error(error)) => {
            tracing::debug!(path = %path.display(), %error, "the log can't be locked");
            Hold::Unsupported
        }
    }
}

/// The lock on a log that is no longer written, held until this is dropped.
#[derive(Debug)]
pub(crate) struct LogLock(File);

impl LogLock {
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }

    /// Whether the file is still linked. An unlinked file keeps its blocks while it is open.
    pub(super) fn is_linked(&self) -> bool {
        fstat(&self.0).is_ok_and(|stat| stat.st_nlink > 0)
    }
}
