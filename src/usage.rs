//! Resource usage of a child and its descendants: CPU time, memory, storage input and output.
//!
//! The values are read on request from the process table or from a cgroup (v2). No state is kept
//! between two calls: a rate is the difference of two [`Usage`]s divided by the time between them.
//! Linux only; elsewhere every function returns [`UsageError::Unsupported`].
//!
//! ```
//! use vmon::child::Identity;
//! # #[cfg(target_os = "linux")]
//! # fn main() -> Result<(), vmon::usage::UsageError> {
//! let usage = vmon::usage::of_tree(&Identity::current())?;
//! assert!(usage.processes >= 1 && usage.resident > 0);
//! # Ok(())
//! # }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```

#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "usage/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "usage/unsupported.rs")]
mod platform;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::Identity;

/// The resource usage at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time, user and system, of the processes and their reaped children. For a tree it may
    /// decrease: when an orphan ends, no process of the tree accounts for its time. For a cgroup it
    /// only grows.
    pub cpu: Duration,
    /// Resident memory in bytes. For a tree, shared pages count once for each process;
    /// [`proportional`] is exact, but slow. For a cgroup with a memory controller it is the charged
    /// memory, including page cache.
    pub resident: u64,
    /// The number of processes, without zombies.
    pub processes: u64,
    /// The number of their threads.
    pub threads: u64,
    /// Bytes read from storage since the processes started; for a tree, including reaped children.
    /// `None` if the system does not report it, as for a process of another user (proc_pid_io(5)).
    pub read_bytes: Option<u64>,
    /// Bytes written to storage, likewise.
    pub write_bytes: Option<u64>,
}

/// The error of measuring resource usage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The process and all processes of its session have ended.
    #[error("pid {0} has ended: there is nothing to measure")]
    Gone(u32),
    /// The process belongs to another pid namespace.
    #[error("pid {0} is not visible from this pid namespace: run this in its own one")]
    OutOfSight(u32),
    /// The directory is not a cgroup v2, or the cgroup was removed.
    #[error("{} is not a cgroup v2, or was removed", .0.display())]
    NotCgroup(PathBuf),
    /// Not supported on this system.
    #[error("usage is measured on Linux only")]
    Unsupported,
    /// A system call failed.
    #[error("can't read the process table: {0}")]
    System(#[from] std::io::Error),
}

/// A snapshot of the process table, for measuring several trees at once.
///
/// ```
/// use vmon::child::Identity;
/// use vmon::usage::Processes;
/// # #[cfg(target_os = "linux")]
/// # fn main() -> Result<(), vmon::usage::UsageError> {
/// let processes = Processes::now()?;
/// for child in [Identity::current()] {
///     println!("{:?}", processes.of_tree(&child)?.cpu);
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(target_os = "linux"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
pub struct Processes(platform::Processes);

impl Processes {
    /// Reads the process table, which takes microseconds per process. Processes that end meanwhile
    /// are left out.
    ///
    /// # Errors
    ///
    /// A [`UsageError`].
    pub fn now() -> Result<Self, UsageError> {
        platform::Processes::now().map(Self)
    }

    /// The usage of a tree in this snapshot: the process, its descendants, and every process of the
    /// session that it leads. Storage input and output are read now. A daemon that has left the
    /// session and lost its parent is not part of the tree.
    ///
    /// # Errors
    ///
    /// A [`UsageError`].
    pub fn of_tree(&self, root: &Identity) -> Result<Usage, UsageError> {
        self.0.of_tree(root)
    }
}

/// The usage of one tree now: [`Processes::of_tree`] in a new snapshot.
///
/// # Errors
///
/// A [`UsageError`].
pub fn of_tree(root: &Identity) -> Result<Usage, UsageError> {
    Processes::now()?.of_tree(root)
}

/// The usage of a cgroup and its descendants, including processes that have ended.
///
/// # Errors
///
/// A [`UsageError`].
pub fn of_cgroup(directory: &Path) -> Result<Usage, UsageError> {
    platform::of_cgroup(directory)
}

/// The proportional memory of a tree in bytes, in which shared pages count once (`Pss`,
/// proc_pid_smaps(5)). The kernel walks all page tables, which takes milliseconds per gigabyte.
/// `None` if the system does not report it.
///
/// # Errors
///
/// A [`UsageError`].
pub fn proportional(root: &Identity) -> Result<Option<u64>, UsageError> {
    platform::proportional(root)
}
