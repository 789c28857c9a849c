//! Unix sockets by path: connecting, and listening at a path.
//!
//! Only [`dial`] blocks, and only with a timeout. Nothing is registered with the loop or read.

// The control socket checks its peer's user and uses timeouts; consoles connect to long paths.
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

#[allow(unused_imports)] // only the registry closes lost runs
pub(crate) use place::sweep;
pub(crate) use place::{Bound, PlaceError};
#[cfg(target_os = "linux")]
pub(crate) use platform::peer_pid;
pub(crate) use platform::{path_limit, peer_uid};

/// The longest path of a socket that fits into a `sockaddr_un`, less one for the NUL. Most programs
/// can't connect to a longer one.
pub(crate) const ADDRESS_LIMIT: usize =
    size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// Connects to the socket at `path`, which must not be a symbolic link. If the backlog of the
/// server is full, it blocks up to `timeout`, or not at all, and fails with `WouldBlock`.
pub(crate) fn dial(path: &Path, timeout: Option<Duration>) -> io::Result<UnixStream> {
    let socket = UnixStream::from(platform::socket()?);
    match timeout {
        // On Linux, connect(2) blocks on a full backlog up to the send timeout (unix(7)); elsewhere
        // it never blocks. A timeout of zero means no timeout.
        Some(time) => socket.set_write_timeout(Some(time.max(Duration::from_micros(1))))?,
        None => socket.set_nonblocking(true)?,
    }
    platform::with_address(path, |address| connect_to(&socket, address))?;
    Ok(socket)
}

/// As [`dial`] without a timeout, but `path` may also be a symbolic link to a socket.
pub(crate) fn try_dial(path: &Path) -> io::Result<UnixStream> {
    let socket = UnixStream::from(platform::socket()?);
    socket.set_nonblocking(true)?;
    if path.as_os_str().len() <= ADDRESS_LIMIT {
        connect_to(&socket, path)?;
    } else {
        platform::with_address(path, |address| connect_to(&socket, address))?;
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
