//! The writer of a log's time index.
//!
//! Records are buffered for at most 200 ms and then written at a known offset, so a failed or torn
//! write is repeated. No descriptor is kept open: the index is opened for each flush. A failure to
//! write it is one warning and never an error: the log and the child go on, and the affected bytes
//! have an unknown time.
//!
//! The index of a log of records has no bytes, whose times are in the records, but marks only. A mark
//! is on disk before the bytes that follow it.

mod recovery;
mod silence;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{io, iter};

use super::clock::Moment;
use super::current::{Current, Identity};
use super::directory::Directory;
use super::entry::{Mark, Stream, Timestamp};
use super::index::{Content, HEADER, Header, RECORD, Record, Stretch};
use super::names;
use super::{Format, LogError};

/// Chunks of one stream within this time after the first share one record.
const SHARED: Duration = Duration::from_millis(5);

/// A difference between the clocks that is a step of the wall clock.
const STEP: Duration = Duration::from_millis(100);

/// The most records of one write or mark: of bytes that another process has appended, of a step of the
/// clock, of a check.
const AT_ONCE: usize = 5;

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
    /// The format of the log that this run writes.
    format: Format,
    /// The format of the log in the index on disk, which another run may have made.
    format_on_disk: Format,
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
    /// The stretch between two steps of the clock; `None` before the first record.
    stretch: Option<Stretch>,
    /// The first reading of the clocks in this stretch by this process.
    first: Option<Moment>,
    /// The offset of the last [`Content::Check`].
    checked: u64,
    /// The size at which silent marks were last looked for.
    cleared: u64,
    pending: Option<Box<Pending>>,
}

/// Records that are not on disk; at least one.
#[derive(Debug)]
struct Pending {
    records: Vec<Record>,
    due: Instant,
}

impl Indexing {
    pub(super) fn new(on: bool, format: Format) -> Self {
        Self {
            on,
            format,
            format_on_disk: format,
            failures: 0,
            file: None,
            length: 0,
            indexed: 0,
            time: Timestamp::default(),
            stretch: None,
            first: None,
            checked: 0,
            cleared: 0,
            pending: None,
        }
    }

    /// The format of the log, as the index on disk has it.
    pub(super) fn known_format(&self) -> Option<Format> {
        (self.length > 0).then_some(self.format_on_disk)
    }

    /// Whether the index has marks only, and the log the times of its bytes.
    pub(super) fn is_of_marks(&self) -> bool {
        self.format != Format::Raw
    }

