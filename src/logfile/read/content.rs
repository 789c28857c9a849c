//! The bytes of one file, by their offset.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

/// How many bytes are read at a time, and kept.
const BLOCK: usize = 64 * 1024;

/// An open file, and the part of it that was read last.
#[derive(Debug)]
pub(super) struct Content {
    file: File,
    block: Vec<u8>,
    /// Where in the file the block begins.
    start: u64,
}

impl Content {
    pub(super) fn new(file: File) -> Self {
        Self { file, block: Vec::new(), start: 0 }
    }

    /// How many bytes there are; `None` where only reading them tells.
    pub(super) fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.file.metadata()?.len()))
    }

    /// How many names the file has.
    pub(super) fn links(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.nlink())
    }

    /// Keeps nothing of what was read: it may have changed.
    pub(super) fn forget(&mut self) {
        self.block.clear();
    }

    /// Bytes from `offset`, `most` of them or fewer; none at the end.
    pub(super) fn at(&mut self, offset: u64, most: u64) -> io::Result<&[u8]> {
        if !self.covers(offset) {
            self.read(offset)?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let from = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let bytes = self.block.get(from..).unwrap_or_default();
        Ok(bytes.get(..most).unwrap_or(bytes))
    }

    fn covers(&self, offset: u64) -> bool {
        (self.start..self.start.saturating_add(self.block.len() as u64)).contains(&offset)
    }

    fn read(&mut self, offset: u64) -> io::Result<()> {
        self.start = offset;
        self.block.resize(BLOCK, 0);
        let read = read_at(&self.file, &mut self.block, offset);
        self.block.truncate(*read.as_ref().unwrap_or(&0));
        read.map(|_| ())
    }
}

/// One read, which may give less than there is.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
