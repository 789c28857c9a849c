//! The directory of a log, and every file operation in it, through the directory's descriptor.
//!
//! The descriptor is opened for each operation and closed after it: an idle log costs one
//! descriptor, not two, and a new lookup finds a directory that was replaced. No symbolic link
//! below the log directory is followed (`O_NOFOLLOW`, open(2)), neither to a directory nor to a
//! log.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, lstat, stat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use super::LogError;
use super::current::{Current, Identity, size_of};
use super::lock;
use super::names;
use super::rename::rename_exclusive;
use crate::access::{
    DIRECTORY, Writers, lacks_rights, make_directories, make_directory, make_private,
};

/// `NAME_MAX` of common file systems.
const LONGEST_NAME: usize = 255;

/// `O_NONBLOCK` and `O_NOCTTY` guard against a FIFO or a terminal that replaces the file between
/// stat(2) and open(2). They have no effect on a regular file.
const FILE_FLAGS: OFlag =
    OFlag::O_CLOEXEC.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

const LOG_FLAGS: OFlag =
    FILE_FLAGS.union(OFlag::O_WRONLY).union(OFlag::O_APPEND).union(OFlag::O_CREAT);

const OWNER_ONLY: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The path of a log, by its parts.
#[derive(Debug)]
pub(super) struct LogPath {
    log_dir: PathBuf,
    config_file: String,
    log_name: String,
    path: PathBuf,
}

impl LogPath {
    pub(super) fn new(log_dir: &Path, config_file: &str, name: &str) -> Result<Self, LogError> {
        check_name("a config file", config_file, LONGEST_NAME)?;
        check_name("a log", name, LONGEST_NAME - names::LOG.len() - names::LONGEST_SUFFIX.len())?;
        // Absolute, because a host may change its working directory.
        let log_dir = std::path::absolute(log_dir)
            .map_err(|error| LogError::io("find the log directory", log_dir, error))?;
        let log_name = names::log(name);
        let path = log_dir.join(config_file).join(&log_name);
        Ok(Self { log_dir, config_file: config_file.to_owned(), log_name, path })
    }

