//! The writer of a log's time index.
//!
//! Records are buffered for at most 200 ms and then written at a known offset, so a failed or torn
//! write is repeated. No descriptor is kept open: the index is opened for each flush. A failure to
//! write it is one warning and never an error: the log and the child go on, and the affected bytes
//! have an unknown time.

mod recovery;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{io, iter};

use super::LogError;
use super::current::{Current, Identity};
use super::directory::Directory;
use super::entry::{Mark, Stream, Timestamp};
use super::index::{Content, HEADER, Header, RECORD, Record};
use super::names;

/// Chunks of one stream within this time after the first share one record.
const SHARED: Duration = Duration::from_millis(5);

/// How long a record is buffered.
const LAG: Duration = Duration::from_millis(200);

/// How many records are written at once.
const FULL: usize = 4096 / RECORD;

/// How long after the first failure the write is retried. Each further failure doubles the time.
const RETRY: Duration = Duration::from_secs(1);

/// How often that time is doubled.
const MOST_DOUBLINGS: u8 = 6;

/// The index of the log that is open.
#[derive(Debug)]
pub(super) struct Indexing {
    /// Whether records are made. If not, an index of an earlier run stays while it is valid.
    on: bool,
    /// The number of failed writes since the last successful one.
    failures: u8,
    /// The index file of this log, if it exists.
    file: Option<Identity>,
    /// The size of its valid part: the header and whole records, or 0.
    length: u64,
    /// How many bytes of the log the records describe, pending ones included.
    indexed: u64,
    /// The time of the last record.
    time: Timestamp,
    pending: Option<Box<Pending>>,
}

/// Records that are not on disk; at least one.
#[derive(Debug)]
struct Pending {
    records: Vec<Record>,
    due: Instant,
}

impl Indexing {
    pub(super) fn new(on: bool) -> Self {
        Self {
            on,
            failures: 0,
            file: None,
            length: 0,
            indexed: 0,
            time: Timestamp::default(),
            pending: None,
        }
    }

    /// Whether records are made.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether this log has an index on disk.
    pub(super) fn is_there(&self) -> bool {
        self.length > 0
    }

    /// The size of the index on disk.
    pub(super) fn size(&self) -> u64 {
        self.length
    }

    /// The size of the index after the next write: with the pending records, the record of that
    /// write, and one for bytes that another process has appended.
    pub(super) fn size_at_next(&self) -> u64 {
        if !self.on {
            return self.length;
        }
        let waiting = self.pending.as_ref().map_or(0, |pending| pending.records.len());
        self.length.max(HEADER as u64) + ((waiting + 2) * RECORD) as u64
    }

    /// Records `count` bytes of a stream at `offset` in the log.
    pub(super) fn bytes(&mut self, stream: Stream, offset: u64, count: usize, now: Timestamp) {
        if !self.on {
            return;
        }
        self.catch_up(offset, now);
        // write(2) takes 2 GiB at most.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let now = now.max(self.time);
        let last = self.pending.as_mut().and_then(|pending| pending.records.last_mut());
        if let Some(Record { time, content: Content::Bytes { stream: same, length }, .. }) = last
            && *same == Some(stream)
            && now.since(*time) <= SHARED
            && let Some(sum) = length.checked_add(count)
        {
            *length = sum;
            self.indexed += u64::from(count);
            return;
        }
        let content = Content::Bytes { stream: Some(stream), length: count };
        self.push(Record { time: now, offset, content });
    }

    /// Records an event before the byte at `offset`.
    pub(super) fn mark(&mut self, mark: Mark, offset: u64, now: Timestamp) {
        if self.on {
            self.catch_up(offset, now);
            let time = now.max(self.time);
            self.push(Record { time, offset, content: Content::Mark(mark) });
        }
    }

    /// Records the bytes before `offset` that another process has appended.
    fn catch_up(&mut self, offset: u64, now: Timestamp) {
        if offset < self.indexed {
            self.forget();
        }
        let time = now.max(self.time);
        unknown(self.indexed, offset, time).for_each(|record| self.push(record));
    }

    fn push(&mut self, record: Record) {
        self.time = record.time;
        self.indexed = record.end();
        let wait = if self.failures == 0 { LAG } else { self.pause() };
        self.pending
            .get_or_insert_with(|| {
                Box::new(Pending { records: Vec::new(), due: Instant::now() + wait })
            })
            .records
            .push(record);
    }

