//! How a listening socket gets to its place and how it leaves.
//!
//! The socket is made under a name of its own and then linked to its place, which is either done
//! or not and never takes another's.

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
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{dial, platform};
use crate::access::DIRECTORY;

const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// More of them than anybody leaves behind.
const TRIES: u32 = 1000;

/// How often a socket is made that is removed before it is in its place.
const ATTEMPTS: u32 = 10;

/// Why a socket can't be put into its place.
#[derive(Debug)]
pub(crate) enum PlaceError {
    /// Somebody serves the one that is there.
    InUse,
    /// What is there is no socket.
    NoSocket,
    /// The system has refused.
    Io { what: &'static str, source: io::Error },
}

impl PlaceError {
    fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { what, source: source.into() }
    }
}

/// A socket in its place, for its owner alone; it leaves it when this is dropped.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// What is in the place.
enum Found {
    Nothing,
    Stale,
    Live,
}

impl Bound {
    /// Listens at `path`, which is in this open directory. A socket that nobody serves is replaced,
    /// anything else never.
    pub(crate) fn at(path: &Path, directory: &OwnedFd) -> Result<Self, PlaceError> {
        let place = Place { path, directory };
        for _ in 0..ATTEMPTS {
            let (listener, made) = place.listen()?;
            let bound = place.put(&made, listener);
            // In its place it has a name of its own; elsewhere nobody is to find it.
            let _ = remove(directory, made.as_str());
            // It may have been swept, by a process that takes it for that of an earlier one with our
            // pid.
            if let Some(bound) = bound? {
                return Ok(bound);
            }
        }
        Err(PlaceError::io("make the socket", Errno::ENOENT))
    }

    /// Removes the socket, if it is still the one in its place. Nobody can have taken that for
    /// stale: it listens still.
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
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Where a socket is to be.
struct Place<'a> {
    path: &'a Path,
    directory: &'a OwnedFd,
}

impl Place<'_> {
    /// The socket's name in its directory.
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Links the socket of this name to its place. `None` where it has been removed meanwhile.
    fn put(&self, made: &str, listener: UnixListener) -> Result<Option<Bound>, PlaceError> {
        match fchmodat(self.directory, made, PRIVATE, FchmodatFlags::FollowSymlink) {
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

    /// Removes a socket that nobody serves. The lock lets one do so at a time: another that has
    /// seen the same stale socket would remove the live one that took its place.
    fn clear(&self) -> Result<(), PlaceError> {
        if let Found::Live = self.look()? {
            return Err(PlaceError::InUse);
        }
        let name = format!(".{}.lock", self.name().display());
        let _lock = self.lock(&name)?;
        let cleared = match self.look()? {
            Found::Live => Err(PlaceError::InUse),
            Found::Nothing => Ok(()),
            Found::Stale => remove(self.directory, self.name())
                .map_err(|error| PlaceError::io("remove the stale", error)),
        };
        let _ = remove(self.directory, name.as_str());
        cleared
    }

    /// A lock that its holder's end gives back, however that comes. It is held for moments only,
    /// so whoever has it is putting a socket into this very place.
    ///
    /// Closing the file gives it back. An explicit unlock can fail (flock(2) on NFS and FUSE), and
    /// nothing could be done about that.
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
            // Its last holder may have removed it in between.
            let ours = fstat(&file).map_err(cannot)?;
            match fstatat(self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(there) if identity(&there) == identity(&ours) => return Ok(file),
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(cannot(error)),
            }
        }
    }

    fn look(&self) -> Result<Found, PlaceError> {
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
                // Somebody has it who does not take connections just now.
                io::ErrorKind::WouldBlock => Ok(Found::Live),
                _ => Err(PlaceError::io("find out who serves", error)),
            },
        }
    }

    /// A listening socket, under a name that nothing else has.
    fn listen(&self) -> Result<(UnixListener, String), PlaceError> {
        let parent = self.path.parent().unwrap_or(self.path);
        let pid = std::process::id();
        let mut tries = 0..TRIES;
        loop {
            let name = made_name(pid, tries.next().unwrap_or(TRIES));
            match platform::bind(self.directory, parent, OsStr::new(&name)) {
                Ok(listener) => return Ok((listener, name)),
                // Left behind by a process that had our pid.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !tries.is_empty() => {}
                Err(error) => return Err(PlaceError::io("make the socket", error)),
            }
        }
    }
}

/// The name under which a process makes its sockets.
fn made_name(pid: u32, number: u32) -> String {
    format!(".{pid:x}-{number:x}")
}

/// Removes from this directory the sockets that a process of this pid, which has ended, had made and
/// not put into their places. Nothing else is removed and no symbolic link is followed; what can't
/// be removed stays. A living process that has the pid by now makes its socket anew.
#[cfg_attr(not(feature = "registry"), allow(dead_code))] // it alone closes lost runs
pub(crate) fn sweep(directory: &Path, pid: u32) {
    let Ok(mut directory) = Dir::open(directory, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
    else {
        return;
    };
    let is_made = |name: &CStr| {
        let number = name.to_str().ok().and_then(|name| name.rsplit('-').next());
        let number = number.and_then(|number| u32::from_str_radix(number, 16).ok());
        number.is_some_and(|number| made_name(pid, number).as_bytes() == name.to_bytes())
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

/// Device and inode, which are of other types elsewhere.
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
    fn only_sockets_that_a_process_has_left_on_the_way_are_swept() {
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
    fn a_socket_that_is_swept_on_the_way_is_made_anew() {
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
