//! The lock by which a supervising process proves that it lives, to readers in any pid namespace.
//!
//! Each process locks one byte of the file `.supervisors.lock` in the spool directory, at a random
//! offset. The record of its runs has the offset and the inode number of the file. The kernel
//! releases the lock when the process ends. The file has no content and is never removed by vmon.
//! While a process has a file open that was removed, no other file gets that inode number, so a new
//! file in its place says nothing of an earlier lock.
//!
//! A file that another user could have written is not believed.

#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "lock/unsupported.rs")]
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "lock/linux.rs")]
mod platform;

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::connection::random;
use crate::access::{is_shared, make_directories};
pub(super) use platform::is_local;

/// Not a name of a sandbox's config, which has a directory of its own here.
const FILE: &str = ".supervisors.lock";
/// Attempts to find an offset that no other process has locked.
const TRIES: u32 = 4;
/// A character device or a FIFO in place of the file must not block.
const FLAGS: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// The byte that a process has locked. As text `INODE:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockedByte {
    inode: u64,
    offset: u64,
}

impl fmt::Display for LockedByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.inode, self.offset)
    }
}

impl FromStr for LockedByte {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (inode, offset) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { inode: inode.parse()?, offset: offset.parse()? })
    }
}

/// The lock of this process, until it is dropped.
#[derive(Debug)]
pub(super) struct SupervisorLock {
    pub(super) byte: LockedByte,
    _file: File,
}

impl SupervisorLock {
    /// Takes a lock. Creates the spool directory and the file where they are missing.
    ///
    /// # Errors
    ///
    /// The file can't be created or opened, another user could have written it, or its file system
    /// has no locks.
    pub(super) fn acquire(spool: &Path) -> io::Result<Self> {
        let path = path(spool);
        let file = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directories(spool)?;
                open(&path)?
            }
            file => file?,
        };
        let metadata = file.metadata()?;
        check(&metadata)?;
        if metadata.mode() & 0o777 != 0o600 {
            // The umask has taken rights from the owner.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        for _ in 0..TRIES {
            let byte = LockedByte { inode: metadata.ino(), offset: random() >> 2 };
            if platform::lock(&file, byte.offset)? {
                return Ok(Self { byte, _file: file });
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether readers find the file that is locked.
    pub(super) fn is_linked(&self, spool: &Path) -> bool {
        fs::symlink_metadata(path(spool)).is_ok_and(|found| found.ino() == self.byte.inode)
    }
}

/// Whether a process holds the lock; `None` if that can't be told.
pub(super) fn is_held(spool: &Path, byte: LockedByte) -> Option<bool> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(FLAGS.bits()).open(path(spool)).ok()?;
    let metadata = file.metadata().ok()?;
    check(&metadata).ok()?;
    match metadata.ino() == byte.inode {
        true => platform::is_locked(&file, byte.offset).ok(),
        false => None,
    }
}

fn path(spool: &Path) -> PathBuf {
    spool.join(FILE)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(FLAGS.bits()).open(path)
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let is_ours =
        metadata.is_file() && metadata.uid() == geteuid().as_raw() && !is_shared(metadata.mode());
    if is_ours { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let spool = scratch.path().join("run");
        let (first, second) = [(); 2].map(|()| SupervisorLock::acquire(&spool).unwrap()).into();
        assert_ne!(first.byte, second.byte);
        let byte = first.byte.to_string().parse().unwrap();
        assert_eq!(is_held(&spool, byte), Some(true));
        drop(first);
        assert_eq!(is_held(&spool, byte), Some(false));
        assert_eq!(is_held(&spool, second.byte), Some(true));
    }

    #[test]
    fn a_removed_file_and_one_in_its_place_do_not_tell_that_a_lock_was_released() {
        let scratch = tempfile::tempdir().unwrap();
        let lock = SupervisorLock::acquire(scratch.path()).unwrap();
        assert!(lock.is_linked(scratch.path()));
        fs::remove_file(path(scratch.path())).unwrap();
        assert_eq!(is_held(scratch.path(), lock.byte), None);
        let next = SupervisorLock::acquire(scratch.path()).unwrap();
        assert!(!lock.is_linked(scratch.path()) && next.is_linked(scratch.path()));
        assert_eq!(is_held(scratch.path(), lock.byte), None);
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        let scratch = tempfile::tempdir().unwrap();
        let lock = SupervisorLock::acquire(scratch.path()).unwrap();
        let byte = lock.byte;
        drop(lock);
        fs::set_permissions(path(scratch.path()), Permissions::from_mode(0o666)).unwrap();
        assert_eq!(is_held(scratch.path(), byte), None);
        assert!(SupervisorLock::acquire(scratch.path()).is_err());
        fs::remove_file(path(scratch.path())).unwrap();
        std::os::unix::fs::symlink("elsewhere", path(scratch.path())).unwrap();
        assert!(SupervisorLock::acquire(scratch.path()).is_err());
    }

    #[test]
    fn a_text_that_is_no_locked_byte_is_not_read_as_one() {
        for text in ["", ":", "7", "7:", ":7", "7:x", "-1:7"] {
            assert!(text.parse::<LockedByte>().is_err(), "{text}");
        }
    }
}
