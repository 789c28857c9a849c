//! The path and the directory of a control socket.
//!
//! Below the runtime directory no symbolic link is followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};

use super::ControlError;
use crate::access::{DIRECTORY, Writers, make_directories, make_directory};
use crate::socket::{self, Bound, PlaceError};

/// The path of one control socket.
#[derive(Debug)]
pub(super) struct SocketPath {
    /// `<runtime dir>/<config file>/<name>.sock`. Directory and name are derived from it: a host
    /// may have a thousand sockets.
    path: PathBuf,
}

impl SocketPath {
    pub(super) fn new(
        runtime_dir: &Path,
        config_file: &str,
        name: &str,
    ) -> Result<Self, ControlError> {
        // Absolute, because a host may change its working directory.
        let runtime_dir = std::path::absolute(runtime_dir)
            .map_err(|error| ControlError::io("find the runtime directory", runtime_dir, error))?;
        Self::within_limit(runtime_dir.join(config_file).join(format!("{name}.sock")))
    }

    /// A socket at this path.
    #[cfg(all(feature = "host", feature = "codec"))]
    pub(super) fn at(path: &Path) -> Result<Self, ControlError> {
        let path = std::path::absolute(path)
            .map_err(|error| ControlError::io("find the control socket", path, error))?;
        Self::within_limit(path)
    }

    fn within_limit(path: PathBuf) -> Result<Self, ControlError> {
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

    /// The directory `<runtime dir>/<config file>`.
    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Listens on the socket.
    pub(super) fn bind(&self) -> Result<Bound, ControlError> {
        Bound::at(&self.path, &self.directory()?).map_err(|error| match error {
            PlaceError::InUse => ControlError::InUse(self.path.clone()),
            PlaceError::NoSocket => {
                ControlError::WrongKind { path: self.path.clone(), wanted: "a socket" }
            }
            PlaceError::Io { what, source } => ControlError::io(what, &self.path, source),
        })
    }

    /// Opens the socket's directory and creates missing directories.
    fn directory(&self) -> Result<OwnedFd, ControlError> {
        let path = self.parent();
        open_directory(path.parent().unwrap_or(path), path.file_name().unwrap_or_default())
    }
}

/// Opens the directory of control sockets, `<runtime dir>/<config file>`. Missing directories are
/// created with mode 0700; the mode of existing ones is not changed.
///
/// # Errors
///
/// [`ControlError::Writable`] if another user could create or replace files in it,
/// [`ControlError::WrongKind`] if it is not a directory (symbolic links are not followed),
/// [`ControlError::Io`] if a system call failed.
pub fn runtime_directory(runtime_dir: &Path, config_file: &str) -> Result<OwnedFd, ControlError> {
    if !is_component(config_file) {
        let path = runtime_dir.join(config_file);
        return Err(ControlError::WrongKind { path, wanted: "in the runtime directory" });
    }
    open_directory(runtime_dir, OsStr::new(config_file))
}

/// Whether this is a single path component.
fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

fn open_directory(runtime_dir: &Path, config_file: &OsStr) -> Result<OwnedFd, ControlError> {
    let path = runtime_dir.join(config_file);
    let cannot =
        |error: io::Error| ControlError::io("use the runtime directory", runtime_dir, error);
    make_directories(runtime_dir).map_err(cannot)?;
    let parent =
        open(runtime_dir, DIRECTORY, Mode::empty()).map_err(|error| cannot(error.into()))?;
    let cannot = |error: Errno| ControlError::io("use the directory", &path, error);
    make_directory(&parent, config_file).map_err(cannot)?;
    let flags = DIRECTORY | OFlag::O_NOFOLLOW;
    match openat(&parent, config_file, flags, Mode::empty()) {
        Ok(directory) => {
            check_writers(&directory, &path)?;
            Ok(directory)
        }
        // A symbolic link is ENOTDIR, ELOOP or EMLINK, depending on the system.
        Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EMLINK) => {
            Err(ControlError::WrongKind { path, wanted: "a directory" })
        }
        Err(error) => Err(cannot(error)),
    }
}

/// Refuses a directory in which another user could replace the socket.
fn check_writers(directory: &OwnedFd, path: &Path) -> Result<(), ControlError> {
    let stat = fstat(directory).map_err(|error| ControlError::io("look at", path, error))?;
    match Writers::of(&stat) {
        None => Ok(()),
        Some(writers) => Err(ControlError::Writable {
            path: path.to_owned(),
            who: writers.to_string(),
            remedy: writers.remedy(),
        }),
    }
}
