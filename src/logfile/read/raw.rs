//! A raw log and its time index, read side by side.

use std::io;
use std::time::SystemTime;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::index::{self, Record};
use super::Warning;
use super::content::Content;
use super::times::{Index, Times};

const UNREADABLE: &str = "it can't be read";

/// The position in the index that belongs to the position in the log.
#[derive(Debug, Default)]
pub(super) struct Raw {
    times: Option<Times>,
    /// An index that was found at this log's name and does not match the log.
    rejected: Option<(Identity, Option<SystemTime>)>,
    /// The number of the next record.
    record: u64,
    /// The offset in the log at which the next record must start.
    offset: u64,
}

/// The next item of the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// At most `most` bytes of this stream.
    Bytes {
        time: Option<Timestamp>,
        stream: Option<Stream>,
        most: u64,
    },
    Mark {
        time: Timestamp,
        mark: Mark,
    },
    /// The index has no record for the next bytes.
    Unindexed,
}

impl Raw {
    /// Uses this index, or returns a warning if it does not match the log.
    ///
    /// Bytes are written to the log before they are recorded in the index, so an index that is read
    /// before the log has no record beyond the log's end.
    pub(super) fn use_index(
        &mut self,
        index: Index,
        content: &Content,
        offset: u64,
    ) -> Option<Warning> {
        let Index { path, identity, times } = index;
        if self.rejected == Some(identity) {
            return None;
        }
        let outcome = fitting(times, content).and_then(|times| {
            self.times = Some(times);
            self.go_to_offset(offset, None).map_err(|_| UNREADABLE)
        });
        let why = outcome.err()?;
        self.times = None;
        self.rejected = Some(identity);
        Some(Warning::Index { path, why })
    }

    /// Whether the log may have got a new index since: the writer creates it up to 200 ms after the
    /// first bytes, and again after another process has changed the log's size.
    pub(super) fn may_have_another(&mut self) -> io::Result<bool> {
        let ended = self.record()?.is_none();
        Ok(ended && self.times.as_ref().is_none_or(Times::is_removed))
    }

    /// The next item at this offset in the log.
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
        Ok(Next::Unindexed)
    }

    /// Skips the mark that is next.
    pub(super) fn pass_mark(&mut self) {
        self.record += 1;
    }

    fn pass(&mut self, record: &Record) {
        self.offset = record.end();
        self.record += 1;
    }

    /// Skips to behind the next mark and returns it with its offset in the log; `None` at the end.
    pub(super) fn next_mark(&mut self) -> io::Result<Option<(u64, Timestamp, Mark)>> {
        while let Some(record) = self.record()? {
            self.pass(&record);
            if let index::Content::Mark(mark) = record.content {
                return Ok(Some((record.offset, record.time, mark)));
            }
        }
        Ok(None)
    }

    /// The next record. The index ends at a record that does not start where the one before ends.
    fn record(&mut self) -> io::Result<Option<Record>> {
        let Some(times) = &mut self.times else { return Ok(None) };
        Ok(times.record(self.record)?.filter(|record| record.offset == self.offset))
    }

    /// The time of the first record.
    pub(super) fn first_time(&mut self) -> io::Result<Option<Timestamp>> {
        let Some(times) = &mut self.times else { return Ok(None) };
        Ok(times.record(0)?.filter(|record| record.offset == 0).map(|record| record.time))
    }

    /// Goes to the first record at or after this time, or behind the last one, and returns its
    /// offset in the log.
    pub(super) fn go_to_time(&mut self, time: Timestamp) -> io::Result<u64> {
        let Some(times) = &mut self.times else { return Ok(0) };
        let number = times.partition_point(|record| record.time < time)?;
        self.go_to_record(number)?;
        Ok(self.offset)
    }

    /// Goes to the record of this number, or else to the first one for this offset in the log.
    pub(super) fn go_to_offset(&mut self, offset: u64, record: Option<u64>) -> io::Result<()> {
        let Some(times) = &mut self.times else { return Ok(()) };
        let number = match record {
            Some(number) => number,
            None => times.partition_point(|it| it.end() <= offset && it.offset < offset)?,
        };
        self.go_to_record(number)
    }

    fn go_to_record(&mut self, number: u64) -> io::Result<()> {
        (self.record, self.offset) = (0, 0);
        let (Some(times), Some(before)) = (&mut self.times, number.checked_sub(1)) else {
            return Ok(());
        };
        if let Some(before) = times.record(before)? {
            (self.record, self.offset) = (number, before.end());
        }
        Ok(())
    }

    /// The number of the next record.
    pub(super) fn number(&self) -> u64 {
        self.record
    }
}

fn fitting(times: Option<Times>, content: &Content) -> Result<Times, &'static str> {
    let mut times = times.ok_or("it is not an index, or has an unknown version")?;
    let fits = times.last().and_then(|last| {
        let end = last.map_or(0, |record| record.end());
        Ok(content.size()?.is_none_or(|size| end <= size))
    });
    match fits {
        Ok(true) => Ok(times),
        Ok(false) => Err("it describes more bytes than the log has"),
        Err(_) => Err(UNREADABLE),
    }
}
