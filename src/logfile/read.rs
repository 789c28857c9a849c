//! Reading a log back: every byte in order, with its stream and time where they are known.
//!
//! ```
//! use vmon::logfile::read::{Entry, LogReader};
//! use vmon::logfile::{LogFile, LogOptions, Stream};
//!
//! # let directory = tempfile::tempdir()?;
//! # let log_dir = directory.path();
//! let mut log = LogFile::open(log_dir, "Sandboxfile", "vm", LogOptions::default())?;
//! log.write(Stream::Stdout, b"booting\n")?;
//!
//! let mut reader = LogReader::open(log_dir, "Sandboxfile", "vm")?;
//! let mut read = Vec::new();
//! while let Some(entry) = reader.next()? {
//!     if let Entry::Bytes { bytes, .. } = entry {
//!         read.extend_from_slice(bytes);
//!     }
//! }
//! assert_eq!(read, b"booting\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod content;
mod files;
mod find;
mod lines;
mod numbers;
mod packed;
mod position;
mod raw;
mod segment;
mod times;
mod warning;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::LogError;
use super::directory::LogPath;
use super::entry::{Mark, Stream, Timestamp};
use super::options::Format;
use files::{AtLogName, Files};
use numbers::Numbers;
pub use position::Position;
use segment::{Bounds, Role, Segment};
pub use warning::Warning;

/// One entry of a log: bytes, or an event between two bytes. New events are [`Mark`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Bytes of one stream, rarely none. An entry ends at an arbitrary byte: a line or a character
    /// may continue in the next entry.
    Bytes {
        /// When the first byte was read from the child; `None` if unknown.
        time: Option<Timestamp>,
        /// The stream that the child wrote them to; `None` if unknown.
        stream: Option<Stream>,
        /// The bytes as the child wrote them, decoded from the format of the log.
        bytes: &'a [u8],
    },
    /// An event between two bytes.
    Mark {
        /// The time of the event.
        time: Timestamp,
        /// The event.
        mark: Mark,
    },
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is neither a log nor a generation of one.
    #[error("there is no log {}", path.display())]
    NoLog {
        /// Where the log would be.
        path: PathBuf,
    },
    /// The log's name or directory can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A system call failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

impl ReadError {
    fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// Which of two places a time has in a log whose clock was stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Last,
}

/// Which of the last bytes are held back from a log that is being written.
///
/// ```
/// use vmon::logfile::read::{Hold, LogReader};
/// use vmon::logfile::{LogFile, LogOptions, Stream};
///
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let mut log = LogFile::open(log_dir, "Sandboxfile", "vm", LogOptions::default())?;
/// log.write(Stream::Stdout, b"booting\n")?;
///
/// let mut reader = LogReader::open(log_dir, "Sandboxfile", "vm")?;
/// let start = reader.position();
/// reader.hold(Hold::Pending);
/// // Their stream and time follow with the next write of the index.
/// assert!(reader.next()?.is_none() && reader.is_holding());
/// drop(log);
/// assert!(reader.next()?.is_some());
/// reader.seek(start);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Hold {
    /// None: all bytes are returned.
    #[default]
    Nothing,
    /// An incomplete record of a [`Cri`](Format::Cri) or [`Json`](Format::Json) log.
    Parts,
    /// Also the bytes of a raw log that are not in its index yet. They are indexed within 200 ms,
    /// or when the log is rotated.
    Pending,
}

/// A reader of a log, from the oldest generation on.
///
/// [`next`](Self::next) returns the next entry, and `None` at the end of the log. A later call
/// continues with the bytes that were written meanwhile, across rotation, compression and removal
/// of the file that is being read, and repeats nothing. A reader never blocks the writer.
///
/// # Memory
///
/// At most 256 KiB, for files of any size and lines of any length, and the window of the
/// decompressor: 32 KiB for gzip, 8 MiB for the default levels of Zstandard, 128 MiB at most. A
/// line of a [`Cri`](Format::Cri) or [`Json`](Format::Json) log that is longer than the buffer is
/// returned as it is in the file. No known writer makes such a line.
///
/// # After a crash
///
/// A log, a generation or an index may end at any byte. Bytes that are not in the index are
/// returned without stream and time.
pub struct LogReader {
    files: Files,
    /// The generations that existed at the last check.
    numbers: Numbers,
    /// The lowest number of a file that has not been opened.
    next: u64,
    segment: Option<Segment>,
    /// Where to start in a file when it is opened.
    entry: Option<Position>,
    /// How many of the next bytes are skipped.
    skip: u64,
    stop: Option<Position>,
    hold: Hold,
    written_as: Option<Format>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, position) = (self.files.path(), self.position());
        f.debug_struct("LogReader").field("path", &path).field("position", &position).finish()
    }
}

