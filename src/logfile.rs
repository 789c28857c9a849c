//! An append-only log on disk: rotation, retention, time index.
//!
//! Bytes go in as they come and come out the same: nothing here looks at text, but for a newline
//! to cut a full log behind, and for the formats that shippers read ([`mod@format`]). It never starts a
//! thread, holds no bytes back but the beginning of a character in one of those, and never waits
//! for the disk by `fsync`; what a single thread can't avoid waiting for is told at [`LogFile`].
//!
//! The log is `<log dir>/<config file>/<name>.log`. A full one is renamed once, to
//! `<name>.log.<seq>`: eight digits (more, should they ever run out) that only grow, so that a
//! generation never changes its name. A compressor may replace it by one of that name with `.gz`
//! or `.zst`.

mod current;
mod directory;
mod entry;
mod error;
pub mod format;
mod generations;
mod handing;
mod index;
mod indexing;
mod lock;
mod options;
#[cfg(feature = "reader")]
pub mod read;
mod records;
mod rename;
mod rotation;
mod tail;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::lstat;

use crate::access::Writers;
use current::{Current, Look};
use directory::{Directory, Place};
pub use entry::{End, Mark, Stream, Timestamp};
pub use error::{LogError, WriteError};
use format::Encoder;
use generations::Generations;
use handing::Handing;
pub(crate) use handing::Rotated;
use indexing::Indexing;
pub(crate) use lock::LogLock;
use options::Limits;
pub use options::{Format, LogOptions, Retention};

/// How often, at most, a write looks whether the log is still where it should be.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One log, open for appending.
///
/// # What is on disk after a crash
///
/// Each write is handed to the kernel before [`write`](Self::write) returns, so the log and its
/// generations, joined in order, hold everything written before the process died, however it
/// died, and perhaps a part of the write under way: always a prefix of what was written. Nothing
/// is synced (fsync(2)): when the machine itself goes down, the last seconds in the page cache
/// may be missing, and which ones is the file system's choice. A crash in the middle of a
/// rotation leaves a generation without a current log, or one generation too many; the next run
/// makes the former anew and removes the latter at its first rotation.
///
/// The time index lags behind by what came within the last 200 ms, and never tells of bytes that
/// are not in the log. When the log is opened again, those that it does not know are noted as of
/// unknown time.
///
/// # What may block
///
/// A write(2) to a regular file, when the kernel throttles a writer of too many dirty pages or
/// the disk must be read first. In a rotation, also open(2), rename(2), unlink(2) and close(2),
/// where the file system waits for its journal (or for its server), and unlink(2) of a large file
/// for its extents; at the first rotation reading the directory, and, where [`Retention`] limits age
/// or total size, looking at each generation (stat(2)), which is done when the log is opened then.
/// None of them is retried or
/// waited for here: what fails is told at once. A `RLIMIT_FSIZE` (setrlimit(2)) below the log's
/// size ends the process by `SIGXFSZ` unless that is ignored.
///
/// # Who else may touch it
///
/// One writer a log: whoever opens it has made sure of that. Anybody may remove, rename,
/// replace or truncate the log or its directory meanwhile: see [`write`](Self::write).
///
/// While it is open, the log is locked by a shared flock(2), where the file system has such locks.
/// A program that removes logs takes the exclusive lock first, without waiting, and leaves a log
/// that it does not get; `vmon rm --logs` does so.
///
/// ```
/// use vmon::logfile::{LogFile, LogOptions, Stream};
///
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let mut log = LogFile::open(log_dir, "Sandboxfile", "vm", LogOptions::default())?;
/// log.write(Stream::Stdout, b"booting\n")?;
/// assert_eq!(std::fs::read(log_dir.join("Sandboxfile/vm.log"))?, b"booting\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogFile {
    place: Place,
    options: LogOptions,
    limits: Limits,
    /// None after a rotation or reopening that got stuck half-way; the next write goes on there.
    current: Option<Current>,
    /// The file before, which keeps its lock until the next one is open and locked: at any moment
    /// the log is locked, or its newest generation.
    retired: Option<LogLock>,
    index: Indexing,
    generations: Generations,
    encoder: Encoder,
    /// Whether an earlier run has left lines unfinished, which end before this one begins.
    left_open: bool,
    /// Set where somebody works on generations.
    handing: Option<Box<Handing>>,
    /// When the log is rotated, whatever its size. None while it is empty.
    rotate_at: Option<Instant>,
    /// None makes the next write look.
    looked: Option<Instant>,
    bytes_written: u64,
}

