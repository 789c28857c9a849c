//! The reason `out-of-memory` of a command in a cgroup that vmon has not made.

#![cfg(target_os = "linux")]

use std::process::{Command, Output, Stdio};

use crate::common::memory_cgroup::{EATER, MemoryCgroup};
use crate::common::{Detached, State, eventually, is_gone};

/// `vmon run` in the cgroup.
fn run(cgroup: &MemoryCgroup, state: &State, options: &[&str], script: &str) -> Command {
    let mut inside = cgroup.holds(&state.run("x", options, script));
    inside.stdin(Stdio::null());
    inside
}

/// Runs a command that must succeed.
#[track_caller]
fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn reason(state: &State) -> String {
    state.run_column("x", "reason").unwrap()
}

#[test]
fn a_command_killed_at_the_limit_of_the_cgroup_it_shares_with_its_supervisor_ran_out_of_memory() {
    let Some(cgroup) = MemoryCgroup::new("shared") else { return };
    let state = State::new();
    let ended = run(&cgroup, &state, &[], &format!("exec {EATER}")).output().unwrap();
    assert_eq!(ended.status.code(), Some(137), "{ended:?}");
    assert_eq!(reason(&state), "out-of-memory");

    // What was counted before the start of a run is not held against its command.
    ended_by_kill(&cgroup, &state);
    assert_eq!(reason(&state), "signalled");
}

#[test]
fn a_command_killed_by_another_process_was_signalled() {
    let Some(cgroup) = MemoryCgroup::new("signalled") else { return };
    let state = State::new();
    ended_by_kill(&cgroup, &state);
    assert_eq!(reason(&state), "signalled");
}

/// Runs a command that SIGKILL of another process ends.
fn ended_by_kill(cgroup: &MemoryCgroup, state: &State) {
    let ended = run(cgroup, state, &[], "kill -9 $$").output().unwrap();
    assert_eq!(ended.status.code(), Some(137), "{ended:?}");
}

#[test]
fn a_command_that_vmon_killed_did_not_run_out_of_memory_where_another_process_has() {
    let Some(cgroup) = MemoryCgroup::new("other") else { return };
    let script = format!("trap '' TERM; {EATER}; echo $?; while :; do sleep 1000; done");
    for (options, order, expected) in [
        (["--stop-signal", "KILL"], &["stop", "x"][..], "stopped"),
        (["--stop-timeout", "10ms"], &["stop", "x"], "killed"),
        (["--stop-timeout", "60s"], &["kill", "-s", "KILL", "x"], "signalled"),
    ] {
        let state = State::new();
        let options = [&["-d"], &options[..]].concat();
        let sandbox = Detached::start(&state, &mut run(&cgroup, &state, &options, &script));
        state.wait_for_log("x", b"137");
        done(state.vmon().args(order));
        state.wait_for_status("x", "STOPPED");
        assert_eq!(reason(&state), expected, "{order:?}");
        eventually("its supervisor has ended", || is_gone(sandbox.supervisor));
    }
}

#[test]
fn a_sandbox_that_restarts_counts_anew_for_each_run() {
    let Some(cgroup) = MemoryCgroup::new("restarts") else { return };
    let state = State::new();
    let script = format!(
        "[ -e twice ] && kill -9 $$; [ ! -e once ] || touch twice; touch once
        exec {EATER}"
    );
    let options = ["--restart", "on-failure:2"];
    let mut command = run(&cgroup, &state, &options, &script);
    let ended = command.current_dir(state.path()).output().unwrap();
    assert_eq!(ended.status.code(), Some(137), "{ended:?}");
    let history = done(state.vmon().args(["history", "--json", "x"]));
    let history = String::from_utf8(history.stdout).unwrap();
    let found: Vec<_> = history.match_indices("out-of-memory").collect();
    assert_eq!(found.len(), 2, "{history}");
    assert_eq!(reason(&state), "signalled");
}

#[test]
fn a_command_killed_at_the_limit_of_its_own_cgroup_of_v2_ran_out_of_memory() {
    let Some(cgroup) = MemoryCgroup::new("own") else { return };
    if cgroup.is_v1 {
        // `--cgroup` is one of v2, which limits no memory then.
        return;
    }
    // The second one has no memory controller: its memory is accounted for in the one above.
    for directory in [cgroup.directory.clone(), cgroup.directory.join("below")] {
        let state = State::new();
        let options = ["--cgroup", directory.to_str().unwrap()];
        let ended = state.run("x", &options, &format!("exec {EATER}")).output().unwrap();
        assert_eq!(ended.status.code(), Some(137), "{ended:?}");
        assert_eq!(reason(&state), "out-of-memory", "{}", directory.display());
    }
}