    pub(super) fn log_name(&self) -> &str {
        &self.log_name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the log's directory, and creates missing directories.
    pub(super) fn directory(&self) -> Result<Directory, LogError> {
        let parent = open_or_create(
            || open(&self.log_dir, DIRECTORY, Mode::empty()),
            || make_directories(&self.log_dir),
        )
        .map_err(|error| LogError::io("use the log directory", &self.log_dir, error))?;

        let path = self.log_dir.join(&self.config_file);
        let name = self.config_file.as_str();
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        let opened = open_or_create(
            || openat(&parent, name, flags, Mode::empty()),
            || Ok(make_directory(&parent, name)?),
        );
        opened
            .map(|fd| Directory { fd, path: path.clone() })
            .map_err(|error| refused(&parent, name, path, error))
    }

    /// The log directory or the config's directory in it, if another user can write into it, and so
    /// remove and replace logs there.
    pub(super) fn foreign_writers(&self) -> Option<(PathBuf, Writers)> {
        let log_dir = (self.log_dir.clone(), stat(&self.log_dir));
        let own = self.log_dir.join(&self.config_file);
        let own_stat = lstat(&own);
        // A failed stat(2) is reported when the log is opened.
        let mut found = [log_dir, (own, own_stat)].into_iter();
        found.find_map(|(path, stat)| Some((path, Writers::of(&stat.ok()?)?)))
    }

    /// Opens the log's directory; `None` if it does not exist. Nothing is created.
    pub(super) fn existing(&self) -> Result<Option<Directory>, LogError> {
        let parent = match open(&self.log_dir, DIRECTORY, Mode::empty()) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(LogError::io("use the log directory", &self.log_dir, error)),
        };
        let path = self.log_dir.join(&self.config_file);
        let name = self.config_file.as_str();
        match openat(&parent, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Directory { fd, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(refused(&parent, name, path, error.into())),
        }
    }
}

/// The error for a config's directory that can't be opened.
fn refused(parent: &OwnedFd, name: &str, path: PathBuf, error: io::Error) -> LogError {
    // For a symbolic link, the errno depends on the system: ENOTDIR, ELOOP or EMLINK.
    if let Ok(Some(stat)) = stat_at(parent, name)
        && let Err(error) = require(SFlag::S_IFDIR, &stat, &path)
    {
        return error;
    }
    LogError::io("use the log directory", path, error)
}

/// An open directory of logs.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn identity(&self) -> Result<Identity, LogError> {
        match fstat(&self.fd) {
            Ok(stat) => Ok(Identity::of(&stat)),
            Err(error) => Err(LogError::io("look at", &self.path, error)),
        }
    }

    /// The status of the file of this name, of a symbolic link itself.
    pub(super) fn stat(&self, name: &str) -> Result<Option<FileStat>, LogError> {
        stat_at(&self.fd, name)
            .map_err(|error| LogError::io("look at", self.path.join(name), error))
    }

    /// Opens and locks the log, and creates it if it is missing.
    pub(super) fn open_log(&self, name: &str) -> Result<Current, LogError> {
        let path = self.path.join(name);
        // Checked before open(2), which has side effects on a device and on a FIFO with a waiting
        // reader, and after it, for a file that was put there in between.
        let before = self.stat(name)?;
        if let Some(stat) = &before {
            require(SFlag::S_IFREG, stat, &path)?;
        }
        let fd = openat(&self.fd, name, LOG_FLAGS, OWNER_ONLY)
            .map_err(|error| LogError::io("open the log", &path, error))?;
        let stat = fstat(&fd).map_err(|error| LogError::io("look at", &path, error))?;
        require(SFlag::S_IFREG, &stat, &path)?;
        if before.is_none() && lacks_rights(&stat) {
            make_private(&fd).map_err(|error| LogError::io("set the mode of", &path, error))?;
        }
        let file = File::from(fd);
        let hold = lock::hold(&file, &path);
        Ok(Current::new(file, &stat, hold))
    }

    /// Opens a time index, and returns its identity and size; `None` if there is none.
    pub(super) fn open_index(&self, name: &str) -> Result<Option<(File, Identity, u64)>, LogError> {
        let path = self.path.join(name);
        let fd = match openat(&self.fd, name, FILE_FLAGS | OFlag::O_RDWR, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => {
                // The errno depends on the file type, so the type is reported instead.
                if let Some(stat) = self.stat(name)? {
                    require(SFlag::S_IFREG, &stat, &path)?;
                }
                return Err(LogError::io("open the time index", path, error));
            }
        };
        let stat = fstat(&fd).map_err(|error| LogError::io("look at", &path, error))?;
        require(SFlag::S_IFREG, &stat, &path)?;
        Ok(Some((File::from(fd), Identity::of(&stat), size_of(&stat))))
    }

    /// Creates a time index, which must not exist.
    pub(super) fn create_index(&self, name: &str) -> Result<(File, Identity), LogError> {
        let cannot = |error| LogError::io("make the time index", self.path.join(name), error);
        let flags = FILE_FLAGS | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let fd = openat(&self.fd, name, flags, OWNER_ONLY).map_err(cannot)?;
        let stat = fstat(&fd).map_err(cannot)?;
        if lacks_rights(&stat) {
            make_private(&fd).map_err(cannot)?;
        }
        Ok((File::from(fd), Identity::of(&stat)))
    }

    /// The identity of the file of this name.
    pub(super) fn identity_of(&self, name: &str) -> Result<Option<Identity>, LogError> {
        Ok(self.stat(name)?.as_ref().map(Identity::of))
    }

    /// Opens a log or a generation for reading, and returns its size; `None` if there is no regular
    /// file of that name.
    pub(super) fn open_to_read(&self, name: &str) -> Result<Option<(File, u64)>, LogError> {
        let cannot = |error: io::Error| LogError::io("read the log", self.path.join(name), error);
        let file = match openat(&self.fd, name, FILE_FLAGS | OFlag::O_RDONLY, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(cannot(error.into())),
        };
        let metadata = file.metadata().map_err(cannot)?;
        Ok(metadata.is_file().then_some((file, metadata.len())))
    }

    /// Reads a small file; `None` if there is no regular file of that name.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, LogError> {
        let Some((file, _)) = self.open_to_read(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(|error| LogError::io("read", self.path.join(name), error))?;
        Ok(Some(bytes))
    }

    /// Overwrites a small file with this line. If the process is killed meanwhile, the first line
    /// of the file is the old or the new one. After a crash of the machine it may be torn or
    /// missing.
    pub(super) fn overwrite(&self, name: &str, line: &[u8]) -> Result<(), LogError> {
        let path = self.path.join(name);
        let before = self.stat(name)?;
        if let Some(stat) = &before {
            require(SFlag::S_IFREG, stat, &path)?;
        }
        // Without O_TRUNC, which would leave the file empty for a moment.
        let flags = FILE_FLAGS | OFlag::O_WRONLY | OFlag::O_CREAT;
        let overwrite = |mut file: File| {
            if before.is_none() {
                make_private(&file)?;
            }
            file.write_all(line)?;
            file.set_len(line.len() as u64)
        };
        openat(&self.fd, name, flags, OWNER_ONLY)
            .map_err(io::Error::from)
            .and_then(|fd| overwrite(File::from(fd)))
            .map_err(|error| LogError::io("write", path, error))
    }

    /// Checks that a log can be created, written and rotated here.
    pub(super) fn check(&self, name: &str) -> Result<(), LogError> {
        let enter = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&self.fd, ".", enter, AtFlags::AT_EACCESS)
            .map_err(|error| LogError::io("write into the log directory", &self.path, error))?;
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        let path = self.path.join(name);
        require(SFlag::S_IFREG, &stat, &path)?;
        faccessat(&self.fd, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)
            .map_err(|error| LogError::io("open the log", path, error))
    }

    /// Whether a file of this name exists.
    pub(super) fn is_there(&self, name: &str) -> Result<bool, Errno> {
        stat_at(&self.fd, name).map(|stat| stat.is_some())
    }

    /// Renames a file; `EEXIST` if the new name is taken.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        rename_exclusive(self.fd.as_fd(), from, to)
    }

    /// Removes a regular file, if it exists.
    pub(super) fn remove_regular(&self, name: &str) -> Result<(), LogError> {
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        require(SFlag::S_IFREG, &stat, &self.path.join(name))?;
        self.remove(name)
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&self, name: &str) -> Result<(), LogError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(LogError::io("remove", self.path.join(name), error)),
        }
    }
}

