//! The processes of a lost run: one whose supervisor was killed and did not stop its child.

use chrono::{DateTime, Utc};

use super::Identity;
#[cfg(feature = "registry")]
pub(crate) use super::platform::{check_parent, end_lost_session, end_marked, signal_marked};

/// The processes of a lost run that were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// No process is left.
    Nothing,
    /// This many processes were sent KILL, or are in execve(2) now. Call again.
    Killed(usize),
    /// The process with the recorded identity of the child is alive, and nothing proves that it
    /// belongs to this run. It was not signalled.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
    Unproven(u32),
}

/// The environment variable of a command with the marker of its run.
pub(crate) const RUN_VARIABLE: &str = "VMON_RUN";

/// The value of [`RUN_VARIABLE`], unique among the runs of one boot.
pub(crate) fn run_marker(supervisor: &Identity, started_at: DateTime<Utc>) -> String {
    format!("{}.{}.{}", supervisor.pid, supervisor.start, started_at.timestamp_micros())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io;
    use std::time::{Duration, Instant};

    use super::super::{Child, ChildIo, Command, Signal, SpawnIo};
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
    fn a_lost_session_is_killed_with_its_leader_and_without() {
        // The second one has its own process group, as a shell's job.
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
        // During execve(2) it has no environment.
        eventually(|| check_parent(&us, &identity, "this run").is_ok());
        eventually(|| signal_marked(&identity, "this run", Signal::USR1).is_err());
        let ended = signal_marked(&identity, "this run", Signal::USR1).unwrap_err();
        assert_eq!(ended.raw_os_error(), Some(libc::ESRCH));
        child.discard();
    }

    #[test]
    fn a_process_without_an_initial_environment_is_not_awaited_after_its_leader() {
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
    fn only_processes_with_the_marker_of_a_lost_run_are_killed() {
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
    fn the_session_of_another_process_with_the_same_pid_is_not_signalled() {
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
