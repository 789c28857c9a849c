//! Why a request to a monitor can't be met.

use std::io;

use super::attach::SessionId;
use crate::child::Signal;
use crate::logfile::LogError;

/// Why a request can't be met now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no child, or it has ended.
    #[error("the sandbox is not running")]
    NotRunning,
    /// No client is attached under that identifier.
    #[error("there is no session {}", .0.0)]
    NoSuchSession(SessionId),
    /// The session is read-only.
    #[error("session {} is read-only", .0.0)]
    ReadOnly(SessionId),
    /// The child has no terminal.
    #[error("the sandbox has no terminal")]
    NoTerminal,
    /// The signal can't be sent.
    #[error("can't send {signal}: {source}")]
    Signal {
        /// The signal.
        signal: Signal,
        /// The error of kill(2).
        source: io::Error,
    },
    /// The size of the child's terminal can't be set.
    #[error("{0}")]
    Resize(#[source] io::Error),
    /// A log can't be opened.
    #[error(transparent)]
    Log(#[from] LogError),
}
