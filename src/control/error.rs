//! Why a control socket can't be served.

use std::io;
use std::path::PathBuf;

/// Why a control socket can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The path exceeds the system's limit for sockets.
    #[error(
        "the path of the control socket {} is too long for this system, at most {limit} bytes: choose a shorter runtime directory",
        .path.display()
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// A live supervisor listens on it.
    #[error("the control socket {} is in use by a live supervisor: stop that one, or choose another name", .0.display())]
    InUse(PathBuf),
    /// The path is not of the expected type.
    #[error("{} is not {wanted}: move it away", .path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// The expected type.
        wanted: &'static str,
    },
    /// Another user could put a socket into the directory.
    #[error("can't use the directory {}: {who} can write into it: {remedy}choose another runtime directory", .path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// The users that can write to it.
        who: String,
        /// How to correct it.
        remedy: &'static str,
    },
    /// A system call failed.
    #[error("can't {what} {}: {source}; make it usable, or choose another runtime directory", .path.display())]
    Io {
        /// The action that failed.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

impl ControlError {
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { what, path: path.into(), source: source.into() }
    }
}
