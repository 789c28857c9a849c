//! The engine, on the thread of the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{State, TIMEOUT};
use crate::{builder, sh};
use vmon::child::{ChildIo, Command, ExitStatus, Signal};
use vmon::host::{Batch, Engine, HostError, Reply, SandboxEvent};
use vmon::monitor::{
    Attach, Event, Input, Monitor, Phase, Reason, RequestError, Restart, Sandbox, SandboxId,
    StartError, Transition,
};
use vmon::registry::Registry;
use vmon::terminal::WindowSize;

/// Turns until a reply is there.
#[track_caller]
fn reply<T>(engine: &mut Engine, mut reply: Reply<T>) -> Result<T, HostError> {
    let give_up = Instant::now() + TIMEOUT;
    loop {
        reply = match reply.try_take() {
            Ok(result) => return result,
            Err(reply) => reply,
        };
        assert!(Instant::now() < give_up, "no reply");
        engine.turn(Some(Duration::from_millis(20))).unwrap();
    }
}

/// Turns until there is no sandbox left.
#[track_caller]
fn run_to_end(engine: &mut Engine) {
    let give_up = Instant::now() + TIMEOUT;
    while !engine.is_empty() {
        assert!(Instant::now() < give_up, "{:?}", engine.list());
        engine.turn(Some(Duration::from_millis(20))).unwrap();
    }
}

/// The names of events, of each sandbox in their order.
fn words(batch: &Batch, id: SandboxId) -> Vec<&'static str> {
    let of_it = batch.events.iter().filter(|event| event.id == id);
    of_it
        .map(|event| match event.event {
            Event::Transition(Transition::Running { .. }) => "running",
            Event::Transition(Transition::Stopping { .. }) => "stopping",
            Event::Transition(Transition::Draining { .. }) => "draining",
            Event::Transition(Transition::Restarting { .. }) => "restarting",
            Event::Transition(Transition::Stopped { .. }) => "stopped",
            Event::Done => "done",
            _ => "unknown",
        })
        .collect()
}

#[test]
fn an_engine_can_be_moved_to_a_thread_and_ends_there_are_taken_here() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let ids = ["exit 7", "kill -9 $$"].map(|script| {
        let name = format!("n{}", script.len());
        engine.start(builder(&state, &name), sh(script))
    });
    let ends = ids.map(|id| engine.wait(id));
    let thread = std::thread::spawn(move || run_to_end(&mut engine));
    let ends = ends.map(|end| end.wait().unwrap());
    assert_eq!(ends[0].status(), Some(ExitStatus::Code(7)));
    assert_eq!(ends[1].status(), Some(ExitStatus::Signal(Signal::KILL)));
    thread.join().unwrap();
}

#[test]
fn a_start_is_told_with_the_pid_when_the_child_runs_and_carries_the_end() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let id = engine.start(builder(&state, "web"), sh("exec sleep 1000"));
    let started = engine.started(id);
    let started = reply(&mut engine, started).unwrap();
    assert_eq!((started.id, started.name.as_str()), (id, "web"));
    assert_eq!(engine.get(id).unwrap().pid(), Some(started.pid));
    // One that runs already.
    let again = engine.started(id);
    assert_eq!(reply(&mut engine, again).unwrap().pid, started.pid);
    engine.stop(id, None).unwrap();
    let end = reply(&mut engine, started.end).unwrap();
    assert_eq!(end.status(), Some(ExitStatus::Signal(Signal::TERM)));
    assert!(engine.is_empty());
    let unknown = engine.started(id);
    assert!(matches!(reply(&mut engine, unknown), Err(HostError::NoSuchSandbox(it)) if it == id));
}

#[test]
fn a_start_that_fails_is_an_error_with_its_exit_code_and_source() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let id = engine.start(builder(&state, "web"), Command::new("/nonexistent/program"));
    let (started, end) = (engine.started(id), engine.wait(id));
    let error = reply(&mut engine, started).unwrap_err();
    let HostError::NotStarted { source, exit_code: 127 } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, StartError::Spawn(_)));
    assert_eq!(error.to_string(), source.to_string());
    assert_eq!(reply(&mut engine, end).unwrap().reason(), Reason::StartFailed);
}

