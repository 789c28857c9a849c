//! Errors of the client.

use std::io;
use std::path::{Path, PathBuf};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket does not exist, or no process listens on it: the supervisor has ended.
    #[error("no supervisor serves {}", .0.display())]
    NotServed(PathBuf),
    /// The supervisor has closed the connection: it has ended or was killed.
    #[error("the supervisor at {} has closed the connection", .0.display())]
    Closed(PathBuf),
    /// The supervisor, or the mode of the socket, admits only its own user and root.
    #[error("the supervisor at {} serves its own user and root only", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
    },
    /// Another user's process listens on the socket. Nothing was sent.
    #[error("{} is served by uid {owner}, which is neither yours nor root's", .path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// The uid of that process.
        owner: u32,
    },
    /// The supervisor did not reply in time. The request may still be carried out.
    #[error("the supervisor at {} does not answer: it may be suspended", .0.display())]
    Timeout(PathBuf),
    /// The supervisor returned a varlink error.
    #[error("the supervisor at {} returned the error {name} {parameters}", .path.display())]
    Call {
        /// The socket.
        path: PathBuf,
        /// The error's full name, as `io.vmon.Monitor.NotRunning`.
        name: String,
        /// Its parameters, a JSON object.
        parameters: String,
    },
    /// The reply does not conform to the interface.
    #[error("{}: {what}", .path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A system call failed.
    #[error("can't communicate with the supervisor at {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The error of the system call.
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

    /// The name of the returned error without its interface, for example `NotRunning`.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Call { name, .. } => name.rsplit('.').next(),
            _ => None,
        }
    }

    /// Whether the supervisor has ended, so that only the record describes the sandbox.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotServed(_) | Self::Closed(_))
    }
}
