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

#[test]
fn a_start_and_a_prune_under_a_clock_years_ahead_remove_nothing() {
    let state = State::new();
    let options = ["--log-max-size", "16", "--log-max-files", "8", "--log-max-age", "720h"];
    run_under(&state, 0, &options, "for i in 1 2 3 4 5 6 7 8 9; do echo line number $i; done");
    assert_eq!(state.generations("web").len(), 8);
    run_under(&state, 10 * 365 * 24 * HOUR, &options, "true");
    assert_eq!(state.generations("web").len(), 8);
    let prune = |seconds| {
        let mut prune = state.vmon();
        inject::clock(prune.args(["prune", "--older-than", "720h"]), seconds, None);
        prune.output().unwrap()
    };
    run_under(&state, 0, &options, "true");
    let output = prune(10 * 365 * 24 * HOUR);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ages count from there"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "removed 0 sandboxes and 0 runs\n");
    assert_eq!(said(&state, &["prune"]), "removed 1 sandbox and 3 runs\n");
}

#[test]
fn since_and_until_take_in_both_of_an_hour_that_the_clocks_show_twice() {
    let state = State::new();
    std::fs::create_dir_all(state.logs()).unwrap();
    let times = ["00:14:59", "00:15:30", "01:15:30", "01:16:00"];
    let line = |time: &&str| format!("2026-10-25T{time}.000000000+00:00 stdout F {time}\n");
    std::fs::write(state.log_path("web"), times.iter().map(line).collect::<String>()).unwrap();
    let mut logs = state.vmon();
    logs.env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3").args(["logs", "web"]);
    logs.args(["--since", "2026-10-25T02:15:00", "--until", "2026-10-25T02:16:00"]);
    assert_eq!(printed(&mut logs), "00:15:30\n01:15:30\n");
}
