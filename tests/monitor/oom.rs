//! `vmon::oom::OomWatch` on a cgroup of the kernel, and the reason of a child that the host has
//! started in one.

#![cfg(target_os = "linux")]
#![allow(clippy::zombie_processes)] // a monitor reaps it

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::memory_cgroup::{EATER, MemoryCgroup};
use crate::common::turning::turn_until;
use crate::common::{State, TIMEOUT, eventually};
use vmon::child::ChildIo;
use vmon::monitor::{Monitor, Phase, Reason, Sandbox};
use vmon::oom::{OomError, OomWatch};
use vmon::reactor::Reactor;

/// A shell in the cgroup, which runs the script when it gets a line.
fn start(cgroup: &MemoryCgroup, script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo up; read go; {script}")]);
    let mut inside = cgroup.holds(&command);
    let mut child = inside.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    child
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

fn is_readable(watch: &OomWatch, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap() > 0
}

#[test]
fn memory_that_runs_out_makes_the_watch_readable_and_is_reported_once() {
    let Some(cgroup) = MemoryCgroup::new("watched") else { return };
    let mut child = start(&cgroup, &format!("{EATER}; echo $?; read end"));
    let mut watch = OomWatch::of(child.id()).unwrap().unwrap();
    assert!(
        FdFlag::from_bits_retain(fcntl(&watch, FcntlArg::F_GETFD).unwrap())
            .contains(FdFlag::FD_CLOEXEC)
    );
    assert!(
        OFlag::from_bits_retain(fcntl(&watch, FcntlArg::F_GETFL).unwrap())
            .contains(OFlag::O_NONBLOCK)
    );
    assert!(!watch.check() && !is_readable(&watch, PollTimeout::ZERO));
    go(&mut child);
    assert!(is_readable(&watch, PollTimeout::try_from(TIMEOUT).unwrap()));
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "137\n");
    assert!(watch.check());
    assert!(!watch.check());
    // A notification that was delayed by the kernel's rate limit reports no further event.
    eventually("it is not readable", || {
        assert!(!watch.check());
        !is_readable(&watch, PollTimeout::ZERO)
    });
    go(&mut child);
    child.wait().unwrap();
}

#[test]
fn a_last_look_finds_an_event_before_the_cgroup_is_removed() {
    let Some(cgroup) = MemoryCgroup::new("last") else { return };
    let mut child = start(&cgroup, &format!("exec {EATER}"));
    let mut watch = OomWatch::of(child.id()).unwrap().unwrap();
    go(&mut child);
    child.wait().unwrap();
    assert!(watch.check());
    cgroup.remove();
    assert!(!watch.check());
}

#[test]
fn the_removal_of_a_cgroup_is_not_an_event() {
    let Some(cgroup) = MemoryCgroup::new("removed") else { return };
    let mut child = start(&cgroup, "exit 0");
    let mut watch = OomWatch::of(child.id()).unwrap().unwrap();
    go(&mut child);
    child.wait().unwrap();
    cgroup.remove();
    if cgroup.is_v1 {
        assert!(is_readable(&watch, PollTimeout::try_from(TIMEOUT).unwrap()));
    }
    assert!(!watch.check());
}

#[test]
fn a_process_that_was_reaped_has_no_cgroup_to_watch() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let error = OomWatch::of(child.id()).unwrap_err();
    assert!(matches!(error, OomError::Process { pid, .. } if pid == child.id()), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", child.id())), "{error}");
}

#[test]
fn a_child_that_the_host_has_started_in_a_cgroup_of_its_own_ran_out_of_memory() {
    let Some(cgroup) = MemoryCgroup::new("adopted") else { return };
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let eats = format!("exec {EATER}");
    // The second run begins with the count of the first.
    for (script, reason) in [(&*eats, Reason::OutOfMemory), ("kill -9 $$", Reason::Signalled)] {
        let mut child = start(&cgroup, script);
        let mut stdin = child.stdin.take().unwrap();
        let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
        let (pid, io) = (child.id(), ChildIo::from(child));
        let id = Monitor::builder(sandbox).start(&mut reactor, pid, io).unwrap();
        turn_until(&mut reactor, "it runs", |reactor| {
            reactor.get(id).unwrap().report().phase == Phase::Running
        });
        stdin.write_all(b"go\n").unwrap();
        turn_until(&mut reactor, "the end", |reactor| reactor.get(id).unwrap().end().is_some());
        assert_eq!(reactor.remove(id).unwrap().into_end().unwrap().reason(), reason);
    }
}
