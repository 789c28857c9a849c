//! Processes that belong to a child without being children of ours: its session, its group, and
//! what has come down to us since it ended, found in the process table.

use std::io;

use tracing::debug;

use super::pidfd::send_to;
use crate::child::Signal;
use crate::process::table::Entry;

/// The processes that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::child) enum Scope {
    /// This process, and the session and the group that it led, if it did: one that a host has
    /// started need lead neither.
    Lost(Leader),
    /// The group that this process led.
    Group(Leader),
    /// All below us, except what is of our own session: a child leads one of its own, which no
    /// descendant can leave for ours (setsid(2)).
    Below,
}

/// A process that leads a session and a group of its own number, or did so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::child) struct Leader {
    pub(in crate::child) pid: i32,
    /// In clock ticks since boot.
    pub(in crate::child) start: u64,
}

impl Leader {
    /// Whether it is this very process.
    pub(in crate::child) fn is(&self, entry: &Entry) -> bool {
        (entry.pid, entry.start) == (self.pid, self.start)
    }

    /// Whether the number can only mean what this process led. Another process that has its pid
    /// is a stranger, and so is the session that it may lead; and as long as one member of the
    /// old one is left, the kernel gives the number to nobody.
    fn is_unambiguous(&self) -> io::Result<bool> {
        match Entry::of(self.pid) {
            Ok(Some(entry)) => Ok(entry.start == self.start),
            Ok(None) => Ok(true),
            // Hidden by `hidepid` (proc(5)): another user's.
            Err(error) if is_hidden(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Scope {
    /// Who lives of them now. Never ourselves.
    ///
    /// # Errors
    ///
    /// The process table can't be read: nothing is known of them then, least of all that they are
    /// gone.
    pub(in crate::child) fn members(&self) -> io::Result<Vec<Entry>> {
        let mut table = Entry::all()?;
        match self {
            Self::Below => table = below(table)?,
            Self::Lost(_) | Self::Group(_) => table.retain(|entry| self.includes(entry)),
        }
        table.retain(|entry| !entry.has_ended() && !is_us(entry.pid));
        // After the look, so that the number has been theirs all the while.
        match self {
            Self::Lost(leader) | Self::Group(leader) if !table.is_empty() => {
                Ok(if leader.is_unambiguous()? { table } else { Vec::new() })
            }
            _ => Ok(table),
        }
    }

    /// Sends `signal` to each of these members that is still the same process.
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

    /// Whether this member has neither ended nor gone elsewhere.
    pub(in crate::child) fn still_includes(&self, member: &Entry) -> bool {
        let now = Entry::of(member.pid).ok().flatten();
        now.is_some_and(|now| now.start == member.start && !now.has_ended() && self.includes(&now))
    }

    fn includes(&self, entry: &Entry) -> bool {
        match self {
            Self::Lost(leader) => {
                [entry.session, entry.group, entry.pid].contains(&leader.pid)
                    && entry.start >= leader.start
            }
            Self::Group(leader) => entry.group == leader.pid && entry.start >= leader.start,
            Self::Below => true,
        }
    }
}

/// Whether there is a process that `/proc` does not show.
fn is_hidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM))
}

fn is_us(pid: i32) -> bool {
    u32::try_from(pid) == Ok(std::process::id())
}

/// Those of the table that descend from us, without the children of our own session and what is
/// below those.
fn below(mut table: Vec<Entry>) -> io::Result<Vec<Entry>> {
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let session = nix::unistd::getsid(None)?.as_raw();
    let mut found = Vec::new();
    let mut parents = vec![own];
    while let Some(parent) = parents.pop() {
        let is_child = |entry: &mut Entry| {
            entry.parent == parent && (parent != own || entry.session != session)
        };
        for child in table.extract_if(.., is_child) {
            parents.push(child.pid);
            found.push(child);
        }
    }
    Ok(found)
}
