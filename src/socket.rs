//! Unix sockets by their paths: reached, and put into a place of their own.
//!
//! Nothing here waits unless it is told to, and nothing is registered or read.

// The control socket checks its peer's user and uses timeouts; consoles dial paths of any length.
#![cfg_attr(not(all(feature = "consoles", feature = "control")), allow(dead_code, unused_imports))]

mod place;
#[cfg_attr(target_os = "linux", path = "socket/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "socket/bsd.rs")]
mod platform;

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, connect};

#[allow(unused_imports)] // the registry alone closes lost runs
pub(crate) use place::sweep;
pub(crate) use place::{Bound, PlaceError};
pub(crate) use platform::{path_limit, peer_uid};

/// How long the path of a socket may be for whoever knows nothing but `sockaddr_un`, as most
/// programs do; the closing NUL takes one.
pub(crate) const ADDRESS_LIMIT: usize =
    size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// Connects to the socket at `path`, which is not a symbolic link. With a server that accepts nobody
/// it waits for as long as `patience` says, or not at all; then it is `WouldBlock`.
pub(crate) fn dial(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let socket = UnixStream::from(platform::socket()?);
    match patience {
        // Linux lets connect(2) wait for room among those who have not been accepted, unix(7), for
        // as long as a send may; elsewhere it never waits. Zero would be for ever.
        Some(time) => socket.set_write_timeout(Some(time.max(Duration::from_micros(1))))?,
        None => socket.set_nonblocking(true)?,
    }
    platform::reach(path, |address| connect_to(&socket, address))?;
    Ok(socket)
}

/// As [`dial`] without patience, but that `path` may also be a symbolic link to a socket.
pub(crate) fn try_dial(path: &Path) -> io::Result<UnixStream> {
    let socket = UnixStream::from(platform::socket()?);
    socket.set_nonblocking(true)?;
    if path.as_os_str().len() <= ADDRESS_LIMIT {
        connect_to(&socket, path)?;
    } else {
        platform::reach(path, |address| connect_to(&socket, address))?;
    }
    Ok(socket)
}

fn connect_to(socket: &UnixStream, address: &Path) -> io::Result<()> {
    let address = UnixAddr::new(address)?;
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            connected => return Ok(connected?),
        }
    }
}
