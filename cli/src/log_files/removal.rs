//! Removes the logs of a sandbox, only below permitted directories, and only logs that no
//! supervisor writes.
//!
//! The record may be wrong, forged, or copied with its state directory. Therefore the log directory
//! is resolved and compared with the permitted ones, opened from there without following symbolic
//! links, and each log is locked before the first file is removed.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::debug;
use vmon::logfile::names::{self, Part};
use vmon::monitor::Name;
use vmon::registry::Run;

use super::{LogFile, Logs, cannot};
use crate::places::{DIRECTORY, Places};
use crate::{Failure, reason, supervisor_log};

/// Does not block on a FIFO and does not follow a symbolic link.
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// The directories below which logs may be removed, with symbolic links resolved.
#[derive(Debug)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    /// The state directory and the directories given with `--log-dir`.
    pub fn new(places: &Places, log_dirs: &[PathBuf]) -> Result<Self, Failure> {
        // A state directory that does not exist contains no logs.
        let mut roots: Vec<PathBuf> = fs::canonicalize(&places.state_dir).into_iter().collect();
        for path in log_dirs {
            let failed = Failure::directory("log directory", path, "--log-dir");
            roots.push(fs::canonicalize(path).map_err(failed)?);
        }
        Ok(Self(roots))
    }

    /// Returns an error if the logs of these runs are outside the permitted directories.
    pub fn permit(&self, runs: &[Run]) -> Result<(), String> {
        log_dirs(runs).try_for_each(|(_, log_dir)| self.find(log_dir).map(drop))
    }

    /// The permitted directory above `log_dir` and the relative path from there; `None` if
    /// `log_dir` does not exist.
    fn find(&self, log_dir: &Path) -> Result<Option<(&Path, PathBuf)>, String> {
        let real = match fs::canonicalize(log_dir) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
            Err(error) => {
                return Err(format!("can't use {}: {}", log_dir.display(), reason(&error)));
            }
            Ok(real) => real,
        };
        let below = |root: &PathBuf| real.strip_prefix(root).map(Path::to_owned).ok();
        let found = self.0.iter().find_map(|root| Some((root.as_path(), below(root)?)));
        found.map(Some).ok_or_else(|| {
            let real = real.display();
            format!(
                "its log directory {real} is not in the state directory; give --log-dir {real} to \
                 remove the log there"
            )
        })
    }

    /// Opens a log directory, without following symbolic links below the permitted directory.
    pub(super) fn open(&self, log_dir: &Path) -> Result<Option<OwnedFd>, String> {
        let Some((root, way)) = self.find(log_dir)? else { return Ok(None) };
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = way.iter().try_fold(open(root, flags, Mode::empty()), |above, part| {
            above.map(|above| openat(above, part, flags, Mode::empty()))
        });
        match opened.and_then(|opened| opened) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(cannot("open", log_dir, error)),
        }
    }
}

/// The distinct log directories of these runs.
fn log_dirs(runs: &[Run]) -> impl Iterator<Item = (&Run, &Path)> {
    let mut seen = BTreeSet::new();
    let all =
        runs.iter().filter_map(|run| Some((run, run.spec.as_ref()?.sandbox.log_dir.as_path())));
    all.filter(move |(_, log_dir)| seen.insert(*log_dir))
}

/// Removes the logs of one sandbox's runs, and each directory that is empty then. All logs are found
/// and locked before the first file is removed.
pub fn remove_logs(runs: &[Run], roots: &Roots) -> Result<(), String> {
    // A record with an invalid name does not describe a sandbox.
    for run in runs.iter().filter(|run| run.id.is_some()) {
        for name in [&run.config_file, &run.name] {
            Name::new(name).map_err(|error| error.to_string())?;
        }
    }
    let mut found: Vec<Locked> = Vec::new();
    for (run, log_dir) in log_dirs(runs) {
        let Some(above) = roots.open(log_dir)? else { continue };
        let logs = Logs::below(&above, log_dir, &run.config_file, &run.name)?;
        let Some(logs) = logs else { continue };
        let id = logs.id()?;
        // Two paths may lead to one directory, and a second lock of a file would fail.
        if found.iter().all(|other| other.id != id) {
            let locked = Locked::new(logs, above, run.config_file.clone(), id);
            found.push(locked.map_err(LockError::into_reason)?);
        }
    }
    found.iter().try_for_each(Locked::remove)
}

/// Why logs were not locked.
#[derive(Debug)]
pub enum LockError {
    /// A supervisor writes one of them.
    InUse(String),
    Failed(String),
}

impl LockError {
    pub fn into_reason(self) -> String {
        let (Self::InUse(reason) | Self::Failed(reason)) = self;
        reason
    }
}

