//! `vmon run --stop-command`.

#![cfg(target_os = "linux")]

use std::fs;
use std::process::Stdio;

use crate::common::{Detached, State, code, eventually, is_alive, one_line, signal, wait};
use nix::sys::signal::Signal;

/// A guest that ends with code 8 on TERM, and with 7 once there is a file `down` in the directory
/// of `DIR`.
const GUEST: &str = "exec 2>/dev/null; trap 'exit 8' TERM; : >\"$DIR/up\"
    while ! [ -e \"$DIR/down\" ]; do sleep 0.01; done; exit 7";

fn guest(state: &State, options: &[&str], stop_command: &str) -> std::process::Command {
    let mut options = options.to_vec();
    options.extend(["--stop-command", stop_command, "--stop-timeout", "1h"]);
    let mut command = state.run("web", &options, GUEST);
    command.env("DIR", state.path());
    command
}

#[test]
fn a_stop_runs_the_command_and_the_exit_code_is_the_guests() {
    let state = State::new();
    let _web = Detached::start(&state, &mut guest(&state, &["-d"], ": >\"$DIR/down\""));
    let stopped = state.vmon().args(["stop", "web"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("stopped"));
    assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("7"));
}

#[test]
fn a_command_that_fails_is_one_warning_and_the_stop_signal_follows() {
    for (command, why) in [("echo noise; exit 3", "exit code 3"), ("/nonexistent", "exit code 127")]
    {
        let state = State::new();
        let mut run = guest(&state, &[], command);
        let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the guest is up", || state.file("up").exists());
        signal(&run, Signal::SIGTERM);
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(8), "{output:?}");
        let said = one_line(&output);
        assert!(said.contains("the stop command failed") && said.contains(why), "{said}");
    }
}

#[test]
fn a_command_that_hangs_is_ended_with_the_guest() {
    let state = State::new();
    let hanging = "echo $$ >\"$DIR/pid.new\"; mv \"$DIR/pid.new\" \"$DIR/pid\"; exec sleep 1000";
    let mut run = guest(&state, &[], hanging).spawn().unwrap();
    eventually("the guest is up", || state.file("up").exists());
    signal(&run, Signal::SIGTERM);
    eventually("the stop command runs", || state.file("pid").exists());
    fs::write(state.file("down"), "").unwrap();
    assert_eq!(code(wait(&mut run)), 7);
    let pid = fs::read_to_string(state.file("pid")).unwrap().trim_end().parse().unwrap();
    eventually("the stop command has ended", || !is_alive(pid));
}

#[test]
fn a_supervisor_that_is_killed_takes_the_command_with_it() {
    let state = State::new();
    let hanging = "echo $$ >\"$DIR/pid.new\"; mv \"$DIR/pid.new\" \"$DIR/pid\"; exec sleep 1000";
    let web = Detached::start(&state, &mut guest(&state, &["-d"], hanging));
    web.signal(Signal::SIGTERM);
    eventually("the stop command runs", || state.file("pid").exists());
    web.signal(Signal::SIGKILL);
    let pid = fs::read_to_string(state.file("pid")).unwrap().trim_end().parse().unwrap();
    eventually("the stop command has ended", || !is_alive(pid));
    eventually("the guest has ended", || !is_alive(web.pid));
}
