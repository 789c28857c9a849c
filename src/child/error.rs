//! Why a child could not be started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// The error of a command that could not be started. No process of it exists.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The program was not found: exit code 127 in shells.
    #[error("{}: command not found", .program.display())]
    NotFound {
        /// The program as it was given.
        program: OsString,
        /// The error of execve(2).
        source: io::Error,
    },
    /// The program can't be executed: exit code 126 in shells.
    #[error("{}: can't be executed: {}", .program.display(), exec_reason(.source))]
    NotExecutable {
        /// The program as it was given.
        program: OsString,
        /// The error of execve(2). `ENOENT` means that the program's interpreter does not exist.
        source: io::Error,
    },
    /// The working directory does not exist or can't be entered.
    #[error("can't enter the working directory {}: {}", .path.display(), reason(.source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The child can't be moved into its cgroup.
    #[error("can't put it into the cgroup {}: {}", .path.display(), reason(.source))]
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A process, pipe or PTY can't be created.
    #[error("can't start {}: {}", .program.display(), reason(.source))]
    System {
        /// The program as it was given.
        program: OsString,
        /// The error of the system call.
        source: io::Error,
    },
}

impl SpawnError {
    /// 127 if the program was not found, 126 if it can't be executed, else 125.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Directory { .. } | Self::Cgroup { .. } | Self::System { .. } => 125,
        }
    }
}

/// The step at which a spawn failed. No child is left.
pub(super) enum SpawnFailure {
    /// Creating a pipe, a PTY or a process.
    System(io::Error),
    /// Entering the cgroup of this directory.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Cgroup(PathBuf, io::Error),
    /// Entering the working directory.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Directory(io::Error),
    /// Executing the program. On platforms where std spawns, any step in the child.
    Execute(io::Error),
}

impl From<io::Error> for SpawnFailure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for SpawnFailure {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// The system's error message, without the error number that Rust appends.
pub(super) fn reason(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned())
}

/// Why a program that exists can't be executed.
pub(super) fn exec_reason(error: &io::Error) -> String {
    match error.kind() {
        // The missing file is its interpreter.
        io::ErrorKind::NotFound => "its interpreter does not exist".to_owned(),
        _ => reason(error),
    }
}
