//! Stream sockets, as both ends of a control connection use them: reached by a path of any
//! length, read message by message, and asked who is at the other end.

#[cfg_attr(target_os = "linux", path = "stream/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "stream/bsd.rs")]
mod platform;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrLike, UnixAddr, connect, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub(super) use platform::{path_limit, peer_uid};

/// What one look at a connection takes at most.
const CHUNK: usize = 4096;

/// What a look at a connection has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// The rest of a message, its NUL included.
    Whole,
    /// A part that is not the last.
    Part,
    /// The peer sends no more.
    End,
}

/// Adds to `message` what has come of it, and nothing that comes after its NUL: that stays in the
/// socket, for whoever reads it next. So neither end needs a buffer but for an unfinished message,
/// and the raw bytes behind an upgraded call are never taken for a message.
pub(super) fn take(stream: &UnixStream, message: &mut Vec<u8>) -> io::Result<Took> {
    let mut chunk = [0; CHUNK];
    let waiting = receive(stream, &mut chunk, MsgFlags::MSG_PEEK)?;
    let Some(seen) = chunk.get(..waiting).filter(|seen| !seen.is_empty()) else {
        return Ok(Took::End);
    };
    let count = seen.iter().position(|&byte| byte == 0).map_or(waiting, |nul| nul + 1);
    let wanted = chunk.get_mut(..count).unwrap_or_default();
    let taken = receive(stream, wanted, MsgFlags::empty())?;
    let taken = chunk.get(..taken).unwrap_or_default();
    message.extend_from_slice(taken);
    Ok(if taken.last() == Some(&0) { Took::Whole } else { Took::Part })
}

fn receive(stream: &UnixStream, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(stream.as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            received => return Ok(received?),
        }
    }
}

/// Connects to the socket at `path`, which is not a symbolic link, and waits no longer than that
/// for a server that accepts nobody (then it is `WouldBlock`).
pub(super) fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = platform::socket()?;
    // Linux lets connect(2) wait for room among those who have not been accepted, unix(7), for
    // as long as a send may; elsewhere it never waits. Zero would be for ever.
    let patience = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::microseconds(patience))?;
    platform::reach(path, |address| connect_to(&socket, address))?;
    Ok(socket.into())
}

fn connect_to(socket: &OwnedFd, address: &Path) -> io::Result<()> {
    let address = UnixAddr::new(address)?;
    debug_assert!(address.len() > 0);
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            connected => return Ok(connected?),
        }
    }
}
