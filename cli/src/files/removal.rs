//! Removing the logs of a sandbox: only below the directories that the command is about, and only
//! logs that no supervisor writes.
//!
//! What is on record may be wrong, forged, or of the original of a copied state directory. So a log
//! directory is compared with its symbolic links resolved, opened from the permitted directory down
//! without following any, and each log is locked before the first file goes.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::debug;
use vmon::monitor::Name;
use vmon::registry::Run;

use super::{DIRECTORY, Logs, cannot, role};
use crate::shared::Places;
use crate::{Failure, reason};

/// Not blocked by a FIFO in the place of a log, nor led away by a link.
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// The log that a supervisor writes of itself, after the end of its sandbox too: while it runs the
/// command of --on-exit.
const OWN_LOG: &str = "@supervisor.log";

/// The directories below which logs are removed, without symbolic links.
#[derive(Debug)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    /// The state directory in use, and what `--log-dir` names.
    pub fn new(places: &Places, log_dirs: &[PathBuf]) -> Result<Self, Failure> {
        // Nothing is in one that does not exist.
        let mut roots: Vec<PathBuf> = fs::canonicalize(&places.state_dir).into_iter().collect();
        for path in log_dirs {
            let root = fs::canonicalize(path).map_err(|error| Failure::Directory {
                what: "log directory",
                path: path.clone(),
                reason: reason(&error),
                option: "--log-dir",
            })?;
            roots.push(root);
        }
        Ok(Self(roots))
    }

    /// Whether the logs of these runs may be removed; says why not.
    pub fn permit(&self, runs: &[Run]) -> Result<(), String> {
        log_dirs(runs).try_for_each(|(_, log_dir)| self.find(log_dir).map(drop))
    }

    /// The permitted directory above `log_dir`, and the way down from there; `None` where `log_dir`
    /// does not exist.
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

    /// Opens a log directory without following a link from the permitted directory down.
    fn open(&self, log_dir: &Path) -> Result<Option<OwnedFd>, String> {
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

/// The runs with a log directory of their own.
fn log_dirs(runs: &[Run]) -> impl Iterator<Item = (&Run, &Path)> {
    let mut seen = BTreeSet::new();
    let all =
        runs.iter().filter_map(|run| Some((run, run.spec.as_ref()?.sandbox.log_dir.as_path())));
    all.filter(move |(_, log_dir)| seen.insert(*log_dir))
}

/// The logs of one sandbox, ready to be removed: each is locked.
#[derive(Debug)]
pub struct Removal(Vec<Locked>);

impl Removal {
    /// Finds and locks the logs of these runs of one sandbox. Nothing is removed yet.
    pub fn prepare(runs: &[Run], roots: &Roots) -> Result<Self, String> {
        // Under a name that no sandbox can have, the record describes none.
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
            // One directory may have several paths, and a lock is in the way of another one.
            if found.iter().all(|other| other.id != id) {
                found.push(Locked::new(logs, above, run.config_file.clone(), id)?);
            }
        }
        Ok(Self(found))
    }

    /// Removes them, and each directory in which nothing else is.
    pub fn carry_out(self) -> Result<(), String> {
        self.0.iter().try_for_each(Locked::remove)
    }
}

/// What tells a file from every other.
type Id = (nix::libc::dev_t, nix::libc::ino_t);

fn id(stat: &FileStat) -> Id {
    (stat.st_dev, stat.st_ino)
}

/// The logs of a sandbox in one directory.
#[derive(Debug)]
struct Locked {
    logs: Logs,
    id: Id,
    above: OwnedFd,
    config_file: String,
    /// Names of the files that go.
    files: Vec<String>,
    /// The locked ones among them.
    locks: Vec<(String, File)>,
}

