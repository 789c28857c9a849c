//! One file of a log in any format, read from start to end.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::format::{LONGEST_ON_DISK, sniff};
use super::super::index::Stretch;
use super::super::options::Format;
use super::content::Content;
use super::lines::{Decoded, Line, Lines};
use super::raw::{Next, Raw};
use super::times::Index;
use super::{Entry, Hold, ReadError, Side, Warning};

/// The coarsest granularity of modification times in common file systems.
const GRAIN: Duration = Duration::from_secs(2);

/// How many NULs at the beginning of a file are looked behind for its format.
const MOST_ZEROS: u64 = 64 << 20;

/// The role of a file in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The current log: it may still grow.
    Current,
    /// The former current log: another process has moved or removed it, and a new log exists.
    Moved,
    /// A generation, which never changes.
    Generation,
}

/// A file of the log that is being read.
pub(super) struct Segment {
    pub(super) role: Role,
    /// The number of this generation. For the current log, the number it will get.
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    content: Content,
    form: Form,
    /// The read position in the file.
    offset: u64,
    /// Up to which offset the index is known to have no further mark of a log of records.
    unmarked: u64,
    /// Whether the file was truncated, and what was read of it before is still to be returned.
    is_truncated: bool,
    found: Option<Found>,
}

/// How the bytes of the file are decoded.
enum Form {
    /// The first line, which decides, has not been read.
    Unknown,
    Raw(Raw),
    /// With an index of marks.
    Lines(Lines, Raw),
}

/// The next entry.
#[derive(Debug, Clone, Copy)]
enum Found {
    Bytes { time: Option<Timestamp>, stream: Option<Stream>, most: u64 },
    Mark { time: Timestamp, mark: Mark },
    Line(Line),
}

/// How far to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) hold: Hold,
    /// The offset in the file at which reading stops.
    pub(super) end: u64,
}

impl Segment {
    pub(super) fn new(
        role: Role,
        number: u64,
        path: PathBuf,
        identity: Identity,
        content: Content,
    ) -> Self {
        let (form, offset, unmarked, is_truncated, found) = (Form::Unknown, 0, 0, false, None);
        Self { role, number, path, identity, content, form, offset, unmarked, is_truncated, found }
    }

    /// Uses this index, or returns a warning if it does not match the file. The index knows the
    /// format; if it is none, the first line decides.
    pub(super) fn use_index(&mut self, index: Index) -> Option<Warning> {
        let format = index.format();
        match format {
            Some(format) => self.assume(format),
            // What can't be read now is reported when it is to be read.
            None => drop(self.learn_form(Hold::Parts)),
        }
        let is_raw = format.map(|format| format == Format::Raw);
        match &mut self.form {
            Form::Raw(raw) if is_raw != Some(false) => {
                raw.use_index(index, &self.content, self.offset)
            }
            Form::Lines(_, marks) if is_raw != Some(true) => {
                self.unmarked = 0;
                marks.use_index(index, &self.content, self.offset)
            }
            _ => None,
        }
    }

    /// Whether an index may have been created since the last check.
    pub(super) fn may_have_another_index(&mut self) -> Result<bool, ReadError> {
        match &mut self.form {
            Form::Unknown => Ok(true),
            Form::Lines(..) if self.offset < self.unmarked => Ok(false),
            Form::Raw(index) | Form::Lines(_, index) => {
                index.may_have_another().map_err(|error| ReadError::io(&self.path, error))
            }
        }
    }

    /// Sets the format, unless it is known already.
    pub(super) fn assume(&mut self, format: Format) {
        if let Form::Unknown = self.form {
            self.form = match format {
                Format::Raw => Form::Raw(Raw::default()),
                Format::Cri | Format::Json => Form::Lines(Lines::new(format), Raw::default()),
            };
        }
    }

    pub(super) fn is_lines(&self) -> bool {
        matches!(self.form, Form::Lines(..))
    }

    pub(super) fn is_packed(&self) -> bool {
        self.content.is_packed()
    }

