//! How a directory of vmon's is opened, and which other users can write into it.
//!
//! Write permission on a directory is permission to remove and to rename the files in it, also
//! those of other owners. The sticky bit protects existing files, but not free names.

use std::fmt;

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::geteuid;

/// Mode bits that let the group or any user write.
const OTHERS_WRITE: u32 = 0o022;

/// Whether users other than the owner may write to a file of this mode.
///
/// No group is an exception. [`Writers`] excepts root's for the directories of logs and sockets,
/// since system directories and container images give theirs to it. A record can have processes
/// killed, so it excepts none: on the BSDs and macOS that group has members who are not root.
#[cfg_attr(not(feature = "registry"), allow(dead_code))]
pub(crate) fn is_shared(mode: u32) -> bool {
    mode & OTHERS_WRITE != 0
}

/// The open(2) flags of a directory. Below a directory that a user names, `O_NOFOLLOW` is added.
pub(crate) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Users that can write into a directory, other than root and the user of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// The owner of the directory.
    Owner(u32),
    /// The members of the directory's group.
    Group(u32),
    /// Every user.
    All,
}

impl Writers {
    /// `None` if only root and this user can write. Root's group counts as root.
    pub(crate) fn of(directory: &FileStat) -> Option<Self> {
        let mode = Mode::from_bits_truncate(directory.st_mode);
        let owner = directory.st_uid;
        if owner != 0 && owner != geteuid().as_raw() {
            Some(Self::Owner(owner))
        } else if mode.contains(Mode::S_IWOTH) {
            Some(Self::All)
        } else if mode.contains(Mode::S_IWGRP) && directory.st_gid != 0 {
            Some(Self::Group(directory.st_gid))
        } else {
            None
        }
    }

    /// A remedy for an error message, empty if this user can't change the permissions.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Owner(_) => "",
            Self::Group(_) | Self::All => "run 'chmod go-w' on it, or ",
        }
    }
}

impl fmt::Display for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(uid) => write!(f, "its owner, uid {uid},"),
            Self::Group(gid) => write!(f, "its group, gid {gid},"),
            Self::All => f.write_str("every user"),
        }
    }
}
