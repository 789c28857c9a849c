//! Settings of the whole process: resource limits, memory, subreaper, inherited descriptors. The
//! library calls none of these by itself; the command `vmon` does.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod cgroup;
mod descriptors;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod fork;
#[cfg(all(feature = "consoles", any(target_os = "linux", target_os = "android")))]
pub(crate) mod masters;
mod memory;
mod reaper;
pub(crate) mod sigpipe;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod table;

use std::io;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

pub use descriptors::{
    inherited_descriptor, inherited_descriptors, keep_descriptors_from_programs,
};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub use fork::{Forked, fork};
pub use memory::{fix_heap_threshold, trim_heap, trim_stack};
pub use reaper::become_subreaper;
pub use sigpipe::without_sigpipe;

/// A limit of open files: the soft `RLIMIT_NOFILE` of getrlimit(2).
///
/// It is set for a child by [`Command::file_limit`](crate::child::Command::file_limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit(rlim_t);

impl FileLimit {
    /// Sets it for this process again, up to its hard limit: for a host that starts programs by
    /// other means than [`Command`](crate::child::Command). Descriptors that are open stay so.
    ///
    /// # Errors
    ///
    /// Those of getrlimit(2) and setrlimit(2).
    pub fn restore(self) -> io::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(setrlimit(Resource::RLIMIT_NOFILE, self.0.min(hard), hard)?)
    }

    /// The soft limit.
    pub(crate) fn soft(self) -> rlim_t {
        self.0
    }
}

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) of this process to the hard limit, and
/// returns the former soft limit.
///
/// A monitored child takes three to five descriptors in its supervisor, and the usual limit is
/// 1,024. Children inherit the raised limit. Programs that use select(2) may then fail, and
/// programs that close every possible descriptor become slow: start them with the former limit.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use vmon::child::Command;
/// let former = vmon::process::raise_file_limit()?;
/// let command = Command::new("web-server").file_limit(former);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of getrlimit(2) and setrlimit(2); the limit is unchanged.
pub fn raise_file_limit() -> io::Result<FileLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let highest = highest_file_limit(hard);
    if highest > soft {
        setrlimit(Resource::RLIMIT_NOFILE, highest, hard)?;
    }
    Ok(FileLimit(soft))
}

/// The highest soft limit for this hard limit.
#[cfg(not(target_os = "macos"))]
fn highest_file_limit(hard: rlim_t) -> rlim_t {
    hard
}

/// The highest soft limit for this hard limit. The hard limit is usually infinite, but setrlimit(2)
/// refuses a soft limit above `OPEN_MAX`.
#[cfg(target_os = "macos")]
fn highest_file_limit(hard: rlim_t) -> rlim_t {
    /// From `sys/syslimits.h`; libc does not define it.
    const OPEN_MAX: rlim_t = 10_240;
    hard.min(OPEN_MAX)
}
