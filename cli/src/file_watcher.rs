//! Notification of changes to files, with inotify(7) or kqueue(2).
//!
//! Open files are watched by descriptor, because a name can lead to another file at any time. An
//! event carries no data: it is a reason to read again, and several changes may give one event.

#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "file_watcher/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "file_watcher/bsd.rs")]
mod platform;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::statfs;
use tracing::warn;

use super::reason;

/// Poll interval where file events are not available.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What to watch.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Creation, removal and renaming of files in a directory. It need not exist yet.
    Directory(&'a Path),
    /// Writes to an open file, and changes of its names.
    Open(BorrowedFd<'a>),
    /// The file with this name, if it exists.
    Named(&'a Path),
    /// Writes to the file with this name, if it exists. Not changes of its attributes, which SQLite
    /// causes as it opens a file.
    Written(&'a Path),
    /// Closing or removal of an open file by other processes.
    Held(BorrowedFd<'a>),
}

/// Watches files. Where the system has no events, the files have to be polled.
#[derive(Debug, Default)]
pub enum FileWatcher {
    #[default]
    NotStarted,
    Events(platform::FileWatcher),
    Polling,
}

impl FileWatcher {
    /// Replaces the set of watched targets. Returns whether one of them was not watched before; its
    /// earlier changes have caused no event.
    pub fn watch(&mut self, targets: &[Target<'_>]) -> bool {
        let is_new = match self {
            Self::NotStarted => platform::FileWatcher::new().and_then(|mut watcher| {
                watcher.watch(targets)?;
                *self = Self::Events(watcher);
                Ok(true)
            }),
            Self::Events(watcher) => watcher.watch(targets),
            Self::Polling => Ok(false),
        };
        is_new.unwrap_or_else(|error| {
            *self = Self::polling(reason(&error));
            true
        })
    }

    /// Polls instead, for a reason that is reported.
    pub fn polling(reason: &str) -> Self {
        let every = POLL_INTERVAL.as_millis();
        warn!("can't watch files ({reason}): polling every {every} ms");
        Self::Polling
    }

    /// Readable when there is an event.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Events(watcher) => Some(watcher.as_fd()),
            Self::NotStarted | Self::Polling => None,
        }
    }

    /// Reads and discards the pending events.
    pub fn clear(&self) {
        if let Self::Events(watcher) = self {
            watcher.clear();
        }
    }

    /// The interval at which the files have to be polled.
    pub fn poll_interval(&self) -> Option<Duration> {
        matches!(self, Self::Polling).then_some(POLL_INTERVAL)
    }
}

/// Whether the path is on a file system that other machines may change, which causes no event here.
pub fn is_remote(path: &Path) -> bool {
    statfs(existing(path)).is_ok_and(|found| platform::is_remote(&found))
}

/// The nearest ancestor that is a directory, which may be `path` itself.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|above| above.is_dir()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn has_event(watcher: &FileWatcher) -> bool {
        let mut fds = [PollFd::new(watcher.event_fd().unwrap(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::ZERO).unwrap() > 0;
        watcher.clear();
        ready
    }

    #[test]
    fn a_change_gives_one_event_and_a_file_no_longer_watched_gives_none() {
        let scratch = tempfile::tempdir().unwrap();
        let mut one = File::create(scratch.path().join("one")).unwrap();
        let mut two = File::create(scratch.path().join("two")).unwrap();
        let mut watcher = FileWatcher::default();
        let first = one.try_clone().unwrap();
        assert!(watcher.watch(&[Target::Open(first.as_fd())]));
        assert!(!watcher.watch(&[Target::Open(first.as_fd())]));
        assert!(!has_event(&watcher));
        one.write_all(b"x").unwrap();
        assert!(has_event(&watcher));
        assert!(!has_event(&watcher));
        let second = scratch.path().join("two");
        assert!(watcher.watch(&[Target::Named(&second)]));
        one.write_all(b"x").unwrap();
        watcher.clear();
        one.write_all(b"x").unwrap();
        assert!(!has_event(&watcher));
        two.write_all(b"x").unwrap();
        assert!(has_event(&watcher));
    }

    #[test]
    fn changes_in_a_directory_that_does_not_exist_yet_are_reported() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("a/b");
        let mut watcher = FileWatcher::default();
        let target = [Target::Directory(&directory)];
        assert!(watcher.watch(&target));
        fs::create_dir_all(&directory).unwrap();
        assert!(has_event(&watcher));
        assert!(watcher.watch(&target));
        fs::write(directory.join("file"), b"").unwrap();
        assert!(has_event(&watcher));
        fs::rename(directory.join("file"), directory.join("other")).unwrap();
        assert!(has_event(&watcher));
        watcher.watch(&[Target::Named(&directory.join("nothing"))]);
    }

    #[test]
    fn closing_and_removing_a_held_file_gives_an_event() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("held");
        let held = File::create(&path).unwrap();
        let ours = File::open(&path).unwrap();
        let mut watcher = FileWatcher::default();
        watcher.watch(&[Target::Held(ours.as_fd())]);
        assert!(!has_event(&watcher));
        fs::remove_file(&path).unwrap();
        drop(held);
        assert!(has_event(&watcher));
    }
}
