//! The lock of a writer on its log: a log that is written is not removed, whatever record says that
//! its run is over.
//!
//! It is a shared flock(2) on the open file, which several writers may have. Who removes logs takes
//! the exclusive one first. It belongs to the open file description: it ends with the process,
//! however that ends, and no program that is executed inherits it (`O_CLOEXEC`).

use std::fs::{File, TryLockError};
use std::path::Path;

use nix::sys::stat::fstat;

/// Whether a writer has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// For as long as the file is open.
    Held,
    /// Another process has the exclusive lock: it is removing the log, or about to give up.
    Contended,
    /// The file system has no such lock: NFS gives a shared one only on a file that is open for
    /// reading. That does not keep the log from being written.
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

/// The lock on a log that is no longer written to, until it is dropped.
#[derive(Debug)]
pub(crate) struct LogLock(File);

impl LogLock {
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }

    /// Whether the file has a name still. One without keeps its blocks allocated while it is open.
    pub(super) fn is_linked(&self) -> bool {
        fstat(&self.0).is_ok_and(|stat| stat.st_nlink > 0)
    }
}
