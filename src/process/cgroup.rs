//! The files of a cgroup v2: cgroups(7), and the kernel's cgroup-v2 document. Linux only.

pub(crate) mod memory;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Whether the directory is a cgroup v2.
pub(crate) fn is_cgroup(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && directory.is_dir()
}

/// The pids in a cgroup and its descendants. Processes outside of this pid namespace, listed as 0,
/// are left out.
///
/// # Errors
///
/// The cgroup can't be read. [`is_gone`] is true for the error if it was removed.
pub(crate) fn members(directory: &Path) -> io::Result<Vec<i32>> {
    let procs = match fs::read_to_string(directory.join("cgroup.procs")) {
        // A threaded cgroup, whose processes are listed in its domain cgroup.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        procs => procs?,
    };
    let mut pids: Vec<i32> =
        procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in children(directory)? {
        match members(&child) {
            Err(error) if is_gone(&error) => {}
            below => pids.extend(below?),
        }
    }
    Ok(pids)
}

/// The direct children of a cgroup.
pub(crate) fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether an error means that the cgroup was removed. It is `ENODEV` if that happened between open
/// and read.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Whether the cgroup or a descendant has a process. A root cgroup has no `cgroup.events`.
pub(crate) fn is_populated(directory: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(directory.join("cgroup.events"))?;
    Ok(value(&events, "populated").unwrap_or(0) != 0)
}

/// As [`is_populated`]; `false` for a removed cgroup.
pub(crate) fn holds_processes(directory: &Path) -> io::Result<bool> {
    match is_populated(directory) {
        Err(error) if is_gone(&error) => Ok(false),
        populated => populated,
    }
}

/// The cgroup that freezes a process: of cgroup v2, or of the freezer of v1, where they are usually
/// mounted. A process in a frozen cgroup acts on no signal, except on SIGKILL in v2.
pub(crate) fn freezes(pid: i32) -> Option<PathBuf> {
    let list = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let lines = list.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let mut places = lines.flat_map(|(controllers, path)| {
        let (mounts, state): (&[&str], _) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "cgroup.events"),
            "freezer" => (&["/sys/fs/cgroup/freezer"], "freezer.state"),
            _ => (&[], ""),
        };
        let path = path.trim_start_matches('/');
        mounts.iter().map(move |mount| (Path::new(mount).join(path), state))
    });
    places.find_map(|(directory, state)| {
        let state = fs::read_to_string(directory.join(state)).ok()?;
        let v1 = ["FROZEN", "FREEZING"].contains(&state.trim());
        (v1 || value(&state, "frozen") == Some(1)).then_some(directory)
    })
}

/// The value of `key` in a flat keyed file.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}