#[test]
fn a_second_sandbox_of_a_name_is_refused_by_its_claim_and_the_first_one_is_found() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut engine = Engine::new().unwrap();
    let observed = || builder(&state, "web").observer(registry.observer());
    let first = engine.start(observed(), sh("exec sleep 1000"));
    let started = engine.started(first);
    reply(&mut engine, started).unwrap();
    let second = engine.start(observed(), sh("exit 0"));
    let started = engine.started(second);
    let error = reply(&mut engine, started).unwrap_err();
    assert!(matches!(&error, HostError::NotStarted { source, exit_code: 125 }
        if matches!(**source, StartError::Taken { .. })));
    let names = ["Sandboxfile", "web"].map(|name| name.parse().unwrap());
    assert_eq!(engine.find(&names[0], &names[1]), Some(first));
    assert_eq!(engine.find(&names[1], &names[1]), None);
    engine.signal(first, Signal::KILL).unwrap();
    run_to_end(&mut engine);
    assert_eq!(engine.find(&names[0], &names[1]), None);
    // The end is on record when the engine has forgotten the sandbox.
    let runs = registry.runs().unwrap();
    assert!(runs.iter().all(|run| run.state == Some(Phase::Stopped)), "{runs:?}");
}

#[test]
fn a_child_of_the_hosts_is_taken_over_and_listed() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let mut command = std::process::Command::new("cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (pid, io) = (child.id(), ChildIo::from(&mut child));
    let id = engine.adopt(builder(&state, "cat"), pid, io).unwrap();
    let before = engine.list();
    assert_eq!((before[0].id, before[0].phase), (id, Phase::Starting));
    engine.turn(None).unwrap();
    let listed = engine.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].phase, listed[0].pid), (Phase::Running, Some(pid)));
    assert_eq!((listed[0].name.as_str(), listed[0].config_file.as_str()), ("cat", "Sandboxfile"));
    assert_eq!(engine.report(id).unwrap().child.unwrap().pid, pid);
    engine.stop(id, None).unwrap();
    run_to_end(&mut engine);
    assert!(engine.list().is_empty());
    // Another process is refused, and its streams come back.
    let io = ChildIo::Piped { stdin: None, stdout: None, stderr: None };
    assert_eq!(engine.adopt(builder(&state, "cat"), 1, io).unwrap_err().pid, 1);
    assert!(engine.is_empty());
}

#[test]
fn a_child_that_the_host_reaps_ends_with_the_status_that_is_handed_in() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let mut command = std::process::Command::new("sh");
    let mut child = command.args(["-c", "exit 7"]).stdin(Stdio::null()).spawn().unwrap();
    let (pid, io) = (child.id(), ChildIo::from(&mut child));
    let id = engine.adopt(builder(&state, "web").host_reaps(), pid, io).unwrap();
    let status = child.wait().unwrap();
    let end = engine.wait(id);
    engine.turn(None).unwrap();
    engine.reaped(id, pid, status);
    assert_eq!(reply(&mut engine, end).unwrap().status(), Some(ExitStatus::Code(7)));
}

#[test]
fn a_client_is_attached_and_the_terminal_gets_its_size() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let script = "read -r line; stty size; echo \"got $line\"; exec sleep 1000";
    let sandbox = Sandbox::new("pty", state.path().join("log")).unwrap().input(Input::Attached);
    let id = engine.start(Monitor::builder(sandbox), sh(script).pty(true));
    engine.turn(None).unwrap();
    engine.resize(id, WindowSize::new(12, 98)).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let attached = engine.attach(id, ours, &Attach::default()).unwrap();
    let size = WindowSize::new(11, 99);
    engine.resize_session(id, attached.session, size).unwrap();
    theirs.write_all(b"line\n").unwrap();
    let mut seen = Vec::new();
    let give_up = Instant::now() + TIMEOUT;
    while !String::from_utf8_lossy(&seen).contains("got line") {
        assert!(Instant::now() < give_up, "{seen:?}");
        engine.turn(Some(Duration::from_millis(20))).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = theirs.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
    }
    // The size of the session is the last one.
    assert!(String::from_utf8_lossy(&seen).contains("11 99"), "{seen:?}");
    assert_eq!(engine.report(id).unwrap().sessions.len(), 1);
    engine.reopen_log(id).unwrap();
    engine.signal(id, Signal::KILL).unwrap();
    run_to_end(&mut engine);
    assert!(String::from_utf8_lossy(&state.log("pty")).contains("got line"));
}

