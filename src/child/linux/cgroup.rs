//! The cgroup (v2) of one child and its descendants: cgroups(7), and the kernel's cgroup-v2
//! document.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use tracing::{debug, info, warn};

use super::pidfd::PidFd;
use crate::child::{CgroupError, Signal};
use crate::process::cgroup::{
    children, holds_processes, is_cgroup, is_gone, is_populated, members,
};
use crate::process::table::Entry;

/// How many pidfds are open at once while members are signalled.
const AT_ONCE: usize = 32;

/// The directory of a cgroup for one child and its descendants only.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
    /// Whether it was created for this child, and is removed with it.
    made: bool,
}

impl Cgroup {
    /// Opens the cgroup of this directory, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// The cgroup can't be used, or has processes although it must be `empty`. A created directory
    /// is removed.
    pub(crate) fn open(directory: &Path, empty: bool) -> Result<Self, CgroupError> {
        let failed = |error: io::Error| CgroupError::new(directory, error);
        let directory = std::path::absolute(directory).map_err(failed)?;
        let made = match fs::create_dir(&directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => return Err(CgroupError::Create { path: directory, source }),
        };
        let cgroup = Self { directory, made };
        match cgroup.check(empty) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.remove();
                Err(error)
            }
        }
    }

    fn check(&self, empty: bool) -> Result<(), CgroupError> {
        let directory = &self.directory;
        if !is_cgroup(directory) {
            return Err(CgroupError::NotCgroup2 { path: directory.clone() });
        }
        self.procs().map_err(|error| CgroupError::new(directory, error))?;
        match is_populated(directory) {
            Ok(true) if empty => Err(CgroupError::InUse { path: directory.clone() }),
            Ok(_) => Ok(()),
            // Only a root has no `cgroup.events`, and its processes must not be killed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CgroupError::Root { path: directory.clone() })
            }
            Err(error) => Err(CgroupError::new(directory, error)),
        }
    }

    /// Opens `cgroup.procs`. Writing a pid to it makes the process a member; 0 means the writer.
    pub(in crate::child) fn procs(&self) -> io::Result<File> {
        File::options().write(true).open(self.directory.join("cgroup.procs"))
    }

    /// Makes a running child a member.
    pub(in crate::child) fn admit(&self, pid: i32) -> Result<(), CgroupError> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
            .map_err(|error| CgroupError::new(&self.directory, error))
    }

    pub(in crate::child) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the cgroup and its descendants have no process left.
    ///
    /// # Errors
    ///
    /// The cgroup can't be read, so it may have processes.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        Ok(!holds_processes(&self.directory)?)
    }

    /// Sends `signal` to every member, except those of a process group.
    ///
    /// # Errors
    ///
    /// The members can't be read; or the last error of signalling, after all have been tried.
    pub(crate) fn signal(&self, signal: Signal, except_group: Option<i32>) -> io::Result<()> {
        signal_members(&self.directory, signal, except_group)
    }

    /// Thaws the cgroup, if it is frozen.
    pub(crate) fn thaw(&self) {
        let freeze = self.directory.join("cgroup.freeze");
        let is_frozen = fs::read_to_string(&freeze).is_ok_and(|state| state.trim() == "1");
        if is_frozen && is_cgroup(&self.directory) {
            match fs::write(&freeze, "0") {
                Ok(()) => info!("thawed the cgroup {}", self.directory.display()),
                Err(error) => warn!("can't thaw the cgroup {}: {error}", self.directory.display()),
            }
        }
    }

    /// Removes the cgroup if it was created here and is empty.
    pub(crate) fn remove(&self) {
        if self.made && is_cgroup(&self.directory) {
            remove_tree(&self.directory);
        } else if self.made {
            // A plain directory: the parent is not a cgroup.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// Kills every process in the cgroup of this directory if `is_ours` is true for one of them, and
/// returns whether it did. A cgroup that this process is in is never killed: it may also hold
/// unrelated processes.
///
/// # Errors
///
/// Its members can't be read, or one of them can't be signalled.
pub(in crate::child) fn kill_cgroup(
    directory: &Path,
    is_ours: impl Fn(i32) -> bool,
) -> io::Result<bool> {
    if !is_cgroup(directory) {
        return Ok(false);
    }
    let members = match members(directory) {
        Err(error) if is_gone(&error) => return Ok(false),
        members => members?,
    };
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    if members.contains(&own) || !members.into_iter().any(is_ours) {
        return Ok(false);
    }
    signal_members(directory, Signal::KILL, None)?;
    Ok(true)
}

fn signal_members(directory: &Path, signal: Signal, except_group: Option<i32>) -> io::Result<()> {
    if !is_cgroup(directory) {
        return Ok(());
    }
    if signal == Signal::KILL {
        // Linux 5.14. Also effective against a fork bomb, which outpaces single signals.
        match File::options().write(true).open(directory.join("cgroup.kill")) {
            Ok(mut kill) => return kill.write_all(b"1"),
            Err(error) => debug!("{}: no cgroup.kill: {error}", directory.display()),
        }
    }
    let members = match members(directory) {
        Err(error) if is_gone(&error) => return Ok(()),
        members => members?,
    };
    let sent =
        members.chunks(AT_ONCE).map(|pids| send_to_members(directory, pids, signal, except_group));
    sent.fold(Ok(()), Result::and)
}

/// Sends a signal to those of `pids` that are still members after their pidfds were opened. The
/// kernel sorts all members for each read of `cgroup.procs`, so one read serves many pids.
fn send_to_members(
    directory: &Path,
    pids: &[i32],
    signal: Signal,
    except_group: Option<i32>,
) -> io::Result<()> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut outcome = Ok(());
    let mut opened = Vec::new();
    for pid in pids.iter().copied().filter(|pid| *pid != own) {
        match PidFd::open(pid) {
            Ok(process) => opened.push((pid, process)),
            Err(Errno::ESRCH) => {}
            Err(error) => outcome = Err(error.into()),
        }
    }
    let still: HashSet<i32> = match members(directory) {
        Err(error) if is_gone(&error) => return Ok(()),
        members => members?.into_iter().collect(),
    };
    for (pid, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
        let group = || Entry::of(*pid).ok().flatten().map(|entry| entry.group);
        if except_group.is_some() && except_group == group() {
            continue;
        }
        match process.send(signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                debug!(pid, "{signal} not sent: {error}");
                outcome = Err(error.into());
            }
        }
    }
    outcome
}