    /// How many bytes of the file have been read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the next record of its index.
    pub(super) fn record(&self) -> u64 {
        match &self.form {
            Form::Raw(index) | Form::Lines(_, index) => index.number(),
            Form::Unknown => 0,
        }
    }

    /// The size of the file; `None` for a compressed one.
    pub(super) fn size(&self) -> Result<Option<u64>, ReadError> {
        self.content.size().map_err(|error| ReadError::io(&self.path, error))
    }

    /// The size below which the file has been truncated by another program. The writer itself cuts off
    /// a record that it could write in part only.
    pub(super) fn seen(&self) -> u64 {
        match self.form {
            Form::Raw(_) => self.offset.max(self.content.end()),
            Form::Unknown | Form::Lines(..) => self.offset,
        }
    }

    /// The file was truncated. What was read of it and waits for its time is returned without one, then
    /// reading starts from the beginning.
    pub(super) fn truncated(&mut self) {
        self.is_truncated = true;
    }

    /// Starts from the beginning, without an index.
    fn restart(&mut self) {
        self.is_truncated = false;
        (self.form, self.offset, self.unmarked, self.found) = (Form::Unknown, 0, 0, None);
        self.content.forget();
    }

    /// The open file.
    pub(super) fn file(&self) -> Option<&File> {
        self.content.file()
    }

    /// The number of hard links of the file.
    pub(super) fn links(&self) -> u64 {
        self.content.metadata().map_or(0, |metadata| metadata.nlink())
    }

    /// Finds the next entry for [`take`](Self::take); `false` if there is none.
    pub(super) fn ready(&mut self, bounds: Bounds) -> Result<bool, ReadError> {
        if self.is_truncated {
            let most = self.content.held(self.offset, u64::MAX).len() as u64;
            if most > 0 {
                self.found = Some(Found::Bytes { time: None, stream: None, most });
                return Ok(true);
            }
            self.restart();
        }
        self.learn_form(bounds.hold)?;
        self.found = self.find(bounds).map_err(|error| ReadError::io(&self.path, error))?;
        Ok(self.found.is_some())
    }