#[test]
fn a_request_that_a_sandbox_cannot_meet_says_why() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let id = engine.start(builder(&state, "web"), sh("exec sleep 1000"));
    // A call starts it: it runs from here on.
    engine.signal(id, Signal::CONT).unwrap();
    let size = WindowSize::new(1, 1);
    let error = engine.resize(id, size).unwrap_err();
    assert!(matches!(error, HostError::Request(RequestError::NoTerminal)), "{error}");
    engine.stop(id, Some(Duration::ZERO)).unwrap();
    run_to_end(&mut engine);
    let (client, _) = UnixStream::pair().unwrap();
    for error in [
        engine.stop(id, None).unwrap_err(),
        engine.signal(id, Signal::TERM).unwrap_err(),
        engine.attach(id, client, &Attach::default()).unwrap_err(),
        engine.report(id).unwrap_err(),
    ] {
        assert!(matches!(error, HostError::NoSuchSandbox(it) if it == id), "{error}");
    }
}

#[test]
fn events_of_every_sandbox_come_in_order_with_its_name() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let subscription = engine.subscribe(100);
    let first = engine.start(builder(&state, "first"), sh("exit 0"));
    let second = engine.start(builder(&state, "second"), sh("exec sleep 1000"));
    engine.turn(None).unwrap();
    engine.stop(second, None).unwrap();
    run_to_end(&mut engine);
    let batch = engine.take_batch(subscription);
    assert_eq!(words(&batch, first), ["running", "draining", "stopped", "done"]);
    assert_eq!(words(&batch, second), ["running", "stopping", "draining", "stopped", "done"]);
    let named = |event: &SandboxEvent| (event.id == first) == (event.name.as_str() == "first");
    assert!(batch.events.iter().all(named));
    assert_eq!(batch.missed, 0);
    assert!(engine.take_batch(subscription).events.is_empty());
    engine.unsubscribe(subscription);
    let ended = engine.next_batch(subscription);
    assert!(matches!(reply(&mut engine, ended), Err(HostError::Ended)));
}

#[test]
fn a_slow_consumer_keeps_the_newest_events_and_a_count_of_the_others() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let (slow, fast) = (engine.subscribe(2), engine.subscribe(100));
    let id = engine.start(builder(&state, "web"), sh("exit 0"));
    run_to_end(&mut engine);
    let batch = engine.take_batch(slow);
    assert_eq!((batch.missed, words(&batch, id)), (2, vec!["stopped", "done"]));
    let batch = engine.take_batch(fast);
    assert_eq!((batch.missed, batch.events.len()), (0, 4));
}

#[test]
fn a_reply_for_events_that_is_dropped_takes_none_with_it() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let subscription = engine.subscribe(100);
    let id = engine.start(builder(&state, "web"), sh("exit 0"));
    drop(engine.next_batch(subscription));
    run_to_end(&mut engine);
    let batch = engine.next_batch(subscription);
    let batch = reply(&mut engine, batch).unwrap();
    assert_eq!(words(&batch, id), ["running", "draining", "stopped", "done"]);
}

#[test]
fn an_end_that_nothing_waits_for_is_kept_nowhere_and_one_over_all_runs_comes_once() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let sandbox = Sandbox::new("again", state.path().join("log")).unwrap();
    let restart: Restart = "on-failure:2".parse().unwrap();
    let id = engine.start(Monitor::builder(sandbox.restart(restart)), sh("echo x; exit 3"));
    let end = engine.wait(id);
    drop(engine.wait(id));
    run_to_end(&mut engine);
    assert_eq!(reply(&mut engine, end).unwrap().status(), Some(ExitStatus::Code(3)));
    assert_eq!(state.log("again"), b"x\nx\nx\n");
    let late = engine.wait(id);
    assert!(matches!(reply(&mut engine, late), Err(HostError::NoSuchSandbox(_))));
}

#[test]
fn replies_of_an_engine_that_is_dropped_end_with_an_error() {
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let id = engine.start(builder(&state, "web"), sh("exec sleep 1000"));
    let (end, subscription) = (engine.wait(id), engine.subscribe(1));
    let batch = engine.next_batch(subscription);
    drop(engine);
    assert!(matches!(end.wait(), Err(HostError::Ended)));
    assert!(matches!(batch.wait(), Err(HostError::Ended)));
}

/// The engine is one descriptor of an outer loop, which is woken when a turn is due.
#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn an_engine_is_nested_in_a_loop_of_the_hosts() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let state = State::new();
    let mut engine = Engine::new().unwrap();
    let id = engine.start(builder(&state, "web"), sh("echo out; sleep 0.05; exit 7"));
    let end = engine.wait(id);
    while !engine.is_empty() {
        let left = engine.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = match left {
            Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap(),
            None => PollTimeout::NONE,
        };
        if left != Some(Duration::ZERO) {
            poll(&mut [PollFd::new(engine.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        }
        engine.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(reply(&mut engine, end).unwrap().status(), Some(ExitStatus::Code(7)));
    assert_eq!(state.log("web"), b"out\n");
}
