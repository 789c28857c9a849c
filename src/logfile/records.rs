//! Writing the formats that consist of records. The file holds whole records of one format only,
//! also after a failed write.
//!
//! The records of a chunk are encoded in one buffer and written by one write(2) for each full
//! buffer. Copying a line of 100 bytes costs half of what two more parts of a vectored write cost.
//! The reactor passes the end of its scratch buffer for that: new pages for each chunk would cost
//! more than everything else.

use std::fs::File;
use std::io;

use super::clock::Moment;
use super::current::Current;
use super::directory::Directory;
use super::entry::{Stream, Timestamp};
use super::file_end::{end, format_of, read_end};
use super::format::{self, ENDS, Encoder, LONGEST_ON_DISK, SMALLEST, enough};
use super::{Format, LogError, LogFile};

/// The size of the buffer for a caller without a workspace. It is above glibc's
/// `M_MMAP_THRESHOLD` (mallopt(3)), so its pages return to the system when it is freed.
const BUFFER: usize = 160 << 10;

/// A chunk up to this size gets a buffer for its first record only.
const SMALL: usize = 2 << 10;

/// How many bytes at the end of a log are searched for lines that an earlier run left unfinished.
const END: usize = 256 << 10;

/// The outcome of an attempt to append records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Done,
    /// Nothing is written, and the log was rotated or reopened: try again.
    Retry,
    /// The buffer is too small for the first record.
    TooLarge,
}