impl LogFile {
    /// Opens `<log_dir>/<config_file>/<name>.log` to append to, and makes what is missing of it:
    /// directories with mode 0700, the log with 0600 (less the umask; modes of what exists are
    /// left alone). Of a log that is there already, only the end of its time index is read, however
    /// large the two are; where that is missing, also the beginning of the log and the names of the
    /// generations. Of one in another format than [`Format::Raw`] it is the beginning and the end,
    /// 450 KiB at most. Where [`Retention::max_age`] or [`Retention::total_size`] is to be kept,
    /// the generations are looked at, and what is beyond those limits goes at once.
    ///
    /// A log in another format than this run's becomes a generation, and a new one begins. What a
    /// crash has left of a last record is cut off, and the next write first ends the lines that an
    /// earlier run has left unfinished.
    ///
    /// `log_dir` may be relative, which means the working directory of now, and may be a symbolic
    /// link; nothing below it may.
    ///
    /// # Errors
    ///
    /// When `config_file` or `name` is not one path component of a bearable length, when a
    /// directory can't be made or used, when the log can't be opened, or when a symbolic link, a
    /// FIFO, a device or anything else but a regular file is in its place: never a hang, and
    /// nothing is written through it.
    pub fn open(
        log_dir: &Path,
        config_file: &str,
        name: &str,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        Self::open_as(log_dir, config_file, name, options, false)
    }

    fn open_as(
        log_dir: &Path,
        config_file: &str,
        name: &str,
        options: LogOptions,
        handing_out: bool,
    ) -> Result<Self, LogError> {
        let place = Place::new(log_dir, config_file, name)?;
        let directory = place.directory()?;
        let indexed = options.index && options.format == Format::Raw;
        let limits = options.retention.limits(handing_out, options.format, indexed);
        let mut log = Self {
            options,
            limits,
            current: None,
            retired: None,
            index: Indexing::new(indexed),
            generations: Generations::new(limits.generations.is_some()),
            encoder: Encoder::for_files_of(options.format, limits.max_size),
            left_open: false,
            handing: handing_out.then(|| Box::new(Handing::read(&directory, place.log_name()))),
            rotate_at: None,
            looked: Some(Instant::now()),
            bytes_written: 0,
            place,
        };
        log.open_in(&directory)?;
        log.find_left_open(&directory)?;
        log.limit_at_start(&directory)?;
        Ok(log)
    }

    /// Makes the directory of a log, and tells whether [`open`](Self::open) and rotation can
    /// work there, without making the log: a start that is refused for another reason leaves
    /// none behind.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when the directory is not writable or not searchable for
    /// the process's effective user. A full disk and quotas are found out only by writing.
    pub fn check(log_dir: &Path, config_file: &str, name: &str) -> Result<(), LogError> {
        let place = Place::new(log_dir, config_file, name)?;
        place.directory()?.check(place.log_name())
    }

