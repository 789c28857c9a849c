//! A rename that never replaces another file. The logs' only difference between platforms.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;

/// Renames within a directory; `EEXIST` if the new name is taken.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn rename_exclusive(
    directory: BorrowedFd<'_>,
    from: &str,
    to: &str,
) -> Result<(), Errno> {
    use nix::fcntl::{RenameFlags, renameat2};
    match renameat2(directory, from, directory, to, RenameFlags::RENAME_NOREPLACE) {
        // Some file systems lack the flag (rename(2): EINVAL), and some kernels the system call.
        Err(Errno::EINVAL | Errno::ENOSYS) => check_and_rename(directory, from, to),
        renamed => renamed,
    }
}

/// Renames within a directory; `EEXIST` if the new name is taken.
///
/// macOS's renameatx_np has no safe wrapper, FreeBSD has no such call, and nix wraps Linux's only
/// for glibc.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn rename_exclusive(
    directory: BorrowedFd<'_>,
    from: &str,
    to: &str,
) -> Result<(), Errno> {
    check_and_rename(directory, from, to)
}

/// Replaces a file that is created between the two calls. link(2) and unlink(2) would not, but a
/// crash between those leaves the log with two names, both of which would be written to.
fn check_and_rename(directory: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    match fstatat(directory, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => renameat(directory, from, directory, to),
        Err(error) => Err(error),
        Ok(_) => Err(Errno::EEXIST),
    }
}
