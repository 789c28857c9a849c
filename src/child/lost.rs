//! What is left of a child whose supervisor has gone without ending it.

use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::Identity;
#[cfg(feature = "registry")]
use super::Signal;
use super::platform;

/// What was found of a lost run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// No process of it is left.
    Nothing,
    /// This many processes were sent KILL, or are in the middle of execve(2); ask again.
    Killed(usize),
    /// The process that is on record as the child lives, and nothing proves that it is this run's:
    /// it is left alone.
    Unproven(u32),
}

/// Kills what is left of a lost run: its child, the processes of the session and of the group that
/// the child led, and those in the cgroup that it was put into.
///
/// A record is data that its owner can write, so it decides nothing here. The proof is the marker
/// of the run in the environment that a process began with ([`RUN_VARIABLE`]): the session is
/// killed where one of its processes has it, the cgroup likewise. A process whose environment
/// can't be read proves nothing, and without a marker nothing is proven.
///
/// The caller has made sure that `child` is of this boot and of this pid namespace, and that the
/// record is its own. Where another process has the child's pid, the session is left alone; members
/// that started before the child are no members; each is signalled through a pidfd that was opened
/// first and compared with the process table afterwards. Neither this process nor a cgroup that it
/// is in is ever killed.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on any system but Linux, where nothing is done; the
/// process table, an environment or the cgroup can't be read; a process can't be signalled.
pub(crate) fn end_lost_session(
    child: &Identity,
    marker: Option<&str>,
    cgroup: Option<&Path>,
) -> io::Result<Leftovers> {
    platform::end_lost_session(child, marker, cgroup)
}

/// The variable in the environment of a command that says which run it belongs to.
pub(crate) const RUN_VARIABLE: &str = "VMON_RUN";

/// What [`RUN_VARIABLE`] says: no other run has the same on one boot.
pub(crate) fn run_marker(supervisor: &Identity, started_at: DateTime<Utc>) -> String {
    format!("{}.{}.{}", supervisor.pid, supervisor.start, started_at.timestamp_micros())
}

/// As [`end_lost_session`], for a run whose supervisor has gone between the start of the child and
/// the record of its pid: kills every process whose environment began with this marker, and returns
/// how many there were.
///
/// # Errors
///
/// As [`end_lost_session`].
pub(crate) fn end_marked(marker: &str) -> io::Result<usize> {
    platform::end_marked(marker)
}

/// Sends `signal` to the child of a run, where its environment began with the run's marker.
///
/// # Errors
///
/// `ESRCH` where it has ended, [`PermissionDenied`](io::ErrorKind::PermissionDenied) where nothing
/// proves that it is this run's, [`Unsupported`](io::ErrorKind::Unsupported) where that can't be
/// asked; pidfd_send_signal(2)'s.
#[cfg(feature = "registry")]
pub(crate) fn signal_marked(child: &Identity, marker: &str, signal: Signal) -> io::Result<()> {
    platform::signal_marked(child, marker, signal)
}

