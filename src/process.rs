//! What concerns this whole process, and happens only when a host asks for it: the library calls
//! nothing of it by itself. The command `vmon` does.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod cgroup;
mod descriptors;
#[cfg(all(feature = "consoles", any(target_os = "linux", target_os = "android")))]
pub(crate) mod masters;
mod memory;
mod reaper;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod table;

use std::io;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

pub use descriptors::keep_descriptors_from_programs;
pub use memory::{settle_heap, trim_heap, trim_stack};
pub use reaper::become_subreaper;

/// How many descriptors a process may have open: the soft `RLIMIT_NOFILE` of getrlimit(2).
///
/// Given to a child by [`Command::file_limit`](crate::child::Command::file_limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit(rlim_t);

impl FileLimit {
    /// Sets it for the calling process, as far as its hard limit allows.
    ///
    /// Async-signal-safe: for a child between its birth and exec.
    pub(crate) fn set(self) -> nix::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, self.0.min(hard), hard)
    }
}

/// Lets this process have as many descriptors open as the system allows it (the soft
/// `RLIMIT_NOFILE` becomes the hard one), and gives the limit that was in force until then.
///
/// A monitored child takes three to five descriptors of its supervisor's, and 1,024 is the usual
/// limit. Children inherit the raised one, with which programs that use select(2), or close every
/// descriptor there could be, may break or dawdle: start them with the former limit.
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
/// getrlimit(2)'s and setrlimit(2)'s; the limit is as before then.
pub fn raise_file_limit() -> io::Result<FileLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let highest = highest_file_limit(hard);
    if highest > soft {
        setrlimit(Resource::RLIMIT_NOFILE, highest, hard)?;
    }
    Ok(FileLimit(soft))
}

/// The highest soft limit that the system takes beside this hard one.
#[cfg(not(target_os = "macos"))]
fn highest_file_limit(hard: rlim_t) -> rlim_t {
    hard
}

/// The highest soft limit that the system takes beside this hard one: the hard one is usually
/// infinite, and setrlimit(2) refuses more than `OPEN_MAX`.
#[cfg(target_os = "macos")]
fn highest_file_limit(hard: rlim_t) -> rlim_t {
    /// Of `sys/syslimits.h`; libc does not name it.
    const OPEN_MAX: rlim_t = 10_240;
    hard.min(OPEN_MAX)
}
