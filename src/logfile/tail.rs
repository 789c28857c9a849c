//! Reading back the end of a log that is being written, by its writer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::directory::Directory;
use super::format::{Decoder, LONGEST_ON_DISK};
use super::records::format_of;
use super::{Format, LogError, LogFile, index};

impl LogFile {
    /// The last `most` bytes of the child's, or as many as there are, over all generations that
    /// are not compressed, whatever their formats. What is written next follows them without a gap.
    ///
    /// # Errors
    ///
    /// The log, or its directory, can't be read.
    pub fn tail(&mut self, most: usize) -> Result<Vec<u8>, LogError> {
        let directory = self.place.directory()?;
        let log = self.place.log_name();
        let end = |name: &str, format, most| {
            let cannot = |error| LogError::io("read the log", directory.path().join(name), error);
            let Some((file, size)) = directory.open_to_read(name)? else { return Ok(None) };
            let format = match format {
                Some(format) => format,
                None if directory.stat(&index::name(name))?.is_some() => Format::Raw,
                None => format_of(&file).map_err(cannot)?,
            };
            decoded_end(&file, size, format, most).map(Some).map_err(cannot)
        };
        // Not in the log yet.
        let mut tail: Vec<u8> = self.encoder.kept().collect();
        let mut older = end(log, Some(self.options.format), most)?.unwrap_or_default();
        if older.len() < most {
            self.generations.survey(&directory, log)?;
        }
        let mut generations = self.generations.newest_first(log);
        loop {
            older.append(&mut tail);
            tail = older;
            let left = most.saturating_sub(tail.len());
            // One that was compressed or removed is a gap: what lies before it does not belong.
            let next = generations.next().filter(|_| left > 0);
            older = match next {
                Some(generation) => match end(&generation, None, left)? {
                    Some(bytes) => bytes,
                    None => break,
                },
                None => break,
            };
        }
        Ok(tail)
    }
}

/// What the end of a file says, `most` bytes at most.
fn decoded_end(file: &File, size: u64, format: Format, most: usize) -> io::Result<Vec<u8>> {
    if format == Format::Raw {
        return end(file, size, most);
    }
    // A record may have a line of two bytes.
    let mut window = most.saturating_mul(2).saturating_add(LONGEST_ON_DISK);
    loop {
        let bytes = end(file, size, window)?;
        let is_all = size <= window as u64;
        let mut said = decode(format, &bytes, is_all);
        if said.len() >= most || is_all {
            said.drain(..said.len().saturating_sub(most));
            return Ok(said);
        }
        window = window.saturating_mul(4);
    }
}

/// What the records of `bytes` say, the first one where it is whole.
fn decode(format: Format, bytes: &[u8], begins_with_record: bool) -> Vec<u8> {
    let mut decoder = Decoder::new(format);
    let mut said = Vec::new();
    let mut rest = bytes;
    if !begins_with_record {
        let first = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        rest = bytes.get(first..).unwrap_or_default();
    }
    while let Some(record) = decoder.next(rest) {
        said.extend_from_slice(record.bytes);
        rest = rest.get(record.size..).unwrap_or_default();
    }
    said
}

/// The last bytes of one file, `most` at most; `None` where there is no such file.
pub(super) fn read_end(
    directory: &Directory,
    name: &str,
    most: usize,
) -> Result<Option<Vec<u8>>, LogError> {
    let Some((file, size)) = directory.open_to_read(name)? else { return Ok(None) };
    let cannot = |error| LogError::io("read the log", directory.path().join(name), error);
    end(&file, size, most).map(Some).map_err(cannot)
}

fn end(file: &File, size: u64, most: usize) -> io::Result<Vec<u8>> {
    let count = usize::try_from(size).unwrap_or(usize::MAX).min(most);
    read(file, size - count as u64, count)
}

/// Reads `count` bytes, or up to the file's end: somebody may have truncated it.
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
