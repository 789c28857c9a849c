//! The files of a database, and whether another program has changed them.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::error::Fault;
use super::super::trust::existing;

/// Whether the database exists as a regular file; an error for any other file type.
pub(in crate::registry) fn exists(db: &Path) -> Result<bool, Fault> {
    match existing(fs::symlink_metadata(db))?.as_ref().map(kind) {
        None => Ok(false),
        Some(REGULAR) => Ok(true),
        Some(kind) => Err(Fault::NotAFile(kind)),
    }
}

pub(super) const REGULAR: &str = "a regular file";

pub(super) fn kind(found: &Metadata) -> &'static str {
    match found.file_type() {
        kind if kind.is_file() => REGULAR,
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() || kind.is_socket() => "a FIFO or socket",
        _ => "a device",
    }
}

/// Identifies a file and detects that another program has changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device and inode. No other file can get them while the connection has the file open.
    id: (u64, u64),
    len: u64,
}

/// The files of a database after the last use of a connection. If another program has removed,
/// truncated or overwritten them, the open connection would write to an unlinked file, use stale
/// cached pages, or get SIGBUS in a mapping without a file behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) database: Option<Stamp>,
    /// Seconds and nanoseconds. Only of the database: use of the connection changes the others'
    /// times.
    pub(super) modified: Option<(i64, i64)>,
    pub(super) companions: [Option<Stamp>; 2],
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { id: (metadata.dev(), metadata.ino()), len: metadata.len() }
    }
}

impl Files {
    pub(super) fn of(db: &Path) -> Self {
        let companions = ["-wal", "-shm"]
            .map(|suffix| fs::symlink_metadata(companion(db, suffix)).ok().as_ref().map(Stamp::of));
        Self { companions, ..Self::new(fs::symlink_metadata(db).ok().as_ref()) }
    }

    /// Without the files beside the database.
    pub(super) fn new(database: Option<&Metadata>) -> Self {
        Self {
            database: database.map(Stamp::of),
            modified: database.map(|metadata| (metadata.mtime(), metadata.mtime_nsec())),
            companions: [None; 2],
        }
    }

    pub(super) fn log_size(&self) -> u64 {
        let [log, _] = self.companions;
        log.map_or(0, |log| log.len)
    }

    /// Updates the stamps after a use of the connection, unless the database was replaced.
    pub(super) fn follow(&mut self, db: &Path) {
        let now = Self::of(db);
        if now.database.map(|stamp| stamp.id) == self.database.map(|stamp| stamp.id) {
            *self = now;
        }
    }
}

/// The path of a file that SQLite keeps beside the database.
pub(super) fn companion(db: &Path, suffix: &str) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
