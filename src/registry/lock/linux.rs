//! Locks of open file descriptions (fcntl(2), `F_OFD_SETLK`): closing another descriptor of the file
//! does not release them, unlike other locks of fcntl(2), and one file has room for all processes,
//! unlike flock(2).

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::statfs;

/// File systems that one machine mounts at a time: ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS,
/// ZFS, bcachefs, ramfs (statfs(2)).
const LOCAL: [u32; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x8584_58f6,
];

/// Locks one byte; `false` if another process has it.
pub(super) fn lock(file: &File, offset: u64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, offset)?)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether another open file description has locked this byte.
pub(super) fn is_locked(file: &File, offset: u64) -> io::Result<bool> {
    // A lock for reading: the file may be open for nothing else.
    let mut range = range(libc::F_RDLCK, offset)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut range))?;
    Ok(i32::from(range.l_type) != libc::F_UNLCK)
}

fn range(kind: i32, offset: u64) -> io::Result<libc::flock> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    Ok(libc::flock {
        l_type: i16::try_from(kind).map_err(invalid)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(invalid)?,
        l_start: libc::off_t::try_from(offset).map_err(invalid)?,
        l_len: 1,
        l_pid: 0,
    })
}

/// Whether no other machine can use the file system of this directory.
pub(in crate::registry) fn is_local(directory: &Path) -> bool {
    let found = directory.ancestors().find_map(|path| statfs(path).ok());
    let kind = found.and_then(|found| u32::try_from(found.filesystem_type().0).ok());
    kind.is_some_and(|kind| LOCAL.contains(&kind))
}
