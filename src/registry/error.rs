//! Errors of the registry.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// An error of SQLite or of a system call: a `rusqlite::Error`, an [`io::Error`] or a text.
type Source = Box<dyn Error + Send + Sync>;

/// Why the registry can't be used. Each message names the database and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The path is not a regular file.
    #[error(
        "the registry's file {path} is {kind}, not a regular file: move it away, or choose another database"
    )]
    NotAFile {
        /// The database, or one of the files that SQLite keeps beside it.
        path: PathBuf,
        /// The file type found.
        kind: &'static str,
    },
    /// The file is not an SQLite database.
    #[error("the registry {path} is not an SQLite database: move it away, or choose another one")]
    NotADatabase {
        /// The database.
        path: PathBuf,
    },
    /// SQLite reports corruption.
    #[error(
        "the registry {path} is damaged ({source}): move it and its -wal file away, or repair it with sqlite3's .recover"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// The reason.
        source: Source,
    },
    /// A newer vmon has changed the schema.
    #[error(
        "the registry {path} was made by a newer vmon (schema version {found}, this one knows {known}): update vmon, or choose another database"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version found.
        found: String,
        /// The newest version that this vmon supports.
        known: u32,
    },
    /// Another program has it locked.
    #[error(
        "the registry {path} is locked by another program: try again, or end that program's transaction"
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// The database is read-only.
    #[error(
        "the registry {path} can't be written ({source}): make the file and its directory writable, or choose another database"
    )]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// The reason.
        source: Source,
    },
    /// The disk or the quota is full.
    #[error("no space is left for the registry {path}: free some on its file system")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// A system call on the database, its files or its directory failed.
    #[error("can't use the registry {path}: {source}; check its directory and permissions")]
    System {
        /// The database.
        path: PathBuf,
        /// The reason, as reported by the system or SQLite.
        source: Source,
        /// Whether a retry may succeed.
        passing: bool,
    },
    /// SQLite can't open a file whose path is as long as this.
    #[error(
        "the path of the registry {path} has {} bytes, and SQLite opens one of {limit} at most: choose a shorter one",
        .path.as_os_str().len()
    )]
    PathTooLong {
        /// The database.
        path: PathBuf,
        /// The longest path in bytes.
        limit: usize,
    },
    /// Another user owns the record or its directory, so it is only read: no process is ended, no
    /// run closed and nothing removed.
    #[error(
        "{place} belongs to uid {owner}, so the record {path} is only read, and nothing is ended, closed or removed; run this as that user"
    )]
    Foreign {
        /// The database.
        path: PathBuf,
        /// The database, its directory or the spool directory.
        place: PathBuf,
        /// Its uid.
        owner: u32,
    },
    /// Like [`Foreign`](Self::Foreign), because other users may write to one of these places.
    #[error(
        "other users can write to {place}, so the record {path} is only read, and nothing is ended, closed or removed; run 'chmod go-w {place}'"
    )]
    Exposed {
        /// The database.
        path: PathBuf,
        /// The database, its directory or the spool directory.
        place: PathBuf,
    },
    /// Processes of a run whose supervisor was lost still exist.
    #[error(
        "processes of the last run of {config_file}/{name} still exist: {reason}; try again, or end them"
    )]
    Leftovers {
        /// The namespace.
        config_file: String,
        /// The sandbox.
        name: String,
        /// Which processes exist, or why they can't be ended.
        reason: String,
    },
    /// Any other error of SQLite, or tables with an unexpected schema.
    #[error("can't use the registry {path}: {source}; choose another database if it is not vmon's")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// The reason.
        source: Source,
    },
}

impl RegistryError {
    /// Whether a retry may succeed without a repair of the database: a lock, a full disk, an
    /// input/output error.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Full { .. } | Self::Leftovers { .. } => true,
            Self::System { passing, .. } => *passing,
            Self::NotAFile { .. }
            | Self::NotADatabase { .. }
            | Self::Corrupt { .. }
            | Self::Newer { .. }
            | Self::ReadOnly { .. }
            | Self::PathTooLong { .. }
            | Self::Foreign { .. }
            | Self::Exposed { .. }
            | Self::Sqlite { .. } => false,
        }
    }
}

