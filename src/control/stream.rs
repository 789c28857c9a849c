//! Stream sockets, as both ends of a control connection use them: read message by message.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

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

/// Whether the peer has closed the connection both ways, and not only said that it sends no more.
pub(super) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
