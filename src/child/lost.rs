//! What is left of a child whose supervisor has gone without ending it.

use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::Identity;
use super::platform;

/// Kills what is left of a lost child: itself, every process of the session and of the group that it
/// led, if it did, and everything in the cgroup that it was put into, if that still is one. Tells how many there
/// were, so that the caller can ask again: 0 is the end of it.
///
/// The caller has made sure that `child` is of this boot and of this pid namespace. Nothing is
/// touched that could be a stranger's: where another process has the child's pid, its session is
/// left alone, and where none has it, unless one of the members has the `marker` of the run; members that started before the child are no members; each is signalled through a
/// pidfd that was opened first and compared with the process table afterwards. A cgroup is left alone
/// where nobody in it is known to be of this run, and somebody to be of another one. Neither this
/// process nor a cgroup that it is in is ever killed.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on any system but Linux, where nothing is done; the
/// process table can't be read.
pub(crate) fn end_lost_session(
    child: &Identity,
    marker: Option<&str>,
    cgroup: Option<&Path>,
) -> io::Result<usize> {
    platform::end_lost_session(child, marker, cgroup)
}

/// The variable in the environment of a command that says which run it belongs to.
pub(crate) const RUN_VARIABLE: &str = "VMON_RUN";

/// What [`RUN_VARIABLE`] says: no other run has the same on one boot.
pub(crate) fn run_marker(supervisor: &Identity, started_at: DateTime<Utc>) -> String {
    format!("{}.{}.{}", supervisor.pid, supervisor.start, started_at.timestamp_micros())
}

/// As [`end_lost_session`], for a run whose supervisor has gone between the start of the child and
/// the record of its pid: kills every process whose environment began with this marker, as that of
/// the child did. What may not be looked at is another user's.
///
/// # Errors
///
/// As [`end_lost_session`].
pub(crate) fn end_marked(marker: &str) -> io::Result<usize> {
    platform::end_marked(marker)
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
            if end == "exit 0" {
                for marker in [None, Some("another run")] {
                    assert_eq!(end_lost_session(&identity, marker, None).unwrap(), 0);
                }
            }
            let ended = || end_lost_session(&identity, Some("this run"), None).unwrap();
            assert!(ended() >= 4);
            eventually(|| ended() == 0);
            assert_eq!(members(&identity), 0);
            let _ = child.try_reap();
        }
    }

    #[test]
    fn who_began_without_an_environment_is_not_waited_for_without_the_leader() {
        let (child, _io, identity) = start("env -i sleep 1000 & exit 0");
        eventually(|| child.try_reap().unwrap().is_some());
        let session = i32::try_from(identity.pid).unwrap();
        let left = || Entry::all().unwrap().into_iter().find(|entry| entry.session == session);
        let left = left().unwrap().pid;
        eventually(|| Entry::began_without_environment(left));
        assert_eq!(end_lost_session(&identity, Some("this run"), None).unwrap(), 0);
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
        assert_eq!(end_lost_session(&earlier, None, None).unwrap(), 0);
        let later = Identity { start: identity.start + 1, ..identity.clone() };
        assert_eq!(end_lost_session(&later, None, None).unwrap(), 0);
        assert_eq!(members(&identity), 2);
        eventually(|| end_lost_session(&identity, None, None).unwrap() == 0);
        child.discard();
    }
}
