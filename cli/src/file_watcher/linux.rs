//! With inotify(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::statfs::Statfs;

use super::{Target, existing};

#[derive(Debug)]
pub struct FileWatcher {
    inotify: Inotify,
    /// inotify(7) has one watch descriptor for each file, however often it is added.
    watched: Vec<WatchDescriptor>,
}

impl FileWatcher {
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, watched: Vec::new() })
    }

    pub fn watch(&mut self, targets: &[Target<'_>]) -> io::Result<bool> {
        let mut now = Vec::with_capacity(targets.len());
        for target in targets {
            match self.inotify.add_watch(&path(target), flags(target)) {
                Ok(watch) => now.push(watch),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for watch in self.watched.iter().filter(|watch| !now.contains(watch)) {
            // Fails if the file was removed, which removed the watch.
            let _ = self.inotify.rm_watch(*watch);
        }
        let is_new = now.iter().any(|watch| !self.watched.contains(watch));
        self.watched = now;
        Ok(is_new)
    }

    pub fn clear(&self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for FileWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn path(target: &Target<'_>) -> PathBuf {
    match target {
        Target::Directory(path) => existing(path).to_owned(),
        Target::Named(path) | Target::Written(path) => path.to_path_buf(),
        Target::Open(fd) | Target::Held(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
    }
}

fn flags(target: &Target<'_>) -> AddWatchFlags {
    let moved = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
    match target {
        Target::Directory(_) => {
            moved
                | AddWatchFlags::IN_ONLYDIR
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_MOVED_TO
        }
        // Removing one of a file's names changes its attributes (link count).
        Target::Open(_) => moved | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB,
        Target::Named(_) => {
            moved
                | AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_DONT_FOLLOW
        }
        Target::Written(_) => moved | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DONT_FOLLOW,
        Target::Held(_) => {
            AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_CLOSE_NOWRITE
        }
    }
}

/// The magic numbers of statfs(2): NFS, SMB, CIFS, SMB2, 9P, FUSE (virtiofs too), AFS, Ceph, GFS2, OCFS2
/// and Lustre.
const REMOTE: [u32; 11] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x6573_5546,
    0x5346_414f,
    0x00c3_6400,
    0x0116_1970,
    0x7461_636f,
    0x0bd0_0bd0,
];

pub fn is_remote(found: &Statfs) -> bool {
    u32::try_from(found.filesystem_type().0).is_ok_and(|magic| REMOTE.contains(&magic))
}
