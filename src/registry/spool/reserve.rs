//! Room for the end of a run, taken while there is some: a file that the end is written into if the
//! disk is full by then.
//!
//! It is in a directory of its own, so that readers of the spool directory do not read its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::super::connection::random;
use super::file;
use crate::access::{self, make_directories, make_private};
use crate::monitor::Identity;

/// The directory, in the spool directory.
const DIRECTORY: &str = ".reserved";

/// A multiple of this is reserved: a block, or a page, of most file systems.
const BLOCK: usize = 4096;

/// A file with as many bytes as the end may have, removed when this is dropped.
#[derive(Debug)]
pub(in crate::registry) struct Reserve(Box<Path>);

impl Reserve {
    /// Reserves `room` bytes in the spool directory `spool`.
    ///
    /// The bytes are written, not allocated by fallocate(2): no file system lacks write(2), and one
    /// that delays the allocation has counted them by then.
    pub(super) fn new(spool: &Path, supervisor: &Identity, room: usize) -> io::Result<Self> {
        let directory = spool.join(DIRECTORY);
        let name = format!("{}{:x}", prefix(supervisor), random());
        let open_directory =
            || open(&directory, access::DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty());
        let opened = match open_directory() {
            Err(Errno::ENOENT) => {
                make_directories(&directory)?;
                open_directory()?
            }
            opened => opened?,
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(openat(&opened, name.as_str(), flags, mode)?);
        let reserve = Self(directory.join(&name).into_boxed_path());
        make_private(&file)?;
        for _ in 0..room.div_ceil(BLOCK) {
            file.write_all(&[0; BLOCK])?;
        }
        Ok(reserve)
    }

    /// How many bytes it has.
    pub(super) fn room(&self) -> usize {
        let length = fs::metadata(&self.0).map_or(0, |metadata| metadata.len());
        usize::try_from(length).unwrap_or(usize::MAX)
    }

    /// Moves the file to `path`, with this content.
    pub(super) fn write(self, content: &[u8], path: &Path) -> io::Result<()> {
        let flags = OFlag::O_NOFOLLOW.bits();
        let mut file = OpenOptions::new().write(true).custom_flags(flags).open(&self.0)?;
        file.write_all(content)?;
        file.set_len(content.len().try_into().map_err(io::Error::other)?)?;
        fs::rename(&self.0, path)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // It is not there any more if the end is in it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what a supervisor that was killed has reserved in this spool directory.
pub(in crate::registry) fn sweep(spool: &Path, supervisor: &Identity) {
    file::sweep(&spool.join(DIRECTORY), &prefix(supervisor));
}

fn prefix(supervisor: &Identity) -> String {
    format!("{}-{}-", supervisor.pid, supervisor.start)
}

/// The directory of the reserved files of a spool directory, for the tests of the registry.
#[cfg(test)]
pub(in crate::registry) fn directory(spool: &Path) -> std::path::PathBuf {
    spool.join(DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(spool: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory(spool)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_a_killed_supervisor_has_reserved_is_swept_and_nothing_else() {
        let spool = tempfile::tempdir().unwrap();
        let killed = Identity { start: 7, ..Identity::current() };
        let others = [
            Identity { start: 77, ..killed.clone() },
            Identity { pid: killed.pid + 1, ..killed.clone() },
        ];
        for supervisor in [&killed, &killed, &others[0], &others[1]] {
            std::mem::forget(Reserve::new(spool.path(), supervisor, 1).unwrap());
        }
        sweep(spool.path(), &killed);
        let left = names(spool.path());
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(!left.iter().any(|name| name.starts_with(&prefix(&killed))), "{left:?}");
    }

    #[test]
    fn nothing_is_reserved_behind_a_symbolic_link() {
        let (spool, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), directory(spool.path())).unwrap();
        assert!(Reserve::new(spool.path(), &Identity::current(), 1).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_reserved_is_as_large_as_asked_for_and_becomes_as_long_as_its_content() {
        let spool = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(spool.path(), &Identity::current(), BLOCK + 1).unwrap();
        assert_eq!(fs::metadata(&reserve.0).unwrap().len(), 2 * BLOCK as u64);
        let path = spool.path().join("end");
        reserve.write(b"content", &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(names(spool.path()).len(), 0);
    }
}
