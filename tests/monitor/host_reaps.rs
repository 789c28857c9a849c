//! Children that the host reaps itself, and hands in the status of.

#![allow(unsafe_code)] // a child without SIGCHLD
#![allow(clippy::zombie_processes)] // each is reaped by its test

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus as Status, Stdio};

use crate::common::turning::{Loop, turn_until};
use crate::common::{State, eventually, is_alive, wait};
use nix::unistd::Pid;
use vmon::child::{ChildIo, ExitStatus, Signal};
use vmon::monitor::{End, Monitor, Reason, Sandbox};
use vmon::reactor::{Handler, HandlerId, Reactor};
use vmon::registry::Registry;

fn sandbox(state: &State, name: &str) -> Sandbox {
    Sandbox::new(name, state.path().join("log")).unwrap()
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn start(reactor: &mut Loop, sandbox: Sandbox, child: &mut Child) -> HandlerId {
    let (pid, io) = (child.id(), ChildIo::from(child));
    let id = Monitor::builder(sandbox).host_reaps().start(reactor, pid, io).unwrap();
    reactor.poll_once(None).unwrap();
    id
}

fn hand_in(reactor: &mut Loop, id: HandlerId, pid: u32, status: Status) {
    reactor.call(id, |monitor, cx| monitor.reaped(pid, status, cx)).unwrap();
}

fn end_of(reactor: &mut Loop, id: HandlerId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.remove(id).unwrap().into_end().unwrap()
}

#[test]
fn a_child_that_the_host_awaits_and_then_stops_ends_with_its_code_or_signal() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    for n in 0..20 {
        let (script, status, reason) = match n % 2 {
            0 => ("echo tail; exit 7", ExitStatus::Code(7), Reason::Exited),
            _ => ("echo tail; kill -9 $$", ExitStatus::Signal(Signal::KILL), Reason::Signalled),
        };
        let name = format!("n{n}");
        let mut child = sh(script).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = Monitor::builder(sandbox(&state, &name))
            .observer(registry.observer())
            .host_reaps()
            .start(&mut reactor, child.id(), io)
            .unwrap();
        reactor.poll_once(None).unwrap();
        let reaped = wait(&mut child);
        // A turn before the status is there, and a stop, as of a host that was just asked for one.
        reactor.poll_once(Some(std::time::Duration::ZERO)).unwrap();
        reactor.call(id, Monitor::stop).unwrap();
        hand_in(&mut reactor, id, child.id(), reaped);
        let end = end_of(&mut reactor, id);
        assert_eq!((end.status(), end.reason()), (Some(status), reason));
        assert_eq!(state.log(&name), b"tail\n");
        let run = registry.runs().unwrap().into_iter().find(|run| run.name.as_str() == name);
        assert_eq!(run.unwrap().exit_code, status.code());
    }
}

#[test]
fn a_child_whose_end_the_monitor_sees_first_is_left_to_the_host() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    for (script, status) in
        [("exit 7", ExitStatus::Code(7)), ("kill -TERM $$", ExitStatus::Signal(Signal::TERM))]
    {
        let mut child = sh(script).spawn().unwrap();
        let id = start(&mut reactor, sandbox(&state, "web"), &mut child);
        let end = end_of(&mut reactor, id);
        assert_eq!(end.status(), Some(status));
        assert_eq!(ExitStatus::from(wait(&mut child)), status);
    }
}

#[test]
fn the_status_of_another_child_is_not_taken_for_that_of_this_one() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let mut other = sh("exit 3").spawn().unwrap();
    let mut child = sh("exec sleep 1000").spawn().unwrap();
    let id = start(&mut reactor, sandbox(&state, "web"), &mut child);
    let status = wait(&mut other);
    hand_in(&mut reactor, id, other.id(), status);
    assert_eq!(reactor.get(id).unwrap().pid(), Some(child.id()));
    reactor.call(id, Monitor::stop).unwrap();
    let end = end_of(&mut reactor, id);
    assert_eq!((end.signal(), end.reason()), (Some(Signal::TERM), Reason::Stopped));
    wait(&mut child);
}

#[test]
fn a_status_that_is_never_handed_in_is_unknown_in_the_end() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let mut child = sh("exit 7").spawn().unwrap();
    let id = start(&mut reactor, sandbox(&state, "web"), &mut child);
    wait(&mut child);
    assert_eq!(end_of(&mut reactor, id).status(), Some(ExitStatus::Unknown));
}

#[test]
fn what_a_child_leaves_behind_is_ended_also_if_the_host_has_reaped_the_child() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let mut child = sh("sleep 1000 >/dev/null & echo $!").process_group(0).spawn().unwrap();
    let id = start(&mut reactor, sandbox(&state, "web"), &mut child);
    let status = wait(&mut child);
    hand_in(&mut reactor, id, child.id(), status);
    assert_eq!(end_of(&mut reactor, id).status(), Some(ExitStatus::Code(0)));
    let left: u32 = String::from_utf8(state.log("web")).unwrap().trim().parse().unwrap();
    eventually("it has ended too", || !is_alive(left));
}

/// Clones this process without a signal at the child's end, as `clone(2)` with flags 0 does.
#[cfg(target_os = "linux")]
fn clone_without_sigchld() -> u32 {
    // SAFETY: a fork with no signal. The child calls nothing but _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(7) }
    }
    u32::try_from(pid).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_that_was_cloned_without_sigchld_is_monitored_and_reaped() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let pid = clone_without_sigchld();
    let io = ChildIo::Piped { stdin: None, stdout: None, stderr: None };
    let id = Monitor::builder(sandbox(&state, "web")).start(&mut reactor, pid, io).unwrap();
    assert_eq!(end_of(&mut reactor, id).status(), Some(ExitStatus::Code(7)));
    let reaped = nix::sys::wait::waitpid(
        Pid::from_raw(pid as i32),
        Some(nix::sys::wait::WaitPidFlag::__WALL),
    );
    assert_eq!(reaped, Err(nix::errno::Errno::ECHILD));
}
