//! What a client may run into.

use std::io;
use std::path::{Path, PathBuf};

/// Why a call had no success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no such socket, or nobody listens to it any more: the supervisor is gone.
    #[error("no supervisor serves {}", .0.display())]
    NotServed(PathBuf),
    /// The supervisor has closed the connection: it has come to its end, or was killed.
    #[error("the supervisor at {} has closed the connection", .0.display())]
    Closed(PathBuf),
    /// The supervisor, or the socket's permissions, admit its own user and root only.
    #[error("the supervisor at {} serves its own user and root only", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
    },
    /// What listens there is neither ours nor root's. Nothing was sent.
    #[error("{} is served by the user {owner}, who is not trusted", .path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who serves it, by uid.
        owner: u32,
    },
    /// The supervisor did not answer in time; what was asked for may be done still.
    #[error("the supervisor at {} does not answer: it may be suspended", .0.display())]
    Timeout(PathBuf),
    /// The supervisor has answered with a named error.
    #[error("the supervisor at {} says {name} {parameters}", .path.display())]
    Call {
        /// The socket.
        path: PathBuf,
        /// The error's full name, as `io.vmon.Monitor.NotRunning`.
        name: String,
        /// Its parameters, a JSON object.
        parameters: String,
    },
    /// What came is not what the interface promises.
    #[error("{}: {what}", .path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system's error.
    #[error("can't speak to the supervisor at {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl ClientError {
    pub(super) fn of_connect(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused => Self::NotServed(path),
            io::ErrorKind::PermissionDenied => Self::Refused { path },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout(path),
            _ => Self::Io { path, source },
        }
    }

    /// The name of the error that the supervisor has answered with, without its interface:
    /// `NotRunning`, say.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Call { name, .. } => name.rsplit('.').next(),
            _ => None,
        }
    }

    /// Whether the supervisor is not there (any more), so that the record knows more than it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotServed(_) | Self::Closed(_))
    }
}
