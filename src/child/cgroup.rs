//! Errors of moving a child into a cgroup.

use std::io;
use std::path::{Path, PathBuf};

use super::error::reason;

/// The error of a cgroup that can't be used for a child. No process was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The directory is not a cgroup v2.
    #[error("{} is not a cgroup v2: give a directory below a mounted one, such as /sys/fs/cgroup/NAME", .path.display())]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// The directory can't be created.
    #[error("can't create the cgroup {}: {}; delegate its parent to this user, or create it first", .path.display(), reason(.source))]
    Create {
        /// The directory.
        path: PathBuf,
        /// The error of mkdir(2).
        source: io::Error,
    },
    /// It has processes, which would be ended with the child.
    #[error("the cgroup {} has processes already: give each sandbox one of its own", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is the root of a hierarchy.
    #[error("the cgroup {} is a root, which can't belong to a child: give a directory below it", .path.display())]
    Root {
        /// The directory.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("can't use the cgroup {}: {}", .path.display(), reason(.source))]
    System {
        /// The directory.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

impl CgroupError {
    pub(super) fn new(directory: &Path, source: io::Error) -> Self {
        Self::System { path: directory.to_owned(), source }
    }
}
