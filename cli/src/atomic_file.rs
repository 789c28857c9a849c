//! A file that appears under its name only when it is complete.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::places::DIRECTORY;
use super::reason;

/// Number of temporary names to try. Names of killed processes may still exist.
const TRIES: u32 = 100;

/// Why a file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write {}: {reason}", path.display())]
pub struct WriteError {
    path: PathBuf,
    pub reason: &'static str,
}

impl From<WriteError> for String {
    fn from(error: WriteError) -> Self {
        error.to_string()
    }
}

/// A new file under a temporary name, until [`keep`](Self::keep) renames it.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    /// Opened once, so that a later rename of the directory does not redirect the file.
    directory: OwnedFd,
    temporary: String,
    file: File,
    kept: bool,
}

impl AtomicFile {
    /// Creates a temporary file with mode 0600 in the directory of `path`. Fails if `path` exists
    /// and is no regular file. An existing file is not changed before [`keep`](Self::keep).
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        Self::temporary(path).map_err(|reason| WriteError { path: path.to_owned(), reason })
    }

    fn temporary(path: &Path) -> Result<Self, &'static str> {
        let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !is_directory) else {
            return Err("give the name of a file");
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let directory = open(parent, DIRECTORY, Mode::empty()).map_err(Errno::desc)?;
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFREG => {}
                SFlag::S_IFDIR => return Err("it is a directory"),
                _ => return Err("it is no regular file"),
            },
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.desc()),
        }
        let (temporary, file) = temporary_file(&directory).map_err(Errno::desc)?;
        Ok(Self { path: path.to_owned(), directory, temporary, file, kept: false })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file.write_all(bytes).map_err(|error| self.failed(&error))
    }

    /// Renames the file to its final name.
    pub fn keep(&mut self) -> Result<(), WriteError> {
        renameat(&self.directory, self.temporary.as_str(), &self.directory, self.name())
            .map_err(|error| self.failed(&error.into()))?;
        self.kept = true;
        Ok(())
    }

    /// As [`keep`](Self::keep), after the bytes are on the disk. Otherwise a system crash can leave
    /// an empty file under the final name.
    pub fn sync_and_keep(&mut self) -> Result<(), WriteError> {
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        self.keep()
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    fn failed(&self, error: &io::Error) -> WriteError {
        WriteError { path: self.path.clone(), reason: reason(error) }
    }

    /// Removes a file that was kept, when the file that belongs to it could not be written.
    pub fn remove(&mut self) {
        let _ = unlinkat(&self.directory, self.name(), UnlinkatFlags::NoRemoveDir);
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = unlinkat(&self.directory, self.temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn temporary_file(directory: &OwnedFd) -> Result<(String, File), Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut number = 0;
    loop {
        let name = format!(".vmon.{}.{number}", std::process::id());
        match openat(directory, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => {
                // The umask may have taken rights from the owner.
                let private = fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR);
                return private.map(|()| (name, File::from(fd)));
            }
            Err(Errno::EEXIST) if number < TRIES => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_complete_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("out");
        fs::write(&path, "before").unwrap();
        let mut target = AtomicFile::create(&path).unwrap();
        target.write(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        target.keep().unwrap();
        drop(target);
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let mut target = AtomicFile::create(&path).unwrap();
        target.write(b"never").unwrap();
        drop(target);
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(names(scratch.path()), ["out"]);
    }

    #[test]
    fn only_a_regular_file_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        let victim = scratch.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &link).unwrap();
        for path in [
            scratch.path(),
            &link,
            &scratch.path().join("x/"),
            &scratch.path().join("no/x"),
            Path::new("/dev/null"),
            Path::new(".."),
        ] {
            AtomicFile::create(path).unwrap_err();
        }
        // A symbolic link created in the meantime is replaced itself.
        let late = scratch.path().join("late");
        let mut target = AtomicFile::create(&late).unwrap();
        symlink(&victim, &late).unwrap();
        target.write(b"new").unwrap();
        target.keep().unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read(&late).unwrap(), b"new");
    }

    #[test]
    fn a_leftover_temporary_file_is_no_obstacle() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("out");
        let first = AtomicFile::create(&path).unwrap();
        let second = AtomicFile::create(&path).unwrap();
        assert_ne!(first.temporary, second.temporary);
    }
}
