//! An append-only log on disk: rotation, retention, time index.
//!
//! The bytes of a raw log are exactly those that were written. Text is inspected only to cut a full
//! log at a newline, and in the formats that log shippers read ([`mod@format`]). The module starts
//! no thread, calls no fsync(2), and buffers nothing but an incomplete character of the JSON
//! format. [`LogFile`] lists the system calls that may block.
//!
//! The log is `<log dir>/<config file>/<name>.log`. A full log is renamed once, to
//! `<name>.log.<seq>`. The sequence number has at least eight digits and only grows, so a
//! generation keeps its name. A compressor may replace a generation by a file with the suffix `.gz`
//! or `.zst`. [`names`] has these names.

mod clock;
mod current;
mod directory;
mod entry;
mod error;
mod file_end;
pub mod format;
mod generations;
mod index;
mod indexing;
mod k8s_file;
mod lock;
mod marking;
pub mod names;
mod options;
mod post_rotate_queue;
#[cfg(feature = "reader")]
#[cfg_attr(docsrs, doc(cfg(feature = "reader")))]
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
use clock::Moment;
use current::{Change, Current};
use directory::{Directory, LogPath};
pub use entry::{Mark, RunEnd, Stream, Timestamp};
pub use error::{LogError, WriteError};
use format::Encoder;
use generations::Generations;
pub use generations::KeptGenerations;
use indexing::Indexing;
pub use k8s_file::{K8sFile, K8sFileOptions};
pub(crate) use lock::LogLock;
use options::Limits;
pub use options::{Format, LogOptions, Retention};
use post_rotate_queue::PostRotateQueue;
pub(crate) use post_rotate_queue::Rotated;

/// The shortest time between two checks of the log's path.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// One log, open for appending.
///
/// # What is on disk after a crash
///
/// [`write`](Self::write) returns after write(2). The log and its generations, in order, therefore
/// hold a prefix of the written bytes when the process dies: all completed writes, and possibly a
/// part of the last one. Nothing is synced (fsync(2)): when the machine crashes, the page cache of
/// the last seconds may be lost, in parts that depend on the file system. A crash during a rotation
/// leaves no current log, or one generation too many. The next run creates the log, and removes the
/// surplus generation at its first rotation.
///
/// The time index lags by at most 200 ms, and never describes bytes that are not in the log. When
/// the log is opened again, bytes that are not in the index are recorded with an unknown time.
///
/// # What may block
///
/// - write(2) to a regular file, when the kernel throttles a writer of too many dirty pages, or
///   must read from the disk first.
/// - In a rotation: open(2), rename(2), unlink(2) and close(2), when the file system waits for its
///   journal or its server, and unlink(2) of a large file for its extents.
/// - At the first rotation: reading the directory. If [`Retention`] limits age or total size, also
///   stat(2) of each generation, when the log is opened.
///
/// None of these is retried. Errors are returned at once. An `RLIMIT_FSIZE` (setrlimit(2)) below
/// the log's size ends the process by `SIGXFSZ` unless that signal is ignored.
///
/// # Other processes
///
/// A log has one writer; the caller ensures that. Other processes may remove, rename, replace or
/// truncate the log or its directory at any time: see [`write`](Self::write).
///
/// While it is open, the log is locked by a shared flock(2), on file systems that support it. A
/// program that removes logs first tries to take the exclusive lock, and skips a log that is
/// locked; `vmon rm --logs` does so.
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
    place: LogPath,
    options: LogOptions,
    limits: Limits,
    /// `None` after a failed rotation or reopening, which the next write completes.
    current: Option<Current>,
    /// The previous file, which keeps its lock until the next one is locked: at any moment the log
    /// or its newest generation is locked.
    retired: Option<LogLock>,
    index: Indexing,
    generations: Generations,
    encoder: Encoder,
    /// Whether unfinished lines of an earlier run are to be ended before the first write.
    left_open: bool,
    /// The queue of the post-rotate command, if there is one.
    queue: Option<Box<PostRotateQueue>>,
    /// When the log is rotated by age. `None` while it is empty.
    rotate_at: Option<Instant>,
    /// The last check of the path. `None` has the next write check it.
    checked: Option<Instant>,
    bytes_written: u64,
    /// Whether it has been rotated since it was opened.
    rotated: bool,
}

