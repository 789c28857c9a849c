//! What can be wrong with a registry, in words for its user.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::trust::Distrust;

/// Why the registry can't be used; each says which one and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The path is taken by something that vmon does not write to.
    #[error(
        "the registry's file {path} is {kind}, not a regular file: move it away, or choose another database"
    )]
    NotAFile {
        /// The database, or a file that SQLite has beside it.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file holds something else.
    #[error("the registry {path} is not an SQLite database: move it away, or choose another one")]
    NotADatabase {
        /// The database.
        path: PathBuf,
    },
    /// SQLite found its structure damaged.
    #[error(
        "the registry {path} is damaged ({reason}): move it and its -wal file away, or mend it with sqlite3's .recover"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// A later vmon has changed its schema.
    #[error(
        "the registry {path} was made by a newer vmon (schema version {found}, this one knows {known}): update vmon, or choose another database"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version it has.
        found: String,
        /// The version of this vmon.
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
    /// It can be read only.
    #[error(
        "the registry {path} can't be written ({reason}): make the file and its directory writable, or choose another database"
    )]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// The disk or the quota is full.
    #[error("no space is left for the registry {path}: free some on its file system")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// A file or directory could not be made, opened or read.
    #[error("can't use the registry {path}: {reason}; check its directory and permissions")]
    System {
        /// The database.
        path: PathBuf,
        /// The system's reason.
        reason: String,
        /// Whether it may be over by itself.
        passing: bool,
    },
    /// The record could have been written by another user, so nothing is ended, closed, taken in or
    /// removed on its word.
    #[error(
        "{place} belongs to uid {owner}, so the record {path} is only read: nothing of it is ended, closed or removed; run this as that user"
    )]
    Foreign {
        /// The database.
        path: PathBuf,
        /// The database, its directory or the spool directory.
        place: PathBuf,
        /// The user that this belongs to.
        owner: u32,
    },
    /// The same, because other users may write to its place.
    #[error(
        "other users can write to {place}, so the record {path} is only read: nothing of it is ended, closed or removed; 'chmod go-w {place}' first"
    )]
    Exposed {
        /// The database.
        path: PathBuf,
        /// The database, its directory or the spool directory.
        place: PathBuf,
    },
    /// What a run whose supervisor was lost has left behind is still there.
    #[error(
        "the last run of {config_file}/{name} has left something behind: {reason}; try again, or end it yourself"
    )]
    Leftovers {
        /// The namespace.
        config_file: String,
        /// The sandbox.
        name: String,
        /// What is there, or why it can't be ended.
        reason: String,
    },
    /// Anything else that SQLite says: its tables are not those that vmon knows.
    #[error("can't use the registry {path}: {reason}; choose another database if it is not vmon's")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
}

impl RegistryError {
    /// Whether trying again may help without anybody mending the database: a lock, a full disk,
    /// an input/output error.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Full { .. } | Self::Leftovers { .. } => true,
            Self::System { passing, .. } => *passing,
            Self::NotAFile { .. }
            | Self::NotADatabase { .. }
            | Self::Corrupt { .. }
            | Self::Newer { .. }
            | Self::ReadOnly { .. }
            | Self::Foreign { .. }
            | Self::Exposed { .. }
            | Self::Sqlite { .. } => false,
        }
    }
}

/// A failure that does not know its database yet.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Sqlite(rusqlite::Error),
    NotAFile(&'static str),
    /// A file that SQLite has beside the database, and what it is.
    Companion(PathBuf, &'static str),
    /// This file beside a database of ours belongs to another user.
    Planted(PathBuf, u32),
    ReadOnly,
    Distrust(Distrust),
    /// This table is something else.
    NotATable(String),
    /// This table has a generated column.
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
}

/// Names the database that a [`Fault`] is about.
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
            RegistryError::System { path, reason, passing: false }
        }
        Fault::Distrust(Distrust::Owner(place, owner)) => {
            RegistryError::Foreign { path, place, owner }
        }
        Fault::Distrust(Distrust::Writable(place)) => RegistryError::Exposed { path, place },
        Fault::NotATable(name) => {
            RegistryError::Sqlite { path, reason: format!("its {name} is no table") }
        }
        Fault::Generated(name) => {
            let reason = format!("its {name} has a generated column");
            RegistryError::Sqlite { path, reason }
        }
        Fault::ReadOnly => {
            RegistryError::ReadOnly { path, reason: "it is read-only for us".to_owned() }
        }
        Fault::Newer { found, known } => RegistryError::Newer { path, found, known },
        Fault::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                RegistryError::Full { path }
            }
            _ => RegistryError::System { path, reason: error.to_string(), passing: false },
        },
        Fault::Sqlite(error) => name_sqlite(path, &error),
    }
}

fn name_sqlite(path: PathBuf, error: &rusqlite::Error) -> RegistryError {
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => RegistryError::Locked { path },
        Some(ErrorCode::NotADatabase) => RegistryError::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => RegistryError::Corrupt { path, reason },
        Some(ErrorCode::OperationInterrupted) => {
            let reason = "a query took more steps than any of vmon's does".to_owned();
            RegistryError::Sqlite { path, reason }
        }
        Some(ErrorCode::DiskFull) => RegistryError::Full { path },
        // The file was replaced under this one transaction; the next opens what is there now.
        Some(ErrorCode::ReadOnly) if was_moved(error) => {
            RegistryError::System { path, reason, passing: true }
        }
        Some(ErrorCode::ReadOnly) => RegistryError::ReadOnly { path, reason },
        Some(ErrorCode::SystemIoFailure) => RegistryError::System { path, reason, passing: true },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            RegistryError::System { path, reason, passing: false }
        }
        _ => RegistryError::Sqlite { path, reason },
    }
}

fn was_moved(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(rusqlite::ffi::SQLITE_READONLY_DBMOVED)
}
