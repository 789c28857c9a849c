//! What a child leaves behind when it ends, and who of it the monitor answers for.

use std::io;

use nix::unistd::getpgid;

use super::{Child, ExitStatus, Identity, Signal, platform};

/// Whom a monitor answers for when its child has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The process group that the child led, if it led one.
    Group,
    /// All that is below this process, which is a subreaper and has no other children.
    Below,
    /// The child's session: this subreaper has other children too, whose orphans can't be told
    /// from the child's in any other way.
    Session,
}

impl Reach {
    /// Of a monitor whose child will be the only one that this process, a subreaper, starts.
    pub(crate) fn of_subreaper() -> Self {
        if platform::has_no_child() { Self::Below } else { Self::Session }
    }
}

/// The signals that what is left gets at once, each where it has not had it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parting {
    pub(crate) signal: Signal,
    /// The child's group has had it with the child.
    pub(crate) group_has_had_it: bool,
}

/// What an ended child has left behind.
#[derive(Debug)]
pub(crate) struct Left(platform::Left);

impl Left {
    /// Whether no process is left; what has ended meanwhile is reaped.
    ///
    /// # Errors
    ///
    /// It can't be found out now.
    pub(crate) fn is_gone(&mut self) -> io::Result<bool> {
        self.0.is_gone()
    }

    /// Sends KILL to all that is left now.
    ///
    /// # Errors
    ///
    /// It can't be found out which processes those are, or one of them can't be signalled: the
    /// caller tries again.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.0.kill()
    }
}

impl Child {
    /// As [`try_reap`](Self::try_reap), and tells what of `reach` is left, after it got `parting`
    /// (and CONT, since a stopped process could not act on it). `identity` is the child's.
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
            // The zombie keeps the number of its group from everybody else.
            let _ = self.signal(parting.signal);
            let _ = self.signal(Signal::CONT);
        }
        let Some(status) = self.try_reap()? else { return Ok(None) };
        let left = leads.then(|| platform::Left::group(identity)).flatten();
        Ok(Some((status, left.map(Left))))
    }
}

/// Reaps what has come down to this subreaper and has ended, the child excepted, which is
/// `child`.
pub(crate) fn reap_orphans(child: &Identity, reach: Reach) {
    match reach {
        Reach::Group => {}
        Reach::Below | Reach::Session => platform::reap_orphans(child, reach == Reach::Session),
    }
}
