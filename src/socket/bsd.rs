//! macOS and the BSDs: a path must fit into a `sockaddr_un`.

use std::ffi::OsStr;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, socket as new_socket, sockopt,
};

/// A new stream socket.
pub(crate) fn socket() -> io::Result<OwnedFd> {
    let socket = new_socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?;
    // macOS has no SOCK_CLOEXEC.
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(socket)
}

/// How long the path of a socket may be; `None` is without limit.
pub(crate) fn path_limit() -> Option<usize> {
    // The closing NUL takes one.
    Some(size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1)
}

/// Calls `connect` with an address of the socket at `path`.
pub(super) fn reach(path: &Path, connect: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    connect(path)
}

/// Makes a listening socket of this name in an open directory, whose path serves where the
/// descriptor does not.
pub(crate) fn bind(_directory: &OwnedFd, path: &Path, name: &OsStr) -> io::Result<UnixListener> {
    UnixListener::bind(path.join(name))
}

/// The effective user of the peer, when it connected (or began to listen).
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, sockopt::LocalPeerCred)?.uid())
}
