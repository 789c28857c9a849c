//! The file that is written to now: its size, its identity, what still fits.

use std::fs::File;
use std::io::{self, Write};

use nix::libc::{dev_t, ino_t};
use nix::sys::stat::FileStat;

/// What no two files of one moment share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: dev_t,
    inode: ino_t,
}

impl Identity {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    #[allow(clippy::unnecessary_cast, reason = "ino_t has 32 bits on some systems")]
    pub(super) fn inode(self) -> u64 {
        self.inode as u64
    }
}

/// What a look at the log's path has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The open file, as it was left.
    Same,
    /// The open file, but somebody changed its size.
    Resized,
    /// Another file, or none.
    Replaced,
}

/// The open log. While it is open its inode can't be given to another file, so an equal
/// [`Identity`] means the same file.
#[derive(Debug)]
pub(super) struct Current {
    file: File,
    identity: Identity,
    size: u64,
    /// Whether the last byte is known to be a newline: a place to rotate without cutting a line.
    ends_line: bool,
}

impl Current {
    pub(super) fn new(file: File, stat: &FileStat) -> Self {
        Self { file, identity: Identity::of(stat), size: size_of(stat), ends_line: false }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// How many bytes are in it, as far as is known.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Compares with what is found at the log's path, and takes over the size found.
    pub(super) fn compare(&mut self, found: Option<&FileStat>) -> Look {
        let Some(stat) = found.filter(|stat| Identity::of(stat) == self.identity) else {
            return Look::Replaced;
        };
        let size = size_of(stat);
        if size == self.size {
            return Look::Same;
        }
        self.size = size;
        self.ends_line = false;
        Look::Resized
    }

    /// The part of `bytes` that may go into this file; none asks for a rotation. An empty file
    /// always takes something.
    pub(super) fn fitting<'a>(&self, bytes: &'a [u8], max_size: u64) -> &'a [u8] {
        if max_size == 0 {
            return bytes;
        }
        let room = usize::try_from(max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        if bytes.len() <= room {
            return bytes;
        }
        let head = bytes.get(..room).unwrap_or_default();
        match head.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => head.get(..=newline).unwrap_or_default(),
            None if self.ends_line => &[],
            None => head,
        }
    }

    /// One write(2) of at least one byte, which the kernel may cut short. `O_APPEND` puts it at
    /// the end, also after somebody truncated the file.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size = self.size.saturating_add(count as u64);
                    self.ends_line = bytes.get(count - 1) == Some(&b'\n');
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

pub(super) fn size_of(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