    fn find(&mut self, bounds: Bounds) -> std::io::Result<Option<Found>> {
        let grows = self.role == Role::Current;
        let left = bounds.end.saturating_sub(self.offset);
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Lines(..) if left == 0 => Ok(None),
            Form::Lines(lines, marks) => {
                let waits = grows && bounds.hold >= Hold::Parts;
                let line = lines.find(&mut self.content, self.offset, waits)?;
                // Not skipped: the writer may still complete the record, or cut it off.
                let line = line.filter(|line| {
                    !grows || !lines.is_part_of_record(&self.content, self.offset, *line)
                });
                // A mark is on disk before the bytes behind it, so the index is read after them.
                if self.offset >= self.unmarked {
                    if let Some((time, mark)) = marks.mark_at(self.offset)? {
                        return Ok(Some(Found::Mark { time, mark }));
                    }
                    self.unmarked = marks.next_offset()?.unwrap_or(match grows {
                        true => self.content.end(),
                        false => u64::MAX,
                    });
                }
                Ok(line.map(Found::Line))
            }
            Form::Raw(raw) => {
                let (time, stream, most) = match raw.next(self.offset)? {
                    Next::Mark { time, mark } => return Ok(Some(Found::Mark { time, mark })),
                    Next::Bytes { time, stream, most } => (time, stream, most.min(left)),
                    Next::Unindexed if grows && bounds.hold >= Hold::Pending => {
                        // Another program may truncate the file before the index has them.
                        self.content.keep(self.offset)?;
                        return Ok(None);
                    }
                    Next::Unindexed => (None, None, left),
                };
                let some = most > 0 && !self.content.at(self.offset, most)?.is_empty();
                Ok(some.then_some(Found::Bytes { time, stream, most }))
            }
        }
    }

    /// Takes the entry that [`ready`](Self::ready) has found.
    pub(super) fn take(&mut self) -> Option<Entry<'_>> {
        let offset = self.offset;
        match self.found.take()? {
            Found::Mark { time, mark } => {
                if let Form::Raw(index) | Form::Lines(_, index) = &mut self.form {
                    index.pass_mark();
                }
                Some(Entry::Mark { time, mark })
            }
            Found::Bytes { time, stream, most } => {
                let bytes = self.content.held(offset, most);
                self.offset += bytes.len() as u64;
                Some(Entry::Bytes { time, stream, bytes })
            }
            Found::Line(line) => {
                self.offset += line.size();
                let Form::Lines(lines, _) = &mut self.form else { return None };
                let Decoded { time, stream, bytes } = lines.read(&self.content, offset, line);
                Some(Entry::Bytes { time, stream, bytes })
            }
        }
    }

    /// Detects the format by the first line, unless it is known.
    fn learn_form(&mut self, hold: Hold) -> Result<(), ReadError> {
        if !matches!(self.form, Form::Unknown) {
            return Ok(());
        }
        let sniffed = self.sniff().map_err(|error| ReadError::io(&self.path, error))?;
        let Some((format, whole)) = sniffed else { return Ok(()) };
        let may_grow = self.role == Role::Current && hold >= Hold::Parts;
        if format.is_some() || whole || !may_grow {
            self.assume(format.unwrap_or(Format::Raw));
        }
        Ok(())
    }

    /// The format, and whether there were enough bytes to detect it; `None` for an empty file.
    fn sniff(&mut self) -> std::io::Result<Option<(Option<Format>, bool)>> {
        let start = self.zeros()?;
        self.content.at(start, u64::MAX)?;
        loop {
            let beginning = self.content.held(start, u64::MAX);
            if beginning.is_empty() {
                return Ok(None);
            }
            // Behind NULs, a crash may have left the end of a record.
            let second = memchr::memchr(b'\n', beginning).filter(|_| start > 0);
            let second = second.and_then(|end| beginning.get(end + 1..)).unwrap_or_default();
            let is_json = beginning.starts_with(b"{");
            let whole =
                !is_json || beginning.contains(&b'\n') || beginning.len() >= LONGEST_ON_DISK;
            let format = sniff(beginning).or_else(|| sniff(second));
            let may_be_behind = start > 0 && beginning.len() < 2 * LONGEST_ON_DISK;
            if format.is_some() || (whole && !may_be_behind) || !self.content.extend(start)? {
                return Ok(Some((format, whole)));
            }
        }
    }

    /// How many NULs are at the beginning, where a crash of the machine may leave them.
    fn zeros(&mut self) -> std::io::Result<u64> {
        let mut zeros = 0;
        while zeros < MOST_ZEROS {
            let bytes = self.content.at(zeros, u64::MAX)?;
            let count = bytes.iter().take_while(|&&byte| byte == 0).count();
            let is_all = count == bytes.len() && count > 0;
            zeros += count as u64;
            if !is_all {
                break;
            }
        }
        Ok(zeros)
    }

    /// Skips to behind the next mark without reading the bytes before it; `None` at the end.
    pub(super) fn next_mark(&mut self) -> Result<Option<(Timestamp, Mark)>, ReadError> {
        let (Form::Raw(index) | Form::Lines(_, index)) = &mut self.form else { return Ok(None) };
        self.unmarked = 0;
        let mark = index.next_mark().map_err(|error| ReadError::io(&self.path, error))?;
        Ok(mark.map(|(offset, time, mark)| {
            self.offset = offset;
            (time, mark)
        }))
    }

    /// The first known time of the file.
    pub(super) fn first_time(&mut self) -> Result<Option<Timestamp>, ReadError> {
        self.learn_form(Hold::Nothing)?;
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Raw(raw) => raw.first_time(),
            Form::Lines(lines, _) => lines.first_time(&mut self.content),
        }
        .map_err(|error| ReadError::io(&self.path, error))
    }

    /// Goes to the first bytes at or after this time, or behind the last bytes with a known time. Times
    /// are taken to be ascending.
    pub(super) fn go_to_time(&mut self, time: Timestamp) -> Result<(), ReadError> {
        self.learn_form(Hold::Nothing)?;
        self.offset =
            self.ascending_time(time).map_err(|error| ReadError::io(&self.path, error))?;
        if let Some(size) = self.size()?.filter(|_| self.is_older_than(time)) {
            self.offset = size;
        }
        Ok(())
    }

    fn ascending_time(&mut self, time: Timestamp) -> std::io::Result<u64> {
        match &mut self.form {
            Form::Unknown => Ok(0),
            Form::Raw(raw) => raw.go_to_time(time),
            Form::Lines(lines, marks) => {
                let end = self.content.size()?.unwrap_or(u64::MAX);
                let offset = lines.find_time(&mut self.content, time, 0..end)?;
                self.unmarked = 0;
                marks.go_to_offset(offset, None).map(|()| offset)
            }
        }
    }

    /// The stretches between steps of the clock at the beginning and the end of the file, as far as
    /// they are known.
    pub(super) fn stretches(&mut self) -> Result<Option<(Stretch, Stretch)>, ReadError> {
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Raw(index) | Form::Lines(_, index) => index.ends(),
        }
        .map_err(|error| ReadError::io(&self.path, error))
    }

    /// As [`go_to_time`](Self::go_to_time), with each stretch between steps of the clock by itself.
    /// `false` if none reaches this time, or on the other side, begins before it.
    pub(super) fn find_time(&mut self, time: Timestamp, side: Side) -> Result<bool, ReadError> {
        self.learn_form(Hold::Nothing)?;
        let found = self.stretch_time(time, side);
        let found = found.map_err(|error| ReadError::io(&self.path, error))?;
        self.offset = found.unwrap_or(self.offset);
        Ok(found.is_some())
    }

    fn stretch_time(&mut self, time: Timestamp, side: Side) -> std::io::Result<Option<u64>> {
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Raw(raw) => {
                if raw.ends()?.is_some() {
                    return raw.find_time(time, side);
                }
                // Without times, all of it may be on the side that is wanted.
                match side {
                    Side::First if self.is_older_than(time) => Ok(None),
                    Side::First => Ok(Some(0)),
                    Side::Last => self.content.size(),
                }
            }
            Form::Lines(lines, marks) => {
                let mut begins = marks.begins_of_stretches()?;
                if begins.first() != Some(&0) {
                    begins.insert(0, 0);
                }
                let size = self.content.size()?.unwrap_or(u64::MAX);
                let ends = begins.iter().skip(1).copied().chain([size]);
                let mut stretches: Vec<_> =
                    begins.iter().zip(ends).map(|(&start, end)| start..end.max(start)).collect();
                if side == Side::Last {
                    stretches.reverse();
                }
                for stretch in stretches {
                    let found = lines.find_time(&mut self.content, time, stretch.clone())?;
                    let is_in = match side {
                        Side::First => {
                            found < stretch.end && !self.content.at(found, 1)?.is_empty()
                        }
                        Side::Last => found > stretch.start,
                    };
                    if is_in {
                        self.unmarked = 0;
                        marks.go_to_offset(found, None)?;
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Whether the last write to the file was before this time.
    pub(super) fn is_older_than(&self, time: Timestamp) -> bool {
        let modified = self.content.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| Timestamp::from(modified + GRAIN) < time)
    }

    /// Goes to an offset in the file; in a log of records, to the first line that starts there or
    /// later. `record`: what [`record`](Self::record) returned at that offset.
    pub(super) fn go_to(&mut self, offset: u64, record: Option<u64>) -> Result<(), ReadError> {
        self.learn_form(Hold::Nothing)?;
        self.offset = match &mut self.form {
            Form::Unknown => Ok(offset),
            Form::Raw(raw) => raw.go_to_offset(offset, record).map(|()| offset),
            Form::Lines(lines, marks) => {
                self.unmarked = 0;
                match lines.align(&mut self.content, offset) {
                    Ok(aligned) => {
                        let record = record.filter(|_| aligned == offset);
                        marks.go_to_offset(aligned, record).map(|()| aligned)
                    }
                    Err(error) => Err(error),
                }
            }
        }
        .map_err(|error| ReadError::io(&self.path, error))?;
        Ok(())
    }
}
