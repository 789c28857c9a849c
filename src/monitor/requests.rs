//! Why a request to a monitor can't be met.

use super::attach::SessionId;

/// Why a request can't be met now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no child, or it has ended.
    #[error("the sandbox is not running")]
    NotRunning,
    /// Nobody is attached under that name.
    #[error("there is no session {}", .0.0)]
    NoSuchSession(SessionId),
    /// The session may only look.
    #[error("session {} is read-only", .0.0)]
    ReadOnly(SessionId),
    /// The child has pipes.
    #[error("the sandbox has no terminal")]
    NoTerminal,
    /// The system refused; the text says what.
    #[error("{0}")]
    System(String),
}
