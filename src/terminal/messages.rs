//! Messages of this process on stderr, without blocking the loop and with line ends for a raw
//! terminal.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Direction, Handle, is_raw};

/// A writer to stderr that never blocks: bytes that a stopped terminal or a full pipe does not take
/// are dropped. On a terminal in raw mode, lines end with CR LF.
///
/// Every write succeeds, also if stderr is closed.
#[derive(Debug, Clone)]
pub struct Messages(Option<Arc<Handle>>);

impl Messages {
    /// A writer to stderr; it discards everything if stderr is closed.
    pub fn stderr() -> Self {
        Self::to(super::stderr())
    }

    /// A writer to stdout, likewise.
    pub fn stdout() -> Self {
        Self::to(super::stdout())
    }

    /// Whether all readers of a pipe have closed it.
    pub fn reader_is_gone(&self) -> bool {
        let Some(handle) = &self.0 else { return false };
        let mut fds = [PollFd::new(handle.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let [fd] = fds;
        // Of a pipe without readers (poll(2)). On FreeBSD it is POLLHUP.
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        polled.is_ok() && fd.revents().is_some_and(|events| events.intersects(gone))
    }

    fn to(stream: BorrowedFd<'_>) -> Self {
        let handle = Handle::open(stream, Direction::Write);
        Self(handle.ok().flatten().map(Arc::new))
    }
}

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(handle) = &self.0 else { return Ok(bytes.len()) };
        let raw = handle.is_terminal() && is_raw();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) if raw => {
                    offer(handle, text);
                    offer(handle, b"\r\n");
                }
                _ => offer(handle, line),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn offer(handle: &Handle, mut bytes: &[u8]) {
    while let Ok(written @ 1..) = handle.offer(bytes) {
        bytes = bytes.get(written..).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
    }
}
