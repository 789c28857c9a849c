//! Stop requests while the output of an ended child is drained.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{PipeReader, Read, pipe};
use std::process::{Child, Command};

use crate::common::{self, Detached, State, code, eventually, inject, is_alive, signal, wait};
use nix::sys::signal::Signal;

/// What the pipe of a reader that does not read and the child's own can hold (pipe(7)): the child
/// can write it and end, and the supervisor can't forward it.
const OUTPUT: usize = 2 * 64 * 1024;

/// A run whose reader does not read, with all of the output written and its child gone.
fn blocked(state: &State, script: &str) -> (Child, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let mut command: Command = state.run("web", &["--stop-timeout", "60"], script);
    let supervisor = command.stdout(writer).spawn().unwrap();
    drop(command);
    (supervisor, reader)
}

fn child_pid(state: &State) -> u32 {
    state.wait_for_status("web", "RUNNING");
    state.run_column("web", "pid").unwrap().parse().unwrap()
}

/// Waits until the child has been reaped: only the drain is left.
fn wait_for_the_drain(state: &State) {
    let child = child_pid(state);
    eventually("the child's end", || {
        !is_alive(child) && !std::path::Path::new(&format!("/proc/{child}")).exists()
    });
}

#[test]
fn a_stop_request_abandons_a_blocked_reader_but_not_the_log() {
    let state = State::new();
    let (mut supervisor, mut reader) = blocked(&state, &format!("head -c {OUTPUT} /dev/zero"));
    wait_for_the_drain(&state);
    signal(&supervisor, Signal::SIGTERM);
    assert_eq!(code(wait(&mut supervisor)), 0);
    assert_eq!(state.log("web").len(), OUTPUT);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    let column = |name| state.run_column("web", name).unwrap().parse::<usize>().unwrap();
    assert_eq!(column("bytes_logged"), OUTPUT);
    assert!(seen.len() < OUTPUT && column("bytes_dropped") > 0);
}

#[test]
fn a_quit_signal_is_a_stop_request() {
    let state = State::new();
    let mut supervisor = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    signal(&supervisor, Signal::SIGQUIT);
    assert_eq!(code(wait(&mut supervisor)), 128 + 15);
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("stopped"));
}

#[test]
fn bytes_that_a_full_disk_refuses_to_forward_are_counted() {
    let state = State::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = state.run("web", &[], "printf 12345").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(state.log("web"), b"12345");
    assert_eq!(state.run_column("web", "bytes_dropped").as_deref(), Some("5"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("No space left"), "{stderr}");
}

#[test]
fn a_kill_that_fails_is_repeated_until_the_command_has_ended() {
    let state = State::new();
    let refused = state.file("refused");
    fs::write(&refused, "").unwrap();
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let mut command = state.run("web", &["-d", "--stop-timeout", "100ms"], script);
    inject::faults(&mut command, &inject::kill_fails_while(&refused));
    let sandbox = Detached::start(&state, &mut command);
    state.wait_for_log("web", b"up");
    let output = state.vmon().args(["stop", "web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = common::one_line(&output);
    let expected =
        format!("pid {} has not ended 5 s after SIGKILL: can't send SIGKILL: Oper", sandbox.pid);
    assert!(said.contains(&expected), "{said}");
    assert!(is_alive(sandbox.pid));
    let supervisor = state.logs().join("web@supervisor.log");
    let said = fs::read_to_string(supervisor).unwrap();
    let warning = "can't send SIGKILL: Operation not permitted";
    assert_eq!(said.matches(warning).count(), 1, "each error is reported once: {said}");
    // It is tried again without a further request.
    fs::remove_file(&refused).unwrap();
    state.wait_for_status("web", "STOPPED");
    assert!(!is_alive(sandbox.pid));
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("killed"));
    assert!(state.vmon().args(["stop", "web"]).output().unwrap().status.success());
}
