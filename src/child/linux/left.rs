//! The processes that outlive a child, from the process table, and reparented zombies.

use std::fs;
use std::io;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::members::{Leader, Scope};
use crate::child::left::{FinalSignal, has_other_monitors};
use crate::child::{ExitStatus, Identity, Signal};
use crate::process::table::Entry;

/// The processes that are left of a reaped child.
#[derive(Debug)]
pub(crate) struct Orphans {
    leader: Leader,
    scope: Scope,
    /// The processes of the last reading of the table.
    known: Vec<Entry>,
    /// What is still to be sent to them: the table could not be read when it was due.
    pending: Option<FinalSignal>,
}

impl Orphans {
    /// The group that the child led; `None` when no process is left in it.
    pub(in crate::child) fn group(child: &Identity) -> Option<Self> {
        let leader = Leader::of(child)?;
        // The table is read only if the processes do not end by themselves.
        let left = Self { leader, scope: Scope::Group(leader), known: Vec::new(), pending: None };
        (!left.reap_and_check_empty()).then_some(left)
    }

    /// The reparented descendants, or with `session` the child's session; `None` if no process is
    /// left.
    pub(in crate::child) fn below(child: &Identity, session: bool) -> Option<Self> {
        let leader = Leader::of(child)?;
        let scope = if session { Scope::Session(leader) } else { Scope::Below };
        let mut left = Self { leader, scope, known: Vec::new(), pending: None };
        // A table that can't be read now is read later.
        (!left.is_gone().unwrap_or(false)).then_some(left)
    }

    fn scope(&self) -> Scope {
        narrowed(self.scope, self.leader)
    }

    /// Sends the final signal, and CONT.
    pub(in crate::child) fn send_final(mut self, signal: FinalSignal) -> Self {
        if self.known.is_empty() {
            self.pending = Some(signal);
        } else {
            self.send(signal);
        }
        self
    }

    fn send(&self, signal: FinalSignal) {
        let group = self.leader.pid;
        let mut addressed = self.known.clone();
        addressed.retain(|member| !(signal.group_signalled && member.group == group));
        // KILL follows for those that it does not reach, and its errors are reported.
        let _ = self.scope().send(&addressed, signal.signal);
        let _ = self.scope().send(&addressed, Signal::CONT);
    }

    /// Whether no process is left.
    ///
    /// # Errors
    ///
    /// The process table can't be read.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        if self.reap_and_check_empty() {
            return Ok(true);
        }
        // A check of these few costs less than reading the table.
        if self.known.iter().any(|member| self.scope().still_includes(member)) {
            return Ok(false);
        }
        self.read_table()?;
        let none = self.known.is_empty();
        if none {
            // Reaps the processes that have ended since the first check.
            self.reap_and_check_empty();
        }
        Ok(none)
    }

    /// Sends KILL to the processes that are left.
    ///
    /// # Errors
    ///
    /// As [`is_gone`](Self::is_gone), and those of sending a signal.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.read_table()?;
        self.scope().send(&self.known, Signal::KILL)
    }

    fn read_table(&mut self) -> io::Result<()> {
        self.known = self.scope().members()?;
        if let Some(signal) = self.pending.take() {
            self.send(signal);
        }
        Ok(())
    }

    /// Reaps zombie children, and returns whether no process is left. False is not proof: zombies and
    /// unrelated processes also count.
    fn reap_and_check_empty(&self) -> bool {
        match self.scope() {
            Scope::Group(leader) => {
                // Signal 0 only checks; EPERM also means that there is a member.
                kill(Pid::from_raw(-leader.pid), None) == Err(Errno::ESRCH)
            }
            Scope::Below | Scope::Session(_) => {
                reap(self.leader, self.scope());
                has_no_child()
            }
        }
    }
}

/// All descendants, unless there are other monitors, whose children are among them.
fn narrowed(scope: Scope, leader: Leader) -> Scope {
    match scope {
        Scope::Below if has_other_monitors() => Scope::Session(leader),
        scope => scope,
    }
}

impl Leader {
    pub(in crate::child) fn of(child: &Identity) -> Option<Self> {
        // Session 0 is that of kernel threads, and pid 1 is init.
        let pid = i32::try_from(child.pid).ok().filter(|pid| *pid > 1)?;
        Some(Self { pid, start: child.start })
    }
}

