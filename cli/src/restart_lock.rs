//! Shows `vmon logs -f` and other followers that a sandbox is stopped only to be started again.
//!
//! `vmon restart` holds a lock (flock(2)) on the file `run/CONFIG/.NAME.restart` beside the database,
//! and removes the file when the restart is complete. The kernel releases
//! the lock when the process ends, in whatever way.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::debug;
use vmon::control::runtime_directory;
use vmon::monitor::Name;

use super::places::{DIRECTORY, Places};
use super::record::Recorded;

/// Number of attempts to get the lock, a millisecond apart.
const TRIES: u32 = 20;

/// The lock of a restart in progress. Dropping it ends the restart.
#[derive(Debug)]
pub struct RestartLock {
    directory: OwnedFd,
    name: String,
    /// Closing it releases the lock. An explicit unlock can fail (flock(2) on NFS and FUSE).
    _lock: File,
}

impl RestartLock {
    /// Locks the file. Without the lock the restart continues, and followers see a stop.
    pub fn acquire(places: &Places, sandbox: &Recorded) -> Option<Self> {
        let lock = Self::lock(places, sandbox);
        lock.inspect_err(|error| debug!("can't lock the file of the restart: {error}")).ok()
    }

    fn lock(places: &Places, sandbox: &Recorded) -> io::Result<Self> {
        let directory =
            runtime_directory(&lock_dir(places), &sandbox.config_file).map_err(io::Error::other)?;
        let name = file_name(&sandbox.name).ok_or(Errno::EINVAL)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&directory, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // The umask may have taken rights from the owner.
        fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let lock = lock_shared(File::from(file))?;
        Ok(Self { directory, name, _lock: lock })
    }
}

/// Several restarts share the lock. A follower that checks it holds it for a moment, so the lock is
/// tried more than once.
fn lock_shared(file: File) -> io::Result<File> {
    for _ in 1..TRIES {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let _ = poll(&mut [], PollTimeout::from(1_u8));
    }
    file.try_lock_shared()?;
    Ok(file)
}

impl Drop for RestartLock {
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// The lock file of a restart of this sandbox in progress; `None` if there is none.
pub fn find_held(places: &Places, config_file: &str, name: &str) -> Option<File> {
    let parent = open(&lock_dir(places), DIRECTORY, Mode::empty()).ok()?;
    let config_file: Name = config_file.parse().ok()?;
    let flags = DIRECTORY | OFlag::O_NOFOLLOW;
    let directory = openat(&parent, config_file.as_str(), flags, Mode::empty()).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&directory, file_name(name)?.as_str(), flags, Mode::empty()).ok()?;
    if_held(File::from(file))
}

/// Returns the file if a process holds its lock and has not removed it yet.
pub fn if_held(file: File) -> Option<File> {
    if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
        return None;
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Some(file),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Where the locks are, whatever `--runtime-dir` is: a follower knows the database only.
fn lock_dir(places: &Places) -> PathBuf {
    places.db.path.parent().unwrap_or(Path::new("/")).join("run")
}

/// `None` if it is not a valid name, which is a single path component. The record may be another
/// user's.
fn file_name(name: &str) -> Option<String> {
    let name: Name = name.parse().ok()?;
    Some(format!(".{name}.restart"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_on_record_can_not_leave_the_runtime_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        for name in ["..", ".", "", "../other", "a/b", "/tmp"] {
            assert_eq!(file_name(name), None, "{name}");
            assert!(runtime_directory(&run, name).is_err(), "{name}");
        }
        assert!(!run.exists());
        assert_eq!(file_name("web").as_deref(), Some(".web.restart"));
        assert!(runtime_directory(&run, "web").is_ok());
    }
}
