//! What is read, and what a read that gives less than asked for says of it.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pipe,
    /// A terminal or the master of a PTY. On Linux the latter answers `EIO` while nobody has the
    /// other side open, which a live child may do again by `/dev/tty`.
    Terminal,
    /// A socket, a file, another device.
    Other,
}

impl Kind {
    pub(super) fn of(fd: &impl AsFd) -> io::Result<Self> {
        let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode);
        Ok(match mode & SFlag::S_IFMT {
            SFlag::S_IFIFO => Self::Pipe,
            SFlag::S_IFCHR => Self::Terminal,
            _ => Self::Other,
        })
    }

    /// Whether a read of `count` of the `asked` bytes has left nothing that no further edge tells
    /// of.
    ///
    /// A pipe that gives less was empty (pipe(7)). A terminal on Linux gives all that its read
    /// buffer holds, 4,095 bytes at most; whatever gets into that afterwards, the rest of a larger
    /// write included, is told (n_tty.c: `n_tty_kick_worker`, `__receive_buf`). But in canonical
    /// mode it gives a line and may hold the next, so who reads one looks at the bytes too. A
    /// socket may give one message of several.
    pub(super) fn is_emptied_by(self, count: usize, asked: usize) -> bool {
        match self {
            Self::Pipe => count < asked,
            Self::Terminal => {
                cfg!(any(target_os = "linux", target_os = "android")) && count < asked
            }
            Self::Other => false,
        }
    }
}
