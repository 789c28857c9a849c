//! A log in the Kubernetes format at a path of the caller's: the k8s-file driver of conmon, with
//! which Podman and CRI-O read a container's output.
//!
//! Unlike a [`LogFile`](super::LogFile) it has no directory, no index and no numbered generations of
//! its own, and it never ends a line that the child has not ended: its readers take that for a
//! newline of the child's.

mod replace;
mod zone;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, lstat, stat};
use tracing::{debug, warn};

use super::current::{Change, Current};
use super::entry::{Stream, Timestamp};
use super::error::{LogError, WriteError};
use super::format::{Encoder, LONGEST};
use super::lock::Hold;
use super::records::{Appended, append, buffer_size};
use zone::LocalZone;

/// `O_NONBLOCK` has an effect on a FIFO only, of which open(2) would wait for a reader.
const FILE_FLAGS: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_APPEND)
    .union(OFlag::O_CREAT)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

/// Less the umask.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP);

/// The most bytes of the child's in a record of conmon's. A [`K8sFileOptions::max_size`] that has
/// room for one such record is kept; below that, a file has at least one record.
const SHORTEST: usize = 8 << 10;

/// How long after a failure the next rotation is tried.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

/// The limits of a [`K8sFile`].
///
/// ```
/// use vmon::logfile::K8sFileOptions;
///
/// let options = K8sFileOptions { max_size: 10 << 20, rotate: Some(3), ..Default::default() };
/// assert_eq!(options.global_max, 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct K8sFileOptions {
    /// The size in bytes that a file may have: before a record that would exceed it, the log is
    /// rotated. 0 for no limit. Conmon's `--log-size-max`.
    pub max_size: u64,
    /// The number of bytes that are written at most, those that the file has when it is opened
    /// included; the record that reaches it is still written. All that follows is dropped. 0 for
    /// no limit. Conmon's `--log-global-size-max`.
    pub global_max: u64,
    /// The number of generations `PATH.1`, `PATH.2` and so on that a rotation keeps, the newest
    /// first; 0 counts as 1. Conmon's `--log-rotate` with `--log-max-files`.
    ///
    /// With `None` one generation is kept, `PATH.1`, where conmon would throw the bytes away, and
    /// [`K8sFile::reopen`] does not rotate.
    pub rotate: Option<u32>,
    /// With [`rotate`](Self::rotate): the directories that the log may lie in, at any depth, to be
    /// rotated. Empty for anywhere. Conmon's `--log-allowlist-dir`.
    pub allowed: Vec<PathBuf>,
}

/// A log in the format `k8s-file`, open for appending.
///
/// A record is `2026-11-30T10:29:12.406479852+00:00 stdout F text` and a newline: the local time
/// with nine digits and a numeric offset, `stdout` or `stderr`, `F` for the end of a line of the
/// child's and `P` for a piece that ends none. The records of one [`write`](Self::write) have one
/// time. None has more than 16 KiB of the child's bytes.
///
/// # What is on disk after a crash
///
/// As for a [`LogFile`](super::LogFile): all completed writes, and possibly a torn record, after
/// which the next run appends. A crash during a rotation leaves a file at the path, and no byte is
/// lost; at most an empty file `.vmon-*` is left beside it.
///
/// # What may block
///
/// write(2) to a regular file, as for a [`LogFile`](super::LogFile), and in a rotation open(2),
/// link(2) and rename(2). A path that is a FIFO or a device is written to and never rotated; a FIFO
/// must have a reader when it is opened.
///
/// ```
/// use vmon::logfile::{K8sFile, K8sFileOptions, Stream};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("ctr.log");
/// let mut log = K8sFile::open(&path, K8sFileOptions::default())?;
/// log.write(Stream::Stdout, b"booting\nlogin: ")?;
/// let text = std::fs::read_to_string(path)?;
/// let records: Vec<&str> = text.lines().map(|line| &line[36..]).collect();
/// assert_eq!(records, ["stdout F booting", "stdout P login: "]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct K8sFile {
    path: PathBuf,
    options: K8sFileOptions,
    current: Current,
    /// Whether it is a regular file.
    regular: bool,
    encoder: Encoder,
    zone: LocalZone,
    /// Bytes that count for [`K8sFileOptions::global_max`].
    total: u64,
    dropped: u64,
    /// Set after a rotation that failed: when the next one is tried.
    rotate_again: Option<Instant>,
    /// Whether such a failure has been reported.
    warned: bool,
}

