//! How a directory of vmon's is made and opened, and which other users can write into it.
//!
//! Write permission on a directory is permission to remove and to rename the files in it, also
//! those of other owners. The sticky bit protects existing files, but not free names.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstatat, mkdirat};
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

/// The mode of a socket or a FIFO. On Linux the sticky bit keeps systemd-tmpfiles(8), and others that
/// follow the XDG Base Directory Specification, from removing it as an old file. A lock on its
/// directory would do too (tmpfiles.d(5)), but would take a descriptor for each sandbox and lock a
/// directory that other programs use. Elsewhere only root may set the bit.
#[cfg_attr(not(any(feature = "consoles", feature = "control")), allow(dead_code))]
pub(crate) const PRIVATE_NODE: Mode = match cfg!(any(target_os = "linux", target_os = "android")) {
    true => Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_ISVTX),
    false => Mode::S_IRUSR.union(Mode::S_IWUSR),
};

/// Gives the owner back what the umask has taken from a file that was created with mode 0600.
pub(crate) fn make_private(file: &impl AsFd) -> nix::Result<()> {
    fchmod(file, Mode::S_IRUSR.union(Mode::S_IWUSR))
}

/// Whether the umask has taken rights from the owner of a file of this mode.
pub(crate) fn lacks_rights(created: &FileStat) -> bool {
    !Mode::from_bits_truncate(created.st_mode).contains(Mode::S_IRUSR | Mode::S_IWUSR)
}

/// The open(2) flags of a directory. Below a directory that a user names, `O_NOFOLLOW` is added.
pub(crate) const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Creates the directory at `path` and its missing parents, as [`make_directory`] does.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    match make_directory(&AT_FDCWD, path) {
        Ok(_) if path.is_dir() => Ok(()),
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(Errno::ENOENT) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                make_directories(parent)?;
                Ok(make_directory(&AT_FDCWD, path).map(drop)?)
            }
            _ => Err(Errno::ENOENT.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Creates a directory with mode 0700, also where the umask takes rights from the owner or a
/// default ACL gives some to others (umask(2), acl(5)). Does nothing if the name is taken, by
/// whatever.
pub(crate) fn make_directory<P: NixPath + ?Sized>(parent: &impl AsFd, name: &P) -> nix::Result<()> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let made = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if Mode::from_bits_truncate(made.st_mode) != Mode::S_IRWXU && made.st_uid == geteuid().as_raw()
    {
        fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

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
