//! What a handler leaves behind on the loop when it is done: watched by nobody else, looked at once
//! its descriptor is ready, and waited for by nobody.

use std::fmt::Debug;
use std::os::fd::{AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::rearm;

/// The poller's token for all of them.
pub(super) const LEFT: Token = Token(usize::MAX - 2);

/// Something that outlives its handler, as a process that is still to be reaped does.
pub(crate) trait Leaving: Debug {
    /// Ready for reading when there is something to do for it. Where the system has no such
    /// descriptor, it is looked at with others only.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Does that, without waiting; says whether it was the last of it.
    fn is_over(&mut self) -> bool;
}

/// What handlers of one reactor have left behind.
#[derive(Debug, Default)]
pub(super) struct Leavings(Vec<Box<dyn Leaving>>);

impl Leavings {
    pub(super) fn add(&mut self, leaving: Box<dyn Leaving>, registry: &Registry) {
        if let Some(fd) = leaving.fd() {
            // One that the poller has no room for is as good as one without a descriptor.
            let _ = registry.register(&mut SourceFd(&fd.as_raw_fd()), LEFT, Interest::READABLE);
        }
        self.0.push(leaving);
    }

    /// Looks at all of them: they are few, and one of them is ready.
    pub(super) fn look(&mut self, registry: &Registry) {
        self.0.retain_mut(|leaving| {
            let over = leaving.is_over();
            match leaving.fd().map(|fd| fd.as_raw_fd()) {
                Some(fd) if over => {
                    let _ = registry.deregister(&mut SourceFd(&fd));
                }
                Some(fd) => rearm::fd(registry, fd, LEFT, Interest::READABLE),
                None => {}
            }
            !over
        });
    }
}
