//! Why a control socket can't be served.

use std::io;
use std::path::PathBuf;

/// Why a control socket can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The system takes no socket path of that length.
    #[error(
        "the path of the control socket {} is too long for this system, at most {limit} bytes: choose a shorter runtime directory",
        .path.display()
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// How long it may be.
        limit: usize,
    },
    /// Somebody serves it.
    #[error("the control socket {} is in use by a live supervisor: stop that one, or choose another name", .0.display())]
    InUse(PathBuf),
    /// What is there is no socket of ours.
    #[error("{} is not {wanted}: move it away", .path.display())]
    WrongKind {
        /// Where.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// A directory that another user could put a socket into.
    #[error("can't use the directory {}: {who} can write into it: {remedy}choose another runtime directory", .path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Who can write into it.
        who: String,
        /// What else to do about it.
        remedy: &'static str,
    },
    /// The system has refused.
    #[error("can't {what} {}: {source}; make it usable, or choose another runtime directory", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
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