/// Why a path is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// The path belongs to another user.
    Owner(PathBuf, u32),
    /// Other users may write to the path.
    Writable(PathBuf),
}

/// A failure, before the path of the database is added.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Sqlite(rusqlite::Error),
    NotAFile(&'static str),
    /// A file that SQLite keeps beside the database, and its type.
    Companion(PathBuf, &'static str),
    /// This file beside a database of ours belongs to another user.
    Planted(PathBuf, u32),
    ReadOnly,
    /// The database has a path of more bytes than this.
    PathTooLong(usize),
    Distrust(Distrust),
    /// A table's name belongs to something else.
    NotATable(String),
    /// A table has a generated column.
    Generated(String),
    Newer {
        found: String,
        known: u32,
    },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    pub(super) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            _ => None,
        }
    }

    /// Whether the disk has no room for the -shm file.
    pub(super) fn is_index_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_index_full(error))
    }
}

/// Adds the path of the database to a [`Fault`].
pub(super) trait At<T> {
    fn at(self, db: &Path) -> Result<T, RegistryError>;
}

impl<T> At<T> for Result<T, Fault> {
    fn at(self, db: &Path) -> Result<T, RegistryError> {
        self.map_err(|fault| name(db.to_owned(), fault))
    }
}

fn name(path: PathBuf, fault: Fault) -> RegistryError {
    match fault {
        Fault::NotAFile(kind) => RegistryError::NotAFile { path, kind },
        Fault::Companion(path, kind) => RegistryError::NotAFile { path, kind },
        Fault::Planted(file, owner) => {
            let reason = format!("{} belongs to uid {owner}", file.display());
            RegistryError::System { path, source: reason.into(), passing: false }
        }
        Fault::Distrust(Distrust::Owner(place, owner)) => {
            RegistryError::Foreign { path, place, owner }
        }
        Fault::Distrust(Distrust::Writable(place)) => RegistryError::Exposed { path, place },
        Fault::NotATable(name) => {
            RegistryError::Sqlite { path, source: format!("{name} is not a table").into() }
        }
        Fault::Generated(name) => {
            let source = format!("the table {name} has a generated column").into();
            RegistryError::Sqlite { path, source }
        }
        Fault::ReadOnly => {
            RegistryError::ReadOnly { path, source: "this process may not write it".into() }
        }
        Fault::PathTooLong(limit) => RegistryError::PathTooLong { path, limit },
        Fault::Newer { found, known } => RegistryError::Newer { path, found, known },
        Fault::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                RegistryError::Full { path }
            }
            _ => RegistryError::System { path, source: error.into(), passing: false },
        },
        Fault::Sqlite(error) => name_sqlite(path, error),
    }
}

fn name_sqlite(path: PathBuf, error: rusqlite::Error) -> RegistryError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => RegistryError::Locked { path },
        Some(ErrorCode::NotADatabase) => RegistryError::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => RegistryError::Corrupt { path, source: error.into() },
        Some(ErrorCode::OperationInterrupted) => {
            RegistryError::Sqlite { path, source: "a query exceeded the step limit".into() }
        }
        Some(ErrorCode::DiskFull) => RegistryError::Full { path },
        // The file was replaced during this transaction; the next transaction opens the new one.
        Some(ErrorCode::ReadOnly) if was_moved(&error) => {
            RegistryError::System { path, source: error.into(), passing: true }
        }
        Some(ErrorCode::ReadOnly) => RegistryError::ReadOnly { path, source: error.into() },
        Some(ErrorCode::SystemIoFailure) if is_index_full(&error) => RegistryError::Full { path },
        Some(ErrorCode::SystemIoFailure) => {
            RegistryError::System { path, source: error.into(), passing: true }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            RegistryError::System { path, source: error.into(), passing: false }
        }
        _ => RegistryError::Sqlite { path, source: error.into() },
    }
}

fn was_moved(error: &rusqlite::Error) -> bool {
    extended_code(error) == Some(rusqlite::ffi::SQLITE_READONLY_DBMOVED)
}

/// SQLite reports a full disk as a failure of input or output if it makes the -shm file larger.
fn is_index_full(error: &rusqlite::Error) -> bool {
    extended_code(error) == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}
