//! With kqueue(2), EVFILT_VNODE.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc::{intptr_t, timespec, uintptr_t};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::statfs::Statfs;

use super::{Target, existing};

/// Number of events read at a time.
const EVENTS: usize = 16;

#[derive(Debug)]
pub struct FileWatcher {
    kqueue: Kqueue,
    /// Duplicated descriptors of the watched files. Closing one removes its filter.
    watched: Vec<(Identity, OwnedFd)>,
}

type Identity = (u64, u64);

impl FileWatcher {
    pub fn new() -> io::Result<Self> {
        Ok(Self { kqueue: Kqueue::new()?, watched: Vec::new() })
    }

    pub fn watch(&mut self, targets: &[Target<'_>]) -> io::Result<bool> {
        let mut now: Vec<(Identity, OwnedFd)> = Vec::with_capacity(targets.len());
        let mut is_new = false;
        for target in targets {
            let Some((identity, fd)) = open(target)? else { continue };
            if now.iter().any(|(watched, _)| *watched == identity) {
                continue;
            }
            match self.watched.iter().position(|(watched, _)| *watched == identity) {
                Some(place) => now.push(self.watched.swap_remove(place)),
                None => {
                    self.add(&fd, target)?;
                    now.push((identity, fd));
                    is_new = true;
                }
            }
        }
        self.watched = now;
        Ok(is_new)
    }

    fn add(&self, fd: &OwnedFd, target: &Target<'_>) -> io::Result<()> {
        let mut what = FilterFlag::NOTE_WRITE
            | FilterFlag::NOTE_EXTEND
            | FilterFlag::NOTE_DELETE
            | FilterFlag::NOTE_RENAME
            | FilterFlag::NOTE_LINK;
        if !matches!(target, Target::Written(_)) {
            what |= FilterFlag::NOTE_ATTRIB;
        }
        let flags = EvFlags::EV_ADD | EvFlags::EV_CLEAR;
        let ident = fd.as_raw_fd() as uintptr_t;
        let event = KEvent::new(ident, EventFilter::EVFILT_VNODE, flags, what, 0, 0 as intptr_t);
        self.kqueue.kevent(&[event], &mut [], None)?;
        Ok(())
    }

    pub fn clear(&self) {
        let none = KEvent::new(
            0,
            EventFilter::EVFILT_VNODE,
            EvFlags::empty(),
            FilterFlag::empty(),
            0,
            0 as intptr_t,
        );
        let mut events = [none; EVENTS];
        let now = timespec { tv_sec: 0, tv_nsec: 0 };
        while self.kqueue.kevent(&[], &mut events, Some(now)) == Ok(EVENTS) {}
    }
}

impl AsFd for FileWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kqueue.as_fd()
    }
}

fn open(target: &Target<'_>) -> io::Result<Option<(Identity, OwnedFd)>> {
    let file = match target {
        Target::Directory(path) => named(existing(path)),
        Target::Named(path) | Target::Written(path) => named(path),
        // kqueue(2) does not report closing, but the holder removes the file before it closes it.
        Target::Open(fd) | Target::Held(fd) => fd.try_clone_to_owned().map(File::from),
    };
    match file {
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok(Some(((metadata.dev(), metadata.ino()), file.into())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn named(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

pub fn is_remote(found: &Statfs) -> bool {
    let name = found.filesystem_type_name();
    ["nfs", "smbfs", "afpfs", "webdav", "p9fs"].contains(&name) || name.starts_with("fuse")
}
