//! What a log looks like on disk in the formats of the ecosystem: lines that tell when and from
//! where the child's bytes came. `docs/formats.md` specifies them.
//!
//! Here is code on slices alone: nothing is opened, read or written.

mod cri;
mod json;
mod time;

use super::Format;
use super::entry::{Stream, Timestamp};

/// The most of the child's bytes that one record has: 16 KiB, as kubelet and Docker have it.
pub const LONGEST: usize = 16 << 10;

/// More than any record that is written here has on disk. Those of other writers may be longer.
pub const LONGEST_ON_DISK: usize = 6 * LONGEST + 128;

/// One record of a log, which is one line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When its bytes were read from the child. `None` where the line does not tell.
    pub time: Option<Timestamp>,
    /// Where they came from: stdout, which a terminal is too, or stderr. `None` where the line
    /// does not tell.
    pub stream: Option<Stream>,
    /// The child's bytes, with the newline where it ends a line of the child's. Of a line that is
    /// no record, the whole line.
    pub bytes: &'a [u8],
    /// How many bytes of the file it has, its newline included.
    pub size: usize,
}

impl Record<'_> {
    /// Whether a line of the child's ends with it; otherwise the stream's next record goes on.
    pub fn ends_line(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }

    /// Whether the line is one of the format's.
    pub fn is_known(&self) -> bool {
        self.stream.is_some() || self.time.is_some()
    }
}

/// Reads the records of a log back.
///
/// It takes what other writers of the formats make: times with any offset and any number of
/// digits, tags and attributes that are not known here. A line that is no record at all is given
/// as it is, without time and stream.
///
/// ```
/// use vmon::logfile::Format;
/// use vmon::logfile::format::Decoder;
///
/// let mut decoder = Decoder::new(Format::Cri);
/// let log = b"2026-11-23T17:02:03.5Z stderr F lost\n2026-11-23T17:02:03.6Z stdo";
/// let record = decoder.next(log).unwrap();
/// assert_eq!(record.bytes, b"lost\n");
/// // The rest is no whole line: it is still being written, or was torn by a crash.
/// assert_eq!(decoder.next(&log[37..]), None);
/// ```
#[derive(Debug)]
pub struct Decoder {
    format: Format,
    /// What a record says where that isn't a part of the file as it is.
    scratch: Vec<u8>,
}

impl Decoder {
    /// One for a format. Of a raw log every line is a record without time and stream.
    pub fn new(format: Format) -> Self {
        Self { format, scratch: Vec::new() }
    }

    /// The first record of `bytes`, which begin with one; `None` where it does not end in them.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8]) -> Option<Record<'a>> {
        let size = memchr::memchr(b'\n', bytes)? + 1;
        let line = bytes.get(..size)?;
        let record = match self.format {
            Format::Raw => None,
            Format::Cri => cri::decode(line),
            Format::Json => json::decode(line, &mut self.scratch),
        };
        Some(record.unwrap_or(Record { time: None, stream: None, bytes: line, size }))
    }
}

/// Whether a file with this beginning is a log in one of the formats, as its first line tells.
/// `None` for a raw log, for an empty one, and where `beginning` lacks the end of a first line of
/// Docker's: [`LONGEST_ON_DISK`] bytes are enough.
///
/// A child may write such lines itself: a log that has a time index beside it is raw, whatever it
/// looks like.
pub fn sniff(beginning: &[u8]) -> Option<Format> {
    if cri::begins(beginning) {
        return Some(Format::Cri);
    }
    let end = memchr::memchr(b'\n', beginning)?;
    json::is_record(beginning.get(..end)?).then_some(Format::Json)
}

#[cfg(test)]
mod tests;
