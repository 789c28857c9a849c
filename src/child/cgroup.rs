//! Errors of moving a child into a cgroup.

use std::io;
use std::path::{Path, PathBuf};

/// The error of a cgroup that can't be used for a child. No process was started.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("{} is not a cgroup v2: give a directory below a mounted one, such as /sys/fs/cgroup/NAME", .0.display())]
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    NotCgroup2(PathBuf),
    #[error("can't create the cgroup {path}: {reason}; delegate its parent to this user, or create it first", path = .0.display(), reason = .1)]
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Make(PathBuf, String),
    #[error("the cgroup {} has processes already: give each sandbox one of its own", .0.display())]
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    InUse(PathBuf),
    #[error("the cgroup {} is a root, which can't belong to a child: give a directory below it", .0.display())]
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Root(PathBuf),
    #[error("can't use the cgroup {path}: {reason}", path = .0.display(), reason = .1)]
    System(PathBuf, String),
}

impl CgroupError {
    pub(super) fn new(directory: &Path, error: &io::Error) -> Self {
        Self::System(directory.to_owned(), super::command::reason(error))
    }
}