/// Proves that `parent` is the supervisor of a run: the run's child, whose environment began with
/// its marker, is a child of that process.
///
/// # Errors
///
/// As [`signal_marked`].
pub(crate) fn check_parent(parent: &Identity, child: &Identity, marker: &str) -> io::Result<()> {
    platform::check_parent(parent, child, marker)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Child, ChildIo, Command, SpawnIo};
    use super::*;
    use crate::process::table::Entry;

    fn start(script: &str) -> (Child, ChildIo, Identity) {
        let command = Command::new("sh").args(["-c", script]).env(RUN_VARIABLE, "this run");
        let (child, io) = Child::spawn(&command, SpawnIo::Pipes { input: false }, None).unwrap();
        let identity = Identity::of(child.pid()).unwrap();
        (child, io, identity)
    }

    fn members(child: &Identity) -> usize {
        let session = i32::try_from(child.pid).unwrap();
        let of_session = |entry: &Entry| entry.session == session && !entry.has_ended();
        Entry::all().unwrap().into_iter().filter(of_session).count()
    }

    fn eventually(mut event: impl FnMut() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !event() {
            assert!(Instant::now() < give_up);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_lost_session_is_ended_with_its_leader_and_without() {
        // The second has a group of its own, as a shell's job has.
        let jobs = "sleep 1000 & sh -mc 'sleep 1000 & wait' & sleep 1000 &";
        for end in ["wait", "exit 0"] {
            let (child, _io, identity) = start(&format!("{jobs} {end}"));
            eventually(|| members(&identity) >= 4);
            if end == "exit 0" {
                eventually(|| child.try_reap().unwrap().is_some());
            }
            let left = match end {
                "exit 0" => Leftovers::Nothing,
                _ => Leftovers::Unproven(identity.pid),
            };
            for marker in [None, Some("another run"), Some("")] {
                assert_eq!(end_lost_session(&identity, marker, None).unwrap(), left);
            }
            assert!(members(&identity) >= 4);
            let ended = || end_lost_session(&identity, Some("this run"), None).unwrap();
            assert!(matches!(ended(), Leftovers::Killed(4..)));
            eventually(|| ended() == Leftovers::Nothing);
            assert_eq!(members(&identity), 0);
            let _ = child.try_reap();
        }
    }

    #[test]
    fn a_child_is_signalled_and_its_parent_known_by_the_marker_alone() {
        let (child, _io, identity) = start("trap 'exit 7' USR1; while :; do sleep 0.01; done");
        let refused = |outcome: io::Result<()>| outcome.unwrap_err().kind();
        let unproven = refused(signal_marked(&identity, "another run", Signal::KILL));
        assert_eq!(unproven, io::ErrorKind::PermissionDenied);
        let us = Identity::current();
        assert_eq!(refused(check_parent(&us, &identity, "another run")), unproven);
        assert_eq!(refused(check_parent(&identity, &identity, "this run")), unproven);
        // At its birth, in the middle of execve(2), it has no environment.
        eventually(|| check_parent(&us, &identity, "this run").is_ok());
        eventually(|| signal_marked(&identity, "this run", Signal::USR1).is_err());
        let ended = signal_marked(&identity, "this run", Signal::USR1).unwrap_err();
        assert_eq!(ended.raw_os_error(), Some(libc::ESRCH));
        child.discard();
    }

    #[test]
    fn who_began_without_an_environment_is_not_waited_for_without_the_leader() {
        let (child, _io, identity) = start("env -i sleep 1000 & exit 0");
        eventually(|| child.try_reap().unwrap().is_some());
        let session = i32::try_from(identity.pid).unwrap();
        let left = || Entry::all().unwrap().into_iter().find(|entry| entry.session == session);
        let left = left().unwrap().pid;
        eventually(|| Entry::began_without_environment(left));
        let found = end_lost_session(&identity, Some("this run"), None).unwrap();
        assert_eq!(found, Leftovers::Nothing);
        let left = nix::unistd::Pid::from_raw(left);
        nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn what_has_the_marker_of_a_lost_run_is_ended_and_nothing_else() {
        let marked = |marker: &str| {
            let command = Command::new("sh")
                .args(["-c", "(setsid sleep 1000 &) ; sleep 1000 & wait"])
                .env(RUN_VARIABLE, marker);
            Child::spawn(&command, SpawnIo::Pipes { input: false }, None).unwrap()
        };
        let unique = run_marker(&Identity::current(), Utc::now());
        let (child, _io) = marked(&unique);
        let (other, _other_io) = marked(&format!("{unique}0"));
        let identity = Identity::of(other.pid()).unwrap();
        eventually(|| members(&identity) == 2);
        let mut most = 0;
        eventually(|| {
            most = most.max(end_marked(&unique).unwrap());
            child.try_reap().is_ok_and(|ended| ended.is_some()) && end_marked(&unique).unwrap() == 0
        });
        assert!(most > 0);
        assert_eq!(members(&identity), 2, "the other run's");
        eventually(|| end_marked(&format!("{unique}0")).unwrap() == 0);
        other.discard();
    }

    #[test]
    fn the_session_of_a_namesake_is_left_alone() {
        let (child, _io, identity) = start("sleep 1000 & wait");
        eventually(|| members(&identity) == 2);
        let earlier = Identity { start: identity.start - 1, ..identity.clone() };
        let ended = |child| end_lost_session(child, Some("this run"), None).unwrap();
        assert_eq!(ended(&earlier), Leftovers::Nothing);
        let later = Identity { start: identity.start + 1, ..identity.clone() };
        assert_eq!(ended(&later), Leftovers::Nothing);
        assert_eq!(members(&identity), 2);
        eventually(|| ended(&identity) == Leftovers::Nothing);
        child.discard();
    }
}
