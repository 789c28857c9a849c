//! macOS and the BSDs: a path must fit into a `sockaddr_un`.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, getsockopt, socket as new_socket, sockopt,
};

/// A new stream socket.
pub(in super::super) fn socket() -> io::Result<OwnedFd> {
    let socket = new_socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?;
    // macOS has no SOCK_CLOEXEC.
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(socket)
}

/// How long the path of a socket may be; `None` is without limit.
pub(in super::super) fn path_limit() -> Option<usize> {
    // The closing NUL takes one.
    Some(size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1)
}

/// Calls `connect` with an address of the socket at `path`.
pub(super) fn reach(path: &Path, connect: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    connect(path)
}

/// The effective user of the peer, when it connected (or began to listen).
pub(in super::super) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, sockopt::LocalPeerCred)?.uid())
}
