//! The on-disk format of the time index: a header, then records of a fixed size. `docs/formats.md`
//! specifies it.
//!
//! This file encodes and decodes alone: nothing is opened, read or written.

use super::entry::{Mark, RunEnd, Stream, Timestamp};
use super::options::Format;

/// The magic number at the start of an index.
const MAGIC: [u8; 8] = *b"VMONIDX\n";

/// The format version that is written here.
const VERSION: u16 = 2;

/// The version before: of raw logs only, and without steps of the clock. It is read, and continued as
/// the present one.
const EARLIER: u16 = 1;

/// The size of the header in bytes.
pub(super) const HEADER: usize = 32;

/// The size of a record in bytes.
pub(super) const RECORD: usize = 24;

/// The header of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The format of the log. An index of a raw log has its bytes and its marks, of any other its
    /// marks.
    pub(super) format: Format,
    /// The inode of the log that the index was last written for. A copy of the log has another inode.
    pub(super) inode: u64,
    /// Whether it is of the version that is written.
    pub(super) is_current: bool,
}

const RAW: u8 = 0;
const CRI: u8 = 1;
const JSON: u8 = 2;

impl Header {
    /// The header of a new index.
    pub(super) fn new(format: Format, inode: u64) -> Self {
        Self { format, inode, is_current: true }
    }

    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let version = if self.is_current { VERSION } else { EARLIER };
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &version.to_le_bytes());
        put(&mut bytes, 10, &(RECORD as u16).to_le_bytes());
        let format = match self.format {
            Format::Raw => RAW,
            Format::Cri => CRI,
            Format::Json => JSON,
        };
        put(&mut bytes, 12, &[format]);
        put(&mut bytes, 16, &self.inode.to_le_bytes());
        bytes
    }

    /// `None` if these bytes are not the header of an index of a known version.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let version = u16::from_le_bytes(take(bytes, 8));
        let known =
            take(bytes, 0) == MAGIC && usize::from(u16::from_le_bytes(take(bytes, 10))) == RECORD;
        let format = match (version, take(bytes, 12)) {
            (EARLIER, _) | (VERSION, [RAW]) => Format::Raw,
            (VERSION, [CRI]) => Format::Cri,
            (VERSION, [JSON]) => Format::Json,
            _ => return None,
        };
        let inode = u64::from_le_bytes(take(bytes, 16));
        known.then_some(Self { format, inode, is_current: version == VERSION })
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
    /// The [`hash`] of the end of the log up to here, by which the log is known again.
    Check(u32),
}

/// How many bytes at most a [`Content::Check`] is about.
pub(super) const CHECKED: usize = 256;

/// A hash of the last bytes of a log: FNV-1a, 32 bits.
pub(super) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The number of a stretch: how often the clock was stepped before, from an arbitrary number on. 24
/// bits, after which it begins at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stretch(u32);

impl Stretch {
    const MASK: u32 = 0xff_ffff;

    /// That of the first records of a log, which is not likely to be in an earlier generation.
    pub(super) fn begun_at(time: Timestamp) -> Self {
        Self((time.nanoseconds() >> 20) as u32 & Self::MASK)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1) & Self::MASK)
    }
}

/// One record of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// When the first of the bytes was read from the child, or when the marked event happened.
    pub(super) time: Timestamp,
    /// The offset in the log of the bytes or of the mark.
    pub(super) offset: u64,
    pub(super) content: Content,
    pub(super) stretch: Stretch,
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
const BEFORE_STEP: u8 = 20;
const AFTER_STEP: u8 = 21;
const CHECK: u8 = 22;

// The upper bits of the value of a stop record.
const EXITED: u32 = 0;
const SIGNALLED: u32 = 0x100;
const NOT_KNOWN: u32 = 0x200;

