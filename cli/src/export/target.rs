//! A file that appears under its name only when it is complete.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::reason;

/// Number of temporary names to try. Names of killed processes may still exist.
const TRIES: u32 = 100;

/// A new file under a temporary name, until [`keep`](Self::keep) renames it.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    /// Opened once, so that a later rename of the directory does not redirect the file.
    directory: OwnedFd,
    name: OsString,
    temporary: String,
    file: File,
    kept: bool,
}

impl Target {
    /// Creates a temporary file with mode 0600 in the directory of `path`. Fails if `path` exists
    /// and is no regular file. An existing file is not changed before [`keep`](Self::keep).
    pub fn create(path: &Path) -> Result<Self, String> {
        let failed = |error: Errno| format!("can't write {}: {}", path.display(), error.desc());
        let Some(name) = path.file_name().filter(|_| !ends_with_separator(path)) else {
            return Err(format!("can't write {}: give the name of a file", path.display()));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory =
            open(parent.unwrap_or(Path::new(".")), flags, Mode::empty()).map_err(failed)?;
        match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(status) => {
                let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
                if kind != SFlag::S_IFREG {
                    let what =
                        if kind == SFlag::S_IFDIR { "a directory" } else { "no regular file" };
                    return Err(format!("can't write {}: it is {what}", path.display()));
                }
            }
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        let (temporary, file) = temporary_file(&directory).map_err(failed)?;
        let (path, name) = (path.to_owned(), name.to_owned());
        Ok(Self { path, directory, name, temporary, file, kept: false })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file.write_all(bytes).map_err(|error| self.failed(&error))
    }

    /// Renames the file to its final name.
    pub fn keep(&mut self) -> Result<(), String> {
        // Without this, a system crash can leave an empty file under the final name.
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        let (from, to) = (self.temporary.as_str(), self.name.as_os_str());
        renameat(&self.directory, from, &self.directory, to)
            .map_err(|error| self.failed(&error.into()))?;
        self.kept = true;
        Ok(())
    }

    /// Removes a file that was kept, when the file that belongs to it could not be written.
    pub fn remove(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("can't write {self}: {}", reason(error))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.kept {
            let _ = unlinkat(&self.directory, self.temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn ends_with_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn temporary_file(directory: &OwnedFd) -> Result<(String, File), Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut number = 0;
    loop {
        let name = format!(".vmon-export.{}.{number}", std::process::id());
        match openat(directory, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => return Ok((name, File::from(fd))),
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
        let mut target = Target::create(&path).unwrap();
        target.write(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        target.keep().unwrap();
        drop(target);
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let mut target = Target::create(&path).unwrap();
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
            let error = Target::create(path).unwrap_err();
            assert!(error.starts_with("can't write "), "{error}");
        }
        // A symbolic link created in the meantime is replaced itself.
        let late = scratch.path().join("late");
        let mut target = Target::create(&late).unwrap();
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
        let first = Target::create(&path).unwrap();
        let second = Target::create(&path).unwrap();
        assert_ne!(first.temporary, second.temporary);
    }
}