    /// When the pending records are to be written.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// Whether enough records are pending to write them early.
    pub(super) fn is_full(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.records.len() >= FULL)
    }

    /// Whether the time to retry after a failure has come.
    pub(super) fn may_flush(&self) -> bool {
        self.failures == 0 || self.deadline().is_some_and(|due| due <= Instant::now())
    }

    /// Replaces the pending records by one of unknown time, which bounds the memory.
    pub(super) fn give_up(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        let Some(Record { time, offset, .. }) = pending.records.first().copied() else { return };
        pending.records = unknown(offset, self.indexed, time).collect();
        if pending.records.is_empty() {
            self.pending = None;
        }
    }

    /// Starts without an index, for a log that has none or an invalid one.
    pub(super) fn forget(&mut self) {
        let Self { on, failures, .. } = *self;
        *self = Self { failures, ..Self::new(on) };
    }

    /// Removes the index: another process has changed the log, so the offsets are invalid.
    pub(super) fn lose(&mut self, directory: &Directory, log_name: &str) {
        if self.file.is_some()
            && let Err(error) = directory.remove_regular(&names::index(log_name))
        {
            self.failed(&error);
        }
        self.forget();
    }

    /// Writes the pending records. After a failure they stay pending and are retried later.
    pub(super) fn flush(&mut self, directory: &Directory, log_name: &str, log: &Current) {
        if self.pending.is_none() {
            return;
        }
        match self.try_flush(directory, log_name, log) {
            Ok(()) => {
                self.pending = None;
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(log = log_name, "the time index can be written again");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Handles a failure to write the index.
    pub(super) fn failed(&mut self, error: &LogError) {
        if self.failures == 0 {
            tracing::warn!(
                "{error}; the log is written, but its times are unknown until the index works"
            );
        }
        let pause = self.pause();
        self.failures = self.failures.saturating_add(1);
        if let Some(pending) = &mut self.pending {
            pending.due = Instant::now() + pause;
        }
    }

    fn pause(&self) -> Duration {
        RETRY * (1 << self.failures.min(MOST_DOUBLINGS))
    }

    fn try_flush(
        &mut self,
        directory: &Directory,
        log_name: &str,
        log: &Current,
    ) -> Result<(), LogError> {
        let name = names::index(log_name);
        let file = match self.open_existing(directory, &name)? {
            Some(file) => file,
            // Another process has moved or removed the log. The next write creates it again.
            None if directory.identity_of(log_name)? != Some(log.identity()) => return Ok(()),
            None => self.create(directory, &name)?,
        };
        self.write(&file, log.identity().inode()).map_err(|error| {
            LogError::io("write to the time index", directory.path().join(name), error)
        })
    }

    /// Opens the index if it is the same file, and cuts off bytes behind its valid part.
    fn open_existing(&self, directory: &Directory, name: &str) -> Result<Option<File>, LogError> {
        if self.file.is_none() {
            return Ok(None);
        }
        let Some((file, identity, size)) = directory.open_index(name)? else { return Ok(None) };
        if self.file != Some(identity) || size < self.length {
            return Ok(None);
        }
        if size > self.length {
            file.set_len(self.length)
                .map_err(|error| LogError::io("cut", directory.path().join(name), error))?;
        }
        Ok(Some(file))
    }

    /// Creates the index, and removes one that belongs to another log.
    fn create(&mut self, directory: &Directory, name: &str) -> Result<File, LogError> {
        directory.remove_regular(name)?;
        let (file, identity) = directory.create_index(name)?;
        self.file = Some(identity);
        self.length = 0;
        if let Some(pending) = &mut self.pending
            && let Some(Record { time, offset, .. }) = pending.records.first().copied()
        {
            pending.records.splice(..0, unknown(0, offset, time));
        }
        Ok(file)
    }

    fn write(&mut self, file: &File, inode: u64) -> io::Result<()> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let header = if self.length == 0 { HEADER } else { 0 };
        let mut bytes = Vec::with_capacity(header + pending.records.len() * RECORD);
        if header > 0 {
            bytes.extend(Header { inode }.encode());
        }
        bytes.extend(pending.records.iter().flat_map(Record::encode));
        let (written, outcome) = write_at(file, &bytes, self.length);
        if let Some(body) = written.checked_sub(header) {
            let whole = body / RECORD;
            pending.records.drain(..whole);
            self.length += (header + whole * RECORD) as u64;
        }
        outcome
    }
}

/// Records of bytes of unknown stream and time.
fn unknown(from: u64, to: u64, time: Timestamp) -> impl Iterator<Item = Record> {
    let mut offset = from;
    iter::from_fn(move || {
        let left = to.checked_sub(offset).filter(|&left| left > 0)?;
        let length = u32::try_from(left).unwrap_or(u32::MAX);
        let record = Record { time, offset, content: Content::Bytes { stream: None, length } };
        offset = record.end();
        Some(record)
    })
}

/// Writes all bytes, or returns the number that were written before an error.
fn write_at(file: &File, bytes: &[u8], at: u64) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, at + written as u64) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests;
