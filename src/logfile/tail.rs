//! Reading back the end of a log by the process that writes it.

use std::fs::File;
use std::io;

use super::directory::Directory;
use super::file_end::{end, format_in, format_of};
use super::format::{Decoder, LONGEST_ON_DISK};
use super::{Format, LogError, LogFile, names};

impl LogFile {
    /// Returns the last `most` bytes that the child wrote, or all if there are fewer, from the log
    /// and its generations in any format. Compressed generations are not read. The next write
    /// follows these bytes without a gap.
    ///
    /// # Errors
    ///
    /// The log or its directory can't be read.
    pub fn tail(&mut self, most: usize) -> Result<Vec<u8>, LogError> {
        let directory = self.place.directory()?;
        let log = self.place.log_name();
        // Bytes that the encoder holds back are not in the log yet.
        let mut tail: Vec<u8> = self.encoder.kept().collect();
        let newest = file_tail(&directory, log, Some(self.options.format), most)?;
        prepend(&mut tail, newest.unwrap_or_default());
        if tail.len() < most {
            self.generations.survey(&directory, log)?;
        }
        for generation in self.generations.newest_first(log) {
            let left = most.saturating_sub(tail.len());
            if left == 0 {
                break;
            }
            // A compressed or removed generation is a gap, and older bytes do not adjoin.
            let Some(older) = file_tail(&directory, &generation, None, left)? else { break };
            prepend(&mut tail, older);
        }
        Ok(tail)
    }
}

fn prepend(tail: &mut Vec<u8>, mut older: Vec<u8>) {
    older.append(tail);
    *tail = older;
}

/// The last bytes of the child's in one file, `most` at most; `None` if there is no such file.
/// `format`: that of the file, if it is known.
fn file_tail(
    directory: &Directory,
    name: &str,
    format: Option<Format>,
    most: usize,
) -> Result<Option<Vec<u8>>, LogError> {
    let cannot = |error| LogError::io("read the log", directory.path().join(name), error);
    let Some((file, size)) = directory.open_to_read(name)? else { return Ok(None) };
    let format = match format {
        Some(format) => format,
        None => match directory.open_index(&names::index(name))? {
            Some((index, ..)) => format_in(&index).map_err(cannot)?,
            None => format_of(&file).map_err(cannot)?,
        },
    };
    decoded_end(&file, size, format, most).map(Some).map_err(cannot)
}

/// Decodes the end of a file to at most `most` bytes.
fn decoded_end(file: &File, size: u64, format: Format, most: usize) -> io::Result<Vec<u8>> {
    if format == Format::Raw {
        return end(file, size, most);
    }
    // Twice as much, since a record may carry as little as two bytes.
    let mut window = most.saturating_mul(2).saturating_add(LONGEST_ON_DISK);
    loop {
        let bytes = end(file, size, window)?;
        let is_all = size <= window as u64;
        let mut decoded = decode(format, &bytes, is_all);
        if decoded.len() >= most || is_all {
            decoded.drain(..decoded.len().saturating_sub(most));
            return Ok(decoded);
        }
        window = window.saturating_mul(4);
    }
}

/// Decodes the records of `bytes`. Unless `bytes` begin with a record, the first line is skipped.
fn decode(format: Format, bytes: &[u8], begins_with_record: bool) -> Vec<u8> {
    let mut decoder = Decoder::new(format);
    let mut decoded = Vec::new();
    let mut rest = bytes;
    if !begins_with_record {
        let first = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        rest = bytes.get(first..).unwrap_or_default();
    }
    while let Some(record) = decoder.next(rest) {
        decoded.extend_from_slice(record.bytes);
        rest = rest.get(record.size..).unwrap_or_default();
    }
    decoded
}
