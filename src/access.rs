//! Which other users can put files of theirs into a directory of ours.
//!
//! Write permission on a directory is the permission to remove and to rename what is in it, also
//! files of other owners. The sticky bit protects files that exist; a free name can still be taken.

use std::fmt;

use nix::sys::stat::{FileStat, Mode};
use nix::unistd::geteuid;

/// Users other than us and root that can write into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Its owner.
    Owner(u32),
    /// The members of its group.
    Group(u32),
    /// Every user.
    All,
}

impl Writers {
    /// `None` where only we and root can write. What root's group may do, root may do.
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

    /// What to do about it, where the permissions are ours to change.
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
