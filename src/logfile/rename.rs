//! The rename that never takes the place of another file. The one difference between platforms.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;

/// Renames within a directory; `EEXIST` where the new name is taken.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn rename_exclusive(
    directory: BorrowedFd<'_>,
    from: &str,
    to: &str,
) -> Result<(), Errno> {
    use nix::fcntl::{RenameFlags, renameat2};
    match renameat2(directory, from, directory, to, RenameFlags::RENAME_NOREPLACE) {
        // Not every file system knows the flag (rename(2): EINVAL), nor every kernel the call.
        Err(Errno::EINVAL | Errno::ENOSYS) => look_and_rename(directory, from, to),
        renamed => renamed,
    }
}

/// Renames within a directory; `EEXIST` where the new name is taken.
///
/// macOS's renameatx_np has no safe wrapper, FreeBSD has no such call, and nix has Linux's for
/// glibc alone.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn rename_exclusive(
    directory: BorrowedFd<'_>,
    from: &str,
    to: &str,
) -> Result<(), Errno> {
    look_and_rename(directory, from, to)
}

/// Not safe against a file made between the two calls. link(2) and unlink(2) would be, but a
/// crash between those leaves the log under two names, to be written to under both.
fn look_and_rename(directory: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    match fstatat(directory, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => renameat(directory, from, directory, to),
        Err(error) => Err(error),
        Ok(_) => Err(Errno::EEXIST),
    }
}
