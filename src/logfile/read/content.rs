//! The bytes of one file by offset, decompressed where necessary.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::packed::{Packed, Packing};

/// How many bytes are read at a time.
pub(super) const BLOCK: usize = 64 * 1024;

/// How many bytes are buffered at most.
pub(super) const MOST: usize = 4 * BLOCK;

/// An open file and a buffer with the bytes that were read last.
pub(super) struct Content {
    source: Source,
    block: Vec<u8>,
    /// The offset of the buffer in the file.
    start: u64,
}

enum Source {
    Plain(File),
    /// With the offset of the next decompressed byte. `None` after a failed rewind.
    Packed(Option<Box<Packed>>, u64),
}

impl Content {
    pub(super) fn plain(file: File) -> Self {
        Self { source: Source::Plain(file), block: Vec::new(), start: 0 }
    }

    pub(super) fn packed(file: File, packing: Packing) -> io::Result<Self> {
        let source = Source::Packed(Some(Box::new(Packed::new(file, packing)?)), 0);
        Ok(Self { source, block: Vec::new(), start: 0 })
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.source, Source::Packed(..))
    }

    /// The size of the content; `None` for a compressed file.
    pub(super) fn size(&self) -> io::Result<Option<u64>> {
        match &self.source {
            Source::Plain(file) => Ok(Some(file.metadata()?.len())),
            Source::Packed(..) => Ok(None),
        }
    }

    pub(super) fn file(&self) -> Option<&File> {
        match &self.source {
            Source::Plain(file) => Some(file),
            Source::Packed(packed, _) => packed.as_ref().map(|packed| packed.file()),
        }
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        match self.file() {
            Some(file) => file.metadata(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Drops the buffer, because the file may have changed.
    pub(super) fn forget(&mut self) {
        self.block.clear();
    }

    /// Reads at most `most` bytes at `offset`; none at the end of the file.
    pub(super) fn at(&mut self, offset: u64, most: u64) -> io::Result<&[u8]> {
        if !self.covers(offset) {
            self.go_to(offset)?;
            self.append()?;
        }
        Ok(self.held(offset, most))
    }

    /// As [`at`](Self::at), from the buffer alone.
    pub(super) fn held(&self, offset: u64, most: u64) -> &[u8] {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let from = offset.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let bytes = from.and_then(|from| self.block.get(from..)).unwrap_or_default();
        bytes.get(..most).unwrap_or(bytes)
    }

    /// Reads more bytes behind the buffered ones, and drops those before `offset`. `false` at the
    /// end of the file, and when the buffer is full.
    pub(super) fn extend(&mut self, offset: u64) -> io::Result<bool> {
        let passed = self.block.len() - self.held(offset, u64::MAX).len();
        self.block.drain(..passed);
        self.start = offset;
        Ok(self.block.len() + BLOCK <= MOST && self.append()? > 0)
    }

    /// Buffers the bytes from `offset` on, as many as there is room for.
    pub(super) fn keep(&mut self, offset: u64) -> io::Result<()> {
        self.at(offset, 0)?;
        while self.extend(offset)? {}
        Ok(())
    }

    /// The offset behind the buffered bytes.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.block.len() as u64)
    }

    fn covers(&self, offset: u64) -> bool {
        (self.start..self.start.saturating_add(self.block.len() as u64)).contains(&offset)
    }

    /// Empties the buffer and moves it to `offset`.
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        self.block.clear();
        self.start = offset;
        let Source::Packed(packed, at) = &mut self.source else { return Ok(()) };
        if offset < *at {
            *packed = packed.take().map(|packed| packed.rewound().map(Box::new)).transpose()?;
            *at = 0;
        }
        let Some(packed) = packed else { return Ok(()) };
        let mut passed = vec![0; BLOCK];
        while *at < offset {
            let most = usize::try_from(offset - *at).unwrap_or(BLOCK).min(BLOCK);
            match retried(|| packed.read(passed.get_mut(..most).unwrap_or_default()))? {
                0 => break,
                count => *at += count as u64,
            }
        }
        Ok(())
    }

    /// Reads one block behind the buffered bytes.
    fn append(&mut self) -> io::Result<usize> {
        let held = self.block.len();
        self.block.resize(held + BLOCK, 0);
        let room = self.block.get_mut(held..).unwrap_or_default();
        let read = match &mut self.source {
            Source::Plain(file) => read_at(file, room, self.start + held as u64),
            Source::Packed(Some(packed), at) => retried(|| packed.read(room)).inspect(|count| {
                *at += *count as u64;
            }),
            Source::Packed(None, _) => Ok(0),
        };
        self.block.truncate(held + *read.as_ref().unwrap_or(&0));
        read
    }
}

/// One pread(2), which may return fewer bytes.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    retried(|| file.read_at(bytes, offset))
}

fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