    /// Puts `bytes` of a stream into the log with write(2), at once: usually one call, and one reading of
    /// the clock.
    ///
    /// Before the log would pass [`Retention::max_size`], the part that fits goes in, cut behind
    /// its last newline; where no newline fits, the log is rotated at the end of a line, and in
    /// the middle of one filled to the very limit. So none grows beyond the limit, and no line is
    /// cut but for one whose beginning was already in a nearly full log, or that is longer than
    /// the limit. Generations beyond the limits of [`Retention`] are removed; one that can't be is
    /// a warning, no error.
    ///
    /// In the formats that have records, only whole ones are in the log when this returns, and a
    /// rotation comes between two of them. [`Format::Json`] holds the beginning of a character
    /// back, three bytes a stream at most, until the rest of it or [`finish`](Self::finish) comes:
    /// they count as written, and are what a crash loses. A [`Retention::max_size`] below 128 bytes
    /// is taken for that.
    ///
    /// At most once a second, and before each rotation, the log is looked for by its path. Where
    /// it was removed, renamed or replaced, directory or file, it is made anew; where its
    /// size was changed, the new size counts. Bytes of the second before went to the file that
    /// was there before.
    ///
    /// # Errors
    ///
    /// A full disk, a log that can't be rotated or made anew. [`WriteError::written`] then says
    /// how many of the bytes are in. What a full disk has left of a record is taken back, or, where
    /// that is refused too, is the end of its file. The log stays usable: a later call takes up
    /// where this one got stuck, so a caller that gives the rest then loses nothing and doubles
    /// nothing.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_using(&mut [], stream, bytes)
    }

    /// The same, for a caller that has memory to spare for the making of records.
    pub(crate) fn write_using(
        &mut self,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        self.write_at(Timestamp::now(), workspace, stream, bytes)
    }

    fn write_at(
        &mut self,
        now: Timestamp,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let mut written = 0;
        let outcome = self.write_counting(now, workspace, stream, bytes, &mut written);
        self.bytes_written = self.bytes_written.saturating_add(written as u64);
        outcome.map_err(|source| {
            // The reason may be that the file is not the log any more (ESTALE).
            self.looked = None;
            WriteError { written, source }
        })
    }

    /// Notes in the time index what happens before the bytes that are written next. A
    /// [`Mark::Stop`] puts the index on disk as well; so does dropping the `LogFile`.
    ///
    /// Where the log has no index this does nothing; where the index can't be written it is a
    /// warning, as all that concerns the index.
    pub fn mark(&mut self, mark: Mark) {
        self.mark_at(Timestamp::now(), mark);
    }

    fn mark_at(&mut self, now: Timestamp, mark: Mark) {
        if matches!(mark, Mark::Stop(_)) {
            let _ = self.finish();
        }
        // A log that is not open after a failed rotation has no place for it.
        let Some(current) = &self.current else { return };
        if self.limits.are_reached(current.size(), &self.index)
            && let Err(error) = self.rotate()
        {
            tracing::debug!(%error, "the time index grows beyond its limit");
        }
        let Some(current) = &self.current else { return };
        self.index.mark(mark, current.size(), now);
        if matches!(mark, Mark::Stop(_)) {
            self.flush_index();
        } else {
            self.flush_full_index();
        }
    }

    /// Writes what [`write`](Self::write) has held back, for the end of a run: in [`Format::Json`]
    /// the beginning of a character, in [`Format::Cri`] the end of a line that has none. A
    /// [`Mark::Stop`] does so too; so does dropping the `LogFile`.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write). It may be called again.
    pub fn finish(&mut self) -> Result<(), LogError> {
        self.end_lines(Timestamp::now())
    }

    /// Whether [`finish`](Self::finish) has something to write.
    pub fn is_unfinished(&self) -> bool {
        self.encoder.is_unfinished()
    }

    /// How many bytes it will write of those that were given.
    pub(crate) fn held_back(&self) -> u64 {
        self.encoder.kept().count() as u64
    }

    /// When [`turn`](Self::turn) is to be called: 200 ms after the first bytes that the time index
    /// on disk does not know, later where it can't be written; and [`Retention::rotate_every`]
    /// after the log's first byte. `None` while nothing is to be done. Any call that takes the log
    /// by `&mut` may change it.
    ///
    /// Without those calls the index is written when 4 KiB of records wait for it, in a rotation,
    /// at a [`Mark::Stop`] and at the end, and the log is rotated by its size alone.
    pub fn deadline(&self) -> Option<Instant> {
        [self.index.deadline(), self.rotate_at].into_iter().flatten().min()
    }

    /// Does what is due: writes the time index, in some eight short system calls; rotates the log.
    /// That it can't be rotated is a warning, and is tried again later.
    pub fn turn(&mut self) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
        if is_due(self.rotate_at) {
            self.rotate_in_time();
        }
        if is_due(self.index.deadline()) {
            self.flush_index();
        }
    }

    /// Whether it is the log of this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.place.log_name().strip_suffix(".log") == Some(name)
    }

    /// The directory of the log where another user can write into it.
    pub(crate) fn foreign_writers(&self) -> Option<(PathBuf, Writers)> {
        self.place.foreign_writers()
    }

    /// Where the log is: absolute, with symbolic links in the log directory's own path unresolved.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// How many bytes this `LogFile` has put into the log since it was opened, over all
    /// generations, removed ones too: those that were given, whatever the format makes of them.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    fn write_counting(
        &mut self,
        now: Timestamp,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        self.look_when_due()?;
        if self.options.format != Format::Raw {
            return self.write_records(now, stream, bytes, workspace, written);
        }
        while let Some(rest) = bytes.get(*written..)
            && !rest.is_empty()
        {
            let Some(current) = &mut self.current else {
                self.reopen()?;
                continue;
            };
            let part = current.fitting(rest, self.limits.most(&self.index));
            if part.is_empty() {
                self.rotate()?;
                continue;
            }
            let offset = current.size();
            let count = current
                .append(part)
                .map_err(|source| LogError::io("write to the log", self.place.path(), source))?;
            *written += count;
            self.index.bytes(stream, offset, count, now);
            self.flush_full_index();
            self.has_bytes();
        }
        Ok(())
    }

    /// The log is not empty any more, if it was: its time begins.
    fn has_bytes(&mut self) {
        if let (None, Some(time)) = (self.rotate_at, self.options.retention.rotate_every) {
            self.rotate_at = Instant::now().checked_add(time);
        }
    }

    /// Finds out that the log is not where it should be, at most once a second.
    fn look_when_due(&mut self) -> Result<(), LogError> {
        let now = Instant::now();
        if self.looked.is_some_and(|last| now.duration_since(last) < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(now);
        let Some(current) = &mut self.current else { return Ok(()) };
        current.hold_again(self.place.path());
        let look = match lstat(self.place.path()) {
            Ok(stat) => current.compare(Some(&stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Look::Replaced,
            // Not known to be gone (a process that gave up its privileges gets EACCES): the open
            // file still takes bytes, and to stop for this would stop the child.
            Err(_) => Look::Same,
        };
        match look {
            Look::Replaced => self.reopen(),
            Look::Same => Ok(()),
            Look::Resized => {
                let directory = self.place.directory()?;
                self.resized(&directory);
                Ok(())
            }
        }
    }

    /// Somebody else has changed the log's size.
    fn resized(&mut self, directory: &Directory) {
        self.index.lose(directory, self.place.log_name());
        if self.current.as_ref().is_some_and(|current| current.size() == 0) {
            self.rotate_at = None;
        }
    }

    /// Closes the log and opens it by its name, making it where it is missing: for a log that
    /// somebody else has moved away and is going to compress, as logrotate(8) does.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). The next write tries again then.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.close();
        let directory = self.place.directory()?;
        self.open_in(&directory)
    }

    /// Closes the log, and writes what its index does not know.
    fn close(&mut self) {
        self.flush_index();
        self.close_current();
        self.index.forget();
    }

    fn open_in(&mut self, directory: &Directory) -> Result<(), LogError> {
        let log_name = self.place.log_name();
        // On a full disk the blocks of a removed file are what the new one needs.
        self.retired = self.retired.take().filter(LogLock::is_linked);
        let mut current = directory.open_log(log_name)?;
        self.retired = None;
        self.index.resume(directory, log_name, &current);
        // A log that has bytes and no index may have got into a crash in the middle of a rotation.
        if self.index.is_on()
            && !self.index.is_there()
            && current.size() > 0
            && self.generations.recover_index(directory, log_name).unwrap_or(false)
        {
            self.index.resume(directory, log_name, &current);
        }
        // It would make a raw log of what is written now, to whoever reads both.
        if current.is_empty() && self.options.format != Format::Raw {
            self.index.lose(directory, log_name);
        }
        let continues = current.is_empty() || self.continues(directory, &mut current);
        self.rotate_at = match self.options.retention.rotate_every {
            Some(time) if !current.is_empty() => {
                let left = time.saturating_sub(current.age().unwrap_or_default());
                Instant::now().checked_add(left)
            }
            _ => None,
        };
        self.current = Some(current);
        if !continues {
            return self.retire(directory);
        }
        tracing::debug!(path = %self.path().display(), "opened the log");
        Ok(())
    }

    /// Writes what the index on disk does not know, before its time.
    fn flush_index(&mut self) {
        let Some(current) = &self.current else { return };
        if self.index.deadline().is_none() {
            return;
        }
        match self.place.existing() {
            Ok(Some(directory)) => self.index.flush(&directory, self.place.log_name(), current),
            // So is the log; the next write makes another.
            Ok(None) => self.index.forget(),
            Err(error) => self.index.failed(&error),
        }
    }

    /// Keeps what waits for the index small.
    fn flush_full_index(&mut self) {
        if !self.index.is_full() {
            return;
        }
        if self.index.may_flush() {
            self.flush_index();
        }
        if self.index.is_full() {
            self.index.give_up();
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = self.finish();
        self.flush_index();
    }
}