impl Locked {
    fn new(logs: Logs, above: OwnedFd, config_file: String, id: Id) -> Result<Self, String> {
        let files = logs.names()?;
        // In a rotation the newest generation stays locked until the new log is: so the generations
        // first, and no other may have come in the end.
        let mut locks: Vec<(String, File)> = Vec::new();
        for log in logs.logs(&files) {
            let newest = files.iter().rev().find(|file| logs.is_plain(file, &log)).cloned();
            for file in newest.into_iter().chain([log]) {
                if let Some(lock) = logs.lock(&file)? {
                    locks.push((file, lock));
                }
            }
        }
        let is_new = |file: &&String| logs.is_written(file) && !files.contains(file);
        if let Some(new) = logs.names()?.iter().find(is_new) {
            return Err(logs.in_use(new));
        }
        Ok(Self { logs, id, above, config_file, files, locks })
    }

    fn remove(&self) -> Result<(), String> {
        let Logs { path, directory, .. } = &self.logs;
        for file in &self.files {
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
        // Refused where something is left in it.
        let _ = unlinkat(&self.above, self.config_file.as_str(), UnlinkatFlags::RemoveDir);
        Ok(())
    }
}

/// Whether the open file still has this name, or none at all.
fn is_named(directory: &OwnedFd, name: &str, file: &File) -> bool {
    match (fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW), fstat(file)) {
        (Ok(found), Ok(stat)) => id(&found) == id(&stat),
        (found, _) => matches!(found, Err(Errno::ENOENT)),
    }
}

impl Logs {
    fn id(&self) -> Result<Id, String> {
        fstat(&self.directory)
            .map(|stat| id(&stat))
            .map_err(|error| cannot("use", &self.path, error))
    }

    fn names(&self) -> Result<Vec<String>, String> {
        Ok(self.files()?.into_iter().map(|file| file.file_name).collect())
    }

    /// The names of the logs that these files belong to, and of the sandbox's own.
    fn logs(&self, files: &[String]) -> BTreeSet<String> {
        let found = files.iter().filter_map(|file| self.log_of(file)).map(str::to_owned);
        found.chain([format!("{}.log", self.name)]).collect()
    }

    /// The name of the log that a file is, or is a generation of or lies beside; `None` for those of
    /// the supervisor's own.
    fn log_of<'a>(&self, file: &'a str) -> Option<&'a str> {
        const ENDING: &str = ".log";
        // Neither a name nor a console's can hide an earlier one behind its '@'.
        let rest = file.get(self.name.len()..)?;
        let what = if rest.starts_with('@') { rest.find(ENDING)? } else { 0 };
        let log = file.get(..self.name.len() + what + ENDING.len())?;
        (log.get(self.name.len()..) != Some(OWN_LOG)).then_some(log)
    }

    /// Whether a file is a generation of this log that is not compressed.
    fn is_plain(&self, file: &str, log: &str) -> bool {
        let number = file.strip_prefix(log).and_then(|rest| rest.strip_prefix('.'));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Whether only a supervisor makes such a file: a log, or a generation that is not compressed.
    fn is_written(&self, file: &str) -> bool {
        let log = self.log_of(file);
        role(&self.name, file).is_some()
            && log.is_some_and(|log| file == log || self.is_plain(file, log))
    }

    /// Takes the exclusive lock of a log, which a supervisor that writes it does not leave free;
    /// `None` where there is no such file.
    fn lock(&self, file: &str) -> Result<Option<File>, String> {
        let path = self.path.join(file);
        let fd = match openat(&self.directory, file, FILE, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            // A symbolic link, or a socket: neither is removed.
            Err(Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(error) => return Err(cannot("lock", &path, error)),
        };
        let stat = fstat(&fd).map_err(|error| cannot("lock", &path, error))?;
        // Anything else is not removed.
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Ok(None);
        }
        let opened = File::from(fd);
        match opened.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(self.in_use(file)),
            // A file system without locks, on which no supervisor has one either.
            Err(TryLockError::Error(error)) => debug!("can't lock {}: {error}", path.display()),
            Ok(()) => {}
        }
        Ok(Some(opened))
    }

    fn in_use(&self, file: &str) -> String {
        format!("a running supervisor writes {}; stop it first", self.path.join(file).display())
    }
}
