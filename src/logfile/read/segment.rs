//! One file of a log: its bytes, cut where its index tells of another stream or time.

use std::path::PathBuf;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::index;
use super::content::Content;
use super::times::Times;
use super::{ReadError, Warning};

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
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) role: Role,
    /// The number of the generation that it is, or will be.
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    content: Content,
    times: Option<Times>,
    /// Whether an index was found that can't be this file's.
    misled: bool,
    /// Where in the file is read.
    offset: u64,
    /// The number of the next record, and where in the file it must begin.
    record: u64,
    told: u64,
}

/// What comes next in a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    Bytes { time: Option<Timestamp>, stream: Option<Stream>, from: u64, length: u64 },
    Mark { time: Timestamp, mark: Mark },
}

impl Segment {
    pub(super) fn new(
        role: Role,
        number: u64,
        path: PathBuf,
        identity: Identity,
        content: Content,
    ) -> Self {
        let (times, misled, offset, record, told) = (None, false, 0, 0, 0);
        Self { role, number, path, identity, content, times, misled, offset, record, told }
    }

    /// Takes an index, unless it can't be this file's: then it is told.
    ///
    /// Bytes are in the log before they are in the index, so of an index that is read first every
    /// record is in the log.
    pub(super) fn use_index(&mut self, path: PathBuf, times: Option<Times>) -> Option<Warning> {
        let why = match self.fitting(times) {
            Ok(times) => {
                self.times = Some(times);
                return None;
            }
            Err(why) => why,
        };
        self.misled = true;
        Some(Warning::Index { path, why })
    }

    fn fitting(&self, times: Option<Times>) -> Result<Times, &'static str> {
        let mut times = times.ok_or("it is no index, or of another version")?;
        let fits = times.last().and_then(|last| {
            let end = last.map_or(0, |record| record.end());
            Ok(self.content.size()?.is_none_or(|size| end <= size))
        });
        match fits {
            Ok(true) => Ok(times),
            Ok(false) => Err("it tells of more bytes than there are in the log"),
            Err(_) => Err("it can't be read"),
        }
    }

    /// Whether its index may not have been there yet when it was looked for.
    pub(super) fn lacks_index(&self) -> bool {
        self.times.is_none() && !self.misled
    }

    /// How many bytes of the file have been read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Begins anew, without an index.
    pub(super) fn restart(&mut self) {
        (self.times, self.misled) = (None, false);
        (self.offset, self.record, self.told) = (0, 0, 0);
        self.content.forget();
    }

    /// How many names the file has left.
    pub(super) fn links(&self) -> u64 {
        self.content.links()
    }

    /// What comes next; `None` at the end of what is there, and with `hold` also where only bytes
    /// follow of which the index may tell yet.
    pub(super) fn step(&mut self, hold: bool) -> Result<Option<Found>, ReadError> {
        loop {
            let Some(record) = self.record()? else {
                let may_follow = self.role == Role::Current && hold;
                return if may_follow { Ok(None) } else { self.bytes(None, None, u64::MAX) };
            };
            let index::Record { time, content, .. } = record;
            match content {
                index::Content::Mark(mark) => {
                    self.record += 1;
                    return Ok(Some(Found::Mark { time, mark }));
                }
                index::Content::Bytes { stream, .. } if record.end() > self.offset => {
                    return self.bytes(stream.map(|_| time), stream, record.end() - self.offset);
                }
                index::Content::Bytes { .. } => {
                    self.told = record.end();
                    self.record += 1;
                }
            }
        }
    }

    /// The next record. An index ends before one that does not begin where the last one has ended.
    fn record(&mut self) -> Result<Option<index::Record>, ReadError> {
        let Some(times) = &mut self.times else { return Ok(None) };
        let record = times.record(self.record).map_err(|error| ReadError::io(&self.path, error))?;
        Ok(record.filter(|record| record.offset == self.told))
    }

    fn bytes(
        &mut self,
        time: Option<Timestamp>,
        stream: Option<Stream>,
        most: u64,
    ) -> Result<Option<Found>, ReadError> {
        let from = self.offset;
        let length = self.given(from, most)?.len() as u64;
        self.offset += length;
        Ok((length > 0).then_some(Found::Bytes { time, stream, from, length }))
    }

    /// Bytes that have been found.
    pub(super) fn given(&mut self, from: u64, most: u64) -> Result<&[u8], ReadError> {
        self.content.at(from, most).map_err(|error| ReadError::io(&self.path, error))
    }
}
