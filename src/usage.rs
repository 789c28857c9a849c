//! What a child and all that it has started use: processor time, memory, input and output.
//!
//! Read on request, from the process table or from a cgroup (v2). Nothing here keeps anything
//! between two looks: a rate is the difference of two [`Usage`]s over the time between them. Linux
//! only; elsewhere every function answers [`UsageError::Unsupported`].
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

/// What is used at one moment, or has been used up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time, user and system, of the processes and of those children that they have
    /// reaped. Of a tree it may go back: the time of a process whose parent ended before it, and
    /// which has then ended itself, is nobody's any more. Of a cgroup it only grows.
    pub cpu: Duration,
    /// Resident memory in bytes. Of a tree, what several processes share counts for each of them;
    /// [`proportional`] is exact, and slow. Of a cgroup with a memory controller, all that is
    /// charged to it, page cache included.
    pub resident: u64,
    /// Processes, without those of which only the exit status is left.
    pub processes: u64,
    /// Their threads.
    pub threads: u64,
    /// Bytes that were read from storage since the processes began; of a tree with those of reaped
    /// children. `None` where the system does not say: of a process of another user, say
    /// (proc_pid_io(5)).
    pub read_bytes: Option<u64>,
    /// Bytes that were caused to be written to storage, likewise.
    pub write_bytes: Option<u64>,
}

/// Why nothing is known of what is used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// There is no such process any more, nor anything of its session.
    #[error("pid {0} has ended: there is nothing to measure")]
    Gone(u32),
    /// The process is of another boot or another pid namespace.
    #[error("pid {0} can't be seen from here: ask in its own pid namespace")]
    OutOfSight(u32),
    /// Not a directory of a cgroup v2.
    #[error("{} is no cgroup v2, or no more", .0.display())]
    NotCgroup(PathBuf),
    /// This system has no such numbers for us.
    #[error("usage is measured on Linux only")]
    Unsupported,
    /// The system's error.
    #[error("can't read the process table: {0}")]
    System(#[from] std::io::Error),
}

/// Every process of the system at one moment: of many trees, one look at it tells.
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
    /// Looks at each process, which takes microseconds each. Those that end meanwhile are left out.
    ///
    /// # Errors
    ///
    /// A [`UsageError`].
    pub fn now() -> Result<Self, UsageError> {
        platform::Processes::now().map(Self)
    }

    /// What this process, its descendants, and every process of the session that it leads used
    /// together at that moment; bytes from and to storage are those of now. A daemon that has left
    /// the session and lost its parent belongs to the tree no more.
    ///
    /// # Errors
    ///
    /// A [`UsageError`].
    pub fn of_tree(&self, root: &Identity) -> Result<Usage, UsageError> {
        self.0.of_tree(root)
    }
}

/// What this process, its descendants, and every process of the session that it leads use
/// together: [`Processes::of_tree`] after a look for this one tree.
///
/// # Errors
///
/// A [`UsageError`].
pub fn of_tree(root: &Identity) -> Result<Usage, UsageError> {
    Processes::now()?.of_tree(root)
}

/// What the processes in this cgroup, and below it, use together, those that have ended included.
///
/// # Errors
///
/// A [`UsageError`].
pub fn of_cgroup(directory: &Path) -> Result<Usage, UsageError> {
    platform::of_cgroup(directory)
}

/// Proportional memory of a tree in bytes: what several processes share counts once (`Pss`,
/// proc_pid_smaps(5)). Walks all their page tables, which takes milliseconds a gigabyte. `None`
/// where the system does not say.
///
/// # Errors
///
/// A [`UsageError`].
pub fn proportional(root: &Identity) -> Result<Option<u64>, UsageError> {
    platform::proportional(root)
}
