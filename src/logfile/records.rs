//! The formats that have records, on disk: whole ones only, whatever stops a write, and nothing of
//! another format in the same file.

use std::fs::File;
use std::io;

use super::current::Current;
use super::directory::Directory;
use super::entry::{Stream, Timestamp};
use super::format::{self, Encoder, LONGEST_ON_DISK, SMALLEST, sniff};
use super::tail::{read, read_end};
use super::{Format, LogError, LogFile};

/// The most that is written at once. With room for one record more that is so much that glibc maps
/// it by itself (mallopt(3), `M_MMAP_THRESHOLD`): nothing of it stays behind.
const BUFFER: usize = 256 << 10;

/// Chunks up to this size get a buffer of their own size.
const SMALL: usize = 4 << 10;

/// How much of the end of a log is looked through for lines that an earlier run left unfinished.
const END: usize = 256 << 10;

/// Enough of a log to tell whether its first line may be a record.
const BEGINNING: usize = 128;

impl LogFile {
    /// Puts records of `bytes` into the log, and counts those of `bytes` that whole ones have.
    pub(super) fn write_records(
        &mut self,
        now: Timestamp,
        stream: Stream,
        bytes: &[u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        if self.left_open {
            self.end_lines(now)?;
        }
        let mut buffer = buffer(bytes.len());
        while let Some(rest) = bytes.get(*written..)
            && !rest.is_empty()
        {
            self.put(&mut buffer, written, |encoder, room, out| {
                encoder.encode_within(room, now, stream, rest, out)
            })?;
        }
        Ok(())
    }

    /// Ends what is unfinished in each stream.
    pub(super) fn end_lines(&mut self, now: Timestamp) -> Result<(), LogError> {
        while self.encoder.is_unfinished() {
            self.put(&mut Vec::new(), &mut 0, |encoder, room, out| {
                encoder.finish_within(room, now, out);
                0
            })?;
        }
        self.left_open = false;
        Ok(())
    }

    /// Puts the records that `make` makes into the log: as many as there is room for, or makes
    /// room. Adds what `make` says that they have taken to `taken`.
    fn put(
        &mut self,
        buffer: &mut Vec<u8>,
        taken: &mut usize,
        make: impl Fn(&mut Encoder, usize, &mut Vec<u8>) -> usize,
    ) -> Result<(), LogError> {
        let Some(current) = &mut self.current else { return self.reopen() };
        // Where it can't be taken back, the file ends there.
        if current.cut_torn().is_err() {
            return self.rotate();
        }
        let before = self.encoder;
        let room = room(current, self.limits.most(&self.index));
        buffer.clear();
        let mut count = make(&mut self.encoder, room, buffer);
        if buffer.is_empty() && count == 0 {
            return self.rotate();
        }
        let (whole, outcome) = current.append_records(buffer);
        if whole < buffer.len() {
            self.encoder = before;
            buffer.clear();
            count = make(&mut self.encoder, whole, buffer);
        }
        *taken += count;
        if whole > 0 {
            self.has_bytes();
        }
        outcome.map_err(|source| LogError::io("write to the log", self.place.path(), source))
    }

    /// Whether what was found in the log can be gone on with: it has this run's format, and
    /// ends with a whole record, if need be after cutting what a crash has left of one.
    pub(super) fn continues(&self, directory: &Directory, log: &mut Current) -> bool {
        if self.index.is_there() {
            return self.options.format == Format::Raw;
        }
        match directory.open_to_read(self.place.log_name()) {
            Ok(Some((file, size))) if log.is(&file) => {
                format_of(&file).is_ok_and(|format| format == self.options.format)
                    && (self.options.format == Format::Raw || ends_whole(&file, size, log))
            }
            // To stop for this would stop a start that has all it needs.
            _ => self.options.format == Format::Raw,
        }
    }

    /// Finds out which lines an earlier run has left unfinished. What can't be read has none.
    pub(super) fn find_left_open(&mut self, directory: &Directory) -> Result<(), LogError> {
        if self.options.format != Format::Cri || self.current.as_ref().is_none_or(Current::is_empty)
        {
            return Ok(());
        }
        let log_name = self.place.log_name();
        let mut end = format::End::default();
        let mut left = END;
        let bytes = read_end(directory, log_name, left)?.unwrap_or_default();
        end.look(&bytes);
        left -= bytes.len();
        if !end.is_known() && left > 0 {
            self.generations.survey(directory, log_name)?;
        }
        for generation in self.generations.newest_first(log_name) {
            if end.is_known() || left == 0 {
                break;
            }
            let Some(bytes) = read_end(directory, &generation, left)? else { break };
            end.look(&bytes);
            left -= bytes.len();
        }
        self.encoder.go_on(&end);
        self.left_open = self.encoder.is_unfinished();
        Ok(())
    }
}

/// One for a chunk of this size: records of whole chunks where they are small.
fn buffer(chunk: usize) -> Vec<u8> {
    Vec::with_capacity(if chunk > SMALL { BUFFER + LONGEST_ON_DISK } else { 2 * chunk + 128 })
}

/// How much fits into the log now, and into the buffer.
fn room(log: &Current, max_size: u64) -> usize {
    if max_size == 0 {
        return BUFFER;
    }
    let left = max_size.max(SMALLEST).saturating_sub(log.size());
    usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER))
}

/// What a log that has no time index beside it is.
pub(super) fn format_of(file: &File) -> io::Result<Format> {
    let mut beginning = read(file, 0, BEGINNING)?;
    if beginning.starts_with(b"{") {
        beginning = read(file, 0, LONGEST_ON_DISK)?;
    }
    Ok(sniff(&beginning).unwrap_or(Format::Raw))
}

/// Cuts what a crash has left of a last record; false where that can't be done.
fn ends_whole(file: &File, size: u64, log: &mut Current) -> bool {
    let count = usize::try_from(size).unwrap_or(usize::MAX).min(LONGEST_ON_DISK);
    let Ok(end) = read(file, size - count as u64, count) else { return false };
    let torn = match memchr::memrchr(b'\n', &end) {
        Some(at) => end.len() - at - 1,
        None => end.len(),
    };
    // More than that is nothing that was written here.
    end.len() == count && torn < LONGEST_ON_DISK && log.cut(torn as u64).is_ok()
}
