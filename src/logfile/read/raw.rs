//! A raw log: bytes, and the index that tells of them.

use std::io;
use std::time::SystemTime;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::index::{self, Record};
use super::Warning;
use super::content::Content;
use super::files::Index;
use super::times::Times;

const UNREADABLE: &str = "it can't be read";

/// The place in an index that goes with a place in its log.
#[derive(Debug, Default)]
pub(super) struct Raw {
    times: Option<Times>,
    /// An index that was found, but can't be this file's.
    misled: Option<(Identity, Option<SystemTime>)>,
    /// The number of the next record, and where in the log it has to begin.
    record: u64,
    told: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// At most so many bytes of this stream.
    Bytes {
        time: Option<Timestamp>,
        stream: Option<Stream>,
        most: u64,
    },
    Mark {
        time: Timestamp,
        mark: Mark,
    },
    /// The index does not tell.
    Untold,
}

impl Raw {
    /// Takes an index, unless it can't be this file's: then it is told.
    ///
    /// Bytes are in the log before they are in the index, so of an index that is read first every
    /// record is in the log.
    pub(super) fn use_index(
        &mut self,
        index: Index,
        content: &Content,
        offset: u64,
    ) -> Option<Warning> {
        let Index { path, identity, times } = index;
        if self.misled == Some(identity) {
            return None;
        }
        let outcome = fitting(times, content).and_then(|times| {
            self.times = Some(times);
            self.go_to_offset(offset, None).map_err(|_| UNREADABLE)
        });
        let why = outcome.err()?;
        self.times = None;
        self.misled = Some(identity);
        Some(Warning::Index { path, why })
    }

    /// Whether there may be another index than when it was looked for: its writer makes one as late
    /// as 200 ms after the first bytes, and a new one when somebody else has changed the log's size.
    pub(super) fn may_have_another(&mut self) -> io::Result<bool> {
        let ended = self.record()?.is_none();
        Ok(ended && self.times.as_ref().is_none_or(Times::is_removed))
    }

    /// What comes next in the index, at this place in the log.
    pub(super) fn next(&mut self, offset: u64) -> io::Result<Next> {
        while let Some(record) = self.record()? {
            let Record { time, content, .. } = record;
            match content {
                index::Content::Mark(mark) => {
                    return Ok(Next::Mark { time, mark });
                }
                index::Content::Bytes { stream, .. } if record.end() > offset => {
                    let (time, most) = (stream.map(|_| time), record.end() - offset);
                    return Ok(Next::Bytes { time, stream, most });
                }
                index::Content::Bytes { .. } => self.pass(&record),
            }
        }
        Ok(Next::Untold)
    }

    /// Goes over the mark that is next.
    pub(super) fn pass_mark(&mut self) {
        self.record += 1;
    }

    fn pass(&mut self, record: &Record) {
        self.told = record.end();
        self.record += 1;
    }

    /// Goes to the next mark, and over it; where it stands in the log. `None` where there is none.
    pub(super) fn next_mark(&mut self) -> io::Result<Option<(u64, Timestamp, Mark)>> {
        while let Some(record) = self.record()? {
            self.pass(&record);
            if let index::Content::Mark(mark) = record.content {
                return Ok(Some((record.offset, record.time, mark)));
            }
        }
        Ok(None)
    }

    /// The next record. An index ends before one that does not begin where the last one has ended.
    fn record(&mut self) -> io::Result<Option<Record>> {
        let Some(times) = &mut self.times else { return Ok(None) };
        Ok(times.record(self.record)?.filter(|record| record.offset == self.told))
    }

    /// The time of the first record.
    pub(super) fn first_time(&mut self) -> io::Result<Option<Timestamp>> {
        let Some(times) = &mut self.times else { return Ok(None) };
        Ok(times.record(0)?.filter(|record| record.offset == 0).map(|record| record.time))
    }

    /// Goes to the first record of this time or a later one, or behind the last one; where that is
    /// in the log.
    pub(super) fn go_to_time(&mut self, time: Timestamp) -> io::Result<u64> {
        let Some(times) = &mut self.times else { return Ok(0) };
        let number = times.partition_point(|record| record.time < time)?;
        self.go_to_record(number)?;
        Ok(self.told)
    }

    /// Goes to what the index tells of a place in the log: from the record of this number on, or
    /// from the first one that stands there.
    pub(super) fn go_to_offset(&mut self, offset: u64, record: Option<u64>) -> io::Result<()> {
        let Some(times) = &mut self.times else { return Ok(()) };
        let number = match record {
            Some(number) => number,
            None => times.partition_point(|it| it.end() <= offset && it.offset < offset)?,
        };
        self.go_to_record(number)
    }

    fn go_to_record(&mut self, number: u64) -> io::Result<()> {
        (self.record, self.told) = (0, 0);
        let (Some(times), Some(before)) = (&mut self.times, number.checked_sub(1)) else {
            return Ok(());
        };
        if let Some(before) = times.record(before)? {
            (self.record, self.told) = (number, before.end());
        }
        Ok(())
    }

    /// The number of the next record.
    pub(super) fn place(&self) -> u64 {
        self.record
    }
}

fn fitting(times: Option<Times>, content: &Content) -> Result<Times, &'static str> {
    let mut times = times.ok_or("it is no index, or of another version")?;
    let fits = times.last().and_then(|last| {
        let end = last.map_or(0, |record| record.end());
        Ok(content.size()?.is_none_or(|size| end <= size))
    });
    match fits {
        Ok(true) => Ok(times),
        Ok(false) => Err("it tells of more bytes than there are in the log"),
        Err(_) => Err(UNREADABLE),
    }
}
