//! The processes that a child started, found in the process table by their session, group or
//! ancestor. Reparented ones are children of this subreaper; the rest are not.

use std::io;

use tracing::debug;

use super::pidfd::send_to;
use crate::child::Signal;
use crate::process::table::Entry;

/// A set of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::child) enum Scope {
    /// The leader, and the session and the group that it led. A child that a host has started may
    /// lead neither.
    Session(Leader),
    /// The group that the leader led.
    Group(Leader),
    /// All descendants of this process outside of its session. A monitored child leads a session of
    /// its own, and its descendants can't join ours (setsid(2)).
    Below,
}

/// A process that leads or has led the session and the group with its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::child) struct Leader {
    pub(in crate::child) pid: i32,
    /// In clock ticks since boot.
    pub(in crate::child) start: u64,
}

impl Leader {
    /// Whether the entry is this process.
    pub(in crate::child) fn is(&self, entry: &Entry) -> bool {
        (entry.pid, entry.start) == (self.pid, self.start)
    }

    /// Whether the number still means the session and group that this process led. False if another
    /// process has this pid: it may lead a new session of that id. While a member of the old session
    /// is left, the kernel does not reuse the number.
    fn is_unambiguous(&self) -> io::Result<bool> {
        match Entry::of(self.pid) {
            Ok(Some(entry)) => Ok(entry.start == self.start),
            Ok(None) => Ok(true),
            // Hidden by `hidepid` (proc(5)): a process of another user.
            Err(error) if is_hidden(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Scope {
    /// The members that are alive now, without this process.
    ///
    /// # Errors
    ///
    /// The process table can't be read: members may still exist.
    pub(in crate::child) fn members(&self) -> io::Result<Vec<Entry>> {
        let mut table = Entry::all()?;
        match self {
            Self::Below => table = below(table)?,
            Self::Session(_) | Self::Group(_) => table.retain(|entry| self.includes(entry)),
        }
        table.retain(|entry| !entry.has_ended() && !is_self(entry.pid));
        // Checked after the table was read, so that the number was theirs all the time.
        match self {
            Self::Session(leader) | Self::Group(leader) if !table.is_empty() => {
                Ok(if leader.is_unambiguous()? { table } else { Vec::new() })
            }
            _ => Ok(table),
        }
    }

    /// Sends `signal` to each of these members that is still the same process and in the set.
    ///
    /// # Errors
    ///
    /// The last error of pidfd_open(2) or pidfd_send_signal(2), after all have been tried.
    pub(in crate::child) fn send(&self, members: &[Entry], signal: Signal) -> io::Result<()> {
        let mut outcome = Ok(());
        for member in members {
            if let Err(error) = send_to(member.pid, signal, || self.still_includes(member)) {
                debug!(pid = member.pid, "{signal} not sent: {error}");
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Whether this member is still alive and in the set.
    pub(in crate::child) fn still_includes(&self, member: &Entry) -> bool {
        let now = Entry::of(member.pid).ok().flatten();
        now.is_some_and(|now| now.start == member.start && !now.has_ended() && self.includes(&now))
    }

    fn includes(&self, entry: &Entry) -> bool {
        match self {
            Self::Session(leader) => {
                [entry.session, entry.group, entry.pid].contains(&leader.pid)
                    && entry.start >= leader.start
            }
            Self::Group(leader) => entry.group == leader.pid && entry.start >= leader.start,
            Self::Below => true,
        }
    }
}

/// Whether the error means a process that `/proc` hides.
fn is_hidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM))
}

fn is_self(pid: i32) -> bool {
    u32::try_from(pid) == Ok(std::process::id())
}

/// The descendants of this process, without its children in its own session and their descendants.
fn below(table: Vec<Entry>) -> io::Result<Vec<Entry>> {
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let session = nix::unistd::getsid(None)?.as_raw();
    Ok(Entry::trees(table, |entry| entry.parent == own && entry.session != session))
}
