//! The identity of a process: its pid with start time, boot id and pid namespace, so that a reused
//! pid is never mistaken for the recorded process.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Signal, platform};

/// The identity of a process, which stays unique after its pid is reused.
///
/// ```
/// use vmon::child::{Identity, Liveness};
///
/// let mut child = std::process::Command::new("true").spawn()?;
/// let identity = Identity::of(child.id()).unwrap();
/// child.wait()?;
/// // Another process may get the pid now.
/// assert_eq!(identity.liveness(), Liveness::Dead);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The pid, in the pid namespace of the process.
    pub pid: u32,
    /// The start time. On Linux in clock ticks since boot, field 22 of `/proc/PID/stat`
    /// (proc_pid_stat(5)); elsewhere in microseconds since the epoch. 0 if it could not be read.
    pub start: u64,
    /// The boot id: `/proc/sys/kernel/random/boot_id` on Linux, elsewhere the equivalent of the
    /// kernel. Empty if it is not available.
    pub boot_id: String,
    /// The inode of the pid namespace; `None` on systems without pid namespaces.
    pub pid_namespace: Option<u64>,
}

/// The entry of a pid in the process table.
pub(super) struct Process {
    /// In the unit of [`Identity::start`].
    pub(super) start: u64,
    /// Whether it is a zombie.
    pub(super) ended: bool,
}

/// Whether an [`Identity`] still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// The same process runs.
    Alive,
    /// It has ended: it is a zombie, its pid is free or reused, or the machine was rebooted.
    Dead,
    /// It belongs to another pid namespace, the system does not report it, or its start time was not
    /// read.
    Unknown,
}

impl Identity {
    /// The process that has this pid now; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            start: platform::process(pid).ok().flatten()?.start,
            boot_id: platform::boot_id(),
            pid_namespace: platform::pid_namespace(),
        })
    }

    /// This process. Its start is 0 if it can't be read: without a free descriptor, for example.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self::of(pid).unwrap_or_else(|| Self {
            pid,
            start: 0,
            boot_id: platform::boot_id(),
            pid_namespace: platform::pid_namespace(),
        })
    }

    /// Whether this process still runs.
    pub fn liveness(&self) -> Liveness {
        let boot_id = platform::boot_id();
        if self.boot_id.is_empty() || boot_id.is_empty() {
            return Liveness::Unknown;
        }
        if self.boot_id != boot_id {
            return Liveness::Dead;
        }
        if self.start == 0 || self.pid_namespace != platform::pid_namespace() {
            return Liveness::Unknown;
        }
        match platform::process(self.pid) {
            Ok(Some(process)) if process.start == self.start && !process.ended => Liveness::Alive,
            Ok(_) => Liveness::Dead,
            Err(_) => Liveness::Unknown,
        }
    }

    /// Sends `signal` to this process alone, not to its group. On Linux the signal goes through a
    /// pidfd, so it can't reach a process that reuses the pid. On other systems kill(2) follows the
    /// check immediately. Nothing is sent to the calling process.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the process is [`Dead`](Liveness::Dead),
    /// [`Unsupported`](io::ErrorKind::Unsupported) if its liveness is
    /// [`Unknown`](Liveness::Unknown), `EPERM` if it belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.liveness() {
            Liveness::Alive => platform::signal(self, signal),
            Liveness::Dead => Err(Errno::ESRCH.into()),
            Liveness::Unknown => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A descriptor that becomes readable when a process has ended, which need not be a child:
/// [`ProcessEnd::of`].
///
/// ```
/// use vmon::child::{Identity, ProcessEnd};
///
/// let mut child = std::process::Command::new("sleep").arg("1000").spawn()?;
/// let end = ProcessEnd::of(&Identity::of(child.id()).unwrap())?;
/// // For poll(2), beside others.
/// let _fd = end.event_fd();
/// child.kill()?;
/// child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ProcessEnd(platform::ExitWatch);

impl ProcessEnd {
    /// Watches a process that is alive: with a pidfd on Linux, with kqueue(2) elsewhere.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the process is [`Dead`](Liveness::Dead);
    /// [`Unsupported`](io::ErrorKind::Unsupported) if its liveness is
    /// [`Unknown`](Liveness::Unknown); `EMFILE` and the like.
    pub fn of(process: &Identity) -> io::Result<Self> {
        let pid = i32::try_from(process.pid).map_err(io::Error::other)?;
        // Opened before the check, so that it can't be of a process that reuses the pid.
        let watch = platform::ExitWatch::new(Pid::from_raw(pid))?;
        match process.liveness() {
            Liveness::Alive => Ok(Self(watch)),
            Liveness::Unknown => Err(io::ErrorKind::Unsupported.into()),
            Liveness::Dead => Err(Errno::ESRCH.into()),
        }
    }

    /// The descriptor, for poll(2); `None` on a kernel without pidfds.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.fd()
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
    fn this_process_is_alive_and_one_with_its_pid_and_another_start_time_is_dead() {
        let current = Identity::current();
        assert_eq!(current.liveness(), Liveness::Alive);
        let earlier = Identity { start: current.start.wrapping_sub(1), ..current.clone() };
        assert_eq!(earlier.liveness(), Liveness::Dead);
        let other_boot = Identity { boot_id: "another".to_owned(), ..current.clone() };
        assert_eq!(other_boot.liveness(), Liveness::Dead);
        let elsewhere = Identity { pid_namespace: Some(1), ..current.clone() };
        assert_eq!(elsewhere.liveness(), Liveness::Unknown);
        let unread = Identity { start: 0, ..current };
        assert_eq!(unread.liveness(), Liveness::Unknown);
    }
}
