//! The writer of a log's time index.
//!
//! Records are kept in memory for as long as something is to be flushed, 200 ms at most, and then
//! written at a known place, so that a write that failed or was torn is simply done again. No
//! descriptor is held: the index is opened for each flush. That it can't be written is one
//! warning and never an error: the log and the child go on, and what could not be told is of
//! unknown time.

mod recovery;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use std::{io, iter};

use super::LogError;
use super::current::{Current, Identity};
use super::directory::Directory;
use super::entry::{Mark, Stream, Timestamp};
use super::index::{self, Content, HEADER, Header, RECORD, Record};

/// Chunks of one stream that come within this time after the first one of a record share it.
const SHARED: Duration = Duration::from_millis(5);

/// How long a record waits for others to be written with.
const LAG: Duration = Duration::from_millis(200);

/// So many are written at once.
const FULL: usize = 4096 / RECORD;

/// How long after a failure the index is tried again; each time twice as long.
const RETRY: Duration = Duration::from_secs(1);

/// How often that time doubles.
const MOST_DOUBLINGS: u8 = 6;

/// The index of the log that is open.
#[derive(Debug)]
pub(super) struct Indexing {
    /// Whether records are made. Where they are not, an index of earlier runs stays beside the
    /// log for as long as it is true.
    on: bool,
    /// How often it could not be written since it last could.
    failures: u8,
    /// The index on disk, where there is one of this log.
    file: Option<Identity>,
    /// How many bytes of it are true: the header and whole records, or 0.
    length: u64,
    /// How many bytes of the log the records tell of, those to be flushed included.
    told: u64,
    /// The time of the last record.
    time: Timestamp,
    pending: Option<Box<Pending>>,
}

/// Records that are not on disk; one at least.
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
            told: 0,
            time: Timestamp::default(),
            pending: None,
        }
    }

    /// Whether records are made.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether there is an index of this log on disk.
    pub(super) fn is_there(&self) -> bool {
        self.length > 0
    }

    /// How large it is on disk.
    pub(super) fn size(&self) -> u64 {
        self.length
    }

    /// How large it is when all is on disk that waits for that, and is to follow at the next write:
    /// a record of that, and one of what came in another way.
    pub(super) fn size_at_next(&self) -> u64 {
        if !self.on {
            return self.length;
        }
        let waiting = self.pending.as_ref().map_or(0, |pending| pending.records.len());
        self.length.max(HEADER as u64) + ((waiting + 2) * RECORD) as u64
    }

    /// Notes that `count` bytes of a stream are in the log, at `offset`.
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
            self.told += u64::from(count);
            return;
        }
        let content = Content::Bytes { stream: Some(stream), length: count };
        self.push(Record { time: now, offset, content });
    }

    /// Notes what happened before the byte at `offset`.
    pub(super) fn mark(&mut self, mark: Mark, offset: u64, now: Timestamp) {
        if self.on {
            self.catch_up(offset, now);
            let time = now.max(self.time);
            self.push(Record { time, offset, content: Content::Mark(mark) });
        }
    }

    /// Tells of bytes that came into the log in another way than through here.
    fn catch_up(&mut self, offset: u64, now: Timestamp) {
        if offset < self.told {
            self.forget();
        }
        let time = now.max(self.time);
        unknown(self.told, offset, time).for_each(|record| self.push(record));
    }

    fn push(&mut self, record: Record) {
        self.time = record.time;
        self.told = record.end();
        let wait = if self.failures == 0 { LAG } else { self.pause() };
        self.pending
            .get_or_insert_with(|| {
                Box::new(Pending { records: Vec::new(), due: Instant::now() + wait })
            })
            .records
            .push(record);
    }

    /// When records are to be written.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// Whether so many records wait that they are to be written before their time.
    pub(super) fn is_full(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.records.len() >= FULL)
    }

    /// Whether an attempt to write them makes sense already.
    pub(super) fn may_flush(&self) -> bool {
        self.failures == 0 || self.deadline().is_some_and(|due| due <= Instant::now())
    }

    /// Gives up what waits, so that the memory has a bound: its bytes are of unknown time.
    pub(super) fn give_up(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        let Some(Record { time, offset, .. }) = pending.records.first().copied() else { return };
        pending.records = unknown(offset, self.told, time).collect();
        if pending.records.is_empty() {
            self.pending = None;
        }
    }

    /// Begins with nothing: for a log that has no index, or none that is true any more.
    pub(super) fn forget(&mut self) {
        let Self { on, failures, .. } = *self;
        *self = Self { failures, ..Self::new(on) };
    }

    /// The log's size was changed by somebody else: which bytes lie where is not known any more.
    pub(super) fn lose(&mut self, directory: &Directory, log_name: &str) {
        if self.file.is_some()
            && let Err(error) = directory.remove_regular(&index::name(log_name))
        {
            self.failed(&error);
        }
        self.forget();
    }

    /// Writes what waits. What can't be written waits on, and is tried again later.
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

    /// Notes that the index can't be written.
    pub(super) fn failed(&mut self, error: &LogError) {
        if self.failures == 0 {
            tracing::warn!(
                "{error}; the log goes on, and when its bytes came stays unknown until that works"
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
        let name = index::name(log_name);
        let file = match self.reach(directory, &name)? {
            Some(file) => file,
            // Somebody has moved or removed the log: the next write begins another.
            None if directory.identity_of(log_name)? != Some(log.identity()) => return Ok(()),
            None => self.begin(directory, &name)?,
        };
        self.write(&file, log.identity().inode()).map_err(|error| {
            LogError::io("write to the time index", directory.path().join(name), error)
        })
    }

    /// Opens the index, if it still is what it was, and makes it end where it should.
    fn reach(&self, directory: &Directory, name: &str) -> Result<Option<File>, LogError> {
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

    /// Makes the index, in the place of another that is none of this log.
    fn begin(&mut self, directory: &Directory, name: &str) -> Result<File, LogError> {
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

/// Records of bytes of which nothing is known.
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

/// Writes all, or says how much of it before it failed.
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
