//! Reads messages from the stream socket of a control connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

/// Limit of one read.
const CHUNK: usize = 4096;

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The rest of a message, including its NUL.
    Whole,
    /// A part of a message without its end.
    Part,
    /// End of file.
    End,
}

/// Appends received bytes to `message`, up to the next NUL. What follows stays in the socket, so
/// that neither end needs a buffer for anything but an incomplete message, and the raw bytes after
/// an upgraded call are not read as a message.
pub(super) fn take(stream: &UnixStream, message: &mut Vec<u8>) -> io::Result<Received> {
    let mut chunk = [0; CHUNK];
    let waiting = receive(stream, &mut chunk, MsgFlags::MSG_PEEK)?;
    let Some(seen) = chunk.get(..waiting).filter(|seen| !seen.is_empty()) else {
        return Ok(Received::End);
    };
    let count = seen.iter().position(|&byte| byte == 0).map_or(waiting, |nul| nul + 1);
    let wanted = chunk.get_mut(..count).unwrap_or_default();
    let taken = receive(stream, wanted, MsgFlags::empty())?;
    let taken = chunk.get(..taken).unwrap_or_default();
    message.extend_from_slice(taken);
    Ok(if taken.last() == Some(&0) { Received::Whole } else { Received::Part })
}

fn receive(stream: &UnixStream, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(stream.as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            received => return Ok(received?),
        }
    }
}

/// Whether there is input, without taking any: `false` at its end.
pub(super) fn has_input(stream: &UnixStream) -> io::Result<bool> {
    receive(stream, &mut [0], MsgFlags::MSG_PEEK).map(|bytes| bytes > 0)
}

/// Whether the peer has closed both directions, not only its sending side.
pub(super) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