impl LogReader {
    /// Opens `<log_dir>/<config_file>/<name>.log` with all its generations. Symbolic links below
    /// `log_dir` are not followed, and nothing but regular files is read.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoLog`] where there is neither the log nor a generation; when `config_file` or
    /// `name` is not one path component; when the directory can't be read.
    pub fn open(log_dir: &Path, config_file: &str, name: &str) -> Result<Self, ReadError> {
        let reader = Self::expect(log_dir, config_file, name)?;
        if reader.numbers.at_or_after(0).is_none() && !reader.files.has_log()? {
            return Err(ReadError::NoLog { path: reader.files.path().to_owned() });
        }
        Ok(reader)
    }

    /// As [`open`](Self::open), also for a log that does not exist yet.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but for [`ReadError::NoLog`].
    pub fn expect(log_dir: &Path, config_file: &str, name: &str) -> Result<Self, ReadError> {
        let files = Files::new(LogPath::new(log_dir, config_file, name)?);
        let numbers = files.numbers()?;
        let next = numbers.at_or_after(0).unwrap_or(1);
        let (segment, entry, skip, stop) = (None, None, 0, None);
        let (hold, written_as) = (Hold::Nothing, None);
        Ok(Self { files, numbers, next, segment, entry, skip, stop, hold, written_as })
    }

    /// Sets the format of the current log. Without this, the format of a log without an index is
    /// detected by its first line, which a child may have written itself.
    pub fn written_as(&mut self, format: Format) {
        self.written_as = Some(format);
    }

