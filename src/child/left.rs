//! The processes that outlive a child, and which of them the monitor signals and reaps.

use std::io;

use nix::unistd::getpgid;

use super::{Child, ExitStatus, Identity, Signal, platform};

/// Which processes a monitor signals and reaps after its child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The process group that the child led, if it led one.
    Group,
    /// All descendants of this process, which is a subreaper and has no other children.
    Below,
    /// The child's session. This subreaper has other children too, and only the session
    /// distinguishes the child's orphans from theirs.
    Session,
}

impl Reach {
    /// For a monitor in a subreaper that starts no other children.
    pub(crate) fn of_subreaper() -> Self {
        if platform::has_no_child() { Self::Below } else { Self::Session }
    }
}

/// The signal that the leftover processes get at once, unless they have got it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parting {
    pub(crate) signal: Signal,
    /// The process group was already signalled together with the child.
    pub(crate) group_has_had_it: bool,
}

/// The processes that an ended child has left behind.
#[derive(Debug)]
pub(crate) struct Left(platform::Left);

impl Left {
    /// Whether no process is left. Reaps those that have ended.
    ///
    /// # Errors
    ///
    /// The process table can't be read now.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        self.0.is_gone()
    }

    /// Sends KILL to the processes that are left.
    ///
    /// # Errors
    ///
    /// The process table can't be read, or a process can't be signalled: the caller tries again.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}

impl Child {
    /// As [`try_reap`](Self::try_reap), and sends `parting` to the processes of `reach`, followed
    /// by CONT, because a stopped process could not act on it. Returns the processes that are left.
    /// `identity` is that of the child.
    pub(crate) fn try_end(
        &self,
        identity: &Identity,
        reach: Reach,
        parting: Parting,
    ) -> io::Result<Option<(ExitStatus, Option<Left>)>> {
        match reach {
            Reach::Group => self.end_group(identity, parting),
            Reach::Below | Reach::Session => {
                let Some(status) = self.try_reap()? else { return Ok(None) };
                let left = platform::Left::below(identity, reach == Reach::Session);
                Ok(Some((status, left.map(|left| Left(left.part(parting))))))
            }
        }
    }

    fn end_group(
        &self,
        identity: &Identity,
        parting: Parting,
    ) -> io::Result<Option<(ExitStatus, Option<Left>)>> {
        let leads = getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid);
        if leads && !parting.group_has_had_it && platform::has_ended(self.pid)? {
            // While the leader is a zombie, its group number can't be reused.
            let _ = self.signal(parting.signal);
            let _ = self.signal(Signal::CONT);
        }
        let Some(status) = self.try_reap()? else { return Ok(None) };
        let left = leads.then(|| platform::Left::group(identity)).flatten();
        Ok(Some((status, left.map(Left))))
    }
}

/// Reaps the ended processes that were reparented to this subreaper, except `child`, which its
/// monitor reaps.
pub(crate) fn reap_orphans(child: &Identity, reach: Reach) {
    match reach {
        Reach::Group => {}
        Reach::Below | Reach::Session => platform::reap_orphans(child, reach == Reach::Session),
    }
}
