//! The on-disk format of the time index: a header, then records of a fixed size. `docs/formats.md`
//! specifies it.
//!
//! This file encodes and decodes alone: nothing is opened, read or written.

use super::entry::{End, Mark, Stream, Timestamp};

/// The magic number at the start of an index.
const MAGIC: [u8; 8] = *b"VMONIDX\n";

/// The format version that is written and read here.
const VERSION: u16 = 1;

/// The size of the header in bytes.
pub(super) const HEADER: usize = 32;

/// The size of a record in bytes.
pub(super) const RECORD: usize = 24;

/// The header of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The inode of the log that the index was created for, by which the writer recognizes its log.
    /// A reader must not rely on it: a copy of the log has another inode.
    pub(super) inode: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 10, &(RECORD as u16).to_le_bytes());
        put(&mut bytes, 16, &self.inode.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are not the header of an index of this version.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let known = take(bytes, 0) == MAGIC
            && u16::from_le_bytes(take(bytes, 8)) == VERSION
            && usize::from(u16::from_le_bytes(take(bytes, 10))) == RECORD;
        known.then(|| Self { inode: u64::from_le_bytes(take(bytes, 16)) })
    }
}

/// The content of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Bytes of a stream; `None` if stream and time are unknown.
    Bytes {
        stream: Option<Stream>,
        length: u32,
    },
    Mark(Mark),
}

/// One record of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// When the first of the bytes was read from the child, or when the marked event happened.
    pub(super) time: Timestamp,
    /// The offset in the log of the bytes or of the mark.
    pub(super) offset: u64,
    pub(super) content: Content,
}

// The kind of a record, the byte at offset 20. 0 is invalid, because a crash may leave zeros at the
// end of a file.
const UNKNOWN: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const TTY: u8 = 4;
const NOTICE: u8 = 5;
const START: u8 = 16;
const STOP: u8 = 17;
const RESIZE: u8 = 18;
const REOPEN: u8 = 19;

// The upper bits of the value of a stop record.
const EXITED: u32 = 0;
const SIGNALLED: u32 = 0x100;
const NOT_KNOWN: u32 = 0x200;

impl Record {
    /// The number of bytes of the log that it describes.
    pub(super) fn length(&self) -> u64 {
        match self.content {
            Content::Bytes { length, .. } => length.into(),
            Content::Mark(_) => 0,
        }
    }

    /// The offset in the log at which its bytes end.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length())
    }

    pub(super) fn encode(&self) -> [u8; RECORD] {
        let (kind, value) = match self.content {
            Content::Bytes { stream: None, length } => (UNKNOWN, length),
            Content::Bytes { stream: Some(Stream::Stdout), length } => (STDOUT, length),
            Content::Bytes { stream: Some(Stream::Stderr), length } => (STDERR, length),
            Content::Bytes { stream: Some(Stream::Tty), length } => (TTY, length),
            Content::Bytes { stream: Some(Stream::Notice), length } => (NOTICE, length),
            Content::Mark(Mark::Start { pid }) => (START, pid),
            Content::Mark(Mark::Stop(End::Exited(code))) => (STOP, EXITED | u32::from(code)),
            Content::Mark(Mark::Stop(End::Signalled(signal))) => {
                (STOP, SIGNALLED | u32::from(signal))
            }
            Content::Mark(Mark::Stop(End::Unknown)) => (STOP, NOT_KNOWN),
            Content::Mark(Mark::Resize { columns, rows }) => {
                (RESIZE, u32::from(columns) << 16 | u32::from(rows))
            }
            Content::Mark(Mark::Reopen) => (REOPEN, 0),
        };
        let mut bytes = [0; RECORD];
        put(&mut bytes, 0, &self.time.nanoseconds().to_le_bytes());
        put(&mut bytes, 8, &self.offset.to_le_bytes());
        put(&mut bytes, 16, &value.to_le_bytes());
        put(&mut bytes, 20, &[kind]);
        bytes
    }

    /// `None` if these bytes are not a record: the index ends before them.
    pub(super) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let value = u32::from_le_bytes(take(bytes, 16));
        let [kind] = take(bytes, 20);
        let stream = |stream| Content::Bytes { stream, length: value };
        let content = match kind {
            UNKNOWN => stream(None),
            STDOUT => stream(Some(Stream::Stdout)),
            STDERR => stream(Some(Stream::Stderr)),
            TTY => stream(Some(Stream::Tty)),
            NOTICE => stream(Some(Stream::Notice)),
            START => Content::Mark(Mark::Start { pid: value }),
            STOP => Content::Mark(Mark::Stop(match (value & !0xff, value.to_le_bytes()) {
                (EXITED, [code, ..]) => End::Exited(code),
                (SIGNALLED, [signal, ..]) => End::Signalled(signal),
                _ => End::Unknown,
            })),
            RESIZE => {
                let [low, high, wide, wider] = value.to_le_bytes();
                Content::Mark(Mark::Resize {
                    columns: u16::from_le_bytes([wide, wider]),
                    rows: u16::from_le_bytes([low, high]),
                })
            }
            REOPEN => Content::Mark(Mark::Reopen),
            _ => return None,
        };
        Some(Self {
            time: Timestamp::from_nanoseconds(u64::from_le_bytes(take(bytes, 0))),
            offset: u64::from_le_bytes(take(bytes, 8)),
            content,
        })
    }
}

/// Copies `value` to the offset `from`, if there is room.
fn put(bytes: &mut [u8], from: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(from..from + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The bytes at the offset `from`; zeros if there are too few.
fn take<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    bytes.get(from..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_read_as_it_was_written() {
        let marks = [
            Mark::Start { pid: u32::MAX },
            Mark::Stop(End::Exited(255)),
            Mark::Stop(End::Signalled(9)),
            Mark::Stop(End::Unknown),
            Mark::Resize { columns: 132, rows: 43 },
            Mark::Reopen,
        ];
        let streams = [
            None,
            Some(Stream::Stdout),
            Some(Stream::Stderr),
            Some(Stream::Tty),
            Some(Stream::Notice),
        ];
        let bytes = streams.map(|stream| Content::Bytes { stream, length: u32::MAX });
        for content in marks.map(Content::Mark).into_iter().chain(bytes) {
            let time = Timestamp::from_nanoseconds(0x0102_0304_0506_0708);
            let record = Record { time, offset: 1 << 40, content };
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn zeros_and_unknown_kinds_are_not_records() {
        assert_eq!(Record::decode(&[0; RECORD]), None);
        assert_eq!(Record::decode(&[0xff; RECORD]), None);
    }

    #[test]
    fn only_the_header_of_this_version_is_accepted() {
        let header = Header { inode: 77 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        for byte in 0..12 {
            let mut other = header.encode();
            other[byte] ^= 1;
            assert_eq!(Header::decode(&other), None, "{byte}");
        }
    }

    #[test]
    fn a_record_has_the_specified_layout() {
        let record = Record {
            time: Timestamp::from_nanoseconds(1),
            offset: 2,
            content: Content::Bytes { stream: Some(Stream::Stderr), length: 3 },
        };
        let mut bytes = [0; RECORD];
        (bytes[0], bytes[8], bytes[16], bytes[20]) = (1, 2, 3, 3);
        assert_eq!(record.encode(), bytes);
    }
}