    /// Sets which bytes of the current log are held back; [`Hold::Nothing`] by default.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// The path of the log, whether it exists or not. Generations and indexes are beside it.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// The current log, while it is being read. A caller that watches this file and its directory,
    /// by inotify(7) or kqueue(2), knows when to call [`next`](Self::next) again.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        let segment = self.segment.as_ref().filter(|it| it.role == Role::Current)?;
        segment.file().map(AsFd::as_fd)
    }

    /// Whether bytes are [held back](Self::hold) now.
    pub fn is_holding(&self) -> bool {
        let segment = self.segment.as_ref().filter(|it| it.role == Role::Current);
        let left = |segment: &Segment| Some(segment.size().ok()?? > segment.offset());
        self.hold != Hold::Nothing && segment.and_then(left).unwrap_or(false)
    }

    /// Takes the warnings since the last call.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.files.warnings)
    }

    /// Returns the next entry; `None` at the end of the log as it is now.
    ///
    /// # Errors
    ///
    /// When a file or the directory can't be read.
    #[expect(clippy::should_implement_trait, reason = "an entry borrows from its reader")]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if !self.ready()? {
            return Ok(None);
        }
        let skip = std::mem::take(&mut self.skip);
        Ok(self.segment.as_mut().and_then(Segment::take).map(|entry| match entry {
            Entry::Bytes { time, stream, bytes } if skip > 0 => {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                Entry::Bytes { time, stream, bytes: bytes.get(skip..).unwrap_or_default() }
            }
            entry => entry,
        }))
    }

    /// Finds the file with the next entry.
    fn ready(&mut self) -> Result<bool, ReadError> {
        loop {
            let Some(segment) = &mut self.segment else {
                if self.is_over() || !self.enter()? {
                    return Ok(false);
                }
                continue;
            };
            let end = match self.stop {
                Some(stop) if stop.number < segment.number => return Ok(false),
                Some(stop) if stop.number == segment.number => stop.offset,
                _ => u64::MAX,
            };
            if segment.role == Role::Current && segment.may_have_another_index()? {
                self.files.find_late_index(segment)?;
                if let Some(format) = self.written_as {
                    segment.assume(format);
                }
            }
            match segment.ready(Bounds { hold: self.hold, end }) {
                Ok(true) => return Ok(true),
                Err(ReadError::Io { path, source }) if segment.is_packed() => {
                    self.files.warn(Some(Warning::damaged(path, &source)));
                    self.segment = None;
                }
                Err(error) => return Err(error),
                Ok(false) if end == segment.offset() => return Ok(false),
                Ok(false) => {
                    if !self.leave()? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Whether the stop position is before the next file.
    fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| stop.number < self.next)
    }

    /// Opens the next file; `false` if there is none yet.
    fn enter(&mut self) -> Result<bool, ReadError> {
        loop {
            let listed = self.numbers.at_or_after(self.next);
            let number = listed.unwrap_or(self.next);
            if number > self.next {
                let path = self.files.path().to_owned();
                let (first, last) = (self.next, number - 1);
                self.files.warn(Some(Warning::Missing { path, first, last }));
                self.next = number;
            }
            if let Some(segment) = self.files.generation(number)? {
                self.begin(segment)?;
                return Ok(true);
            }
            if listed.is_some() {
                self.skip_removed(number)?;
                continue;
            }
            // Opened before the check for later generations: one that is made afterwards is this
            // file.
            let segment = self.files.current(number)?;
            if !self.is_next(number)? {
                continue;
            }
            let Some(segment) = segment else { return Ok(false) };
            self.begin(segment)?;
            return Ok(true);
        }
    }

    fn begin(&mut self, mut segment: Segment) -> Result<(), ReadError> {
        if let Some(format) = self.written_as.filter(|_| segment.role == Role::Current) {
            segment.assume(format);
        }
        self.next = segment.number + 1;
        match self.entry.take() {
            Some(entry) if entry.number == segment.number => {
                match segment.go_to(entry.offset, entry.record) {
                    Err(ReadError::Io { path, source }) if segment.is_packed() => {
                        self.files.warn(Some(Warning::damaged(path, &source)));
                        return Ok(());
                    }
                    gone => gone?,
                }
                self.skip = entry.skip;
            }
            _ => self.skip = 0,
        }
        self.segment = Some(segment);
        Ok(())
    }

    /// Whether no generation from `number` on exists. The oldest are removed first, so while the
    /// one before exists, none after it was removed.
    fn is_next(&mut self, number: u64) -> Result<bool, ReadError> {
        if self.files.exists(number)? {
            self.numbers = self.files.numbers()?;
            return Ok(false);
        }
        if number > 1 && self.files.exists(number - 1)? {
            return Ok(true);
        }
        let numbers = self.files.numbers()?;
        let Some(later) = numbers.at_or_after(number) else { return Ok(true) };
        self.numbers = numbers;
        self.miss(number, later);
        Ok(false)
    }

    /// Skips a generation that was removed since the last check.
    fn skip_removed(&mut self, number: u64) -> Result<(), ReadError> {
        if let Some(path) = self.files.unreadable(number)? {
            self.files.warn(Some(Warning::Unreadable { path }));
            self.next = number + 1;
            return Ok(());
        }
        self.numbers = self.files.numbers()?;
        let later = match self.numbers.at_or_after(number) {
            // It exists and is not a regular file.
            Some(same) if same == number => number + 1,
            Some(later) => later,
            None => number + 1,
        };
        self.miss(number, later);
        Ok(())
    }

    fn miss(&mut self, first: u64, after: u64) {
        self.next = after;
        if after <= first {
            return;
        }
        match self.files.warnings.last_mut() {
            Some(Warning::Missed { last, .. }) if *last + 1 == first => *last = after - 1,
            _ => {
                let path = self.files.path().to_owned();
                self.files.warnings.push(Warning::Missed { path, first, last: after - 1 });
            }
        }
    }

    /// At the end of a file: whether to try again, with this file or the next one.
    fn leave(&mut self) -> Result<bool, ReadError> {
        let Some(segment) = &mut self.segment else { return Ok(true) };
        match segment.role {
            Role::Generation => self.segment = None,
            Role::Moved => {
                // The next generation gets its number.
                self.next = segment.number;
                self.segment = None;
            }
            Role::Current => match self.files.check_log_name(segment)? {
                AtLogName::Same(size) if size >= segment.seen() => return Ok(false),
                AtLogName::Same(_) => {
                    let path = segment.path.clone();
                    self.files.warnings.push(Warning::Truncated { path });
                    segment.truncated();
                }
                AtLogName::Other(size) => match self.files.became(segment)? {
                    // Bytes that were written between the last read and the rename remain.
                    Some(number) => {
                        segment.role = Role::Generation;
                        segment.number = number;
                        self.next = number + 1;
                        if segment.may_have_another_index()? {
                            self.files.find_late_index(segment)?;
                        }
                    }
                    // The writer still appends to the file that it has open.
                    None if size == 0 => return Ok(false),
                    None => segment.role = Role::Moved,
                },
            },
        }
        Ok(true)
    }
}
