//! Reading a log back: every byte of it, in order, with its stream and time where they are known.
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

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::LogError;
use super::directory::Place;
use super::entry::{Mark, Stream, Timestamp};
use super::options::Format;
use files::{Files, Look};
use numbers::Numbers;
pub use position::Position;
use segment::{Bounds, Role, Segment};

/// What comes next in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Bytes of one stream, seldom none. They end where a read has ended: a line, and a character,
    /// may go on in the next entry.
    Bytes {
        /// When the first of them was read from the child; `None` where nobody knows.
        time: Option<Timestamp>,
        /// Where they come from; `None` where nobody knows.
        stream: Option<Stream>,
        /// As the child wrote them, in whatever format the log is.
        bytes: &'a [u8],
    },
    /// Something happened here.
    Mark {
        /// When.
        time: Timestamp,
        /// What.
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
    /// Its place can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl ReadError {
    fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// Something about a log that its reader should know. Reading goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Generations were removed before they were read.
    #[error("generations {first} to {last} of {} were removed before they were read", path.display())]
    Missed {
        /// The log.
        path: PathBuf,
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// An index can't be the one of its log. Streams and times of that file are not known.
    #[error("{} does not match its log, and is not used: {why}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// How that shows.
        why: &'static str,
    },
    /// A compressed generation can't be read to its end.
    #[error("what follows in {} is left out, it is damaged: {why}", path.display())]
    Damaged {
        /// The generation.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// The log has become shorter while it was read. It is read anew from its beginning.
    #[error("{} was truncated, and is read from its beginning", path.display())]
    Truncated {
        /// The log.
        path: PathBuf,
    },
}

impl Warning {
    fn damaged(path: PathBuf, error: &io::Error) -> Self {
        Self::Damaged { path, why: error.to_string() }
    }
}

/// What is not given yet of a log that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Hold {
    /// All that is there is given.
    #[default]
    Nothing,
    /// A record of a [`Cri`](Format::Cri) or [`Json`](Format::Json) log waits until all of it is
    /// there.
    Parts,
    /// Bytes of a raw log also wait until its index tells of them, which is 200 ms later at most,
    /// or until it is rotated.
    Untold,
}

/// A log that is read from the oldest generation on.
///
/// [`next`](Self::next) gives what comes next, and `None` at the end of what is there. It may be
/// called again after that: it goes on with what has been written meanwhile, through rotation,
/// compression and removal of what is being read, and repeats nothing. A writer is never held up
/// by a reader.
///
/// # Memory
///
/// At most 256 KiB are held, of files of any size and lines of any length, and the window of the
/// compressor that has made the generation being read: 32 KiB for gzip, and for Zstandard 8 MiB
/// unless it was told to use more. A record of a [`Cri`](Format::Cri) or [`Json`](Format::Json) log
/// with a longer line than that, which no known writer makes, is given as it is in the file.
///
/// # Beside a crash
///
/// A log, a generation or an index may end anywhere. What the index does not tell of has no stream
/// and no time; it is given all the same.
pub struct LogReader {
    files: Files,
    /// The generations that were there at the last look.
    numbers: Numbers,
    /// The lowest number of which nothing has been read.
    next: u64,
    segment: Option<Segment>,
    /// Where to begin in the file of that number, when it is opened.
    entry: Option<Position>,
    /// How many of the next bytes are left out.
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

    /// As [`open`](Self::open), also where nothing is there yet.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but for [`ReadError::NoLog`].
    pub fn expect(log_dir: &Path, config_file: &str, name: &str) -> Result<Self, ReadError> {
        let files = Files::new(Place::new(log_dir, config_file, name)?);
        let numbers = files.numbers()?;
        let next = numbers.at_or_after(0).unwrap_or(1);
        let (segment, entry, skip, stop) = (None, None, 0, None);
        let (hold, written_as) = (Hold::Nothing, None);
        Ok(Self { files, numbers, next, segment, entry, skip, stop, hold, written_as })
    }

    /// Tells the format in which the log is being written, from now on, as far as it has no index:
    /// without that, its first line tells, which a child may have written itself.
    pub fn written_as(&mut self, format: Format) {
        self.written_as = Some(format);
    }

    /// What to hold back of a log that is being written: [`Hold::Nothing`] at first.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// Where the log is, whatever is there now. Its generations and the indexes lie beside it.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// The file that is being read, as long as its writer may add to it: who is told by the system
    /// of its changes, and of those in its directory, knows when to read on.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        let segment = self.segment.as_ref().filter(|it| it.role == Role::Current)?;
        segment.file().map(AsFd::as_fd)
    }

    /// Whether bytes are there that are [held](Self::hold) back.
    pub fn is_holding(&self) -> bool {
        let segment = self.segment.as_ref().filter(|it| it.role == Role::Current);
        let left = |segment: &Segment| Some(segment.size().ok()?? > segment.offset());
        self.hold != Hold::Nothing && segment.and_then(left).unwrap_or(false)
    }

    /// What has turned up since this was last called.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.files.warnings)
    }

    /// What comes next; `None` at the end of what is there now.
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

    /// Finds the file in which something comes next.
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
                    segment.take_for(format);
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

    /// Whether no file that is still to come may be read.
    fn is_over(&self) -> bool {
        self.stop.is_some_and(|stop| stop.number < self.next)
    }

    /// Opens the file that follows those that have been read; `false` where there is none yet.
    fn enter(&mut self) -> Result<bool, ReadError> {
        loop {
            let listed = self.numbers.at_or_after(self.next);
            let number = listed.unwrap_or(self.next);
            if let Some(segment) = self.files.generation(number)? {
                self.begin(segment)?;
                return Ok(true);
            }
            if listed.is_some() {
                self.look_for_others(number)?;
                continue;
            }
            // Before it is looked for later generations: one that is made afterwards is this file.
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
            segment.take_for(format);
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

    /// Whether no generation from `number` on has been made until now. The oldest go first, so
    /// while the one before is there none after it has gone.
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

    /// A generation that was there is not there any more.
    fn look_for_others(&mut self, number: u64) -> Result<(), ReadError> {
        self.numbers = self.files.numbers()?;
        let later = match self.numbers.at_or_after(number) {
            // Nothing that can be read.
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

    /// At the end of a file: whether there is more of it after all, or another one may follow.
    fn leave(&mut self) -> Result<bool, ReadError> {
        let Some(segment) = &mut self.segment else { return Ok(true) };
        match segment.role {
            Role::Generation => self.segment = None,
            Role::Moved => {
                // Its number is still to be given.
                self.next = segment.number;
                self.segment = None;
            }
            Role::Current => match self.files.look(segment)? {
                Look::Same(size) if size >= segment.offset() => return Ok(false),
                Look::Same(_) => {
                    let path = segment.path.clone();
                    self.files.warnings.push(Warning::Truncated { path });
                    segment.restart();
                }
                Look::Other(size) => match self.files.became(segment)? {
                    // What came before the rename, and after our last look, is still to be read.
                    Some(number) => {
                        segment.role = Role::Generation;
                        segment.number = number;
                        self.next = number + 1;
                        if segment.may_have_another_index()? {
                            self.files.find_late_index(segment)?;
                        }
                    }
                    // Its writer goes on with the file that it has open for a while.
                    None if size == 0 => return Ok(false),
                    None => segment.role = Role::Moved,
                },
            },
        }
        Ok(true)
    }
}
