//! Creating and removing a listening socket at a path.
//!
//! The socket is created under a temporary name and then linked to its path. link(2) is atomic and
//! never replaces another file.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, lstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{dial, platform};
use crate::access::{DIRECTORY, PRIVATE_NODE, lacks_rights, make_private};

/// The mode of a lock.
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// How many temporary names are tried.
const TRIES: u32 = 1000;

/// How often a socket is created again after another process has removed its temporary name.
const ATTEMPTS: u32 = 10;

/// The error of listening at a path.
#[derive(Debug)]
pub(crate) enum PlaceError {
    /// A process listens at the socket at the path.
    InUse,
    /// The file at the path is not a socket.
    NoSocket,
    /// A system call failed.
    Io { what: &'static str, source: io::Error },
}

impl PlaceError {
    fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { what, source: source.into() }
    }
}

/// A listening socket at a path, with access for its owner only. Dropping this removes it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// The file at the path.
enum Found {
    Nothing,
    Stale,
    Live,
}

impl Bound {
    /// Listens at `path`, which is in this open directory. A stale socket is replaced; any other
    /// file is an error.
    pub(crate) fn at(path: &Path, directory: &OwnedFd) -> Result<Self, PlaceError> {
        let place = Place { path, directory };
        for _ in 0..ATTEMPTS {
            let (listener, made) = place.listen()?;
            let bound = place.put(&made, listener);
            // Removes the temporary name.
            let _ = remove(directory, made.as_str());
            // `None` if another process has swept the temporary name, as one of an earlier process
            // with our pid.
            if let Some(bound) = bound? {
                return Ok(bound);
            }
        }
        Err(PlaceError::io("make the socket", Errno::ENOENT))
    }

    /// Removes the socket, if it is still the one at the path. No process can have replaced it as
    /// stale, because it still listens.
    pub(crate) fn leave(&self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let Ok(directory) = open(parent, DIRECTORY, Mode::empty()) else { return };
        let there = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| identity(&stat) == self.file) {
            let _ = remove(&directory, name);
        }
    }

    /// Whether the file at the path is missing, or is not this socket: no client reaches it any
    /// more.
    pub(crate) fn is_gone(&self) -> bool {
        match lstat(&self.path) {
            Ok(stat) => identity(&stat) != self.file,
            Err(error) => matches!(error, Errno::ENOENT | Errno::ENOTDIR),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The path for a socket, and its directory.
struct Place<'a> {
    path: &'a Path,
    directory: &'a OwnedFd,
}

impl Place<'_> {
    /// The socket's name in its directory.
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Links the socket of a temporary name to the path; `None` if that name was removed meanwhile.
    fn put(&self, made: &str, listener: UnixListener) -> Result<Option<Bound>, PlaceError> {
        match fchmodat(self.directory, made, PRIVATE_NODE, FchmodatFlags::FollowSymlink) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(PlaceError::io("set the mode of", error)),
        }
        let file = match fstatat(self.directory, made, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(file) => identity(&file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(PlaceError::io("look at", error)),
        };
        loop {
            match linkat(self.directory, made, self.directory, self.name(), AtFlags::empty()) {
                Ok(()) => return Ok(Some(Bound { listener, path: self.path.to_owned(), file })),
                Err(Errno::EEXIST) => self.clear()?,
                Err(Errno::ENOENT) => return Ok(None),
                Err(error) => return Err(PlaceError::io("make the socket", error)),
            }
        }
    }

    /// Removes a stale socket, under a lock. Without the lock, another process that has checked the
    /// same stale socket would remove the live one that replaces it.
    fn clear(&self) -> Result<(), PlaceError> {
        if let Found::Live = self.check()? {
            return Err(PlaceError::InUse);
        }
        let name = format!(".{}.lock", self.name().display());
        let _lock = self.lock(&name)?;
        let cleared = match self.check()? {
            Found::Live => Err(PlaceError::InUse),
            Found::Nothing => Ok(()),
            Found::Stale => remove(self.directory, self.name())
                .map_err(|error| PlaceError::io("remove the stale", error)),
        };
        let _ = remove(self.directory, name.as_str());
        cleared
    }

    /// Takes the lock. It is held only briefly, by a process that is about to listen at this path,
    /// so a lock that is taken means [`PlaceError::InUse`].
    ///
    /// Closing the file releases it, also when the process is killed. An explicit unlock could fail
    /// (flock(2) on NFS and FUSE).
    fn lock(&self, name: &str) -> Result<File, PlaceError> {
        let cannot = |error: Errno| PlaceError::io("lock", error);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let file = File::from(openat(self.directory, name, flags, PRIVATE).map_err(cannot)?);
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(PlaceError::InUse),
                Err(TryLockError::Error(error)) => return Err(PlaceError::io("lock", error)),
            }
            // The last holder may have removed the file between open and lock.
            let ours = fstat(&file).map_err(cannot)?;
            if lacks_rights(&ours) {
                make_private(&file).map_err(cannot)?;
            }
            match fstatat(self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(there) if identity(&there) == identity(&ours) => return Ok(file),
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(cannot(error)),
            }
        }
    }

    fn check(&self) -> Result<Found, PlaceError> {
        match fstatat(self.directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFSOCK => {}
            Ok(_) => return Err(PlaceError::NoSocket),
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(PlaceError::io("look at", error)),
        }
        match dial(self.path, None) {
            Ok(_) => Ok(Found::Live),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
                io::ErrorKind::NotFound => Ok(Found::Nothing),
                // The backlog is full: a process listens.
                io::ErrorKind::WouldBlock => Ok(Found::Live),
                _ => Err(PlaceError::io("connect to", error)),
            },
        }
    }

    /// Creates a listening socket under an unused temporary name.
    fn listen(&self) -> Result<(UnixListener, String), PlaceError> {
        let parent = self.path.parent().unwrap_or(self.path);
        let pid = std::process::id();
        let mut tries = 0..TRIES;
        loop {
            let name = temporary_name(pid, tries.next().unwrap_or(TRIES));
            match platform::bind(self.directory, parent, OsStr::new(&name)) {
                Ok(listener) => return Ok((listener, name)),
                // Left by an earlier process with our pid.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !tries.is_empty() => {}
                Err(error) => return Err(PlaceError::io("make the socket", error)),
            }
        }
    }
}

