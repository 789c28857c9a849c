//! The kinds of sources, and what a short read of each means.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use nix::unistd::isatty;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pipe,
    /// A terminal in raw mode, such as the master of a PTY. On Linux a read of that fails with
    /// `EIO` while no process has the slave open; a live child may open it again by `/dev/tty`.
    RawTerminal,
    /// A terminal that may be in any mode.
    Terminal,
    /// A Unix stream socket.
    #[cfg_attr(not(feature = "consoles"), expect(dead_code, reason = "a console's only"))]
    Socket,
    /// Another socket, a file, another device.
    Other,
}

impl Kind {
    /// The kind of `fd`, which is not the master of a PTY.
    ///
    /// # Errors
    ///
    /// fstat(2)'s.
    pub(crate) fn of(fd: &impl AsFd) -> io::Result<Self> {
        let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode);
        Ok(match mode & SFlag::S_IFMT {
            SFlag::S_IFIFO => Self::Pipe,
            SFlag::S_IFCHR if isatty(fd).unwrap_or(false) => Self::Terminal,
            _ => Self::Other,
        })
    }

    /// Whether, after a read of `count` of the `asked` bytes, an edge reports all bytes that were
    /// not read.
    ///
    /// A pipe that returns less was empty (pipe(7)), unless its writer has put it into packet mode
    /// (pipe(2), `O_DIRECT`): further packets then wait for the next one, or for the child's end. A
    /// terminal in raw mode on Linux returns all that its read buffer holds, 4,095 bytes at most;
    /// bytes that enter the buffer afterwards, the rest of a larger write included, cause an edge
    /// (n_tty.c: `n_tty_kick_worker`, `__receive_buf`). In canonical mode it returns one line and
    /// may hold the next. A stream socket on Linux returns all bytes too (epoll(7)), unless its
    /// writer sends descriptors along: bytes after those wait as packets do. Another socket may
    /// return one message of several.
    pub(super) fn is_emptied_by(self, count: usize, asked: usize) -> bool {
        match self {
            Self::Pipe => count < asked,
            Self::RawTerminal | Self::Socket => {
                cfg!(any(target_os = "linux", target_os = "android")) && count < asked
            }
            Self::Terminal | Self::Other => false,
        }
    }
}
