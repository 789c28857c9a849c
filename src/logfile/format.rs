//! The record formats of a log, CRI and Docker's json-file: each line of the file has the time and
//! the stream of the child's bytes in it. `docs/formats.md` specifies them.
//!
//! This module encodes and decodes slices: nothing is opened, read or written.

mod cri;
mod json;
mod time;

use super::Format;
use super::entry::{Stream, Timestamp};
pub(super) use time::Zone;

/// The most bytes of the child's in one record: 16 KiB, as in kubelet and Docker.
pub const LONGEST: usize = 16 << 10;

/// The smallest file size limit that can always be kept: a record may need this many bytes.
pub(super) const SMALLEST: u64 = 128;

/// An upper bound on the size of the records that end a run.
pub(super) const ENDS: usize = 256;

const STDOUT: &[u8; 6] = b"stdout";
const STDERR: &[u8; 6] = b"stderr";

/// An upper bound on the size in the file of a record that vmon writes. Other writers may write
/// longer ones.
pub const LONGEST_ON_DISK: usize = 6 * LONGEST + 128;

/// One record of a log: one line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<'a> {
    /// When its bytes were read from the child. `None` if the line has no time.
    pub time: Option<Timestamp>,
    /// The stream: stdout (also of a terminal) or stderr. `None` if the line has no stream.
    pub stream: Option<Stream>,
    /// The child's bytes, with the newline if the record ends a line of the child's. For a line
    /// that is not a record, the whole line.
    pub bytes: &'a [u8],
    /// The size of the record in the file, its newline included.
    pub size: usize,
}

impl Record<'_> {
    /// Whether it ends a line of the child's. Otherwise the stream's next record continues the
    /// line.
    pub fn ends_line(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }

    /// Whether the line is a record of the format.
    pub fn is_known(&self) -> bool {
        self.stream.is_some() || self.time.is_some()
    }
}

/// Reads the records of a log back.
///
/// It accepts the records of other writers: times with any offset and any number of digits, unknown
/// tags and attributes. A line that is not a record is returned as it is, without time and stream.
///
/// ```
/// use vmon::logfile::Format;
/// use vmon::logfile::format::Decoder;
///
/// let mut decoder = Decoder::new(Format::Cri);
/// let log = b"2026-11-23T17:02:03.5Z stderr F lost\n2026-11-23T17:02:03.6Z stdo";
/// let record = decoder.next(log).unwrap();
/// assert_eq!(record.bytes, b"lost\n");
/// // The rest is an incomplete line, which is still being written or was torn by a crash.
/// assert_eq!(decoder.next(&log[37..]), None);
/// ```
#[derive(Debug)]
pub struct Decoder {
    format: Format,
    /// The decoded bytes of a record, if they differ from those in the file.
    scratch: Vec<u8>,
}

impl Decoder {
    /// A decoder for a format. Of a raw log, every line is a record without time and stream.
    pub fn new(format: Format) -> Self {
        Self { format, scratch: Vec::new() }
    }

    /// The record at the start of `bytes`; `None` if it is incomplete.
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

    /// Whether an incomplete line may be the beginning of a record, which is still being written or
    /// was torn by a crash. Such a line is left out; any other is returned as it is.
    pub fn is_begun(&self, line: &[u8]) -> bool {
        match self.format {
            Format::Raw => false,
            Format::Cri => cri::is_begun(line),
            Format::Json => json::is_begun(line),
        }
    }
}

/// An output buffer for records.
struct Out<'a> {
    place: &'a mut [u8],
    used: usize,
}

impl Out<'_> {
    /// Appends all bytes, or returns `None` if there is no room.
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.take(bytes.len())?.copy_from_slice(bytes);
        Some(())
    }

    /// The place of as many bytes, which the caller writes, or `None` if there is no room.
    #[inline]
    fn take(&mut self, size: usize) -> Option<&mut [u8]> {
        let place = self.place.get_mut(self.used..self.used + size)?;
        self.used += size;
        Some(place)
    }
}