impl LogFile {
    /// Appends the records of `bytes`, and adds to `written` the bytes that whole records carry.
    /// The records are encoded in `workspace` if it is large enough.
    pub(super) fn write_records(
        &mut self,
        now: Moment,
        stream: Stream,
        bytes: &[u8],
        workspace: &mut [u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        if self.left_open {
            self.end_lines(now.wall)?;
        }
        if let Some(current) = &self.current {
            self.index.bytes(stream, current.size(), 0, now);
        }
        let mut own = Vec::new();
        while let Some(rest) = bytes.get(*written..)
            && !rest.is_empty()
        {
            let place = if own.is_empty() { &mut *workspace } else { own.as_mut_slice() };
            let put = self.put(place, written, |encoder, place| {
                encoder.encode_into(place, now.wall, stream, rest)
            })?;
            if put == Put::TooLarge {
                own = vec![0; buffer_size(rest.len())];
            }
        }
        Ok(())
    }

    /// Ends the unfinished line of each stream.
    pub(super) fn end_lines(&mut self, now: Timestamp) -> Result<(), LogError> {
        while self.encoder.is_unfinished() {
            self.put(&mut [0; ENDS], &mut 0, |encoder, place| {
                (0, encoder.finish_into(place, now))
            })?;
        }
        self.left_open = false;
        Ok(())
    }

    /// Appends records, or makes room for them. `make` encodes them in a part of `place` and
    /// returns how many input bytes they carry, which is added to `taken`, and their size.
    fn put(
        &mut self,
        place: &mut [u8],
        taken: &mut usize,
        make: impl Fn(&mut Encoder, &mut [u8]) -> (usize, usize),
    ) -> Result<Put, LogError> {
        let Some(current) = &mut self.current else { return self.reopen().map(|()| Put::Retry) };
        // A torn record that can't be cut off must be the last one of its file.
        if current.cut_torn().is_err() {
            return self.rotate().map(|()| Put::Retry);
        }
        let room = room(current, self.limits.most(self.index.size_at_next()));
        let fitting = room.min(place.len());
        let place = place.get_mut(..fitting).unwrap_or_default();
        let Appended { taken: count, whole, outcome } =
            append(current, &mut self.encoder, place, make);
        if (count, whole) == (0, 0) && outcome.is_ok() {
            if fitting < room {
                return Ok(Put::TooLarge);
            }
            return self.rotate().map(|()| Put::Retry);
        }
        *taken += count;
        if whole > 0 {
            self.start_rotation_time();
        }
        outcome.map_err(|source| LogError::io("write to the log", self.place.path(), source))?;
        Ok(Put::Done)
    }

    /// Whether new records can follow the existing content: it has this run's format and ends with
    /// a whole record, after the record that a crash has torn is cut off.
    pub(super) fn continues(&self, directory: &Directory, log: &mut Current) -> bool {
        let known = self.index.known_format();
        if known.is_some_and(|known| known != self.options.format) {
            return false;
        }
        if known == Some(Format::Raw) {
            return true;
        }
        match directory.open_to_read(self.place.log_name()) {
            Ok(Some((file, size))) if log.is(&file) => {
                (known.is_some()
                    || format_of(&file).is_ok_and(|format| format == self.options.format))
                    && (self.options.format == Format::Raw || ends_whole(&file, size, log))
            }
            // A log that can be written but not read does not stop the start.
            _ => self.options.format == Format::Raw,
        }
    }

    /// Finds the lines that an earlier run has left unfinished.
    pub(super) fn find_left_open(&mut self, directory: &Directory) -> Result<(), LogError> {
        if self.options.format != Format::Cri || self.current.as_ref().is_none_or(Current::is_empty)
        {
            return Ok(());
        }
        let log_name = self.place.log_name();
        let mut end = format::End::default();
        let mut left = END;
        let bytes = read_end(directory, log_name, left)?.unwrap_or_default();
        end.add_before(&bytes);
        left -= bytes.len();
        if !end.is_known() && left > 0 {
            self.generations.survey(directory, log_name)?;
        }
        for generation in self.generations.newest_first(log_name) {
            if end.is_known() || left == 0 {
                break;
            }
            let Some(bytes) = read_end(directory, &generation, left)? else { break };
            end.add_before(&bytes);
            left -= bytes.len();
        }
        self.encoder.resume(&end);
        self.left_open = self.encoder.is_unfinished();
        Ok(())
    }
}

/// What has become of records.
#[derive(Debug)]
pub(super) struct Appended {
    /// The input bytes that the written records carry.
    pub(super) taken: usize,
    /// The size of the written records.
    pub(super) whole: usize,
    /// The error of a short write. Without one, no records mean that the first one did not fit.
    pub(super) outcome: io::Result<()>,
}

/// Appends the records that `make` encodes in `place`; it returns how many input bytes they carry,
/// and their size. The file and the encoder end with the last whole record that was written.
pub(super) fn append(
    current: &mut Current,
    encoder: &mut Encoder,
    place: &mut [u8],
    make: impl Fn(&mut Encoder, &mut [u8]) -> (usize, usize),
) -> Appended {
    let before = *encoder;
    let (mut taken, size) = make(encoder, place);
    let (whole, outcome) = current.append_records(place.get(..size).unwrap_or_default());
    if whole < size {
        *encoder = before;
        (taken, _) = make(encoder, place.get_mut(..whole).unwrap_or_default());
    }
    Appended { taken, whole, outcome }
}

/// The size of a buffer of its own for the records of this many bytes.
pub(super) fn buffer_size(count: usize) -> usize {
    if count > SMALL { BUFFER } else { enough(count) }
}

/// How many bytes fit into the log.
fn room(log: &Current, max_size: u64) -> usize {
    if max_size == 0 {
        return usize::MAX;
    }
    usize::try_from(max_size.max(SMALLEST).saturating_sub(log.size())).unwrap_or(usize::MAX)
}

/// Cuts off a last record that a crash has torn; `false` if that is not possible.
fn ends_whole(file: &File, size: u64, log: &mut Current) -> bool {
    let count = usize::try_from(size).unwrap_or(usize::MAX).min(LONGEST_ON_DISK);
    let Ok(end) = end(file, size, LONGEST_ON_DISK) else { return false };
    let torn = match memchr::memrchr(b'\n', &end) {
        Some(at) => end.len() - at - 1,
        None => end.len(),
    };
    // vmon writes no longer record.
    end.len() == count && torn < LONGEST_ON_DISK && log.cut(torn as u64).is_ok()
}
