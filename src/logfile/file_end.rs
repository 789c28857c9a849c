//! Reading parts of a log's files by the process that writes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::directory::Directory;
use super::format::{LONGEST_ON_DISK, sniff};
use super::index::{HEADER, Header};
use super::{Format, LogError};

/// The first bytes of a log that decide whether its first line can be a record.
const BEGINNING: usize = 128;

/// The format of a log without a time index.
pub(super) fn format_of(file: &File) -> io::Result<Format> {
    let mut beginning = read(file, 0, BEGINNING)?;
    if beginning.starts_with(b"{") {
        beginning = read(file, 0, LONGEST_ON_DISK)?;
    }
    Ok(sniff(&beginning).unwrap_or(Format::Raw))
}

/// The format of the log of a time index. A log with a file of its own kind there is raw.
pub(super) fn format_in(index: &File) -> io::Result<Format> {
    let header = read(index, 0, HEADER)?;
    let header = header.first_chunk().and_then(Header::decode);
    Ok(header.map_or(Format::Raw, |header| header.format))
}

/// The last bytes of a file of the log, `most` at most; `None` if there is no such file.
pub(super) fn read_end(
    directory: &Directory,
    name: &str,
    most: usize,
) -> Result<Option<Vec<u8>>, LogError> {
    let Some((file, size)) = directory.open_to_read(name)? else { return Ok(None) };
    let cannot = |error| LogError::io("read the log", directory.path().join(name), error);
    end(&file, size, most).map(Some).map_err(cannot)
}

/// The last bytes of a file of this size, `most` at most.
pub(super) fn end(file: &File, size: u64, most: usize) -> io::Result<Vec<u8>> {
    let count = usize::try_from(size).unwrap_or(usize::MAX).min(most);
    read(file, size - count as u64, count)
}

/// Reads `count` bytes, or fewer if another process has truncated the file.
pub(super) fn read(file: &File, from: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}
