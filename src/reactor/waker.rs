//! Waking a reactor from another thread.

use std::io;
use std::sync::Arc;

use mio::{Registry, Token};

/// The poller's token for a [`Waker`].
pub(super) const WAKER: Token = Token(usize::MAX - 1);

/// Makes a reactor's [`poll_once`](super::Reactor::poll_once) return, from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    pub(super) fn new(registry: &Registry) -> io::Result<Self> {
        Ok(Self(Arc::new(mio::Waker::new(registry, WAKER)?)))
    }

    /// Wakes the reactor, now or, if it is not polling, at its next poll.
    ///
    /// # Errors
    ///
    /// The poller's.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
