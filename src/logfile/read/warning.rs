//! Problems with a log that do not stop reading.

use std::io;
use std::path::PathBuf;

/// A problem with a log that does not stop reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Generations were removed before they were read.
    #[error("generations {first} to {last} of {} were removed before they were read", path.display())]
    Missed {
        /// The log.
        path: PathBuf,
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// Generations between others are missing.
    #[error("generations {first} to {last} of {} are missing", path.display())]
    Missing {
        /// The log.
        path: PathBuf,
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// A generation is compressed in a format that is not read.
    #[error("{} is left out: only gzip and Zstandard are read; decompress it", path.display())]
    Unreadable {
        /// The generation.
        path: PathBuf,
    },
    /// An index does not match its log, so the streams and times of that file are unknown.
    #[error("{} does not match its log and is ignored: {why}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The mismatch.
        why: &'static str,
    },
    /// A compressed generation is damaged. The rest of it is skipped.
    #[error("{} is damaged, and the rest of it is left out: {why}", path.display())]
    Damaged {
        /// The generation.
        path: PathBuf,
        /// The error of the decompressor.
        why: String,
    },
    /// The log was truncated during reading, and is read again from its beginning.
    #[error("{} was truncated, and is read from its beginning", path.display())]
    Truncated {
        /// The log.
        path: PathBuf,
    },
}

impl Warning {
    pub(super) fn damaged(path: PathBuf, error: &io::Error) -> Self {
        Self::Damaged { path, why: error.to_string() }
    }
}
