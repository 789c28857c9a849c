//! One file of a log, whatever its format.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::format::{LONGEST_ON_DISK, sniff};
use super::super::options::Format;
use super::content::Content;
use super::files::Index;
use super::lines::{Line, Lines, Said};
use super::raw::{Next, Raw};
use super::{Entry, Hold, ReadError, Warning};

/// How coarse the time of a file's last change may be.
const GRAIN: Duration = Duration::from_secs(2);

/// What a file is to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Bytes may still be added.
    Current,
    /// It was the current log until somebody moved or removed it, and another one took its place.
    Moved,
    /// It never changes.
    Generation,
}

/// A file that is being read.
pub(super) struct Segment {
    pub(super) role: Role,
    /// The number of the generation that it is, or will be.
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    content: Content,
    form: Form,
    /// Where in the file is read.
    offset: u64,
    found: Option<Found>,
}

/// How its bytes are to be understood.
enum Form {
    /// Its first line is still to tell.
    Unknown,
    Raw(Raw),
    Lines(Lines),
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Found {
    Bytes { time: Option<Timestamp>, stream: Option<Stream>, most: u64 },
    Mark { time: Timestamp, mark: Mark },
    Line(Line),
}

/// How far is read now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) hold: Hold,
    /// Where in the file it ends, whatever follows.
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

    /// Takes an index, unless it can't be this file's: then it is told. A log with an index is raw.
    pub(super) fn use_index(&mut self, index: Index) -> Option<Warning> {
        if matches!(self.form, Form::Unknown) {
            self.form = Form::Raw(Raw::default());
        }
        match &mut self.form {
            Form::Raw(raw) => raw.use_index(index, &self.content, self.offset),
            _ => None,
        }
    }

    /// Whether it may have got an index since it was looked for.
    pub(super) fn may_have_another_index(&mut self) -> Result<bool, ReadError> {
        match &mut self.form {
            Form::Unknown => Ok(true),
            Form::Raw(raw) => {
                raw.may_have_another().map_err(|error| ReadError::io(&self.path, error))
            }
            Form::Lines(_) => Ok(false),
        }
    }

    /// Takes it for a log of this format, unless its index has told.
    pub(super) fn take_for(&mut self, format: Format) {
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
            Form::Raw(raw) => raw.place(),
            _ => 0,
        }
    }

    /// How many bytes there are; `None` where only reading them tells.
    pub(super) fn size(&self) -> Result<Option<u64>, ReadError> {
        self.content.size().map_err(|error| ReadError::io(&self.path, error))
    }

    /// Begins anew, without an index.
    pub(super) fn restart(&mut self) {
        (self.form, self.offset, self.found) = (Form::Unknown, 0, None);
        self.content.forget();
    }

    /// The file itself.
    pub(super) fn file(&self) -> Option<&File> {
        self.content.file()
    }

    /// How many names the file has left.
    pub(super) fn links(&self) -> u64 {
        self.content.metadata().map_or(0, |metadata| metadata.nlink())
    }

    /// Whether there is something to [`take`](Self::take).
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
                // Not passed over: its writer may still add to it, or cut it off.
                let line = line.filter(|line| {
                    !grows || !lines.is_part_of_record(&self.content, self.offset, *line)
                });
                Ok(line.map(Found::Line))
            }
            Form::Raw(raw) => {
                let (time, stream, most) = match raw.next(self.offset)? {
                    Next::Mark { time, mark } => return Ok(Some(Found::Mark { time, mark })),
                    Next::Bytes { time, stream, most } => (time, stream, most.min(left)),
                    Next::Untold if grows && bounds.hold >= Hold::Untold => return Ok(None),
                    Next::Untold => (None, None, left),
                };
                let some = most > 0 && !self.content.at(self.offset, most)?.is_empty();
                Ok(some.then_some(Found::Bytes { time, stream, most }))
            }
        }
    }

    /// What [`ready`](Self::ready) has found.
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
                let Said { time, stream, bytes } = lines.read(&self.content, offset, line);
                Some(Entry::Bytes { time, stream, bytes })
            }
        }
    }

    /// Looks at the first line, unless the format is known.
    fn learn_form(&mut self, hold: Hold) -> Result<(), ReadError> {
        if !matches!(self.form, Form::Unknown) {
            return Ok(());
        }
        let sniffed = self.sniff().map_err(|error| ReadError::io(&self.path, error))?;
        let Some((format, whole)) = sniffed else { return Ok(()) };
        let may_tell_yet = self.role == Role::Current && hold >= Hold::Parts;
        if format.is_some() || whole || !may_tell_yet {
            self.take_for(format.unwrap_or(Format::Raw));
        }
        Ok(())
    }

    /// The format, and whether what is there was enough to tell. `None` where nothing is there.
    fn sniff(&mut self) -> std::io::Result<Option<(Option<Format>, bool)>> {
        self.content.at(0, u64::MAX)?;
        loop {
            let beginning = self.content.held(0, u64::MAX);
            if beginning.is_empty() {
                return Ok(None);
            }
            let of_docker = beginning.starts_with(b"{");
            let whole =
                !of_docker || beginning.contains(&b'\n') || beginning.len() >= LONGEST_ON_DISK;
            let format = sniff(beginning);
            if whole || format.is_some() || !self.content.extend(0)? {
                return Ok(Some((format, whole)));
            }
        }
    }

    /// Goes to the next mark without reading what is before it; `None` at the end.
    pub(super) fn next_mark(&mut self) -> Result<Option<(Timestamp, Mark)>, ReadError> {
        let Form::Raw(raw) = &mut self.form else { return Ok(None) };
        let mark = raw.next_mark().map_err(|error| ReadError::io(&self.path, error))?;
        Ok(mark.map(|(offset, time, mark)| {
            self.offset = offset;
            (time, mark)
        }))
    }

    /// The time of the first of its bytes for which one is known.
    pub(super) fn first_time(&mut self) -> Result<Option<Timestamp>, ReadError> {
        self.learn_form(Hold::Nothing)?;
        match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Raw(raw) => raw.first_time(),
            Form::Lines(lines) => lines.first_time(&mut self.content),
        }
        .map_err(|error| ReadError::io(&self.path, error))
    }

    /// Goes to the first bytes of this time or a later one, or to where no time is known any more.
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

    /// Whether nothing has been written to the file at this time or later.
    pub(super) fn is_older_than(&self, time: Timestamp) -> bool {
        let modified = self.content.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| Timestamp::from(modified + GRAIN) < time)
    }

    /// Goes to a place in the file; in a log of lines, to the first one from there on. `record` is
    /// what [`record`](Self::record) was there.
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
