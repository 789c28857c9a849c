//! A file system that a test may fill.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tempfile::{TempDir, tempdir};
use vmon::logfile::{LogError, LogFile, Stream, WriteError};

/// A small file system, until it is dropped.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// None, and a message, where this process may not mount.
    pub fn new(options: &str) -> Option<Self> {
        let directory = tempdir().unwrap();
        let mounted = geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("mode=700,{options}"), "vmon-test"])
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

    /// Whether that could be done.
    pub fn remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        let mut mount = Command::new("mount");
        mount.args(["-o", &options]).arg(self.path()).output().unwrap().status.success()
    }

    /// Leaves about this many bytes free, with a file to be removed.
    pub fn fill_up_to(&self, left: usize) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = File::create(&path).unwrap();
        let mut written = 0;
        while let Ok(count) = filler.write(&[1; 4096]) {
            written += count;
        }
        filler.set_len(written.saturating_sub(left) as u64).unwrap();
        path
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

#[track_caller]
pub fn assert_full(error: &WriteError) {
    let LogError::Io { source, path, .. } = &error.source else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// Goes on where a write ended, as the monitor does: on a busy machine, tmpfs may count a removed
/// file for a moment longer.
#[track_caller]
pub fn write_when_there_is_room(log: &mut LogFile, mut bytes: &[u8]) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while let Err(error) = log.write(Stream::Stdout, bytes) {
        assert_full(&error);
        assert!(Instant::now() < give_up, "{error}");
        bytes = &bytes[error.written..];
        std::thread::yield_now();
    }
}
