//! Why a request to a monitor can't be met.

use super::attach::SessionId;

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
    /// A system call failed; the text says which.
    #[error("{0}")]
    System(String),
}
