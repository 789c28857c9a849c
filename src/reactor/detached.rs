//! Work that outlives its handler, such as a process that is still to be reaped.
//!
//! The reactor polls it when its descriptor becomes readable and never blocks on it.

use std::fmt::Debug;
use std::os::fd::{AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::rearm;

/// The poller's token of all detached work.
pub(super) const DETACHED: Token = Token(usize::MAX - 2);

/// Work that outlives its handler.
pub(crate) trait Detached: Debug + Send {
    /// Readable when [`poll`](Self::poll) has something to do. Work without a descriptor is polled
    /// together with other work only.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Does what is due, without blocking; returns whether all is done.
    fn poll(&mut self) -> bool;
}

/// The detached work of one reactor.
#[derive(Debug, Default)]
pub(super) struct DetachedSet(Vec<Box<dyn Detached>>);

impl DetachedSet {
    pub(super) fn add(&mut self, work: Box<dyn Detached>, registry: &Registry) {
        if let Some(fd) = work.fd() {
            // On failure it is polled like work without a descriptor.
            let _ = registry.register(&mut SourceFd(&fd.as_raw_fd()), DETACHED, Interest::READABLE);
        }
        self.0.push(work);
    }

    /// Polls all of it: there are few, and they share one token.
    pub(super) fn poll(&mut self, registry: &Registry) {
        self.0.retain_mut(|work| {
            let done = work.poll();
            match work.fd().map(|fd| fd.as_raw_fd()) {
                Some(fd) if done => {
                    let _ = registry.deregister(&mut SourceFd(&fd));
                }
                Some(fd) => rearm::fd(registry, fd, DETACHED, Interest::READABLE),
                None => {}
            }
            !done
        });
    }
}
