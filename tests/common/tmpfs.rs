//! A file system that a test may fill.

#![allow(dead_code)] // each test file uses a part

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::{TempDir, tempdir};

/// A small file system, until it is dropped.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// None, and a message, where this process may not mount.
    pub fn new(options: &str) -> Option<Self> {
        let directory = tempdir().unwrap();
        let mounted = geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "vmon-test"])
                .arg(directory.path())
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            skip("needs a tmpfs of its own, which takes root and the right to mount");
            return None;
        }
        Some(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Past the capture of libtest, so that it is seen also when the test passes.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {reason}");
}
