//! What is read, and what a read that gives less than asked for says of it.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};

/// What a Linux terminal gives in one read: its read buffer, less one (`N_TTY_BUF_SIZE`).
const TERMINAL_READ: usize = 4095;

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
    /// A pipe that gives less was empty (pipe(7)). A terminal on Linux gives what its read buffer
    /// holds, and each time more gets into that, it tells (n_tty.c, `__receive_buf`); but in
    /// canonical mode it gives a line and may hold the next, so its reader looks at the bytes too.
    /// A socket may give one message of several.
    pub(super) fn is_emptied_by(self, count: usize, asked: usize) -> bool {
        match self {
            Self::Pipe => count < asked,
            Self::Terminal => {
                cfg!(any(target_os = "linux", target_os = "android"))
                    && count < asked.min(TERMINAL_READ)
            }
            Self::Other => false,
        }
    }
}
