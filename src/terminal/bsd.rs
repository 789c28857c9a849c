//! macOS and the BSDs: `/dev/fd` only duplicates descriptors, so only terminals can be reopened, by
//! name.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::MsgFlags;
use nix::sys::stat::Mode;
use nix::unistd::ttyname;

use super::handle::Direction;

#[cfg(target_os = "macos")]
pub(crate) const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT;

#[cfg(not(target_os = "macos"))]
pub(crate) const SEND_FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Fails: these systems can't reopen a descriptor.
pub(super) fn reopen(_stream: BorrowedFd<'_>, _direction: Direction) -> io::Result<OwnedFd> {
    Err(Errno::ENOTSUP.into())
}

/// Opens a new file description of the same terminal. Fails for a PTY master, which has no name.
pub(super) fn reopen_terminal(stream: BorrowedFd<'_>, direction: Direction) -> io::Result<OwnedFd> {
    let access = match direction {
        Direction::Read => OFlag::O_RDONLY,
        Direction::Write => OFlag::O_WRONLY,
    };
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(open(&ttyname(stream)?, flags, Mode::empty())?)
}

/// Whether this is the master of a PTY. Always `false`: these systems have no check.
#[cfg(feature = "consoles")]
pub(crate) fn is_pty_master(_: BorrowedFd<'_>) -> bool {
    false
}
