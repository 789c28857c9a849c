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

/// A smaller limit for files can't always be kept: there are records that need so much.
pub(super) const SMALLEST: u64 = 128;

/// More than what a run ends with.
pub(super) const ENDS: usize = 256;

const STDOUT: &[u8; 6] = b"stdout";
const STDERR: &[u8; 6] = b"stderr";

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

    /// Whether a line that lacks its end may be the beginning of a record: one that is still being
    /// written, or was torn by a crash. Such a line says nothing; any other is taken as it is.
    pub fn is_begun(&self, line: &[u8]) -> bool {
        match self.format {
            Format::Raw => false,
            Format::Cri => cri::is_begun(line),
            Format::Json => json::is_begun(line),
        }
    }
}

/// Where records are put.
struct Out<'a> {
    place: &'a mut [u8],
    used: usize,
}

impl Out<'_> {
    /// `None`, and nothing is put, where there is no room.
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used + bytes.len();
        self.place.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }
}

/// How much place the first record of so many bytes needs at most.
pub(super) fn enough(count: usize) -> usize {
    // With a character that was held back.
    ((count + 3) * json::LONGEST_ESCAPE + json::AROUND).min(LONGEST_ON_DISK)
}

/// Makes records of what a child writes, for a log or for somebody who exports one.
///
/// Each chunk becomes records at once, also where it ends within a line. What is held back
/// is the beginning of a character in [`Format::Json`], three bytes a stream at most, because a
/// character is never split between records.
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
    /// The most of the child's bytes that a record gets.
    longest: usize,
    stdout: Line,
    stderr: Line,
}

/// How the last chunk of a stream has ended.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Whether its last record in [`Format::Cri`] does not end a line.
    open: bool,
    kept: Kept,
}

/// The beginning of a character.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    bytes: [u8; 3],
    count: u8,
}

impl Encoder {
    /// One for a format. In a raw log the child's bytes are as they are.
    pub fn new(format: Format) -> Self {
        Self { format, longest: LONGEST, stdout: Line::default(), stderr: Line::default() }
    }

    /// One whose every record fits into a file of `max_size` bytes, or of [`SMALLEST`] where that
    /// is more. 0 is without limit.
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

    /// Appends the records of `bytes` to `out`. A terminal counts as stdout, and a line of our own
    /// as stderr.
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

    /// Puts as many records of `bytes` as fit there into `place`. Says how many of `bytes` are done
    /// with, and how much of `place` has been used. What is given anew with the rest of `bytes` is
    /// what would have followed.
    ///
    /// The same encoder makes the same records of the same bytes: one that was copied before, with
    /// a place that ends with a record, tells what the records up to there have taken.
    pub(super) fn encode_into(
        &mut self,
        place: &mut [u8],
        time: Timestamp,
        stream: Stream,
        bytes: &[u8],
    ) -> (usize, usize) {
        let longest = self.longest;
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
                let (taken, open) = cri::encode(time, name, bytes, longest, &mut out);
                line.open = open.unwrap_or(line.open);
                taken
            }
            Format::Json => json::encode(time, name, bytes, longest, &mut line.kept, &mut out),
        };
        (taken, out.used)
    }

    /// Appends what a run ends with: the end of a line that has none, which a CRI reader waits
    /// for, and what was held back of a character that will not be finished.
    pub fn finish(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let mut place = [0; ENDS];
        let size = self.finish_into(&mut place, time);
        out.extend_from_slice(place.get(..size).unwrap_or_default());
    }

    /// The same as far as it fits into `place`, stream by stream. Says how much has been used.
    pub(super) fn finish_into(&mut self, place: &mut [u8], time: Timestamp) -> usize {
        let mut out = Out { place, used: 0 };
        for (line, name) in [(&mut self.stdout, STDOUT), (&mut self.stderr, STDERR)] {
            let kept = line.kept.bytes();
            let fits = match (line.open, kept.is_empty()) {
                (true, _) => cri::encode(time, name, b"\n", 1, &mut out).0 == 1,
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

    /// Whether there is something to finish.
    pub(super) fn is_unfinished(&self) -> bool {
        [&self.stdout, &self.stderr].iter().any(|line| line.open || !line.kept.bytes().is_empty())
    }

    /// What is held back.
    pub(super) fn kept(&self) -> impl Iterator<Item = u8> {
        self.stdout.kept.bytes().iter().chain(self.stderr.kept.bytes()).copied()
    }

    /// Takes the lines for open that `end` has found so.
    pub(super) fn go_on(&mut self, end: &End) {
        self.stdout.open = end.stdout == Some(true);
        self.stderr.open = end.stderr == Some(true);
    }
}

/// How the streams of a CRI log end, as far as is known.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Whether its last record leaves a line open.
    stdout: Option<bool>,
    stderr: Option<bool>,
}

impl End {
    /// Looks at the bytes before those that it has looked at. They may begin within a record.
    pub(super) fn look(&mut self, bytes: &[u8]) {
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
