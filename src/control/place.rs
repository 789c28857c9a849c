//! Where a control socket lies: how it gets there and how it leaves.
//!
//! The socket is made under a name of its own and then linked to its place, which is either done
//! or not and never takes another's. Below the runtime directory no symbolic link is followed.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat,
};
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};

use super::{ControlError, stream};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// More of them than anybody leaves behind.
const TRIES: u32 = 1000;

/// The place of one socket.
#[derive(Debug)]
pub(super) struct Place {
    /// `<runtime dir>/<config file>/<name>.sock`, and nothing beside it: a host has a thousand.
    path: PathBuf,
}

/// A socket in its place; it leaves it when this is dropped.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// What is in the place.
enum Found {
    Nothing,
    Stale,
    Live,
}

impl Place {
    pub(super) fn new(
        runtime_dir: &Path,
        config_file: &str,
        name: &str,
    ) -> Result<Self, ControlError> {
        // Absolute, because a host may change its working directory before the start.
        let runtime_dir = std::path::absolute(runtime_dir)
            .map_err(|error| ControlError::io("find the runtime directory", runtime_dir, error))?;
        let path = runtime_dir.join(config_file).join(format!("{name}.sock"));
        match stream::path_limit() {
            Some(limit) if path.as_os_str().len() > limit => {
                Err(ControlError::PathTooLong { path, limit })
            }
            _ => Ok(Self { path }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The socket's name in its directory.
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Its directory, `<runtime dir>/<config file>`.
    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Listens there.
    pub(super) fn bind(&self) -> Result<Bound, ControlError> {
        let directory = self.directory()?;
        let (listener, made) = self.listen(&directory)?;
        let bound = self.put(&directory, &made, listener);
        // In its place it has a name of its own; elsewhere nobody is to find it.
        let _ = remove(&directory, made.as_str());
        bound
    }

    fn put(
        &self,
        directory: &OwnedFd,
        made: &str,
        listener: UnixListener,
    ) -> Result<Bound, ControlError> {
        fchmodat(directory, made, PRIVATE, FchmodatFlags::FollowSymlink)
            .map_err(|error| ControlError::io("set the mode of", &self.path, error))?;
        let file = fstatat(directory, made, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|error| ControlError::io("look at", &self.path, error))?;
        while !self.link(directory, made)? {
            self.clear(directory)?;
        }
        Ok(Bound { listener, path: self.path.clone(), file: identity(&file) })
    }

    /// Whether the place was free and has been taken.
    fn link(&self, directory: &OwnedFd, made: &str) -> Result<bool, ControlError> {
        match linkat(directory, made, directory, self.name(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(error) => Err(ControlError::io("make the control socket", &self.path, error)),
        }
    }

    /// Removes a socket that nobody serves. The lock lets one do so at a time: another that has
    /// seen the same stale socket would remove the live one that took its place.
    fn clear(&self, directory: &OwnedFd) -> Result<(), ControlError> {
        if let Found::Live = self.look(directory)? {
            return Err(ControlError::InUse(self.path.clone()));
        }
        let name = format!(".{}.lock", self.name().display());
        let _lock = self.lock(directory, &name)?;
        let cleared = match self.look(directory)? {
            Found::Live => Err(ControlError::InUse(self.path.clone())),
            Found::Nothing => Ok(()),
            Found::Stale => remove(directory, self.name())
                .map_err(|error| ControlError::io("remove the stale", &self.path, error)),
        };
        let _ = remove(directory, name.as_str());
        cleared
    }

    /// A lock that its holder's end gives back, however that comes. It is held for moments only,
    /// so whoever has it is starting this very sandbox.
    fn lock(&self, directory: &OwnedFd, name: &str) -> Result<Flock<File>, ControlError> {
        let cannot = |error: Errno| ControlError::io("lock", &self.path, error);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let file = File::from(openat(directory, name, flags, PRIVATE).map_err(cannot)?);
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Err(ControlError::InUse(self.path.clone())),
                Err((_, error)) => return Err(cannot(error)),
            };
            // Its last holder may have removed it in between.
            let ours = fstat(&*lock).map_err(cannot)?;
            match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(there) if identity(&there) == identity(&ours) => return Ok(lock),
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(cannot(error)),
            }
        }
    }

    fn look(&self, directory: &OwnedFd) -> Result<Found, ControlError> {
        match fstatat(directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFSOCK => {}
            Ok(_) => {
                let path = self.path.clone();
                return Err(ControlError::WrongKind { path, wanted: "a socket" });
            }
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(ControlError::io("look at", &self.path, error)),
        }
        match stream::dial(&self.path, None) {
            Ok(_) => Ok(Found::Live),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
                io::ErrorKind::NotFound => Ok(Found::Nothing),
                // Somebody has it who does not take connections just now.
                io::ErrorKind::WouldBlock => Ok(Found::Live),
                _ => Err(ControlError::io("find out who serves", &self.path, error)),
            },
        }
    }

