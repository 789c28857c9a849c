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
    /// The child has no input, or has closed it.
    #[error("the sandbox takes no input")]
    NoInput,
    /// The child has yet to take earlier input, or it is too much at a time.
    #[error("the child has not taken its earlier input: at most {0} bytes may wait")]
    InputFull(usize),
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