/// Removes a cgroup with its descendants. A cgroup's directory has no other content to remove.
fn remove_tree(directory: &Path) {
    for child in children(directory).unwrap_or_default() {
        remove_tree(&child);
    }
    if let Err(error) = fs::remove_dir(directory) {
        debug!("{} stays: {error}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;

    #[test]
    fn every_one_of_many_members_is_signalled_except_one_group() {
        let name = format!("vmon-test-{}-crowd", std::process::id());
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let made = mounts.into_iter().find_map(|mount| {
            let cgroup =
                is_cgroup(mount).then(|| Cgroup::open(&mount.join(&name), true).ok())??;
            cgroup.procs().is_ok().then_some(cgroup)
        });
        let Some(cgroup) = made else {
            eprintln!("SKIPPED: no usable cgroup v2");
            return;
        };
        let start = |_| {
            let mut command = std::process::Command::new("sleep");
            let child = command.arg("1000").process_group(0).spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            cgroup.admit(pid).unwrap();
            (child, pid)
        };
        let mut crowd: Vec<_> = (0..2 * AT_ONCE + 3).map(start).collect();
        let (mut spared, group) = crowd.pop().unwrap();
        cgroup.signal(Signal::TERM, Some(group)).unwrap();
        for (mut child, _) in crowd {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        }
        assert!(spared.try_wait().unwrap().is_none());
        cgroup.signal(Signal::KILL, None).unwrap();
        spared.wait().unwrap();
        cgroup.remove();
    }

    #[test]
    fn a_directory_that_is_not_a_cgroup_is_neither_kept_nor_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web");
        let error = Cgroup::open(&path, true).unwrap_err().to_string();
        assert!(error.contains("not a cgroup v2") && error.contains("web"), "{error}");
        assert!(!path.exists());
        assert!(!kill_cgroup(directory.path(), |_| true).unwrap());
    }
}
