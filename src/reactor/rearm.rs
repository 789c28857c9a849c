//! Re-arming a descriptor for its next edge: done by the kernel, or, with mio's poll(2) back end,
//! here.

use std::io;
use std::os::fd::RawFd;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// Changes what a registered descriptor is watched for.
pub(super) fn update(
    registry: &Registry,
    fd: RawFd,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    match registry.reregister(&mut SourceFd(&fd), token, interest) {
        // The poll(2) back end has dropped a descriptor that was closed on the other side.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            registry.register(&mut SourceFd(&fd), token, interest)
        }
        result => result,
    }
}

/// epoll and kqueue report the next edge without a call.
#[cfg(not(mio_unsupported_force_poll_poll))]
pub(super) fn fd(_: &Registry, _: RawFd, _: Token, _: Interest) {}

/// mio's poll(2) back end emulates edges: after an event it watches a descriptor again only when it
/// is registered again.
#[cfg(mio_unsupported_force_poll_poll)]
pub(super) fn fd(registry: &Registry, fd: RawFd, token: Token, interest: Interest) {
    // This fails only for a closed descriptor, which has no further events.
    let _ = update(registry, fd, token, interest);
}

/// As [`fd`], for a readable source of a mio type.
#[cfg(not(mio_unsupported_force_poll_poll))]
pub(super) fn source(_: &Registry, _: &mut impl Source, _: Token) {}

#[cfg(mio_unsupported_force_poll_poll)]
pub(super) fn source(registry: &Registry, source: &mut impl Source, token: Token) {
    let _ = source.reregister(registry, token, Interest::READABLE);
}
