//! One file of a log in any format, read from start to end.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::format::{LONGEST_ON_DISK, sniff};
use super::super::options::Format;
use super::content::Content;
use super::lines::{Decoded, Line, Lines};
use super::raw::{Next, Raw};
use super::times::Index;
use super::{Entry, Hold, ReadError, Warning};

/// The coarsest granularity of modification times in common file systems.
const GRAIN: Duration = Duration::from_secs(2);

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
    found: Option<Found>,
}

/// How the bytes of the file are decoded.
enum Form {
    /// The first line, which decides, has not been read.
    Unknown,
    Raw(Raw),
    Lines(Lines),
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
        let (form, offset, found) = (Form::Unknown, 0, None);
        Self { role, number, path, identity, content, form, offset, found }
    }

    /// Uses this index, or returns a warning if it does not match the file. A log with an index is
    /// raw.
    pub(super) fn use_index(&mut self, index: Index) -> Option<Warning> {
        if matches!(self.form, Form::Unknown) {
            self.form = Form::Raw(Raw::default());
        }
        match &mut self.form {
            Form::Raw(raw) => raw.use_index(index, &self.content, self.offset),
            _ => None,
        }
    }

    /// Whether an index may have been created since the last check.
    pub(super) fn may_have_another_index(&mut self) -> Result<bool, ReadError> {
        match &mut self.form {
            Form::Unknown => Ok(true),
            Form::Raw(raw) => {
                raw.may_have_another().map_err(|error| ReadError::io(&self.path, error))
            }
            Form::Lines(_) => Ok(false),
        }
    }

    /// Sets the format, unless it is known already.
    pub(super) fn assume(&mut self, format: Format) {
        if let Form::Unknown = self.form {
            self.form = match format {
                Format::Raw => Form::Raw(Raw::default()),
                Format::Cri | Format::Json => Form::Lines(Lines::new(format)),
            };
        }
    }

    pub(super) fn is_lines(&self) -> bool {
        matches!(self.form, Form::Lines(_))
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
            Form::Raw(raw) => raw.number(),
            _ => 0,
        }
    }

    /// The size of the file; `None` for a compressed one.
    pub(super) fn size(&self) -> Result<Option<u64>, ReadError> {
        self.content.size().map_err(|error| ReadError::io(&self.path, error))
    }

    /// Starts from the beginning, without an index.
    pub(super) fn restart(&mut self) {
        (self.form, self.offset, self.found) = (Form::Unknown, 0, None);
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
        self.learn_form(bounds.hold)?;
        self.found = self.find(bounds).map_err(|error| ReadError::io(&self.path, error))?;
        Ok(self.found.is_some())
    }

    fn find(&mut self, bounds: Bounds) -> std::io::Result<Option<Found>> {
        let grows = self.role == Role::Current;
        let left = bounds.end.saturating_sub(self.offset);
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Lines(_) if left == 0 => Ok(None),
            Form::Lines(lines) => {
                let waits = grows && bounds.hold >= Hold::Parts;
                let line = lines.find(&mut self.content, self.offset, waits)?;
                // Not skipped: the writer may still complete the record, or cut it off.
                let line = line.filter(|line| {
                    !grows || !lines.is_part_of_record(&self.content, self.offset, *line)
                });
                Ok(line.map(Found::Line))
            }
            Form::Raw(raw) => {
                let (time, stream, most) = match raw.next(self.offset)? {
                    Next::Mark { time, mark } => return Ok(Some(Found::Mark { time, mark })),
                    Next::Bytes { time, stream, most } => (time, stream, most.min(left)),
                    Next::Unindexed if grows && bounds.hold >= Hold::Pending => return Ok(None),
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
                if let Form::Raw(raw) = &mut self.form {
                    raw.pass_mark();
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
                let Form::Lines(lines) = &mut self.form else { return None };
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
        self.content.at(0, u64::MAX)?;
        loop {
            let beginning = self.content.held(0, u64::MAX);
            if beginning.is_empty() {
                return Ok(None);
            }
            let is_json = beginning.starts_with(b"{");
            let whole =
                !is_json || beginning.contains(&b'\n') || beginning.len() >= LONGEST_ON_DISK;
            let format = sniff(beginning);
            if whole || format.is_some() || !self.content.extend(0)? {
                return Ok(Some((format, whole)));
            }
        }
    }

    /// Skips to behind the next mark without reading the bytes before it; `None` at the end.
    pub(super) fn next_mark(&mut self) -> Result<Option<(Timestamp, Mark)>, ReadError> {
        let Form::Raw(raw) = &mut self.form else { return Ok(None) };
        let mark = raw.next_mark().map_err(|error| ReadError::io(&self.path, error))?;
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
            Form::Lines(lines) => lines.first_time(&mut self.content),
        }
        .map_err(|error| ReadError::io(&self.path, error))
    }

    /// Goes to the first bytes at or after this time, or behind the last bytes with a known time.
    pub(super) fn go_to_time(&mut self, time: Timestamp) -> Result<(), ReadError> {
        self.learn_form(Hold::Nothing)?;
        self.offset = match &mut self.form {
            Form::Unknown => Ok(0),
            Form::Raw(raw) => raw.go_to_time(time),
            Form::Lines(lines) => lines.find_time(&mut self.content, time),
        }
        .map_err(|error| ReadError::io(&self.path, error))?;
        if let Some(size) = self.size()?.filter(|_| self.is_older_than(time)) {
            self.offset = size;
        }
        Ok(())
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
            Form::Lines(lines) => lines.align(&mut self.content, offset),
        }
        .map_err(|error| ReadError::io(&self.path, error))?;
        Ok(())
    }
}