/// An upper bound on the size of the first record of `count` bytes.
pub(super) fn enough(count: usize) -> usize {
    // Includes a character that was held back.
    ((count + 3) * json::LONGEST_ESCAPE + json::AROUND).min(LONGEST_ON_DISK)
}

/// Encodes the bytes of a child as records, for a log or for an export.
///
/// Each chunk is encoded at once, also if it ends within a line. Only [`Format::Json`] holds bytes
/// back: an incomplete character, at most three bytes per stream, because a character is never
/// split between records.
///
/// ```
/// use vmon::logfile::format::Encoder;
/// use vmon::logfile::{Format, Stream, Timestamp};
///
/// let mut encoder = Encoder::new(Format::Cri);
/// let mut log = Vec::new();
/// encoder.encode(Timestamp::default(), Stream::Stdout, b"one\ntwo", &mut log);
/// encoder.finish(Timestamp::default(), &mut log);
/// assert_eq!(str::from_utf8(&log)?, "\
/// 1970-01-01T00:00:00.000000000+00:00 stdout F one
/// 1970-01-01T00:00:00.000000000+00:00 stdout P two
/// 1970-01-01T00:00:00.000000000+00:00 stdout F \n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    format: Format,
    /// The most bytes of the child's in a record.
    longest: usize,
    /// The zone of the times in [`Format::Cri`].
    zone: Zone,
    stdout: Line,
    stderr: Line,
}

/// The state of a stream after its last chunk.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Whether the last record in [`Format::Cri`] leaves a line open.
    open: bool,
    kept: Kept,
}

/// An incomplete character that is held back.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    bytes: [u8; 3],
    count: u8,
}

