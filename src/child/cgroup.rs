//! Why a cgroup can't be a child's.

use std::io;
use std::path::{Path, PathBuf};

/// Why a child can't be put into a cgroup; nothing has been started then.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("{} is no cgroup v2: give a directory below a mounted one, such as /sys/fs/cgroup/NAME", .0.display())]
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    NotCgroup2(PathBuf),
    #[error("can't make the cgroup {path}: {reason}; have its parent delegated to this user, or have it made", path = .0.display(), reason = .1)]
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