impl Record {
    /// The number of bytes of the log that it describes.
    pub(super) fn length(&self) -> u64 {
        match self.content {
            Content::Bytes { length, .. } => length.into(),
            Content::Mark(_) | Content::Check(_) => 0,
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
            Content::Mark(Mark::Stop(RunEnd::Exited(code))) => (STOP, EXITED | u32::from(code)),
            Content::Mark(Mark::Stop(RunEnd::Signalled(signal))) => {
                (STOP, SIGNALLED | u32::from(signal))
            }
            Content::Mark(Mark::Stop(RunEnd::Unknown)) => (STOP, NOT_KNOWN),
            Content::Mark(Mark::Resize { columns, rows }) => {
                (RESIZE, u32::from(columns) << 16 | u32::from(rows))
            }
            Content::Mark(Mark::Reopen) => (REOPEN, 0),
            Content::Mark(Mark::BeforeStep) => (BEFORE_STEP, 0),
            Content::Mark(Mark::AfterStep) => (AFTER_STEP, 0),
            Content::Check(hash) => (CHECK, hash),
        };
        let mut bytes = [0; RECORD];
        put(&mut bytes, 0, &self.time.nanoseconds().to_le_bytes());
        put(&mut bytes, 8, &self.offset.to_le_bytes());
        put(&mut bytes, 16, &value.to_le_bytes());
        let [low, middle, high, _] = self.stretch.0.to_le_bytes();
        put(&mut bytes, 20, &[kind, low, middle, high]);
        bytes
    }

    /// `None` if these bytes are not a record: the index ends before them.
    pub(super) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let value = u32::from_le_bytes(take(bytes, 16));
        let [kind, low, middle, high] = take(bytes, 20);
        let stream = |stream| Content::Bytes { stream, length: value };
        let content = match kind {
            UNKNOWN => stream(None),
            STDOUT => stream(Some(Stream::Stdout)),
            STDERR => stream(Some(Stream::Stderr)),
            TTY => stream(Some(Stream::Tty)),
            NOTICE => stream(Some(Stream::Notice)),
            START => Content::Mark(Mark::Start { pid: value }),
            STOP => Content::Mark(Mark::Stop(match (value & !0xff, value.to_le_bytes()) {
                (EXITED, [code, ..]) => RunEnd::Exited(code),
                (SIGNALLED, [signal, ..]) => RunEnd::Signalled(signal),
                _ => RunEnd::Unknown,
            })),
            RESIZE => {
                let [low, high, wide, wider] = value.to_le_bytes();
                Content::Mark(Mark::Resize {
                    columns: u16::from_le_bytes([wide, wider]),
                    rows: u16::from_le_bytes([low, high]),
                })
            }
            REOPEN => Content::Mark(Mark::Reopen),
            BEFORE_STEP => Content::Mark(Mark::BeforeStep),
            AFTER_STEP => Content::Mark(Mark::AfterStep),
            CHECK => Content::Check(value),
            _ => return None,
        };
        Some(Self {
            time: Timestamp::from_nanoseconds(u64::from_le_bytes(take(bytes, 0))),
            offset: u64::from_le_bytes(take(bytes, 8)),
            content,
            stretch: Stretch(u32::from_le_bytes([low, middle, high, 0])),
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
            Mark::Stop(RunEnd::Exited(255)),
            Mark::Stop(RunEnd::Signalled(9)),
            Mark::Stop(RunEnd::Unknown),
            Mark::Resize { columns: 132, rows: 43 },
            Mark::Reopen,
            Mark::BeforeStep,
            Mark::AfterStep,
        ];
        let streams = [
            None,
            Some(Stream::Stdout),
            Some(Stream::Stderr),
            Some(Stream::Tty),
            Some(Stream::Notice),
        ];
        let bytes = streams.map(|stream| Content::Bytes { stream, length: u32::MAX });
        let check = [Content::Check(u32::MAX)];
        for content in marks.map(Content::Mark).into_iter().chain(bytes).chain(check) {
            let time = Timestamp::from_nanoseconds(0x0102_0304_0506_0708);
            let stretch = Stretch(0x0a_0b0c);
            let record = Record { time, offset: 1 << 40, content, stretch };
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn zeros_and_unknown_kinds_are_not_records() {
        assert_eq!(Record::decode(&[0; RECORD]), None);
        assert_eq!(Record::decode(&[0xff; RECORD]), None);
    }

    #[test]
    fn only_the_header_of_a_known_version_is_accepted() {
        for format in [Format::Raw, Format::Cri, Format::Json] {
            let header = Header::new(format, 77);
            assert_eq!(Header::decode(&header.encode()), Some(header));
        }
        let earlier = Header { is_current: false, ..Header::new(Format::Raw, 77) };
        assert_eq!(Header::decode(&earlier.encode()), Some(earlier));
        let header = Header::new(Format::Json, 77);
        for byte in (0..8).chain(9..12) {
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
            stretch: Stretch(4),
        };
        let mut bytes = [0; RECORD];
        (bytes[0], bytes[8], bytes[16], bytes[20], bytes[21]) = (1, 2, 3, 3, 4);
        assert_eq!(record.encode(), bytes);
    }
}