/// Whether this process has no child, alive or zombie.
pub(in crate::child) fn has_no_child() -> bool {
    ended_child(libc::P_ALL, 0) == Err(Errno::ECHILD)
}

/// Whether this child has ended. It is not reaped.
pub(in crate::child) fn has_ended(pid: Pid) -> io::Result<bool> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(io::Error::other)?;
    match ended_child(libc::P_PID, id) {
        Ok(ended) => Ok(ended.is_some()),
        // Another part of the host has reaped it.
        Err(Errno::ECHILD) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The exit status of this child if it has ended. It is not reaped.
pub(in crate::child) fn ended_status(pid: Pid) -> nix::Result<Option<ExitStatus>> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(|_| Errno::ECHILD)?;
    let info = ended_info(libc::P_PID, id)?;
    // SAFETY: the kernel has filled this in for an ended child.
    Ok(info.map(|info| ExitStatus::from_info(info.si_code, unsafe { info.si_status() })))
}

/// A zombie child, if there is one. It is not reaped.
fn ended_child(kind: libc::idtype_t, id: libc::id_t) -> nix::Result<Option<i32>> {
    // SAFETY: the kernel has filled this in for an ended child.
    Ok(ended_info(kind, id)?.map(|info| unsafe { info.si_pid() }))
}

fn ended_info(kind: libc::idtype_t, id: libc::id_t) -> nix::Result<Option<libc::siginfo_t>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | super::ANY_CHILD;
    // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for one. nix's wrapper
    // is not used: it has no status for a child that a real-time signal has ended.
    Errno::result(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) })?;
    // SAFETY: zeroed is a valid siginfo_t. The kernel has set the pid of an ended child; without
    // one, the pid is 0.
    let (info, pid) = unsafe { (info.assume_init(), info.assume_init().si_pid()) };
    Ok((pid != 0).then_some(info))
}

/// See [`reap_orphans`](crate::child::left::reap_orphans).
pub(in crate::child) fn reap_orphans(child: &Identity, session: bool) {
    let Some(leader) = Leader::of(child) else { return };
    let scope = if session { Scope::Session(leader) } else { narrowed(Scope::Below, leader) };
    reap(leader, scope);
}

/// Reaps every child of this process that has ended, except the one with this pid, whose status
/// something else takes: for a program that is a subreaper and starts no other process that it
/// waits for. Never waits.
pub fn reap_children(except: Option<u32>) {
    let except = except.and_then(|pid| i32::try_from(pid).ok());
    while let Ok(Some(pid)) = ended_child(libc::P_ALL, 0) {
        if Some(pid) == except {
            // waitid returns the same zombie each time.
            return match children() {
                Ok(children) => reap_each(children.into_iter().filter(|child| *child != pid)),
                Err(_) => reap_from_table(pid, |_| true),
            };
        }
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// The children of this process, by one file for each thread, where the whole table would be one
/// for each process of the system.
///
/// Some may be missing where another thread reaps meanwhile (proc_tid_children(5)).
///
/// # Errors
///
/// There is no such file: a kernel without `CONFIG_PROC_CHILDREN`.
fn children() -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(children)
}

fn reap_each(children: impl IntoIterator<Item = i32>) {
    for child in children {
        let _ = waitpid(Pid::from_raw(child), Some(WaitPidFlag::WNOHANG));
    }
}

/// Reaps reparented processes that have ended. Not the child, which its monitor reaps, nor children
/// that the host has started, which are in our own session.
fn reap(child: Leader, scope: Scope) {
    let is_orphan = |entry: &Entry| match scope {
        Scope::Session(leader) | Scope::Group(leader) => entry.session == leader.pid,
        Scope::Below => getsid(None).is_ok_and(|own| entry.session != own.as_raw()),
    };
    loop {
        let Ok(Some(pid)) = ended_child(libc::P_ALL, 0) else { return };
        let entry = Entry::of(pid).ok().flatten();
        if pid == child.pid || !entry.is_some_and(|entry| is_orphan(&entry)) {
            // waitid returns the same zombie each time, so the others are found in the table.
            return reap_from_table(child.pid, is_orphan);
        }
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

fn reap_from_table(child: i32, is_orphan: impl Fn(&Entry) -> bool) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let ended = |entry: &&Entry| entry.parent == own && entry.pid != child && entry.has_ended();
    let table = Entry::all().unwrap_or_default();
    reap_each(table.iter().filter(ended).filter(|it| is_orphan(it)).map(|entry| entry.pid));
}
