//! Linux: a path through `/proc/self/fd` is short, and refers to the open file also if another file
//! replaces it at its path.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, socket as new_socket, sockopt,
};
use nix::sys::stat::Mode;

/// A new stream socket.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    Ok(new_socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The longest path of a socket; `None` for no limit.
pub(crate) fn path_limit() -> Option<usize> {
    None
}

/// Calls `connect` with an address of the socket at `path`.
pub(super) fn with_address(
    path: &Path,
    connect: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let socket = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    match connect(&of_descriptor(socket.as_raw_fd())) {
        // /proc is not mounted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => connect(path),
        connected => connected,
    }
}

/// Creates a listening socket of this name in an open directory. Its path is used if /proc is not
/// mounted.
pub(crate) fn bind(directory: &OwnedFd, path: &Path, name: &OsStr) -> io::Result<UnixListener> {
    match UnixListener::bind(of_descriptor(directory.as_raw_fd()).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            UnixListener::bind(path.join(name))
        }
        bound => bound,
    }
}

/// The effective user of the peer at the time of its connect(2) or listen(2).
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, sockopt::PeerCredentials)?.uid())
}

/// The process that has called connect(2) or listen(2) on the other side; 0 for one that this pid
/// namespace does not show.
pub(crate) fn peer_pid(stream: &UnixStream) -> io::Result<i32> {
    Ok(getsockopt(stream, sockopt::PeerCredentials)?.pid())
}

fn of_descriptor(descriptor: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{descriptor}"))
}
