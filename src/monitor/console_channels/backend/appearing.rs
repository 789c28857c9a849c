//! A PTY that the child makes, at a path that appears.
//!
//! A stale link of a VMM that was killed may lead to a PTY of another process with the same number.
//! So the path is checked before it is opened, and the holder of the master before the PTY is read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
use nix::sys::termios::tcgetsid;
use nix::unistd::isatty;

use super::two_way;
use crate::child;
use crate::monitor::channel::backend::Opened;
use crate::relay::Kind;

/// The descriptors, if the PTY is there and the child's.
pub(super) fn find(path: &Path, child: u32) -> io::Result<Option<Opened>> {
    let Some(terminal) = open_terminal(path, child)? else { return Ok(None) };
    // Else the terminal would echo what the child writes.
    child::make_raw(terminal.as_fd())?;
    two_way(terminal, Kind::Terminal).map(Some)
}

/// Opens it, if it is there and the child's.
fn open_terminal(path: &Path, child: u32) -> io::Result<Option<OwnedFd>> {
    let found = match stat(path) {
        Ok(found) => found,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !is_device(&found) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no PTY"));
    }
    if !platform::is_of(&found, child)? {
        return Ok(None);
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let terminal = match open(path, flags, Mode::empty()) {
        Ok(terminal) => terminal,
        // EIO: its master is closed already.
        Err(Errno::ENOENT | Errno::EIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let opened = fstat(&terminal)?;
    // Our own controlling terminal belongs to the user.
    let is_ours = tcgetsid(&terminal).is_ok();
    let same = opened.st_rdev == found.st_rdev && is_device(&opened);
    if !same || is_ours || !isatty(&terminal)? || !platform::is_of(&opened, child)? {
        return Ok(None);
    }
    Ok(Some(terminal))
}

fn is_device(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use std::io;

    use nix::sys::stat::{FileStat, major, minor};
    use nix::unistd::geteuid;

    use crate::process::masters;

    /// The first major number of Unix98 PTYs' slaves and how many there are (devices.txt).
    const SLAVES: std::ops::Range<u64> = 136..144;

    /// Whether the child, or a process below it, holds the master of this PTY. If that can't be
    /// found out, whether the PTY belongs to our own user.
    pub(super) fn is_of(stat: &FileStat, child: u32) -> io::Result<bool> {
        if !SLAVES.contains(&major(stat.st_rdev)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no PTY"));
        }
        let number = (major(stat.st_rdev) - SLAVES.start) * 256 + minor(stat.st_rdev);
        let number = u32::try_from(number).map_err(io::Error::other)?;
        Ok(match masters::are_below(child, number) {
            Ok(Some(known)) => known,
            Ok(None) | Err(_) => stat.st_uid == geteuid().as_raw() || geteuid().is_root(),
        })
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod platform {
    use std::io;

    use nix::sys::stat::FileStat;
    use nix::unistd::geteuid;

    /// Whether this PTY belongs to our own user; the holder of its master can't be found out.
    pub(super) fn is_of(stat: &FileStat, _: u32) -> io::Result<bool> {
        Ok(stat.st_uid == geteuid().as_raw())
    }
}
