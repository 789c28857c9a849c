//! The processes that outlive a child, on systems without pidfds and without sessions in the
//! process table: its process group. There are no cgroups.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::child::left::FinalSignal;
use crate::child::{CgroupError, Identity, Signal};

/// The process group of a reaped child.
#[derive(Debug)]
pub(crate) struct Orphans {
    group: Pid,
}

impl Orphans {
    /// The group that the child led; `None` if it has no process left.
    pub(in crate::child) fn group(child: &Identity) -> Option<Self> {
        let group = i32::try_from(child.pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)?;
        let mut left = Self { group };
        // A failed check is repeated later.
        (!left.is_gone().unwrap_or(false)).then_some(left)
    }

    /// The group as well: no other process can be attributed to the child.
    pub(in crate::child) fn below(child: &Identity, _session: bool) -> Option<Self> {
        Self::group(child)
    }

    /// Sends the final signal, and CONT.
    pub(in crate::child) fn send_final(self, signal: FinalSignal) -> Self {
        if !signal.group_signalled {
            // KILL follows where it does not arrive, and its errors are reported.
            let _ = self.send(signal.signal);
            let _ = self.send(Signal::CONT);
        }
        self
    }

    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// The system does not report whether the leader's pid was reused.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        let pid = Pid::from_raw(-self.group.as_raw());
        // If a process has the leader's pid, the number was reused.
        Ok(kill(pid, None) == Err(Errno::ESRCH) || self.is_reused()?)
    }

    /// Sends KILL to the processes that are left.
    ///
    /// # Errors
    ///
    /// As [`is_gone`](Self::is_gone), and those of kill(2).
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.send(Signal::KILL)
    }

    fn is_reused(&self) -> io::Result<bool> {
        let leader = u32::try_from(self.group.as_raw()).unwrap_or(0);
        Ok(super::process(leader)?.is_some())
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        if self.is_reused()? {
            return Ok(());
        }
        // SAFETY: kill takes two integers and accesses no memory. While a member is left after the
        // leader has ended, the number belongs to the group.
        match Errno::result(unsafe { libc::kill(-self.group.as_raw(), signal.number()) }) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Unknown, and unused: descendants can't be found on these systems.
pub(in crate::child) fn has_no_child() -> bool {
    false
}

/// Whether this child has ended. It is not reaped.
pub(in crate::child) fn has_ended(pid: Pid) -> io::Result<bool> {
    let pid = u32::try_from(pid.as_raw()).map_err(io::Error::other)?;
    Ok(super::process(pid)?.is_none_or(|process| process.ended))
}

/// Does nothing: no orphan can be attributed to the child.
pub(in crate::child) fn reap_orphans(_: &Identity, _session: bool) {}

/// Uninhabited: these systems have no cgroups.
#[derive(Debug)]
pub(crate) struct Cgroup(Infallible);

impl Cgroup {
    pub(crate) fn open(directory: &Path, _empty: bool) -> Result<Self, CgroupError> {
        Err(CgroupError::new(directory, io::ErrorKind::Unsupported.into()))
    }

    pub(in crate::child) fn admit(&self, _: i32) -> Result<(), CgroupError> {
        match self.0 {}
    }

    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        match self.0 {}
    }

    pub(crate) fn signal(&self, _: Signal, _except_group: Option<i32>) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn thaw(&self) {
        match self.0 {}
    }

    pub(crate) fn remove(&self) {
        match self.0 {}
    }
}

/// Uninhabited: these systems count no OOM kills.
#[derive(Debug)]
pub(crate) struct OomKills(Infallible);

impl OomKills {
    pub(crate) fn before_start(_: Option<&Cgroup>) -> Option<Self> {
        None
    }

    pub(crate) fn of_running(_pid: u32) -> Option<Self> {
        None
    }

    pub(crate) fn have_grown(&self, _: Option<&Cgroup>) -> bool {
        match self.0 {}
    }
}
