//! The formats that have records, on disk: whole ones only, whatever stops a write, and nothing of
//! another format in the same file.

use std::fs::File;
use std::io;

use super::current::Current;
use super::directory::Directory;
use super::entry::{Stream, Timestamp};
use super::format::{self, ENDS, Encoder, LONGEST_ON_DISK, SMALLEST, enough, sniff};
use super::tail::{read, read_end};
use super::{Format, LogError, LogFile};

/// The most that is written at once where the caller gives no workspace. So much is mapped by
/// itself (mallopt(3), `M_MMAP_THRESHOLD`): nothing of it stays behind.
const BUFFER: usize = 160 << 10;

/// A chunk up to this size gets as much as its first record may need.
const SMALL: usize = 2 << 10;

/// How much of the end of a log is looked through for lines that an earlier run left unfinished.
const END: usize = 256 << 10;

/// Enough of a log to tell whether its first line may be a record.
const BEGINNING: usize = 128;

/// What has become of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Done,
    /// Nothing yet: there may be room in the log now.
    Again,
    /// There is no place where the first of them can be made.
    TooLarge,
}

impl LogFile {
    /// Puts records of `bytes` into the log, and counts those of `bytes` that whole ones have. They
    /// are made in `workspace`, where that is large enough.
    pub(super) fn write_records(
        &mut self,
        now: Timestamp,
        stream: Stream,
        bytes: &[u8],
        workspace: &mut [u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        if self.left_open {
            self.end_lines(now)?;
        }
        let mut own = Vec::new();
        while let Some(rest) = bytes.get(*written..)
            && !rest.is_empty()
        {
            let place = if own.is_empty() { &mut *workspace } else { own.as_mut_slice() };
            let put = self.put(place, written, |encoder, place| {
                encoder.encode_into(place, now, stream, rest)
            })?;
            if put == Put::TooLarge {
                own.resize(if rest.len() > SMALL { BUFFER } else { enough(rest.len()) }, 0);
            }
        }
        Ok(())
    }

    /// Ends what is unfinished in each stream.
    pub(super) fn end_lines(&mut self, now: Timestamp) -> Result<(), LogError> {
        while self.encoder.is_unfinished() {
            self.put(&mut [0; ENDS], &mut 0, |encoder, place| {
                (0, encoder.finish_into(place, now))
            })?;
        }
        self.left_open = false;
        Ok(())
    }

    /// Puts records into the log, or makes room for them. `make` makes them in a part of `place`,
    /// and says what they have taken, which is added to `taken`, and how long they are.
    fn put(
        &mut self,
        place: &mut [u8],
        taken: &mut usize,
        make: impl Fn(&mut Encoder, &mut [u8]) -> (usize, usize),
    ) -> Result<Put, LogError> {
        let Some(current) = &mut self.current else { return self.reopen().map(|()| Put::Again) };
        // Where it can't be taken back, the file ends there.
        if current.cut_torn().is_err() {
            return self.rotate().map(|()| Put::Again);
        }
        let room = room(current, self.limits.most(&self.index));
        let before = self.encoder;
        let fitting = room.min(place.len());
        let place = place.get_mut(..fitting).unwrap_or_default();
        let (mut count, size) = make(&mut self.encoder, place);
        if (count, size) == (0, 0) {
            if fitting < room {
                return Ok(Put::TooLarge);
            }
            return self.rotate().map(|()| Put::Again);
        }
        let (whole, outcome) = current.append_records(place.get(..size).unwrap_or_default());
        if whole < size {
            self.encoder = before;
            (count, _) = make(&mut self.encoder, place.get_mut(..whole).unwrap_or_default());
        }
        *taken += count;
        if whole > 0 {
            self.has_bytes();
        }
        outcome.map_err(|source| LogError::io("write to the log", self.place.path(), source))?;
        Ok(Put::Done)
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

/// How much fits into the log now.
fn room(log: &Current, max_size: u64) -> usize {
    if max_size == 0 {
        return usize::MAX;
    }
    usize::try_from(max_size.max(SMALLEST).saturating_sub(log.size())).unwrap_or(usize::MAX)
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