impl Encoder {
    /// An encoder for a format. [`Format::Raw`] copies the bytes.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            longest: LONGEST,
            zone: Zone::default(),
            stdout: Line::default(),
            stderr: Line::default(),
        }
    }

    /// The size of a record of [`Format::Cri`], without the child's bytes, that ends no line.
    pub(super) const CRI_AROUND: usize = cri::AROUND;

    /// An encoder of [`Format::Cri`] with at most `longest` bytes of the child's in a record, and
    /// no more than [`LONGEST`].
    pub(super) fn of_cri(longest: usize) -> Self {
        Self { longest: longest.min(LONGEST), ..Self::new(Format::Cri) }
    }

    /// Writes times in [`Format::Cri`] in this zone from now on.
    pub(super) fn set_zone(&mut self, zone: Zone) {
        self.zone = zone;
    }

    /// The size of the first record of `bytes` in [`Format::Cri`]; they are not empty.
    pub(super) fn first_cri_size(&self, bytes: &[u8]) -> usize {
        cri::first_size(bytes, self.longest)
    }

    /// An encoder whose records each fit into a file of `max_size` bytes, or of [`SMALLEST`] if
    /// that is larger. 0 for no limit.
    pub(super) fn for_files_of(format: Format, max_size: u64) -> Self {
        let mut encoder = Self::new(format);
        if max_size > 0 {
            let size = usize::try_from(max_size.max(SMALLEST)).unwrap_or(usize::MAX);
            let room = match format {
                Format::Raw => size,
                Format::Cri => size - cri::AROUND,
                Format::Json => (size - json::AROUND) / json::LONGEST_ESCAPE,
            };
            encoder.longest = room.min(LONGEST);
        }
        encoder
    }

    /// Appends the records of `bytes` to `out`. [`Stream::Tty`] is encoded as stdout, and
    /// [`Stream::Notice`] as stderr.
    pub fn encode(&mut self, time: Timestamp, stream: Stream, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = out.len();
            out.resize(start + enough(rest.len()), 0);
            let place = out.get_mut(start..).unwrap_or_default();
            let (taken, size) = self.encode_into(place, time, stream, rest);
            out.truncate(start + size);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Encodes as many records of `bytes` as fit into `place`. Returns how many of `bytes` are
    /// done, and how many bytes of `place` are used. A call with the rest of `bytes` continues.
    ///
    /// Encoding is deterministic: a copy of the encoder from before the call, with a `place` that
    /// ends with a record, returns how many of `bytes` the records up to there carry.
    pub(super) fn encode_into(
        &mut self,
        place: &mut [u8],
        time: Timestamp,
        stream: Stream,
        bytes: &[u8],
    ) -> (usize, usize) {
        let (longest, zone) = (self.longest, self.zone);
        let (line, name) = match stream {
            Stream::Stdout | Stream::Tty => (&mut self.stdout, STDOUT),
            Stream::Stderr | Stream::Notice => (&mut self.stderr, STDERR),
        };
        let mut out = Out { place, used: 0 };
        let taken = match self.format {
            Format::Raw => {
                let part = bytes.get(..out.place.len()).unwrap_or(bytes);
                out.put(part).map_or(0, |()| part.len())
            }
            Format::Cri => {
                let (taken, open) = cri::encode((time, zone), name, bytes, longest, &mut out);
                line.open = open.unwrap_or(line.open);
                taken
            }
            Format::Json => json::encode(time, name, bytes, longest, &mut line.kept, &mut out),
        };
        (taken, out.used)
    }

    /// Appends the records that end a run: the end of an unfinished line, which a CRI reader waits
    /// for, and an incomplete character that was held back.
    pub fn finish(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let mut place = [0; ENDS];
        let size = self.finish_into(&mut place, time);
        out.extend_from_slice(place.get(..size).unwrap_or_default());
    }

    /// As [`finish`](Self::finish), for the streams whose records fit into `place`. Returns how
    /// many bytes are used.
    pub(super) fn finish_into(&mut self, place: &mut [u8], time: Timestamp) -> usize {
        let (mut out, zone) = (Out { place, used: 0 }, self.zone);
        for (line, name) in [(&mut self.stdout, STDOUT), (&mut self.stderr, STDERR)] {
            let kept = line.kept.bytes();
            let fits = match (line.open, kept.is_empty()) {
                (true, _) => cri::encode((time, zone), name, b"\n", 1, &mut out).0 == 1,
                (_, false) => json::write(time, name, kept, &mut out).is_some(),
                (false, true) => true,
            };
            if !fits {
                break;
            }
            *line = Line::default();
        }
        out.used
    }

    /// Whether [`finish`](Self::finish) has something to write.
    pub(super) fn is_unfinished(&self) -> bool {
        [&self.stdout, &self.stderr].iter().any(|line| line.open || !line.kept.bytes().is_empty())
    }

    /// The bytes that are held back.
    pub(super) fn kept(&self) -> impl Iterator<Item = u8> {
        self.stdout.kept.bytes().iter().chain(self.stderr.kept.bytes()).copied()
    }

    /// Resumes with the unfinished lines that `end` has found.
    pub(super) fn resume(&mut self, end: &End) {
        self.stdout.open = end.stdout == Some(true);
        self.stderr.open = end.stderr == Some(true);
    }
}

/// Whether the streams of a CRI log end with an unfinished line.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Whether the last record leaves a line open; `None` while no record was found.
    stdout: Option<bool>,
    stderr: Option<bool>,
}

impl End {
    /// Adds the bytes before those that were added. They may start within a record.
    pub(super) fn add_before(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n').rev() {
            if self.is_known() {
                return;
            }
            let Some(record) = cri::decode(line).filter(|_| line.ends_with(b"\n")) else {
                continue;
            };
            let place = match record.stream {
                Some(Stream::Stdout) => &mut self.stdout,
                _ => &mut self.stderr,
            };
            place.get_or_insert(!record.ends_line());
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.stdout.is_some() && self.stderr.is_some()
    }
}

impl Kept {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.count.into()).unwrap_or_default()
    }
}

/// Detects the format of a log by its first line. `None` for a raw or empty log, and if `beginning`
/// has an incomplete first line of Docker's: [`LONGEST_ON_DISK`] bytes are enough.
///
/// A child may write such lines itself, so a log with a time index is raw in any case.
pub fn sniff(beginning: &[u8]) -> Option<Format> {
    if cri::begins(beginning) {
        return Some(Format::Cri);
    }
    let end = memchr::memchr(b'\n', beginning)?;
    json::is_record(beginning.get(..end)?).then_some(Format::Json)
}

#[cfg(test)]
mod tests;
