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
mod numbers;
mod segment;
mod times;

use std::io;
use std::path::{Path, PathBuf};

use super::LogError;
use super::directory::Place;
use super::entry::{Mark, Stream, Timestamp};
use files::{Files, Look};
use numbers::Numbers;
use segment::{Found, Role, Segment};

/// What comes next in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Bytes of one stream, at least one. They end where a read has ended: a line, and a
    /// character, may go on in the next entry.
    Bytes {
        /// When the first of them was read from the child; `None` where nobody knows.
        time: Option<Timestamp>,
        /// Where they come from; `None` where nobody knows.
        stream: Option<Stream>,
        /// As the child wrote them.
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
    /// The log has become shorter while it was read. It is read anew from its beginning.
    #[error("{} was truncated, and is read from its beginning", path.display())]
    Truncated {
        /// The log.
        path: PathBuf,
    },
}

/// A log that is read from the oldest generation on.
///
/// [`next`](Self::next) gives what comes next, and `None` at the end of what is there. It may be
/// called again after that: it goes on with what has been written meanwhile, through rotation,
/// compression and removal of what is being read, and repeats nothing. A writer is never held up
/// by a reader.
///
/// At most 64 KiB are held, of files of any size and lines of any length.
///
/// # Beside a crash
///
/// A log, a generation or an index may end anywhere. What the index does not tell of has no stream
/// and no time; it is given all the same.
#[derive(Debug)]
pub struct LogReader {
    files: Files,
    /// The generations that were there at the last look.
    numbers: Numbers,
    /// The lowest number of which nothing has been read.
    next: u64,
    segment: Option<Segment>,
    hold: bool,
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
        Ok(Self { files, numbers, next, segment: None, hold: false })
    }

    /// Whether to wait at the end of the index of a log that is being written: bytes that it does
    /// not tell of yet are not given then, until it does, or the log is rotated. `false` at first.
    ///
    /// An index is written up to 200 ms after the bytes that it tells of.
    pub fn hold(&mut self, hold: bool) {
        self.hold = hold;
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
        let found = loop {
            let Some(segment) = &mut self.segment else {
                if self.enter()? {
                    continue;
                }
                return Ok(None);
            };
            if segment.role == Role::Current && segment.lacks_index() {
                self.files.find_late_index(segment)?;
            }
            if let Some(found) = segment.step(self.hold)? {
                break found;
            }
            if !self.leave()? {
                return Ok(None);
            }
        };
        Ok(match found {
            Found::Mark { time, mark } => Some(Entry::Mark { time, mark }),
            Found::Bytes { time, stream, from, length } => match &mut self.segment {
                Some(segment) => {
                    Some(Entry::Bytes { time, stream, bytes: segment.given(from, length)? })
                }
                None => None,
            },
        })
    }

    /// Opens the file that follows those that have been read; `false` where there is none yet.
    fn enter(&mut self) -> Result<bool, ReadError> {
        loop {
            let listed = self.numbers.at_or_after(self.next);
            let number = listed.unwrap_or(self.next);
            if let Some(segment) = self.files.generation(number)? {
                self.begin(segment);
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
            self.begin(segment);
            return Ok(true);
        }
    }

    fn begin(&mut self, segment: Segment) {
        self.next = segment.number + 1;
        self.segment = Some(segment);
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
                        if segment.lacks_index() {
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
