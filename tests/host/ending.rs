//! The end of a host: what becomes of its children, and of what waits.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as NixSignal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::common::{State, is_alive, is_gone};
use crate::{builder, sandbox, sh, wait};
use vmon::child::Signal;
use vmon::host::{Host, HostError, OnDrop};
use vmon::monitor::{Phase, Reason};
use vmon::registry::Registry;

/// A child that does not end at TERM.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 0.02; done";

#[test]
fn a_host_that_stops_ends_all_children_at_the_same_time_and_waits_for_them() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let starts: Vec<_> = (0..10)
        .map(|n| {
            let builder = builder(&state, &format!("n{n}")).observer(registry.observer());
            handle.start(builder, sh("trap 'sleep 0.2; exit 3' TERM; while :; do sleep 0.02; done"))
        })
        .collect();
    let started: Vec<_> = starts.into_iter().map(|it| wait(it).unwrap()).collect();
    drop(host);
    for it in started {
        assert!(is_gone(it.pid));
        assert_eq!(wait(it.end).unwrap().reason(), Reason::Stopped);
    }
    let runs = registry.runs().unwrap();
    assert!(runs.iter().all(|run| run.state == Some(Phase::Stopped)));
}

#[test]
fn a_host_that_kills_waits_for_no_stop_timeout() {
    let state = State::new();
    let host = Host::builder().on_drop(OnDrop::Kill).start().unwrap();
    let stubborn = sandbox(&state, "stubborn").stop_timeout(Duration::from_secs(1000));
    let started = wait(host.handle().start(stubborn, sh(STUBBORN))).unwrap();
    state.wait_for_log("stubborn", b"up\n");
    drop(host);
    assert!(is_gone(started.pid));
    let end = wait(started.end).unwrap();
    assert_eq!((end.signal(), end.reason()), (Some(Signal::KILL), Reason::Killed));
}

#[test]
fn a_host_that_leaves_its_children_lets_them_go_on_and_closes_their_runs() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let host = Host::builder().on_drop(OnDrop::Leave).start().unwrap();
    let builder = builder(&state, "web").observer(registry.observer());
    let started = wait(host.handle().start(builder, sh("exec sleep 1000"))).unwrap();
    drop(host);
    assert!(matches!(wait(started.end), Err(HostError::Ended)));
    // The thread that has started it is gone, and with it a parent-death signal.
    assert!(is_alive(started.pid));
    let runs = registry.runs().unwrap();
    assert_eq!(runs[0].reason, Some(Reason::SupervisorLost));
    let pid = Pid::from_raw(started.pid as i32);
    kill(pid, NixSignal::SIGKILL).unwrap();
    waitpid(pid, None).unwrap();
}

#[test]
fn a_host_is_closed_without_blocking_and_starts_nothing_meanwhile() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let script = "trap 'read -r go <\"$GO\"; exit 4' TERM; echo up; while :; do sleep 0.02; done";
    let mut gate = std::process::Command::new("true");
    state.gate(&mut gate);
    let command = sh(script).env("GO", state.file("go"));
    let started = wait(handle.start(sandbox(&state, "web"), command)).unwrap();
    state.wait_for_log("web", b"up\n");
    let closed = host.close();
    // Requests are met until the last child has ended.
    assert_eq!(wait(handle.report(started.id)).unwrap().phase, Phase::Stopping);
    let refused = wait(handle.start(sandbox(&state, "late"), sh("exit 0")));
    assert!(matches!(refused, Err(HostError::Ended)));
    let closed = closed.try_take().unwrap_err();
    state.open_gate();
    wait(closed).unwrap();
    assert_eq!(wait(started.end).unwrap().exit_code(), 4);
}

#[test]
fn a_handle_that_outlives_the_host_gets_an_error_from_every_call() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let pending = handle.events(1);
    drop(host);
    let began = Instant::now();
    assert!(matches!(wait(handle.list()), Err(HostError::Ended)));
    assert!(matches!(wait(handle.call(|_| ())), Err(HostError::Ended)));
    let start = handle.clone().start(sandbox(&state, "web"), sh("exit 0"));
    assert!(matches!(wait(start), Err(HostError::Ended)));
    drop((pending, handle.events(1), began));
}

#[test]
fn a_host_that_its_own_thread_drops_ends() {
    let host = Host::new().unwrap();
    let handle = host.handle();
    wait(handle.call(move |_| drop(host))).unwrap();
    let ended = wait(handle.call(|_| ()));
    // The thread may meet one more request first.
    assert!(matches!(ended, Ok(()) | Err(HostError::Ended)));
}