/// Device and inode number.
type Id = (nix::libc::dev_t, nix::libc::ino_t);

fn id(stat: &FileStat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// The log files of a sandbox in one directory, with their locks.
#[derive(Debug)]
pub(super) struct Locked {
    logs: Logs,
    id: Id,
    above: OwnedFd,
    config_file: String,
    /// The files to remove.
    files: Vec<LogFile>,
    /// The locks, by file name.
    locks: Vec<(String, File)>,
}

impl Locked {
    fn new(logs: Logs, above: OwnedFd, config_file: String, id: Id) -> Result<Self, LockError> {
        let files = logs.files().map_err(LockError::Failed)?;
        // The supervisor writes its own log after the end of the sandbox too, while the command of
        // --on-exit runs.
        let own = names::log(&supervisor_log::log_name(&logs.name));
        let main = names::log(&logs.name);
        let mut found = BTreeSet::new();
        found.insert(main.as_str());
        found.extend(files.iter().map(|file| file.log.as_str()));
        // During a rotation the newest generation stays locked until the new log is locked. So the
        // generations are locked first, and a file that appears in the meantime is an error.
        let mut locks: Vec<(String, File)> = Vec::new();
        for log in found.iter().filter(|log| **log != own) {
            let mut plain =
                files.iter().filter(|file| file.log == *log && file.is_plain_generation());
            let newest = plain.next_back().map(|file| file.name.as_str());
            for file in newest.into_iter().chain([*log]) {
                locks.extend(logs.lock(file)?.map(|lock| (file.to_owned(), lock)));
            }
        }
        let is_new = |file: &&LogFile| {
            let is_written = file.part == Part::Log || file.is_plain_generation();
            is_written && file.log != own && files.iter().all(|known| known.name != file.name)
        };
        if let Some(new) = logs.files().map_err(LockError::Failed)?.iter().find(is_new) {
            return Err(LockError::InUse(logs.in_use(&new.name)));
        }
        Ok(Self { logs, id, above, config_file, files, locks })
    }

    /// Locks the logs that a sandbox has left, without a record.
    pub(super) fn left(logs: Logs, above: OwnedFd, config_file: &str) -> Result<Self, LockError> {
        let id = logs.id().map_err(LockError::Failed)?;
        Self::new(logs, above, config_file.to_owned(), id)
    }

    pub(super) fn remove(&self) -> Result<(), String> {
        let Logs { path, directory, .. } = &self.logs;
        for LogFile { name: file, .. } in &self.files {
            let lock = self.locks.iter().find(|(locked, _)| locked == file);
            if let Some((_, lock)) = lock
                && !is_named(directory, file, lock)
            {
                return Err(self.logs.in_use(file));
            }
            match unlinkat(directory, file.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(cannot("remove", &path.join(file), error)),
            }
        }
        // Fails if the directory is not empty.
        let _ = unlinkat(&self.above, self.config_file.as_str(), UnlinkatFlags::RemoveDir);
        Ok(())
    }
}

/// Whether the open file still has this name, or the name does not exist.
fn is_named(directory: &OwnedFd, name: &str, file: &File) -> bool {
    match (fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW), fstat(file)) {
        (Ok(found), Ok(stat)) => id(&found) == id(&stat),
        (found, _) => matches!(found, Err(Errno::ENOENT)),
    }
}

impl LogFile {
    fn is_plain_generation(&self) -> bool {
        matches!(self.part, Part::Generation { compressed: false, .. })
    }
}

impl Logs {
    fn id(&self) -> Result<Id, String> {
        fstat(&self.directory)
            .map(|stat| id(&stat))
            .map_err(|error| cannot("use", &self.path, error))
    }

    /// Takes the exclusive lock of a log. A supervisor that writes the log holds it. `None` if
    /// there is no such regular file.
    fn lock(&self, file: &str) -> Result<Option<File>, LockError> {
        let path = self.path.join(file);
        let failed = |error| LockError::Failed(cannot("lock", &path, error));
        let fd = match openat(&self.directory, file, FILE, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            // A symbolic link or a socket is not removed.
            Err(Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let stat = fstat(&fd).map_err(failed)?;
        // Other types are not removed.
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Ok(None);
        }
        let opened = File::from(fd);
        match opened.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(LockError::InUse(self.in_use(file))),
            // The file system has no locks, so the supervisor holds none either.
            Err(TryLockError::Error(error)) => debug!("can't lock {}: {error}", path.display()),
            Ok(()) => {}
        }
        Ok(Some(opened))
    }

    fn in_use(&self, file: &str) -> String {
        format!("a running supervisor writes {}; stop it first", self.path.join(file).display())
    }
}
