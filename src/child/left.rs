//! The processes that a child leaves behind when it ends, and which of them a monitor ends.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::getpgid;

pub(crate) use super::platform::Orphans;
use super::{Child, ExitStatus, Identity, Signal, platform};

/// Which processes a monitor ends when its child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillScope {
    /// The process group that the child led, if it led one.
    Group,
    /// All processes below this one, which is a subreaper and has no other children.
    Below,
    /// The child's session: this subreaper has other children too, and nothing else distinguishes
    /// their orphans from the child's.
    Session,
}

/// The number of monitors in this process. It is the process, and not a reactor, that gets the
/// orphans of all of them.
static MONITORS: AtomicUsize = AtomicUsize::new(0);

/// Counts one monitor, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(());

impl Counted {
    pub(crate) fn new() -> Self {
        MONITORS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        MONITORS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether orphans may belong to the child of another monitor. Then only those in the session of a
/// child are its own.
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
pub(super) fn has_other_monitors() -> bool {
    MONITORS.load(Ordering::Relaxed) > 1
}

impl KillScope {
    /// That of a monitor whose child is the only one that this process, a subreaper, starts.
    pub(crate) fn of_subreaper() -> Self {
        if platform::has_no_child() { Self::Below } else { Self::Session }
    }
}

/// The signal that processes get at once when the child has left them behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FinalSignal {
    pub(crate) signal: Signal,
    /// Whether the process group was signalled together with the child.
    pub(crate) group_signalled: bool,
}

impl Child {
    /// As [`try_reap`](Self::try_reap), and returns the processes of `scope` that are left, after
    /// they got `signal`, and CONT, since a stopped process does not act on other signals.
    /// `identity` is the child's.
    pub(crate) fn try_end(
        &self,
        identity: &Identity,
        scope: KillScope,
        signal: FinalSignal,
    ) -> io::Result<Option<(ExitStatus, Option<Orphans>)>> {
        match scope {
            KillScope::Group => self.end_group(identity, signal),
            KillScope::Below | KillScope::Session => {
                let Some(status) = self.try_reap()? else { return Ok(None) };
                let left = Orphans::below(identity, scope == KillScope::Session);
                Ok(Some((status, left.map(|left| left.send_final(signal)))))
            }
        }
    }

    fn end_group(
        &self,
        identity: &Identity,
        signal: FinalSignal,
    ) -> io::Result<Option<(ExitStatus, Option<Orphans>)>> {
        let group = getpgid(Some(self.pid));
        let leads = group == Ok(self.pid);
        if leads && !signal.group_signalled && platform::has_ended(self.pid)? {
            // While the child is a zombie, no other process group gets its number.
            let _ = self.signal(signal.signal);
            let _ = self.signal(Signal::CONT);
        }
        let Some(status) = self.try_reap()? else { return Ok(None) };
        let left = match group {
            Ok(_) => leads.then(|| Orphans::group(identity)).flatten(),
            // The host has reaped it. A group of its number is the one that it led.
            Err(_) => Orphans::group(identity).map(|left| left.send_final(signal)),
        };
        Ok(Some((status, left)))
    }
}

/// Reaps orphans that have become children of this subreaper and have ended, but not `child`.
pub(crate) fn reap_orphans(child: &Identity, scope: KillScope) {
    match scope {
        KillScope::Group => {}
        KillScope::Below | KillScope::Session => {
            platform::reap_orphans(child, scope == KillScope::Session)
        }
    }
}