impl K8sFile {
    /// Opens the log at `path`, or creates it with mode 0640 less the umask. The path may be a
    /// symbolic link; a relative one is taken from the current working directory.
    ///
    /// # Errors
    ///
    /// The system's for open(2). `ENXIO` is a FIFO without a reader.
    pub fn open(path: &Path, options: K8sFileOptions) -> Result<Self, LogError> {
        // Absolute, because a host may change its working directory.
        let path =
            std::path::absolute(path).map_err(|error| LogError::io("find the log", path, error))?;
        let (current, regular) = open_log(&path)?;
        let longest = match usize::try_from(options.max_size).unwrap_or(usize::MAX) {
            0 => LONGEST,
            most => most.saturating_sub(Encoder::CRI_AROUND).clamp(SHORTEST, LONGEST),
        };
        let total = if regular { current.size() } else { 0 };
        Ok(Self {
            path,
            options,
            current,
            regular,
            encoder: Encoder::of_cri(longest),
            zone: LocalZone::default(),
            total,
            dropped: 0,
            rotate_again: None,
            warned: false,
        })
    }

    /// Appends `bytes` of a stream as records, with one write(2) for each 160 KiB of them.
    /// [`Stream::Tty`] is `stdout`, and [`Stream::Notice`] is `stderr`.
    ///
    /// A rotation that fails is a warning, once, and the log is written beyond its limit; the
    /// rotation is tried again every ten seconds. If another process has renamed or removed the
    /// log, it is written on until [`reopen`](Self::reopen) or the next rotation.
    ///
    /// # Errors
    ///
    /// A full disk, for example. [`WriteError::written`] has the number of bytes that were written,
    /// in whole records; a torn record is cut off. The log stays usable: a later call with the
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
        let mut written = 0;
        let outcome = self.write_counting(workspace, stream, bytes, &mut written);
        outcome.map_err(|source| WriteError { written, source })
    }

    fn write_counting(
        &mut self,
        workspace: &mut [u8],
        stream: Stream,
        bytes: &[u8],
        written: &mut usize,
    ) -> Result<(), LogError> {
        let now = Timestamp::now();
        self.encoder.set_zone(self.zone.at(now));
        let mut own = Vec::new();
        while let Some(rest) = bytes.get(*written..)
            && !rest.is_empty()
        {
            if self.is_complete() {
                self.dropped += rest.len() as u64;
                *written = bytes.len();
                break;
            }
            self.current.cut_torn().map_err(|error| self.cannot("write to the log", error))?;
            let first = self.encoder.first_cri_size(rest);
            self.make_room(first as u64);
            let place = if own.is_empty() { &mut *workspace } else { own.as_mut_slice() };
            let fitting = self.room().max(first).min(place.len());
            let place = place.get_mut(..fitting).unwrap_or_default();
            let appended = append(&mut self.current, &mut self.encoder, place, |encoder, place| {
                encoder.encode_into(place, now, stream, rest)
            });
            let Appended { taken, whole, outcome } = appended;
            self.total += whole as u64;
            *written += taken;
            outcome.map_err(|error| self.cannot("write to the log", error))?;
            if taken == 0 {
                own = vec![0; buffer_size(rest.len())];
            }
        }
        Ok(())
    }

    /// Whether the bound of the whole log is reached.
    fn is_complete(&self) -> bool {
        let most = self.options.global_max;
        most > 0 && self.total >= most
    }

    /// How many bytes of records fit, by both limits.
    fn room(&self) -> usize {
        let K8sFileOptions { max_size, global_max, .. } = self.options;
        // Beyond the limit, where a rotation has failed, it is as if there was none.
        let in_file = match max_size.saturating_sub(self.current.size()) {
            room @ 1.. if self.regular => room,
            _ => u64::MAX,
        };
        let in_all = if global_max == 0 { u64::MAX } else { global_max.saturating_sub(self.total) };
        usize::try_from(in_file.min(in_all)).unwrap_or(usize::MAX)
    }

    /// Rotates the log if the first record, of this size, does not fit.
    fn make_room(&mut self, first: u64) {
        let most = self.options.max_size;
        let is_full = |log: &Self| {
            most > 0
                && log.regular
                && !log.current.is_empty()
                && log.current.size().saturating_add(first) > most
        };
        if !is_full(self) || self.rotate_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        // Another process may have moved or truncated the log: what is at its path is full or not.
        let outcome = self.follow_path().and_then(|_| match is_full(self) {
            true => self.rotate(),
            false => Ok(()),
        });
        match outcome {
            Ok(()) => self.rotate_again = None,
            Err(error) => {
                self.rotate_again = Instant::now().checked_add(ROTATE_AGAIN);
                if !std::mem::replace(&mut self.warned, true) {
                    warn!("{error}; it grows beyond its limit");
                }
            }
        }
    }

    /// Opens what is at the log's path if that is another file, or none; returns whether it is.
    fn follow_path(&mut self) -> Result<bool, LogError> {
        match self.current.compare(stat(&self.path).ok().as_ref()) {
            Change::Same | Change::Resized => Ok(false),
            Change::Replaced => {
                self.check_directory()?;
                (self.current, self.regular) = open_log(&self.path)?;
                Ok(true)
            }
        }
    }

    /// Makes the log a generation.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.check_rotation()?;
        // Of a link, the log that it leads to is rotated, in its own directory.
        let path = match lstat(&self.path) {
            Ok(stat) if is(SFlag::S_IFLNK, stat.st_mode) => {
                let path = fs::canonicalize(&self.path);
                &path.map_err(|error| self.cannot("rotate the log", error))?
            }
            _ => &self.path,
        };
        let keep = self.options.rotate.unwrap_or(1).max(1);
        let file = replace::replace(path, keep);
        let file = file.map_err(|error| self.cannot("rotate the log", error))?;
        (self.current, self.regular) = opened(file, path)?;
        debug!(path = %path.display(), "rotated the log");
        Ok(())
    }

    /// Whether a log with numbered generations may be rotated. Their names are predictable, so a
    /// user who can write to the directory could otherwise have other files renamed.
    fn check_rotation(&self) -> Result<(), LogError> {
        if self.options.rotate.is_none() {
            return Ok(());
        }
        let is_link = lstat(&self.path).is_ok_and(|stat| is(SFlag::S_IFLNK, stat.st_mode));
        let reason = if self.path.components().any(|part| part == Component::ParentDir) {
            "its path contains '..': name it without"
        } else if is_link {
            "it is a symbolic link: name the file itself"
        } else if !self.is_allowed() {
            "its directory is not one of those that are allowed for rotation: allow it, or log elsewhere"
        } else if self.current.is_locked_elsewhere() {
            "another process has locked it: end that one, or log elsewhere"
        } else {
            return Ok(());
        };
        Err(LogError::NotRotated { path: self.path.clone(), reason })
    }

    fn is_allowed(&self) -> bool {
        let allowed = &self.options.allowed;
        if allowed.is_empty() {
            return true;
        }
        let directory = self.path.parent().and_then(|parent| fs::canonicalize(parent).ok());
        directory.is_some_and(|directory| {
            allowed
                .iter()
                .any(|one| fs::canonicalize(one).is_ok_and(|one| directory.starts_with(one)))
        })
    }

    /// With numbered generations, a log that is gone is not created where every user can put a
    /// file of that name first.
    fn check_directory(&self) -> Result<(), LogError> {
        let parent = self.path.parent().and_then(|parent| stat(parent).ok());
        let all = parent
            .is_some_and(|stat| Mode::from_bits_truncate(stat.st_mode).contains(Mode::S_IWOTH));
        if self.options.rotate.is_some() && all && lstat(&self.path).is_err() {
            let reason = "it is gone, and every user can write to its directory: log elsewhere";
            return Err(LogError::NotRotated { path: self.path.clone(), reason });
        }
        Ok(())
    }

    /// Opens the log by its path, for a program that has moved it away, as the kubelet does. If the
    /// path still is this log, the bytes stay, or with [`K8sFileOptions::rotate`] it is rotated.
    ///
    /// In each case inotify(7) reports a change of a file of exactly this name, for which CRI-O
    /// waits: it was created, renamed to, or modified.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), or the log can't be rotated. The file that was open is written on.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        let followed = self.follow_path()?;
        self.rotate_again = None;
        let rotates = self.options.rotate.is_some() && self.regular;
        if rotates && !followed && !self.current.is_empty() {
            return self.rotate();
        }
        if self.regular {
            self.current.touch().map_err(|error| self.cannot("reopen the log", error))?;
        }
        Ok(())
    }

    /// Has the system write the log to the disk (fsync(2)), which may take seconds. Nothing else
    /// does so.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn sync(&self) -> Result<(), LogError> {
        match self.regular {
            true => self.current.sync().map_err(|error| self.cannot("sync the log", error)),
            false => Ok(()),
        }
    }

    /// The absolute path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes of the child's were dropped because of [`K8sFileOptions::global_max`].
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn cannot(&self, action: &'static str, source: io::Error) -> LogError {
        LogError::io(action, &self.path, source)
    }
}

/// Opens or creates the log. Returns whether it is a regular file.
fn open_log(path: &Path) -> Result<(Current, bool), LogError> {
    let file = open(path, FILE_FLAGS, MODE);
    let file = file.map_err(|error| LogError::io("open the log", path, error))?;
    opened(file.into(), path)
}

fn opened(file: File, path: &Path) -> Result<(Current, bool), LogError> {
    let stat = fstat(file.as_fd()).map_err(|error| LogError::io("look at", path, error))?;
    let regular = is(SFlag::S_IFREG, stat.st_mode);
    Ok((Current::new(file, &stat, Hold::Unsupported), regular))
}

fn is(kind: SFlag, mode: nix::libc::mode_t) -> bool {
    SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == kind
}
