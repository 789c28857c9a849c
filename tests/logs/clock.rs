//! The wall clock is not an order: what the commands show of runs and their output while the clock is
//! stepped between runs and within them.

#![cfg(target_os = "linux")]

use std::process::{Command, Output};

use crate::common::{State, inject, wait};

/// Seconds by which the clock is off.
const HOUR: i64 = 3600;

/// Runs a script to its end under a clock that is off by these seconds.
fn run_under(state: &State, seconds: i64, options: &[&str], script: &str) {
    let mut run = state.run("web", &[&["--no-forward"], options].concat(), script);
    inject::clock(&mut run, seconds, None);
    wait(&mut run.spawn().unwrap());
}

fn vmon(state: &State, args: &[&str]) -> Output {
    state.vmon().args(args).output().unwrap()
}

/// The stdout of a command that has nothing to report.
#[track_caller]
fn said(state: &State, args: &[&str]) -> String {
    printed(state.vmon().args(args))
}

#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_last_run_is_the_one_with_the_highest_number_whatever_the_clock_says() {
    let state = State::new();
    run_under(&state, HOUR, &[], "echo OLD; exit 3");
    run_under(&state, 0, &[], "echo NEW; exit 7");
    assert_eq!(said(&state, &["wait", "web"]), "7\n");
    assert_eq!(said(&state, &["logs", "--run", "last", "web"]), "NEW\n");
    assert_eq!(said(&state, &["logs", "--run", "1", "web"]), "OLD\n");
    assert_eq!(said(&state, &["replay", "web"]), "NEW\n");
    assert!(said(&state, &["inspect", "web"]).contains("\"exit_code\": 7"));
    let numbers: Vec<String> = said(&state, &["history", "web"])
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(2).unwrap().to_owned())
        .collect();
    assert_eq!(numbers, ["2", "1"]);
    let all: serde_json::Value =
        serde_json::from_str(&said(&state, &["ps", "--all", "--json"])).unwrap();
    assert_eq!([&all[0]["exit_code"], &all[1]["exit_code"]], [3, 7]);
    let restarted = vmon(&state, &["restart", "web"]);
    assert_eq!(restarted.status.code(), Some(0));
    assert_eq!(said(&state, &["wait", "web"]), "7\n");
    assert_eq!(state.log("web"), b"OLD\nNEW\nNEW\n");
}