    /// A listening socket, under a name that no sandbox can have.
    fn listen(&self, directory: &OwnedFd) -> Result<(UnixListener, String), ControlError> {
        let parent = self.parent();
        let pid = std::process::id();
        let mut tries = 0..TRIES;
        loop {
            let name = format!(".{pid:x}-{:x}", tries.next().unwrap_or(TRIES));
            match stream::bind(directory, parent, OsStr::new(&name)) {
                Ok(listener) => return Ok((listener, name)),
                // Left behind by a process that had our pid.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !tries.is_empty() => {}
                Err(error) => {
                    return Err(ControlError::io("make the control socket", &self.path, error));
                }
            }
        }
    }

    /// Opens the socket's directory from the top, and makes what is missing.
    fn directory(&self) -> Result<OwnedFd, ControlError> {
        let path = self.parent();
        let runtime_dir = path.parent().unwrap_or(path);
        let config_file = path.file_name().unwrap_or_default();
        let cannot =
            |error: io::Error| ControlError::io("use the runtime directory", runtime_dir, error);
        DirBuilder::new().recursive(true).mode(0o700).create(runtime_dir).map_err(cannot)?;
        let parent =
            open(runtime_dir, DIRECTORY, Mode::empty()).map_err(|error| cannot(error.into()))?;
        let cannot = |error: Errno| ControlError::io("use the directory", path, error);
        match mkdirat(&parent, config_file, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(cannot(error)),
        }
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        match openat(&parent, config_file, flags, Mode::empty()) {
            Ok(directory) => {
                guard(&directory, path)?;
                Ok(directory)
            }
            // A symbolic link is ENOTDIR, ELOOP or EMLINK, as the system likes.
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {
                Err(ControlError::WrongKind { path: path.to_owned(), wanted: "a directory" })
            }
            Err(error) => Err(cannot(error)),
        }
    }
}

impl Bound {
    /// Removes the socket, if it is still the one in its place. Nobody can have taken that for
    /// stale: it listens still.
    pub(super) fn leave(&self) {
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let Ok(directory) = open(parent, flags, Mode::empty()) else { return };
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

/// Sees to it that nobody else can put a socket of theirs in the place of ours.
fn guard(directory: &OwnedFd, path: &Path) -> Result<(), ControlError> {
    let stat = fstat(directory).map_err(|error| ControlError::io("look at", path, error))?;
    let us = geteuid();
    if stat.st_uid != us.as_raw() && stat.st_uid != 0 && !us.is_root() {
        return Err(ControlError::Owner { path: path.to_owned(), owner: stat.st_uid });
    }
    if stat.st_uid == us.as_raw() && Mode::from_bits_truncate(stat.st_mode) != Mode::S_IRWXU {
        fchmod(directory, Mode::S_IRWXU)
            .map_err(|error| ControlError::io("set the mode of", path, error))?;
    }
    Ok(())
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