    /// Whether these readings differ as after a step of the clock. The caller reads the clocks again:
    /// the process may have been suspended between two readings.
    pub(super) fn is_step(&self, now: &Moment) -> bool {
        match &self.first {
            Some(first) => self.on && first.step_to(now) >= STEP,
            // The time of another process.
            None => self.on && self.time.since(now.wall) >= STEP,
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

    /// The size of the index after the next write, with the pending records.
    pub(super) fn size_at_next(&self) -> u64 {
        if !self.on {
            return self.length;
        }
        let waiting = self.pending.as_ref().map_or(0, |pending| pending.records.len());
        self.length.max(HEADER as u64) + ((waiting + AT_ONCE) * RECORD) as u64
    }

    /// Records `count` bytes of a stream at `offset` in the log.
    pub(super) fn bytes(&mut self, stream: Stream, offset: u64, count: usize, now: Moment) {
        if !self.on || (self.is_of_marks() && !self.is_step(&now)) {
            self.first.get_or_insert(now);
            return;
        }
        let time = self.at(offset, now);
        if self.is_of_marks() {
            return;
        }
        // write(2) takes 2 GiB at most.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let last = self.pending.as_mut().and_then(|pending| pending.records.last_mut());
        if let Some(Record {
            time: first, content: Content::Bytes { stream: same, length }, ..
        }) = last
            && *same == Some(stream)
            && time.since(*first) <= SHARED
            && let Some(sum) = length.checked_add(count)
        {
            *length = sum;
            self.indexed += u64::from(count);
            return;
        }
        self.push(time, offset, Content::Bytes { stream: Some(stream), length: count });
    }

    /// Records an event before the byte at `offset`.
    pub(super) fn mark(&mut self, mark: Mark, offset: u64, now: Moment) {
        if self.on {
            let time = self.at(offset, now);
            self.push(time, offset, Content::Mark(mark));
        }
    }

    /// Whether bytes before `offset` are in no check.
    pub(super) fn needs_check(&self, offset: u64) -> bool {
        self.on && self.checked < offset
    }

    /// Records the hash of the bytes before `offset`.
    pub(super) fn check(&mut self, hash: u32, offset: u64, now: Moment) {
        if self.on {
            let time = self.at(offset, now);
            self.push(time, offset, Content::Check(hash));
            self.checked = offset;
        }
    }

    /// The time of the next record, which is at `offset`. The bytes before it that another process has
    /// appended, and a step of the clock, are recorded first.
    fn at(&mut self, offset: u64, now: Moment) -> Timestamp {
        if offset < self.indexed {
            self.forget();
        }
        let is_step = self.is_step(&now);
        let time = if is_step { self.time } else { now.wall.max(self.time) };
        let stretch = *self.stretch.get_or_insert_with(|| Stretch::begun_at(now.wall));
        for Record { offset, content, .. } in unknown(self.indexed, offset, time, stretch) {
            self.push(time, offset, content);
        }
        if !is_step {
            self.first.get_or_insert(now);
            return time;
        }
        if let Some(first) = self.first {
            let time = first.expected_at(&now).max(self.time);
            self.push(time, offset, Content::Mark(Mark::BeforeStep));
        }
        self.stretch = Some(stretch.next());
        self.first = Some(now);
        self.push(now.wall, offset, Content::Mark(Mark::AfterStep));
        now.wall
    }

    fn push(&mut self, time: Timestamp, offset: u64, content: Content) {
        let record = Record { time, offset, content, stretch: self.stretch.unwrap_or_default() };
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
        let stretch = self.stretch.unwrap_or_default();
        pending.records = unknown(offset, self.indexed, time, stretch).collect();
        if pending.records.is_empty() {
            self.pending = None;
        }
    }

    /// Starts without an index, for a log that has none or an invalid one.
    pub(super) fn forget(&mut self) {
        let Self { on, format, failures, time, stretch, first, .. } = *self;
        *self = Self { failures, time, stretch, first, ..Self::new(on, format) };
    }

    /// Removes the index: another process has changed the log, so the offsets are invalid.
    pub(super) fn lose(&mut self, directory: &Directory, log_name: &str) {
        if self.file.is_some() {
            tracing::warn!(
                log = log_name,
                "another program has changed the log: its time index is begun anew, and the times \
                 of what the log holds are not known",
            );
            if let Err(error) = directory.remove_regular(&names::index(log_name)) {
                self.failed(&error);
            }
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
            let stretch = self.stretch.unwrap_or_default();
            pending.records.splice(..0, unknown(0, offset, time, stretch));
        }
        Ok(file)
    }

    fn write(&mut self, file: &File, inode: u64) -> io::Result<()> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let header = if self.length == 0 { HEADER } else { 0 };
        let mut bytes = Vec::with_capacity(header + pending.records.len() * RECORD);
        if header > 0 {
            bytes.extend(Header::new(self.format, inode).encode());
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
fn unknown(from: u64, to: u64, time: Timestamp, stretch: Stretch) -> impl Iterator<Item = Record> {
    let mut offset = from;
    iter::from_fn(move || {
        let left = to.checked_sub(offset).filter(|&left| left > 0)?;
        let length = u32::try_from(left).unwrap_or(u32::MAX);
        let content = Content::Bytes { stream: None, length };
        let record = Record { time, offset, content, stretch };
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
