//! What is read, and what a read that gives less than asked for says of it.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use nix::unistd::isatty;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pipe,
    /// A terminal in raw mode, as the master of a PTY always is. On Linux that answers `EIO` while
    /// nobody has the other side open, which a live child may do again by `/dev/tty`.
    RawTerminal,
    /// A terminal that may be in any mode.
    Terminal,
    /// A Unix socket for a stream of bytes.
    #[cfg_attr(not(feature = "consoles"), expect(dead_code, reason = "a console's only"))]
    Socket,
    /// Another socket, a file, another device.
    Other,
}

impl Kind {
    /// What `fd` is, if it is not known to be a PTY's master.
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

    /// Whether the reader of this, after a read of `count` of the `asked` bytes, can rely on an
    /// edge for whatever it has not read.
    ///
    /// A pipe that gives less was empty (pipe(7)), unless its writer has made it one of packets
    /// (pipe(2), `O_DIRECT`): those wait for the next one then, or for the child's end. A terminal
    /// in raw mode on Linux gives all that its read buffer holds, 4,095 bytes at most; whatever
    /// gets into that afterwards, the rest of a larger write included, is told (n_tty.c:
    /// `n_tty_kick_worker`, `__receive_buf`). In canonical mode it gives a line and may hold the
    /// next. A stream socket on Linux gives what there is too (epoll(7)), unless its writer sends
    /// descriptors along with bytes: what it has sent after them waits as packets do. Another
    /// socket may give one message of several.
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
