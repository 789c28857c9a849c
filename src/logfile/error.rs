//! Why a log can't be used, or a write did not go through.

use std::io;
use std::path::PathBuf;

/// Why a log can't be used. Each message names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name of a log or of its config file is no name for a file.
    #[error("{name:?} can't name {what}: {reason}")]
    Name {
        /// What it was to name.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something else is in the place of a log or of its directory.
    #[error("{} is {found}, not {wanted}: remove it, or log elsewhere", path.display())]
    WrongKind {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// The system's reason.
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

/// A write that did not go through to its end.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct WriteError {
    /// How many of the bytes given are in the log: exactly the first so many. Give the rest to
    /// [`LogFile::write`](super::LogFile::write) again, later.
    pub written: usize,
    /// Why the rest is not.
    pub source: LogError,
}
