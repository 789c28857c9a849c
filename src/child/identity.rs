//! Which process a pid means: start time, boot and pid namespace, so that a reused pid is never
//! taken for the one that was recorded.

use std::io;

use nix::errno::Errno;

use super::{Signal, platform};

/// A process that can be told from any other, also after its pid has been reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its pid, in its own pid namespace.
    pub pid: u32,
    /// When it started. On Linux in clock ticks since boot, field 22 of `/proc/PID/stat`
    /// (proc_pid_stat(5)); elsewhere in microseconds since the epoch.
    pub start: u64,
    /// The boot it belongs to: Linux's `/proc/sys/kernel/random/boot_id`, elsewhere the
    /// kernel's own name for it. Empty where it could not be had.
    pub boot_id: String,
    /// The inode of its pid namespace; `None` where the system has no such thing.
    pub pid_namespace: Option<u64>,
}

/// What the system says of a pid.
pub(super) struct Process {
    /// In the unit of [`Identity::start`].
    pub(super) start: u64,
    /// A zombie: only its exit status is left.
    pub(super) ended: bool,
}

/// Whether an [`Identity`] still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The same process runs.
    Alive,
    /// It has ended: a zombie, or its pid is free or another's, or the machine has booted since.
    Dead,
    /// It lives in another pid namespace, or the system would not say.
    Unknown,
}

impl Identity {
    /// The process with this pid, as it is now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            start: platform::process(pid).ok().flatten()?.start,
            boot_id: platform::boot_id(),
            pid_namespace: platform::pid_namespace(),
        })
    }

    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self::of(pid).unwrap_or_else(|| Self {
            pid,
            start: 0,
            boot_id: platform::boot_id(),
            pid_namespace: platform::pid_namespace(),
        })
    }

    /// Whether this very process still runs.
    pub fn liveness(&self) -> Liveness {
        let boot_id = platform::boot_id();
        if self.boot_id.is_empty() || boot_id.is_empty() {
            return Liveness::Unknown;
        }
        if self.boot_id != boot_id {
            return Liveness::Dead;
        }
        if self.pid_namespace != platform::pid_namespace() {
            return Liveness::Unknown;
        }
        match platform::process(self.pid) {
            Ok(Some(process)) if process.start == self.start && !process.ended => Liveness::Alive,
            Ok(_) => Liveness::Dead,
            Err(_) => Liveness::Unknown,
        }
    }

    /// Sends `signal` to this very process, and to nobody else of its group. On Linux through a
    /// pidfd, so that it can't reach another that has the pid by then; elsewhere kill(2) follows
    /// the look at once. Nothing is sent to the calling process.
    ///
    /// # Errors
    ///
    /// `ESRCH` where it is [`Dead`](Liveness::Dead), [`Unsupported`](io::ErrorKind::Unsupported)
    /// where that is [`Unknown`](Liveness::Unknown); `EPERM` where it is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.liveness() {
            Liveness::Alive => platform::signal(self, signal),
            Liveness::Dead => Err(Errno::ESRCH.into()),
            Liveness::Unknown => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_itself_is_signalled() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let earlier = Identity { start: identity.start.wrapping_sub(1), ..identity.clone() };
        let error = earlier.signal(Signal::KILL).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ESRCH as i32));
        let elsewhere = Identity { pid_namespace: Some(1), ..identity.clone() };
        assert_eq!(elsewhere.signal(Signal::KILL).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(identity.liveness(), Liveness::Alive);
        identity.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert_eq!(identity.liveness(), Liveness::Dead);
    }

    #[test]
    fn this_process_is_alive_and_a_namesake_of_another_time_is_dead() {
        let current = Identity::current();
        assert_eq!(current.liveness(), Liveness::Alive);
        let earlier = Identity { start: current.start.wrapping_sub(1), ..current.clone() };
        assert_eq!(earlier.liveness(), Liveness::Dead);
        let other_boot = Identity { boot_id: "another".to_owned(), ..current.clone() };
        assert_eq!(other_boot.liveness(), Liveness::Dead);
        let elsewhere = Identity { pid_namespace: Some(1), ..current };
        assert_eq!(elsewhere.liveness(), Liveness::Unknown);
    }
}
