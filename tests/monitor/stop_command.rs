//! A stop command in place of the stop signal.

#![cfg(target_os = "linux")]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::turning::{Loop, start_added, turn_until};
use crate::common::{State, is_gone};
use vmon::child::{ChildIo, Command, ExitStatus, Signal};
use vmon::monitor::{End, Monitor, Reason, Sandbox, SandboxId};
use vmon::reactor::{Handler, Reactor};

const NEVER: Duration = Duration::from_secs(3600);

/// A guest that notices TERM, and that ends with code 7 once there is a file `down`.
const GUEST: &str = "exec 2>/dev/null; trap 'echo signalled; exit 8' TERM; echo up
    while ! [ -e down ]; do sleep 0.01; done; exit 7";

/// A guest that nothing but KILL ends.
const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1000; done";

/// A stop command that never ends.
const HANGING: &str = "echo $$ >pid.new; mv pid.new pid; exec sleep 1000";

fn sandbox(state: &State, stop_command: &str) -> Sandbox {
    let sandbox = Sandbox::new("web", state.path().join("log")).unwrap();
    sandbox.stop_command(stop_command).stop_timeout(NEVER)
}

fn spawn(state: &State, reactor: &mut Loop, sandbox: Sandbox, script: &str) -> SandboxId {
    let command = Command::new("sh").args(["-c", script]).current_dir(state.path());
    let id = Monitor::builder(sandbox).spawn(reactor, command.env("MARK", "of the child"));
    turn_until(reactor, "it is up", |_| state.log("web") == b"up\n");
    id
}

#[track_caller]
fn end_of(reactor: &mut Loop, id: SandboxId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.get(id).unwrap().end().unwrap().clone()
}

/// The pid of a stop command that hangs.
#[track_caller]
fn hanging(state: &State, reactor: &mut Loop) -> u32 {
    turn_until(reactor, "the stop command runs", |_| state.file("pid").exists());
    fs::read_to_string(state.file("pid")).unwrap().trim_end().parse().unwrap()
}

fn stop(reactor: &mut Loop, id: SandboxId) {
    reactor.call(id, Monitor::stop).unwrap();
}

#[test]
fn a_stop_command_is_run_in_place_of_the_stop_signal() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let command = "echo \"$VMON_PID $VMON_NAME $VMON_CONFIG $MARK\" >seen; : >down";
    let id = spawn(&state, &mut reactor, sandbox(&state, command), GUEST);
    let pid = reactor.get(id).unwrap().pid().unwrap();
    stop(&mut reactor, id);
    let end = end_of(&mut reactor, id);
    assert_eq!((end.status(), end.reason()), (Some(ExitStatus::Code(7)), Reason::Stopped));
    assert_eq!(state.log("web"), b"up\n");
    let seen = fs::read_to_string(state.file("seen")).unwrap();
    assert_eq!(seen, format!("{pid} web Sandboxfile of the child\n"));
}

#[test]
fn a_stop_command_sees_no_variable_of_the_childs_user() {
    let variables = ["HOME", "USER", "LOGNAME", "SHELL"];
    let print = variables.map(|variable| format!("${{{variable}-none}}")).join(" ");
    let own = variables.map(|it| std::env::var(it).unwrap_or("none".to_owned())).join(" ");
    let uid = nix::unistd::geteuid().as_raw();
    for (uid, expected) in [(Some(uid), own.as_str()), (None, "a b c d")] {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let guest = Command::new("sh").args(["-c", GUEST]).current_dir(state.path());
        let guest = guest.envs(variables.into_iter().zip(["a", "b", "c", "d"]));
        let guest = uid.into_iter().fold(guest, Command::uid);
        let sandbox = sandbox(&state, &format!("echo \"{print}\" >seen; : >down"));
        let id = Monitor::builder(sandbox).spawn(&mut reactor, guest);
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        stop(&mut reactor, id);
        assert_eq!(end_of(&mut reactor, id).exit_code(), 7);
        assert_eq!(fs::read_to_string(state.file("seen")).unwrap().trim_end(), expected);
    }
}

#[test]
fn a_command_that_has_succeeded_is_followed_by_no_signal() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id =
        spawn(&state, &mut reactor, sandbox(&state, "echo $$ >pid.new; mv pid.new pid"), GUEST);
    stop(&mut reactor, id);
    let command = hanging(&state, &mut reactor);
    turn_until(&mut reactor, "the command is reaped", |_| is_gone(command));
    assert_eq!(state.log("web"), b"up\n");
    fs::write(state.file("down"), "").unwrap();
    assert_eq!(end_of(&mut reactor, id).exit_code(), 7);
    assert_eq!(state.log("web"), b"up\n");
}