/// Opens a directory, and creates it if it is missing. It usually exists, so open comes first.
fn open_or_create(
    open: impl Fn() -> Result<OwnedFd, Errno>,
    create: impl FnOnce() -> io::Result<()>,
) -> io::Result<OwnedFd> {
    match open() {
        Err(Errno::ENOENT) => {
            create()?;
            Ok(open()?)
        }
        opened => Ok(opened?),
    }
}

fn stat_at(directory: &OwnedFd, name: &str) -> Result<Option<FileStat>, Errno> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn require(wanted: SFlag, stat: &FileStat, path: &Path) -> Result<(), LogError> {
    let found = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if found == wanted {
        return Ok(());
    }
    let path = path.to_owned();
    Err(LogError::WrongKind { path, found: kind(found), wanted: kind(wanted) })
}

fn kind(flag: SFlag) -> &'static str {
    match flag {
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "something unknown",
    }
}

fn check_name(what: &'static str, name: &str, longest: usize) -> Result<(), LogError> {
    let reason = match name {
        "" => "it is empty",
        "." | ".." => "it names a directory",
        _ if name.contains(['/', '\0']) => "it is not one path component",
        _ if name.len() > longest => "it is too long",
        _ => return Ok(()),
    };
    Err(LogError::Name { what, name: name.to_owned(), reason })
}
