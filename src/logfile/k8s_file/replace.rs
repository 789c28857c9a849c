//! Replacing a log by an empty one. The old file gets a name beside it, and at every moment there
//! is a file at the log's path: a reader that polls the path never finds none.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{FILE_FLAGS, MODE};
use crate::access::DIRECTORY;
use crate::logfile::current::Identity;

/// How many names of a temporary file are tried.
const ATTEMPTS: u32 = 8;

/// Makes the log at `path` the generation `.1`, the one of this name `.2`, and so on up to `.keep`,
/// whose file is removed. Returns the new log, open for appending.
///
/// `path` is no symbolic link. The calls are link(2) and rename(2) within the directory: no byte is
/// copied, and readers that have the old file open read it to its end.
///
/// # Errors
///
/// The system's. The log is at its path as before then.
pub(super) fn replace(path: &Path, keep: u32) -> io::Result<File> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = open(parent.unwrap_or(Path::new(".")), DIRECTORY, Mode::empty())?;
    let place = Place { directory, name };
    let (file, temporary) = place.create()?;
    match place.exchange(&temporary, keep) {
        Ok(()) => Ok(file),
        Err(error) => {
            let _ = place.unlink(&temporary);
            Err(error.into())
        }
    }
}

struct Place<'a> {
    directory: OwnedFd,
    name: &'a OsStr,
}

impl Place<'_> {
    /// Creates a file under a temporary name. Its name is not that of a log or a generation, so a
    /// file that a crash has left never stops a rotation.
    fn create(&self) -> Result<(File, OsString), Errno> {
        let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        for attempt in 0..ATTEMPTS {
            let number = clock.subsec_nanos().wrapping_add(attempt);
            let name = OsString::from(format!(".vmon-{}-{number:08x}", std::process::id()));
            let flags = FILE_FLAGS | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            match openat(&self.directory, name.as_os_str(), flags, MODE) {
                Ok(file) => return Ok((file.into(), name)),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EEXIST)
    }

    /// Gives the log the name of the first generation, and the new file that of the log.
    fn exchange(&self, new: &OsStr, keep: u32) -> Result<(), Errno> {
        let first = self.generation(1);
        let mut second = new.to_owned();
        second.push("-old");
        let linked = linkat(
            &self.directory,
            self.name,
            &self.directory,
            second.as_os_str(),
            AtFlags::empty(),
        );
        match linked {
            Ok(()) => {
                let moved = self.shift(keep).and_then(|()| self.rename(&second, &first));
                if let Err(error) = moved {
                    let _ = self.unlink(&second);
                    return Err(error);
                }
            }
            // A file system without hard links, or one that this user may not make
            // (`fs.protected_hardlinks`, proc(5)): for a moment, the path has no file.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {
                self.shift(keep)?;
                self.rename(self.name, &first)?;
                return self.rename(new, self.name).inspect_err(|_| {
                    let _ = self.rename(&first, self.name);
                });
            }
            Err(error) => return Err(error),
        }
        self.rename(new, self.name)
    }

    /// Frees the name of the first generation. A gap that an earlier failure has left is filled
    /// first, so that the oldest generation is removed only if there are too many.
    ///
    /// No log is renamed over an older one: ext4 would write all that it has to the disk first
    /// (`auto_da_alloc`, ext4(5)), and this thread would wait.
    fn shift(&self, keep: u32) -> Result<(), Errno> {
        let first = self.generation(1);
        let of_first = self.identity(&first)?;
        if of_first.is_some() && of_first == self.identity(self.name)? {
            // A second name of the log, left by a crash between the calls of `exchange`.
            self.unlink(&first)?;
        }
        let mut free = 1;
        while self.identity(&self.generation(free))?.is_some() {
            if free == keep {
                self.unlink(&self.generation(free))?;
                break;
            }
            free += 1;
        }
        for number in (1..free).rev() {
            self.rename(&self.generation(number), &self.generation(number + 1))?;
        }
        Ok(())
    }

    fn generation(&self, number: u32) -> OsString {
        let mut name = self.name.to_owned();
        name.push(format!(".{number}"));
        name
    }

    fn identity(&self, name: &OsStr) -> Result<Option<Identity>, Errno> {
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Identity::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        renameat(&self.directory, from, &self.directory, to)
    }

    fn unlink(&self, name: &OsStr) -> Result<(), Errno> {
        unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir)
    }
}
