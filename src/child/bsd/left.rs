//! What a child leaves behind where there is neither a process table that tells of sessions nor a
//! pidfd: its process group. And no cgroups.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::child::left::Parting;
use crate::child::{CgroupError, Identity, Signal};

/// What is left of the group of a child that has been reaped.
#[derive(Debug)]
pub(in crate::child) struct Left {
    group: Pid,
}

impl Left {
    /// The group that the child led; `None` when nobody is left in it.
    pub(in crate::child) fn group(child: &Identity) -> Option<Self> {
        let group = i32::try_from(child.pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)?;
        let mut left = Self { group };
        // What can't be asked now is asked later.
        (!left.is_gone().unwrap_or(false)).then_some(left)
    }

    /// The group here as well: nothing tells what else is the child's.
    pub(in crate::child) fn below(child: &Identity, _session: bool) -> Option<Self> {
        Self::group(child)
    }

    /// Sends the parting signal, and CONT.
    pub(in crate::child) fn part(self, parting: Parting) -> Self {
        if !parting.group_has_had_it {
            // KILL follows where it does not arrive, and its errors are reported.
            let _ = self.send(parting.signal);
            let _ = self.send(Signal::CONT);
        }
        self
    }

    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// The system does not say whether the leader's pid has been given anew.
    pub(in crate::child) fn is_gone(&mut self) -> io::Result<bool> {
        let pid = Pid::from_raw(-self.group.as_raw());
        // A process that has the leader's pid is a stranger: the number has been given anew.
        Ok(kill(pid, None) == Err(Errno::ESRCH) || self.is_strangers()?)
    }

    /// Sends KILL to the processes that are there now.
    ///
    /// # Errors
    ///
    /// As [`is_gone`](Self::is_gone), and kill(2)'s.
    pub(in crate::child) fn kill(&mut self) -> io::Result<()> {
        self.send(Signal::KILL)
    }

    fn is_strangers(&self) -> io::Result<bool> {
        let leader = u32::try_from(self.group.as_raw()).unwrap_or(0);
        Ok(super::process(leader)?.is_some())
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        if self.is_strangers()? {
            return Ok(());
        }
        // SAFETY: kill takes two integers and touches no memory of ours. As long as one member is
        // left, and the leader is gone, the number is the group's.
        match Errno::result(unsafe { libc::kill(-self.group.as_raw(), signal.number()) }) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Not asked here: what is below us can't be told anyway.
pub(in crate::child) fn has_no_child() -> bool {
    false
}

/// Whether this child of ours has ended; it is not reaped.
pub(in crate::child) fn has_ended(pid: Pid) -> io::Result<bool> {
    let pid = u32::try_from(pid.as_raw()).map_err(io::Error::other)?;
    Ok(super::process(pid)?.is_none_or(|process| process.ended))
}

/// None is known to be the child's.
pub(in crate::child) fn reap_orphans(_: &Identity, _session: bool) {}

/// There is none: these systems have no cgroups.
#[derive(Debug)]
pub(crate) struct Cgroup(Infallible);

impl Cgroup {
    pub(crate) fn open(directory: &Path, _empty: bool) -> Result<Self, CgroupError> {
        Err(CgroupError::new(directory, &io::ErrorKind::Unsupported.into()))
    }

    pub(in crate::child) fn admit(&self, _: i32) -> Result<(), CgroupError> {
        match self.0 {}
    }

    pub(crate) fn ran_out_of_memory(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        match self.0 {}
    }

    pub(crate) fn signal(&self, _: Signal, _except_group: Option<i32>) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn remove(&self) {
        match self.0 {}
    }
}
