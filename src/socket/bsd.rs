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

/// The longest path of a socket; `None` for no limit.
pub(crate) fn path_limit() -> Option<usize> {
    // One byte is for the NUL.
    Some(size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1)
}

/// Calls `connect` with an address of the socket at `path`.
pub(super) fn with_address(
    path: &Path,
    connect: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    connect(path)
}

/// Creates a listening socket of this name in a directory. The path is used: these systems have no
/// bind by descriptor.
pub(crate) fn bind(_directory: &OwnedFd, path: &Path, name: &OsStr) -> io::Result<UnixListener> {
    UnixListener::bind(path.join(name))
}

/// The effective user of the peer at the time of its connect(2) or listen(2).
pub(crate) fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, sockopt::LocalPeerCred)?.uid())
}
