//! Monitors that are dropped, or removed from their reactor, before they are done.

#![allow(clippy::zombie_processes)] // each is reaped by its test

use std::process::{Child, Command as StdCommand, Stdio};

use crate::common::turning::{Loop, start_added, turn_until};
use crate::common::{State, eventually, is_alive, wait};
use nix::sys::signal::{Signal as Sig, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use vmon::child::{ChildIo, Command, ExitStatus};
use vmon::monitor::{Monitor, Phase, Reason, Sandbox};
use vmon::reactor::{Handler, HandlerId, Reactor};
use vmon::registry::{Registry, Run};

const NO_IO: ChildIo = ChildIo::Piped { stdin: None, stdout: None, stderr: None };

fn sandbox(state: &State) -> Sandbox {
    Sandbox::new("web", state.path().join("log")).unwrap()
}

fn spawn(reactor: &mut Loop, state: &State, registry: &Registry, script: &str) -> HandlerId {
    let builder = Monitor::builder(sandbox(state)).observer(registry.observer());
    builder.spawn(reactor, Command::new("sh").args(["-c", script]))
}

fn end_child(pid: u32) {
    let pid = Pid::from_raw(pid as i32);
    kill(pid, Sig::SIGKILL).unwrap();
    waitpid(pid, None).unwrap();
}

/// A child of the host that has ended and is not reaped.
fn ended_child(script: &str) -> Child {
    let mut command = StdCommand::new("sh");
    let child = command.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
    eventually("it is a zombie", || !is_alive(child.id()));
    child
}

/// The last run; a new one of its name can be started.
#[track_caller]
fn closed_run(state: &State, registry: &Registry) -> Run {
    let run = registry.runs().unwrap().pop().unwrap();
    assert_eq!(run.state, Some(Phase::Stopped));
    let mut reactor = Reactor::new().unwrap();
    let next = spawn(&mut reactor, state, registry, "exit 5");
    turn_until(&mut reactor, "its end", |reactor| reactor.get(next).unwrap().is_done());
    assert_eq!(reactor.get(next).unwrap().end().unwrap().exit_code(), 5);
    run
}

/// Monitors a child of this process.
fn hand_over(reactor: &mut Loop, state: &State, registry: &Registry, child: &Child) -> HandlerId {
    let builder = Monitor::builder(sandbox(state)).observer(registry.observer());
    let id = builder.start(reactor, child.id(), NO_IO).unwrap();
    start_added(reactor);
    id
}

#[test]
fn a_reactor_that_is_dropped_closes_the_runs_of_its_children_and_leaves_those_to_the_host() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&mut reactor, &state, &registry, "exec sleep 1000");
    start_added(&mut reactor);
    let pid = reactor.get(id).unwrap().pid().unwrap();
    drop(reactor);
    let run = closed_run(&state, &registry);
    assert_eq!((run.reason, run.exit_code), (Some(Reason::SupervisorLost), None));
    assert!(is_alive(pid));
    end_child(pid);
}

#[test]
fn a_monitor_that_is_dropped_after_its_child_has_ended_records_the_exit_code() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let mut child = ended_child("exit 7");
    let id = hand_over(&mut reactor, &state, &registry, &child);
    drop(reactor.remove(id));
    let run = closed_run(&state, &registry);
    assert_eq!((run.reason, run.exit_code), (Some(Reason::Exited), Some(7)));
    assert_eq!(ExitStatus::from(wait(&mut child)), ExitStatus::Code(7));
}

#[test]
fn a_monitor_that_is_dropped_while_the_database_is_locked_leaves_its_end_for_the_next_claim() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let mut child = ended_child("exit 7");
    let id = hand_over(&mut reactor, &state, &registry, &child);
    let locked = rusqlite::Connection::open(state.db()).unwrap();
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop(reactor.remove(id));
    drop(locked);
    let mut reactor = Reactor::new().unwrap();
    let next = spawn(&mut reactor, &state, &registry, "exit 5");
    turn_until(&mut reactor, "its end", |reactor| reactor.get(next).unwrap().is_done());
    let codes: Vec<_> = registry.runs().unwrap().iter().map(|run| run.exit_code).collect();
    assert_eq!(codes, [Some(7), Some(5)]);
    wait(&mut child);
}

#[test]
fn a_monitor_that_was_removed_and_is_added_again_ends() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&mut reactor, &state, &registry, "exec sleep 1000");
    start_added(&mut reactor);
    let pid = reactor.get(id).unwrap().pid().unwrap();
    let removed = reactor.remove(id).unwrap();
    let id = reactor.add(removed);
    reactor.run().unwrap();
    let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
    assert_eq!((end.status(), end.reason()), (Some(ExitStatus::Unknown), Reason::SupervisorLost));
    let run = closed_run(&state, &registry);
    assert_eq!(run.reason, Some(Reason::SupervisorLost));
    end_child(pid);
}

#[test]
fn a_monitor_that_was_removed_before_it_was_started_can_be_added_again() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&mut reactor, &state, &registry, "exit 3");
    let removed = reactor.remove(id).unwrap();
    let id = reactor.add(removed);
    reactor.run().unwrap();
    assert_eq!(reactor.get(id).unwrap().end().unwrap().exit_code(), 3);
}
