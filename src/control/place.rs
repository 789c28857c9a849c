//! Where a control socket lies.
//!
//! Below the runtime directory no symbolic link is followed.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::geteuid;

use super::ControlError;
use crate::socket::{self, Bound, PlaceError};

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The place of one socket.
#[derive(Debug)]
pub(super) struct Place {
    /// `<runtime dir>/<config file>/<name>.sock`, and nothing beside it: a host has a thousand.
    path: PathBuf,
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
        match socket::path_limit() {
            Some(limit) if path.as_os_str().len() > limit => {
                Err(ControlError::PathTooLong { path, limit })
            }
            _ => Ok(Self { path }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, `<runtime dir>/<config file>`.
    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Listens there.
    pub(super) fn bind(&self) -> Result<Bound, ControlError> {
        Bound::at(&self.path, &self.directory()?).map_err(|error| match error {
            PlaceError::InUse => ControlError::InUse(self.path.clone()),
            PlaceError::NoSocket => {
                ControlError::WrongKind { path: self.path.clone(), wanted: "a socket" }
            }
            PlaceError::Io { what, source } => ControlError::io(what, &self.path, source),
        })
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
