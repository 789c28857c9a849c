//! Why a host can't do what it was asked for.

use std::io;
use std::sync::Arc;

use crate::monitor::{AdoptError, AttachError, RequestError, SandboxId, StartError};

/// Why a request can't be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The host has ended, or is about to and starts nothing more.
    #[error("the host has ended")]
    Ended,
    /// The thread of the host has panicked, with this message.
    #[error("the thread of the host has panicked: {0}")]
    Panicked(Arc<str>),
    /// The thread of the host has ended with an error of the poller.
    #[error("the thread of the host can't wait for events: {0}")]
    Poll(#[source] Arc<io::Error>),
    /// The thread of the host would wait for itself.
    #[error("the thread of the host can't wait for its own reply: await it on another thread")]
    OwnThread,
    /// There is no sandbox of this identifier: it has stopped, and its monitor was removed.
    #[error("there is no such sandbox any more")]
    NoSuchSandbox(SandboxId),
    /// The command was not started, or the child of the host's is not monitored.
    #[error("{source}")]
    NotStarted {
        /// The reason.
        source: Arc<StartError>,
        /// The exit code of a command that represents this: 127 for a program that was not found,
        /// 126 for one that can't be executed, else 125.
        exit_code: u8,
    },
    /// A process that was handed over is not a child of this process. The error has its streams.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The sandbox can't meet the request now.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A client can't be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// No descriptor is available.
    #[error("no descriptors for a session: {0}")]
    System(#[source] io::Error),
}
