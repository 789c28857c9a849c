//! What a child leaves behind, from the process table; and zombies that have come down to us.

use std::io;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::members::{Leader, Scope};
use crate::child::left::Parting;
use crate::child::{Identity, Signal};
use crate::process::table::Entry;

/// What is left of a child that has been reaped.
#[derive(Debug)]
pub(in crate::child) struct Left {
    leader: Leader,
    scope: Scope,
    /// The processes that were found when the table was read last.
    known: Vec<Entry>,
    /// What is still to be sent to them: the table could not be read when it was due.
    pending: Option<Parting>,
}

impl Left {
    /// The group that the child led; `None` when no process is left in it.
    pub(in crate::child) fn group(child: &Identity) -> Option<Self> {
        let leader = Leader::of(child)?;
        // The table is read only if they do not end by themselves.
        let left = Self { leader, scope: Scope::Group(leader), known: Vec::new(), pending: None };
        (!left.has_surely_none()).then_some(left)
    }

    /// All that has come down to us, or what is left of its session; `None` when that is no
    /// process.
    pub(in crate::child) fn below(child: &Identity, session: bool) -> Option<Self> {
        let leader = Leader::of(child)?;
        let scope = if session { Scope::Lost(leader) } else { Scope::Below };
        let mut left = Self { leader, scope, known: Vec::new(), pending: None };
        // What can't be read now is read later.
        (!left.is_gone().unwrap_or(false)).then_some(left)
    }

    /// Sends the parting signal, and CONT.
    pub(in crate::child) fn part(mut self, parting: Parting) -> Self {
        if self.known.is_empty() {
            self.pending = Some(parting);
        } else {
            self.send(parting);
        }
        self
    }

    fn send(&self, parting: Parting) {
        let group = self.leader.pid;
        let mut addressed = self.known.clone();
        addressed.retain(|member| !(parting.group_has_had_it && member.group == group));
        // KILL follows for those that it does not reach, and its errors are reported.
        let _ = self.scope.send(&addressed, parting.signal);
        let _ = self.scope.send(&addressed, Signal::CONT);
    }

    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// The process table can't be read.
    pub(in crate::child) fn is_gone(&mut self) -> io::Result<bool> {
        if self.has_surely_none() {
            return Ok(true);
        }
        // Looking at those few costs less than reading the table.
        if self.known.iter().any(|member| self.scope.still_includes(member)) {
            return Ok(false);
        }
        self.look()?;
        let none = self.known.is_empty();
        if none {
            // What has ended since the first look is no member, and still to be reaped.
            self.has_surely_none();
        }
        Ok(none)
    }

    /// Sends KILL to the processes that are there now.
    ///
    /// # Errors
    ///
    /// As [`is_gone`](Self::is_gone), and what sending gives.
    pub(in crate::child) fn kill(&mut self) -> io::Result<()> {
        self.look()?;
        self.scope.send(&self.known, Signal::KILL)
    }

    fn look(&mut self) -> io::Result<()> {
        self.known = self.scope.members()?;
        if let Some(parting) = self.pending.take() {
            self.send(parting);
        }
        Ok(())
    }

    /// What one call can tell: it takes zombies, and those who are not the child's, for members.
    /// Zombies that are ours are reaped.
    fn has_surely_none(&self) -> bool {
        match self.scope {
            Scope::Group(leader) => {
                // Signal 0 is sent to nobody; EPERM is an answer too.
                kill(Pid::from_raw(-leader.pid), None) == Err(Errno::ESRCH)
            }
            Scope::Below | Scope::Lost(_) => reap(self.leader, self.scope) == Children::None,
        }
    }
}

impl Leader {
    pub(in crate::child) fn of(child: &Identity) -> Option<Self> {
        // Pid 0 is nobody's: the session of the kernel's own threads. 1 is init's.
        let pid = i32::try_from(child.pid).ok().filter(|pid| *pid > 1)?;
        Some(Self { pid, start: child.start })
    }
}

/// Whether this process has any child, dead or alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    None,
    Some,
}

/// Whether this process has no child at all, dead or alive.
pub(in crate::child) fn has_no_child() -> bool {
    ended_child(libc::P_ALL, 0) == Err(Errno::ECHILD)
}

/// Whether this child of ours has ended; it is not reaped.
pub(in crate::child) fn has_ended(pid: Pid) -> io::Result<bool> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(io::Error::other)?;
    match ended_child(libc::P_PID, id) {
        Ok(ended) => Ok(ended.is_some()),
        // Somebody else has reaped it.
        Err(Errno::ECHILD) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A child of ours that has ended and has not been reaped, if there is one.
fn ended_child(kind: libc::idtype_t, id: libc::id_t) -> nix::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for one. nix's wrapper
    // is not used: it has no status for a child that a real-time signal has ended.
    Errno::result(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), look) })?;
    // SAFETY: zeroed is a valid siginfo_t, and for a child that has ended the kernel has filled in
    // its pid; for none, the pid is 0.
    let pid = unsafe { info.assume_init().si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// See [`reap_orphans`](crate::child::left::reap_orphans).
pub(in crate::child) fn reap_orphans(child: &Identity, session: bool) {
    let Some(leader) = Leader::of(child) else { return };
    let _ = reap(leader, if session { Scope::Lost(leader) } else { Scope::Below });
}

/// Reaps those that have come down to us and have ended. Neither the child, which its monitor
/// reaps, nor what others of this process have started: that is in our own session.
fn reap(child: Leader, scope: Scope) -> Children {
    let is_orphan = |entry: &Entry| match scope {
        Scope::Lost(leader) | Scope::Group(leader) => entry.session == leader.pid,
        Scope::Below => getsid(None).is_ok_and(|own| entry.session != own.as_raw()),
    };
    loop {
        let pid = match ended_child(libc::P_ALL, 0) {
            Ok(Some(pid)) => pid,
            Err(Errno::ECHILD) => return Children::None,
            Ok(None) | Err(_) => return Children::Some,
        };
        let entry = Entry::of(pid).ok().flatten();
        if pid == child.pid || !entry.is_some_and(|entry| is_orphan(&entry)) {
            // The kernel tells of the same one again and again, so it can't tell of others.
            reap_from_table(child, is_orphan);
            return Children::Some;
        }
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

fn reap_from_table(child: Leader, is_orphan: impl Fn(&Entry) -> bool) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let ended = |entry: &&Entry| entry.parent == own && entry.pid != child.pid && entry.has_ended();
    for entry in Entry::all().unwrap_or_default().iter().filter(ended).filter(|it| is_orphan(it)) {
        let _ = waitpid(Pid::from_raw(entry.pid), Some(WaitPidFlag::WNOHANG));
    }
}
