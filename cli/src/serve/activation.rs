//! Socket activation: the listening socket of a service manager, as sd_listen_fds(3) describes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use vmon::child::Command;

use crate::inherited;

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The socket that this process was started with, and its path. `None` without socket activation.
pub fn listener() -> io::Result<Option<(UnixListener, Option<PathBuf>)>> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if number(PID) != Some(std::process::id()) {
        return Ok(None);
    }
    match number(COUNT) {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(_) => return Err(io::Error::other("more than one socket was passed")),
    }
    let socket = inherited::descriptor(FIRST).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EBADF) => io::Error::other("descriptor 3 was not passed"),
        _ => error,
    })?;
    if !is_listening(&socket) {
        return Err(io::Error::other("descriptor 3 is no listening Unix stream socket"));
    }
    let listener = UnixListener::from(socket);
    let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
    Ok(Some((listener, path)))
}

/// What sd_is_socket_unix(3) checks.
fn is_listening(socket: &OwnedFd) -> bool {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    address.is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
        && getsockopt(socket, sockopt::SockType) == Ok(SockType::Stream)
        && getsockopt(socket, sockopt::AcceptConn) == Ok(true)
}

/// Removes the manager's variables from the environment of `command`.
pub fn hide(command: Command) -> Command {
    [PID, COUNT, NAMES].into_iter().fold(command, Command::env_remove)
}
