//! The system's word that files have changed.
//!
//! What is watched is watched by its descriptor where there is one: a name may lead to another file
//! the next moment. A word is no more than a reason to look, and many changes may be one word.

#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "follow/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "follow/bsd.rs")]
mod platform;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// What is to be told of.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// Files that come and go in a directory, by their names; also where it is still to be made.
    Directory(&'a Path),
    /// An open file: bytes, and its names.
    Open(BorrowedFd<'a>),
    /// The file of this name, if there is one.
    Named(&'a Path),
    /// An open file that others have open: that one of them closes it, or removes it.
    Held(BorrowedFd<'a>),
}

/// Changes of files. Its descriptor is readable when there is one.
#[derive(Debug)]
pub struct Changes(platform::Changes);

impl Changes {
    pub fn new() -> io::Result<Self> {
        platform::Changes::new().map(Self)
    }

    /// Watches these from now on, and no others. Says whether one of them was not watched before:
    /// what happened to it until now is not told.
    pub fn watch(&mut self, targets: &[Target<'_>]) -> io::Result<bool> {
        self.0.watch(targets)
    }

    /// Takes what has been told until now.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The nearest directory above that is there, `path` itself at best.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|above| above.is_dir()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_told(changes: &Changes) -> bool {
        let mut fds = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
        let told = poll(&mut fds, PollTimeout::ZERO).unwrap() > 0;
        changes.clear();
        told
    }

    #[test]
    fn what_is_new_is_said_once_and_what_is_watched_no_more_is_not_told_of() {
        let scratch = tempfile::tempdir().unwrap();
        let mut one = File::create(scratch.path().join("one")).unwrap();
        let mut two = File::create(scratch.path().join("two")).unwrap();
        let mut changes = Changes::new().unwrap();
        let first = one.try_clone().unwrap();
        assert!(changes.watch(&[Target::Open(first.as_fd())]).unwrap());
        assert!(!changes.watch(&[Target::Open(first.as_fd())]).unwrap());
        assert!(!is_told(&changes));
        one.write_all(b"x").unwrap();
        assert!(is_told(&changes));
        assert!(!is_told(&changes));
        let second = scratch.path().join("two");
        assert!(changes.watch(&[Target::Named(&second)]).unwrap());
        one.write_all(b"x").unwrap();
        changes.clear();
        one.write_all(b"x").unwrap();
        assert!(!is_told(&changes));
        two.write_all(b"x").unwrap();
        assert!(is_told(&changes));
    }

    #[test]
    fn files_that_come_and_go_are_told_also_where_the_directory_is_to_come() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("a/b");
        let mut changes = Changes::new().unwrap();
        let target = [Target::Directory(&directory)];
        assert!(changes.watch(&target).unwrap());
        fs::create_dir_all(&directory).unwrap();
        assert!(is_told(&changes));
        assert!(changes.watch(&target).unwrap());
        fs::write(directory.join("file"), b"").unwrap();
        assert!(is_told(&changes));
        fs::rename(directory.join("file"), directory.join("other")).unwrap();
        assert!(is_told(&changes));
        changes.watch(&[Target::Named(&directory.join("nothing"))]).unwrap();
    }

    #[test]
    fn a_file_that_somebody_holds_tells_when_it_is_closed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("held");
        let held = File::create(&path).unwrap();
        let ours = File::open(&path).unwrap();
        let mut changes = Changes::new().unwrap();
        changes.watch(&[Target::Held(ours.as_fd())]).unwrap();
        assert!(!is_told(&changes));
        fs::remove_file(&path).unwrap();
        drop(held);
        assert!(is_told(&changes));
    }
}
