//! Errors of opening, writing and rotating a log.

use std::io;
use std::path::PathBuf;

/// Why a log can't be used. Each message names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name of a log or of its config file is not a valid file name.
    #[error("{name:?} can't name {what}: {reason}")]
    Name {
        /// The kind of file: a log or a config file.
        what: &'static str,
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// The file at the path of a log or of its directory has another type.
    #[error("{} is {found}, not {wanted}: remove it, or log elsewhere", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// The type of the file.
        found: &'static str,
        /// The expected type.
        wanted: &'static str,
    },
    /// A log can't be rotated as asked for. It is written on, beyond its limit.
    #[error("cannot rotate {}: {reason}", path.display())]
    NotRotated {
        /// The log.
        path: PathBuf,
        /// The reason, and what to do.
        reason: &'static str,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

impl LogError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}

/// An incomplete write.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
#[non_exhaustive]
pub struct WriteError {
    /// How many of the bytes were written: exactly the first `written` bytes are in the log. Pass
    /// the rest to [`LogFile::write`](super::LogFile::write) again later.
    pub written: usize,
    /// The error that stopped the write.
    pub source: LogError,
}
