//! What the handles and replies of one engine know of it: its thread, and why it has ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use super::error::HostError;
use super::subscriptions::SubscriptionId;

/// Shared by an engine, its handles and its replies. Nothing in it is locked.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The thread of a [`Host`](super::Host), once that runs.
    thread: OnceLock<ThreadId>,
    /// Set before the engine and the requests to it are dropped.
    end: OnceLock<Cause>,
    /// The number of the last subscription.
    subscriptions: AtomicU64,
}

/// Why an engine has ended.
#[derive(Debug)]
pub(super) enum Cause {
    /// Its host was dropped.
    Dropped,
    /// A panic with this message.
    Panicked(Arc<str>),
    /// The poller's error.
    Poll(Arc<io::Error>),
}

impl Shared {
    /// The current thread drives the engine from now on.
    pub(super) fn set_thread(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    /// Whether the current thread is the one that drives the engine.
    pub(super) fn is_own_thread(&self) -> bool {
        self.thread.get().is_some_and(|thread| *thread == thread::current().id())
    }

    /// The engine ends. Only the first cause counts.
    pub(super) fn set_end(&self, cause: Cause) {
        let _ = self.end.set(cause);
    }

    /// The error of what is asked of an engine that has ended.
    pub(super) fn error(&self) -> HostError {
        match self.end.get() {
            Some(Cause::Panicked(message)) => HostError::Panicked(message.clone()),
            Some(Cause::Poll(error)) => HostError::Poll(error.clone()),
            Some(Cause::Dropped) | None => HostError::Ended,
        }
    }

    /// An identifier for one more subscription.
    pub(super) fn next_subscription(&self) -> SubscriptionId {
        // Only uniqueness matters.
        SubscriptionId(self.subscriptions.fetch_add(1, Ordering::Relaxed))
    }
}
