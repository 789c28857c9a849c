//! The files of a cgroup v2: cgroups(7), and the kernel's cgroup-v2 document. Linux only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Whether the directory is one of a cgroup v2.
pub(crate) fn is_cgroup(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && directory.is_dir()
}

/// The pids in it and below it. A threaded one, and a process of another pid namespace (0), has
/// none.
pub(crate) fn members(directory: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> =
        procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in children(directory) {
        pids.extend(members(&child));
    }
    pids
}

/// The cgroups right below it.
pub(crate) fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_directory).map(|entry| entry.path()).collect()
}

/// Whether any process is left in it or below it. A root has no `cgroup.events`.
pub(crate) fn is_populated(directory: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(directory.join("cgroup.events"))?;
    Ok(value(&events, "populated").unwrap_or(0) != 0)
}

/// The number beside `key` in a flat keyed file.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}