/// A temporary name of a process.
fn temporary_name(pid: u32, number: u32) -> String {
    format!(".{pid:x}-{number:x}")
}

/// Removes the sockets with temporary names that an ended process of this pid has left in a
/// directory. No other file is removed, no symbolic link is followed, and errors are ignored. A
/// live process that reuses the pid creates its socket again.
#[cfg_attr(not(feature = "registry"), allow(dead_code))] // only the registry closes lost runs
pub(crate) fn sweep(directory: &Path, pid: u32) {
    let Ok(mut directory) = Dir::open(directory, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
    else {
        return;
    };
    let is_made = |name: &CStr| {
        let number = name.to_str().ok().and_then(|name| name.rsplit('-').next());
        let number = number.and_then(|number| u32::from_str_radix(number, 16).ok());
        number.is_some_and(|number| temporary_name(pid, number).as_bytes() == name.to_bytes())
    };
    let entries = directory.iter().flatten().map(|entry| entry.file_name().to_owned());
    let made: Vec<CString> = entries.filter(|name| is_made(name)).collect();
    for name in made {
        let found = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if found.is_ok_and(|stat| kind(&stat) == SFlag::S_IFSOCK) {
            let _ = unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn remove(directory: &OwnedFd, name: &(impl NixPath + ?Sized)) -> Result<(), Errno> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed,
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Device and inode, whose types differ between systems.
#[allow(clippy::unnecessary_cast)]
fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_sockets_with_temporary_names_of_the_process_are_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("run");
        fs::create_dir(&directory).unwrap();
        for name in
            [".1f-0", ".1f-3e7", ".1f0-0", ".f-0", ".1f-zz", ".1f-", ".1f-+1", "1f-0", "web.sock"]
        {
            drop(UnixListener::bind(directory.join(name)).unwrap());
        }
        fs::write(directory.join(".1f-1"), "").unwrap();
        symlink("web.sock", directory.join(".1f-2")).unwrap();
        let before = names(&directory);
        symlink("run", scratch.path().join("link")).unwrap();
        sweep(&scratch.path().join("link"), 0x1f);
        sweep(&scratch.path().join("none"), 0x1f);
        assert_eq!(names(&directory), before);
        sweep(&directory, 0x1f);
        let is_left = |name: &&String| !matches!(name.as_str(), ".1f-0" | ".1f-3e7");
        assert_eq!(names(&directory), before.iter().filter(is_left).cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_socket_whose_temporary_name_is_swept_is_created_again() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("web.sock");
        let directory = open(scratch.path(), DIRECTORY, Mode::empty()).unwrap();
        let place = Place { path: &path, directory: &directory };
        let (listener, made) = place.listen().unwrap();
        sweep(scratch.path(), std::process::id());
        assert!(place.put(&made, listener).unwrap().is_none());
        let bound = Bound::at(&path, &directory).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(names(scratch.path()), ["web.sock"]);
        drop(bound);
        assert_eq!(names(scratch.path()), [""; 0]);
    }
}
