//! A log and its time index, read side by side.

use std::io;
use std::ops::Range;
use std::time::SystemTime;

use super::super::current::Identity;
use super::super::entry::{Mark, Stream, Timestamp};
use super::super::file_end;
use super::super::index::{self, CHECKED, Record, Stretch, hash};
use super::content::Content;
use super::times::{Index, Times};
use super::{Side, Warning};

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
                index::Content::Bytes { .. } | index::Content::Check(_) => self.pass(&record),
            }
        }
        Ok(Next::Unindexed)
    }

    /// The mark at this offset in the log, or before it; `None` if there is none in the index yet.
    pub(super) fn mark_at(&mut self, offset: u64) -> io::Result<Option<(Timestamp, Mark)>> {
        while let Some(record) = self.record()?.filter(|record| record.end() <= offset) {
            if let index::Content::Mark(mark) = record.content {
                return Ok(Some((record.time, mark)));
            }
            self.pass(&record);
        }
        Ok(None)
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
        let record = times.record(self.record)?;
        if record.is_some_and(|record| record.offset == self.offset) {
            return Ok(record);
        }
        // The writer may have removed marks and gone on before this number.
        let (number, offset) = (self.record, self.offset);
        let last = number.checked_sub(1).map(|last| times.reread(last)).transpose()?.flatten();
        if number == 0 || last.is_some_and(|last| last.end() == offset) {
            return Ok(None);
        }
        self.go_to_offset(offset, None)?;
        if (self.record, self.offset) == (number, offset) {
            return Ok(None);
        }
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

    /// The offset in the log of the next record that is not passed; `None` at the end.
    pub(super) fn next_offset(&mut self) -> io::Result<Option<u64>> {
        Ok(self.record()?.map(|record| record.end()))
    }

    /// The stretches between steps of the clock, as numbers of records.
    fn stretches(&mut self) -> io::Result<Vec<Range<u64>>> {
        let mut stretches = Vec::new();
        let Some(times) = &mut self.times else { return Ok(stretches) };
        let mut from = 0;
        while let Some(first) = times.record(from)? {
            let end = times.partition_from(from, |record| record.stretch == first.stretch)?;
            if end <= from {
                break;
            }
            stretches.push(from..end);
            from = end;
        }
        Ok(stretches)
    }

    /// The offsets in the log at which the stretches begin.
    pub(super) fn begins_of_stretches(&mut self) -> io::Result<Vec<u64>> {
        let mut offsets = Vec::new();
        for stretch in self.stretches()? {
            let Some(times) = &mut self.times else { break };
            offsets.extend(times.record(stretch.start)?.map(|record| record.offset));
        }
        Ok(offsets)
    }

    /// The first and the last stretch.
    pub(super) fn ends(&mut self) -> io::Result<Option<(Stretch, Stretch)>> {
        let Some(times) = &mut self.times else { return Ok(None) };
        let first = times.record(0)?.map(|record| record.stretch);
        Ok(first.zip(times.last()?.map(|record| record.stretch)))
    }

    /// Goes to this time in the first stretch that reaches it, or behind it in the last stretch that
    /// begins before it. Returns the offset in the log; `None` if there is no such stretch.
    pub(super) fn find_time(&mut self, time: Timestamp, side: Side) -> io::Result<Option<u64>> {
        let mut stretches = self.stretches()?;
        if side == Side::Last {
            stretches.reverse();
        }
        for Range { start, end } in stretches {
            let Some(times) = &mut self.times else { break };
            let found = times.partition(start..end, |record| record.time < time)?;
            let is_in = match side {
                Side::First => found < end,
                Side::Last => found > start,
            };
            if is_in {
                self.go_to_record(found)?;
                return Ok(Some(self.offset));
            }
        }
        Ok(None)
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
    if let Ok(true) = fits {
        match is_checked(&mut times, content) {
            Ok(true) => {}
            Ok(false) => return Err("the log was replaced"),
            Err(_) => return Err(UNREADABLE),
        }
    }
    match fits {
        Ok(true) => Ok(times),
        Ok(false) => Err("it describes more bytes than the log has"),
        Err(_) => Err(UNREADABLE),
    }
}

/// Whether the log is the one that the last check is about. A compressed one is not read for that.
fn is_checked(times: &mut Times, content: &Content) -> io::Result<bool> {
    let Some((offset, expected)) = times.last_check()? else { return Ok(true) };
    let Some(file) = content.file().filter(|_| !content.is_packed()) else { return Ok(true) };
    Ok(hash(&file_end::end(file, offset, CHECKED)?) == expected)
}