impl LogFile {
    /// Opens `<log_dir>/<config_file>/<name>.log` for appending. Missing directories are created
    /// with mode 0700, and the log with mode 0600, whatever the umask. The modes of existing ones are
    /// not changed.
    ///
    /// An existing log costs a bounded number of reads, whatever its size: the end of its time
    /// index, or if that is missing, the beginning of the log and the names of the generations. In
    /// a format other than [`Format::Raw`], the beginning and the end of the log are read, 450 KiB
    /// at most. With [`Retention::max_age`] or [`Retention::total_size`], generations beyond these
    /// limits are removed at once.
    ///
    /// A log in another format than that of `options` becomes a generation. A record that a crash
    /// has torn is cut off. The next write first ends the unfinished lines of an earlier run.
    ///
    /// `log_dir` may be relative to the current working directory, and may be a symbolic link.
    /// Symbolic links below it are refused.
    ///
    /// # Errors
    ///
    /// `config_file` or `name` is not one path component, or is too long; a directory can't be
    /// created or used; the log can't be opened; the path has a file of another type, such as a
    /// symbolic link, a FIFO or a device, which is neither waited for nor written to.
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
        with_queue: bool,
    ) -> Result<Self, LogError> {
        let retention = options.retention.below_file_size_limit();
        let options = LogOptions { retention, ..options };
        let place = LogPath::new(log_dir, config_file, name)?;
        let directory = place.directory()?;
        let indexed = options.index && options.format == Format::Raw;
        let limits = options.retention.limits(with_queue, options.format, indexed);
        let mut log = Self {
            options,
            limits,
            current: None,
            retired: None,
            index: Indexing::new(options.index, options.format),
            generations: Generations::new(limits.generations.is_some()),
            encoder: Encoder::for_files_of(options.format, limits.max_size),
            left_open: false,
            queue: with_queue
                .then(|| Box::new(PostRotateQueue::read(&directory, place.log_name()))),
            rotate_at: None,
            checked: Some(Instant::now()),
            bytes_written: 0,
            rotated: false,
            place,
        };
        log.open_in(&directory)?;
        log.find_left_open(&directory)?;
        log.limit_at_start(&directory)?;
        Ok(log)
    }

    /// Creates the directory of a log, and checks that [`open`](Self::open) and rotation can work
    /// there. The log is not created, so a start that fails later leaves none behind.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when the directory is not writable or not searchable for the
    /// effective user of the process. A full disk or a quota is detected only by writing.
    pub fn check(log_dir: &Path, config_file: &str, name: &str) -> Result<(), LogError> {
        let place = LogPath::new(log_dir, config_file, name)?;
        place.directory()?.check(place.log_name())
    }

    /// Appends `bytes` of a stream to the log: usually one write(2) and one reading of the clock.
    ///
    /// Before the log would exceed [`Retention::max_size`], the bytes up to the last newline that
    /// fits are written, and the log is rotated. If no newline fits and the log ends within a line,
    /// it is filled to the limit first. So no log exceeds the limit. A line is split only if it is
    /// longer than the limit, or if its beginning was already in a nearly full log. Generations
    /// beyond the limits of [`Retention`] are removed; a failure to remove one is a warning.
    ///
    /// In the record formats, the log holds only whole records when this returns, and a rotation
    /// splits none. [`Format::Json`] holds back an incomplete character, at most three bytes per
    /// stream, until its remaining bytes or [`finish`](Self::finish). These bytes count as written,
    /// and a crash loses them. A [`Retention::max_size`] below 128 bytes counts as 128.
    ///
    /// At most once a second, and before each rotation, the path is checked. A log that was
    /// removed, renamed or replaced, or whose directory was, is created again. If its size was
    /// changed, the new size counts. The writes since the previous check went to the old file.
    ///
    /// # Errors
    ///
    /// A full disk, or a log that can't be rotated or created. [`WriteError::written`] has the
    /// number of bytes that were written. A record that was written in part is cut off, or if that
    /// fails too, is the last one of its file. The log stays usable: a later call with the
    /// remaining bytes loses and repeats nothing.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_using(&mut [], stream, bytes)
    }

    /// As [`write`](Self::write), with a buffer in which records are encoded.
    pub(crate) fn write_using(
        &mut self,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        self.write_at(self.now(), workspace, stream, bytes)
    }

    /// Reads the clocks, twice if the wall clock seems to have been stepped.
    fn now(&self) -> Moment {
        let now = Moment::now();
        if self.index.is_step(&now) { Moment::precise() } else { now }
    }

    fn write_at(
        &mut self,
        now: Moment,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let mut written = 0;
        let outcome = self.write_counting(now, workspace, stream, bytes, &mut written);
        self.bytes_written = self.bytes_written.saturating_add(written as u64);
        outcome.map_err(|source| {
            // The file may no longer be the log (ESTALE).
            self.checked = None;
            WriteError { written, source }
        })
    }

    /// Writes the held-back bytes at the end of a run: in [`Format::Json`] an incomplete character,
    /// in [`Format::Cri`] the end of an unfinished line. A [`Mark::Stop`] does so too; so does
    /// dropping the `LogFile`.
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

    /// How many bytes of the child's are held back.
    pub(crate) fn held_back(&self) -> u64 {
        self.encoder.kept().count() as u64
    }

    /// When to call [`turn`](Self::turn): 200 ms after the first bytes that are not in the index on
    /// disk (later after a failure to write it), and [`Retention::rotate_every`] after the log's
    /// first byte. `None` while nothing is pending. Any `&mut` call may change it.
    ///
    /// Without those calls the index is written when 4 KiB of records are pending, in a rotation,
    /// at a [`Mark::Stop`] and at the end, and the log is rotated by size only.
    pub fn deadline(&self) -> Option<Instant> {
        [self.index.deadline(), self.rotate_at].into_iter().flatten().min()
    }

    /// Does the work that is due: writes the time index, in about eight short system calls, or
    /// rotates the log. A failed rotation is a warning and is retried later.
    pub fn turn(&mut self) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
        if is_due(self.rotate_at) {
            self.rotate_in_time();
        }
        if is_due(self.index.deadline()) {
            self.flush_index();
        }
    }

    /// Whether this is the log of this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.place.log_name().strip_suffix(names::LOG) == Some(name)
    }

    /// A directory of the log that another user can write into.
    pub(crate) fn foreign_writers(&self) -> Option<(PathBuf, Writers)> {
        self.place.foreign_writers()
    }

    /// The absolute path of the log. Symbolic links in the log directory's path are not resolved.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// How many bytes of the child's this `LogFile` has written since it was opened, including
    /// those in removed generations, and without the overhead of the format.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    fn write_counting(
        &mut self,
        now: Moment,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        self.check_path_when_due(now.monotonic)?;
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
            let part = current.fitting(rest, self.limits.most(self.index.size_at_next()));
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
            self.start_rotation_time();
        }
        Ok(())
    }

    /// Starts the time to the next rotation by age, unless it runs.
    fn start_rotation_time(&mut self) {
        if let (None, Some(time)) = (self.rotate_at, self.options.retention.rotate_every) {
            self.rotate_at = Instant::now().checked_add(time);
        }
    }

    /// Checks the log's path, at most once a second.
    fn check_path_when_due(&mut self, now: Instant) -> Result<(), LogError> {
        if self.checked.is_some_and(|last| now.saturating_duration_since(last) < CHECK_EVERY) {
            return Ok(());
        }
        self.checked = Some(now);
        let Some(current) = &mut self.current else { return Ok(()) };
        current.hold_again(self.place.path());
        let change = match lstat(self.place.path()) {
            Ok(stat) => current.compare(Some(&stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Change::Replaced,
            // The log may still exist (a process that dropped its privileges gets EACCES), and the
            // open file still takes bytes. An error here would stop the child.
            Err(_) => Change::Same,
        };
        match change {
            Change::Replaced => self.reopen(),
            Change::Same => Ok(()),
            Change::Resized => {
                let directory = self.place.directory()?;
                self.resized(&directory);
                Ok(())
            }
        }
    }

    /// Handles a change of the log's size by another process.
    fn resized(&mut self, directory: &Directory) {
        self.index.lose(directory, self.place.log_name());
        if self.current.as_ref().is_some_and(|current| current.size() == 0) {
            self.rotate_at = None;
        }
    }

    /// Closes the log and opens it by its path, creating it if it is missing: for a log that
    /// another process has moved and is about to compress, as logrotate(8) does.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). The next write tries again.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.close();
        let directory = self.place.directory()?;
        self.open_in(&directory)
    }

    /// Writes the index and closes the log.
    fn close(&mut self) {
        self.flush_index();
        self.close_current();
        self.index.forget();
    }

    fn open_in(&mut self, directory: &Directory) -> Result<(), LogError> {
        let log_name = self.place.log_name();
        // An unlinked file is closed first: on a full disk the new one needs its blocks.
        self.retired = self.retired.take().filter(LogLock::is_linked);
        let mut current = directory.open_log(log_name)?;
        self.retired = None;
        self.index.resume(directory, log_name, &current);
        // A crash during a rotation may have left the index under the next generation's name.
        if self.index.is_on()
            && !self.index.is_there()
            && current.size() > 0
            && self.generations.recover_index(directory, log_name).unwrap_or(false)
        {
            self.index.resume(directory, log_name, &current);
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

    /// Writes the pending records of the index, whether they are due or not.
    fn flush_index(&mut self) {
        let Some(current) = &self.current else { return };
        if self.index.deadline().is_none() {
            return;
        }
        match self.place.existing() {
            Ok(Some(directory)) => self.index.flush(&directory, self.place.log_name(), current),
            // The directory was removed, with the log. The next write creates both.
            Ok(None) => self.index.forget(),
            Err(error) => self.index.failed(&error),
        }
    }

    /// Bounds the pending records of the index.
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
