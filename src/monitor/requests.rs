//! What others may ask of a running child, beside the stop that signals ask for too.

use std::time::Duration;

use super::keys::Cx;
use super::running::Request;
use super::{Monitor, SessionId, State};
use crate::child::Signal;

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

impl Monitor {
    /// As [`stop`](Self::stop), but killing after `timeout` instead of the sandbox's own, where one
    /// is given. Asked again it never kills at once: the earlier of both times counts.
    pub fn stop_within(&mut self, timeout: Option<Duration>, cx: &mut Cx<'_>) {
        self.stop_requested(Request::Within(timeout), cx);
    }

    /// Sends `signal` to the child's process group, or to the child alone if it leads none.
    ///
    /// # Errors
    ///
    /// There is no child to signal now.
    pub fn signal_child(&mut self, signal: Signal) -> Result<(), RequestError> {
        match &self.state {
            State::Running(running) | State::Stopping(running, _) => running
                .child
                .signal(signal)
                .map_err(|error| RequestError::System(format!("can't send {signal}: {error}"))),
            _ => Err(RequestError::NotRunning),
        }
    }

    /// Closes the log, and those of consoles, and opens them by their names: for whoever has moved
    /// them away.
    ///
    /// # Errors
    ///
    /// There is no log now, or it can't be opened; then the next write tries again.
    pub fn reopen_log(&mut self) -> Result<(), RequestError> {
        if self.channels.stdio().is_none() {
            return Err(RequestError::NotRunning);
        }
        self.channels.reopen_logs().map_err(|error| RequestError::System(error.to_string()))
    }
}