#[test]
fn the_stop_signal_follows_a_command_that_fails_or_can_t_be_started() {
    for (command, keeps_directory) in [("exit 3", true), ("/nonexistent", true), (":", false)] {
        let state = State::new();
        let directory = state.file("work");
        fs::create_dir(&directory).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let guest = Command::new("sh").args(["-c", GUEST]).current_dir(&directory);
        let id = Monitor::builder(sandbox(&state, command)).spawn(&mut reactor, guest);
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        if !keeps_directory {
            fs::remove_dir(&directory).unwrap();
        }
        stop(&mut reactor, id);
        let end = end_of(&mut reactor, id);
        assert_eq!((end.exit_code(), end.reason()), (8, Reason::Stopped), "{command}");
        assert!(state.log("web").ends_with(b"signalled\n"), "{command}");
    }
}

#[test]
fn the_stop_timeout_kills_a_child_whose_stop_command_hangs_and_the_command() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&state, &mut reactor, sandbox(&state, HANGING), STUBBORN);
    stop(&mut reactor, id);
    let command = hanging(&state, &mut reactor);
    let timeout = Some(Duration::from_millis(20));
    reactor.call(id, |monitor, cx| monitor.stop_within(timeout, cx)).unwrap();
    let end = end_of(&mut reactor, id);
    assert_eq!(
        (end.status(), end.reason()),
        (Some(ExitStatus::Signal(Signal::KILL)), Reason::Killed)
    );
    turn_until(&mut reactor, "the command is reaped", |_| is_gone(command));
}

#[test]
fn a_second_stop_after_a_second_kills_while_the_command_hangs() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&state, &mut reactor, sandbox(&state, HANGING), STUBBORN);
    let asked = Instant::now();
    stop(&mut reactor, id);
    let command = hanging(&state, &mut reactor);
    turn_until(&mut reactor, "the end", |reactor| {
        stop(reactor, id);
        reactor.get(id).unwrap().end().is_some()
    });
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!(end_of(&mut reactor, id).reason(), Reason::Killed);
    turn_until(&mut reactor, "the command is reaped", |_| is_gone(command));
}

#[test]
fn a_command_that_outlives_the_child_is_ended() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&state, &mut reactor, sandbox(&state, HANGING), GUEST);
    stop(&mut reactor, id);
    let command = hanging(&state, &mut reactor);
    fs::write(state.file("down"), "").unwrap();
    assert_eq!(end_of(&mut reactor, id).exit_code(), 7);
    turn_until(&mut reactor, "the command is reaped", |_| is_gone(command));
}

#[test]
fn a_hanging_command_delays_no_other_sandbox() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&state, &mut reactor, sandbox(&state, HANGING), GUEST);
    stop(&mut reactor, id);
    hanging(&state, &mut reactor);
    let other = Sandbox::new("other", state.path().join("log")).unwrap();
    let command = Command::new("sh").args(["-c", "echo hello"]);
    let other = Monitor::builder(other).spawn(&mut reactor, command);
    assert_eq!(end_of(&mut reactor, other).bytes_logged, 6);
    assert!(reactor.get(id).unwrap().end().is_none());
    fs::write(state.file("down"), "").unwrap();
    end_of(&mut reactor, id);
}

#[test]
fn the_limits_of_a_run_stop_by_the_command() {
    for reason in [Reason::MaxDuration, Reason::IdleTimeout] {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let limit = Duration::from_millis(200);
        let sandbox = sandbox(&state, ": >down");
        let sandbox = match reason {
            Reason::MaxDuration => sandbox.max_duration(limit),
            _ => sandbox.idle_timeout(limit),
        };
        let id = spawn(&state, &mut reactor, sandbox, GUEST);
        let end = end_of(&mut reactor, id);
        assert_eq!((end.exit_code(), end.reason()), (7, reason));
    }
}

#[test]
fn a_child_of_the_host_is_stopped_by_the_command_too() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let (pid, io) = (child.id(), ChildIo::from(child));
    let sandbox = sandbox(&state, "kill -USR1 $VMON_PID");
    let id = Monitor::builder(sandbox).start(&mut reactor, pid, io).unwrap();
    start_added(&mut reactor);
    stop(&mut reactor, id);
    let end = end_of(&mut reactor, id);
    assert_eq!((end.signal(), end.reason()), (Some(Signal::USR1), Reason::Stopped));
}

#[test]
fn an_empty_command_is_none() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = spawn(&state, &mut reactor, sandbox(&state, " \t"), GUEST);
    stop(&mut reactor, id);
    assert_eq!(end_of(&mut reactor, id).exit_code(), 8);
}
