//! What tells of the next edge: the kernel, or, on mio's poll(2) back end, we ourselves.

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

/// epoll and kqueue tell of the next edge by themselves.
#[cfg(not(mio_unsupported_force_poll_poll))]
pub(super) fn fd(_: &Registry, _: RawFd, _: Token, _: Interest) {}

/// mio's poll(2) back end imitates edges by not watching again until told to.
#[cfg(mio_unsupported_force_poll_poll)]
pub(super) fn fd(registry: &Registry, fd: RawFd, token: Token, interest: Interest) {
    // Only a descriptor that is closed already fails here, and that has nothing more to tell.
    let _ = update(registry, fd, token, interest);
}

/// As [`fd`], for a source of mio's own kind that is read.
#[cfg(not(mio_unsupported_force_poll_poll))]
pub(super) fn source(_: &Registry, _: &mut impl Source, _: Token) {}

#[cfg(mio_unsupported_force_poll_poll)]
pub(super) fn source(registry: &Registry, source: &mut impl Source, token: Token) {
    let _ = source.reregister(registry, token, Interest::READABLE);
}
