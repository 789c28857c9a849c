//! The wall clock is not an order: what the commands show of runs and their output while the clock is
//! stepped between runs and within them.

#![cfg(target_os = "linux")]

use std::process::{Command, Output};

use crate::common::{Process, State, each, inject, wait};

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
    assert_eq!([&all[0]["exit_code"], &all[1]["exit_code"]], [7, 3]);
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
    assert!(String::from_utf8_lossy(&output.stderr).contains("ages are measured up to"));
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

const FORMATS: [&str; 3] = ["raw", "cri", "json"];

#[test]
fn each_run_is_found_in_every_format_whatever_the_clock_says() {
    each(&FORMATS, |format| {
        let state = State::new();
        for (number, seconds) in
            [(1, 3 * HOUR), (2, 0), (3, -HOUR), (4, 10 * 365 * 24 * HOUR), (5, 0)]
        {
            run_under(&state, seconds, &["--log-format", format], &format!("echo {number}"));
        }
        for number in 1..=5 {
            let run = number.to_string();
            let expected = format!("{number}\n");
            assert_eq!(said(&state, &["logs", "--run", &run, "web"]), expected, "{format}");
            assert_eq!(said(&state, &["replay", "--run", &run, "web"]), expected, "{format}");
            let cast = said(&state, &["export", "--run", &run, "--to", "asciicast", "web"]);
            assert_eq!(cast.lines().count(), 2, "{format}: {cast}");
        }
        assert_eq!(said(&state, &["logs", "web"]), "1\n2\n3\n4\n5\n");
    });
}

/// A run whose clock is set back by an hour between its two lines, half a second apart, and once more
/// within the second half.
fn stepped(state: &State, format: &str) {
    let script = "echo one; read go < \"$GO\"; echo two; sleep 0.5; echo three";
    let mut run = state.run("web", &["--no-forward", "--log-format", format], script);
    state.gate(&mut run);
    let ahead = state.file("ahead");
    std::fs::write(&ahead, "").unwrap();
    inject::clock(&mut run, HOUR, Some(&ahead));
    let mut run = Process::spawn(&mut run);
    state.wait_for_log("web", b"one");
    std::fs::remove_file(&ahead).unwrap();
    state.open_gate();
    wait(&mut run);
}

/// The times of the lines, in nanoseconds.
fn times(state: &State) -> Vec<i64> {
    said(state, &["logs", "-t", "web"])
        .lines()
        .map(|line| {
            let time = line.split(' ').next().unwrap();
            let time = chrono::DateTime::parse_from_rfc3339(time).unwrap();
            time.timestamp_nanos_opt().unwrap()
        })
        .collect()
}

#[test]
fn after_the_clock_was_set_back_times_and_pauses_are_those_of_the_new_clock() {
    each(&FORMATS, |format| {
        let state = State::new();
        let before = chrono::Utc::now();
        stepped(&state, format);
        let after = chrono::Utc::now();
        let times = times(&state);
        let second = 1_000_000_000;
        let [before, after] = [before, after].map(|time| time.timestamp_nanos_opt().unwrap());
        assert!(times[0] >= before + HOUR * second, "{format}: {times:?}");
        assert!((before..=after).contains(&times[1]), "{format}: {times:?}");
        assert!((second / 4..2 * second).contains(&(times[2] - times[1])), "{format}: {times:?}");
        // Played, all of it takes as long as it took.
        let cast = said(&state, &["export", "--to", "asciicast", "web"]);
        let events: Vec<(f64, String)> = cast
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str::<(f64, String, String)>(line).unwrap())
            .map(|(at, _, text)| (at, text))
            .collect();
        let texts: Vec<&str> = events.iter().map(|(_, text)| text.trim_end()).collect();
        assert_eq!(texts, ["one", "two", "three"], "{format}");
        let pause = events[2].0 - events[1].0;
        let took = (after - before) as f64 / second as f64;
        assert!((0.25..took).contains(&pause) && events[2].0 <= took, "{format}: {events:?}");
        assert!(events[1].0 > 0.0, "{format}: {events:?}");
    });
}

#[test]
fn since_and_until_find_both_sides_of_a_step_of_the_clock() {
    each(&FORMATS, |format| {
        let state = State::new();
        stepped(&state, format);
        let times = times(&state);
        let at = |nanoseconds: i64| {
            chrono::DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339().replace("+00:00", "Z")
        };
        let between = |since: i64, until: i64| {
            said(&state, &["logs", "web", "--since", &at(since), "--until", &at(until)])
        };
        assert_eq!(between(times[1], times[2]), "two\n", "{format}");
        assert_eq!(between(times[1], times[2] + 1), "two\nthree\n", "{format}");
        assert_eq!(between(times[2] + 1, times[0] + 1), "one\n", "{format}");
        assert_eq!(between(times[1], times[0] + 1), "one\ntwo\nthree\n", "{format}");
        let since = said(&state, &["logs", "web", "--since", &at(times[0])]);
        assert_eq!(since, "one\n", "{format}");
        let until = said(&state, &["logs", "web", "--until", &at(times[0])]);
        assert_eq!(until, "two\nthree\n", "{format}");
    });
}
