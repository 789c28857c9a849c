//! Why a child could not be started.

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::errno::Errno;

use super::limits::{Resource, ResourceLimit};

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
    /// A descriptor can't be passed to the child under its number.
    #[error("can't pass descriptor {number} to the command: {}", reason(.source))]
    Descriptor {
        /// The number in the child.
        number: RawFd,
        /// The error of the system call. Without an errno: the number is that of a standard stream, or
        /// the descriptor is missing.
        source: io::Error,
    },
    /// The child's user id can't be set.
    #[error("can't set the user id {uid} for the command: {}", id_reason(.source))]
    User {
        /// The user id.
        uid: u32,
        /// The error of setresuid(2).
        source: io::Error,
    },
    /// The child's group id can't be set.
    #[error("can't set the group id {gid} for the command: {}", id_reason(.source))]
    Group {
        /// The group id.
        gid: u32,
        /// The error of setresgid(2).
        source: io::Error,
    },
    /// The child's supplementary groups can't be set.
    #[error("can't {} the command: {}", groups_of(.groups), id_reason(.source))]
    Groups {
        /// The group ids; empty also if another user's child was to have none.
        groups: Vec<u32>,
        /// The error of setgroups(2).
        source: io::Error,
    },
    /// A resource limit can't be set.
    #[error("can't set the limit {resource}={limit} for the command: {}", reason(.source))]
    Limit {
        /// The resource.
        resource: Resource,
        /// The limit.
        limit: ResourceLimit,
        /// The error of setrlimit(2).
        source: io::Error,
    },
    /// The child's `oom_score_adj` can't be set.
    #[error("can't set oom_score_adj {score} for the command: {}", reason(.source))]
    OomScore {
        /// The value.
        score: i16,
        /// The error of opening or writing `/proc/self/oom_score_adj`, or
        /// [`Unsupported`](io::ErrorKind::Unsupported).
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
            Self::Directory { .. }
            | Self::Cgroup { .. }
            | Self::Descriptor { .. }
            | Self::User { .. }
            | Self::Group { .. }
            | Self::Groups { .. }
            | Self::Limit { .. }
            | Self::OomScore { .. }
            | Self::System { .. } => 125,
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
    /// Passing the descriptor of this number.
    Descriptor(RawFd, io::Error),
    /// Setting `oom_score_adj`.
    OomScore(io::Error),
    /// Setting the limit of this resource.
    Limit(Resource, io::Error),
    /// Setting the supplementary groups.
    Groups(io::Error),
    /// Setting the group id.
    Group(io::Error),
    /// Setting the user id.
    User(io::Error),
    /// Executing the program. On platforms where std spawns, any other step in the child.
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

/// Why an id can't be set, and who may set it.
fn id_reason(error: &io::Error) -> String {
    let who = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => {
            "; start it as root, or with CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_CHOWN"
        }
        Some(Errno::EINVAL) => "; give an id that this user namespace has",
        _ => "",
    };
    reason(error) + who
}

fn groups_of(groups: &[u32]) -> String {
    let ids: Vec<String> = groups.iter().map(u32::to_string).collect();
    match ids.is_empty() {
        true => "remove the supplementary groups for".to_owned(),
        false => format!("set the supplementary groups {} for", ids.join(",")),
    }
}
