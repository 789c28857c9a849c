//! Runs without marks beside others that have them: logs of an earlier vmon, and `--log-index off`.

#![cfg(target_os = "linux")]

use std::fs;

use nix::sys::signal::Signal;

use crate::common::{Process, State, each, eventually, signal, wait};

const RECORDS: [&str; 2] = ["cri", "json"];

/// Runs `echo outN` with these options.
fn run(state: &State, number: u32, format: &str, index: &str, options: &[&str]) {
    let all = [&["--no-forward", "--log-format", format, "--log-index", index], options].concat();
    state.ran("web", &all, &format!("echo out{number}"));
}

/// What a command prints of a run, and its exit status.
fn of(state: &State, args: &[&str], run: &str) -> (String, Option<i32>) {
    let output = state.vmon().args(args).args(["--run", run, "web"]).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// Each run has its own output in all commands.
#[track_caller]
fn each_has_its_own(state: &State, runs: u32) {
    let last = ("last".to_owned(), runs);
    for (name, number) in (1..=runs).map(|number| (number.to_string(), number)).chain([last]) {
        let expected = (format!("out{number}\n"), Some(0));
        assert_eq!(of(state, &["logs"], &name), expected, "logs of {name}");
        assert_eq!(of(state, &["replay"], &name), expected, "replay of {name}");
        let (cast, _) = of(state, &["export", "--to", "asciicast"], &name);
        let has = |other: &u32| cast.contains(&format!("out{other}"));
        assert_eq!((1..=runs).filter(has).collect::<Vec<_>>(), [number], "export of {name}");
    }
}

#[test]
fn runs_of_an_old_log_keep_their_output_after_a_run_with_marks() {
    each(&RECORDS, |format| {
        let state = State::new();
        for (number, index) in [(1, "off"), (2, "off"), (3, "on"), (4, "on")] {
            run(&state, number, format, index, &[]);
            each_has_its_own(&state, number);
        }
    });
}

#[test]
fn runs_of_old_generations_keep_their_output_after_a_run_with_marks() {
    each(&RECORDS, |format| {
        let state = State::new();
        let options = ["--log-max-size", "100", "--log-max-files", "9"];
        for (number, index) in [(1, "off"), (2, "off"), (3, "off"), (4, "on")] {
            run(&state, number, format, index, &options);
        }
        assert!(!state.generations("web").is_empty());
        each_has_its_own(&state, 4);
    });
}

#[test]
fn runs_with_the_index_off_have_their_own_output_between_and_behind_those_with_marks() {
    each(&RECORDS, |format| {
        let state = State::new();
        for (number, index) in
            [(1, "on"), (2, "off"), (3, "off"), (4, "on"), (5, "off"), (6, "off")]
        {
            run(&state, number, format, index, &[]);
            each_has_its_own(&state, number);
        }
    });
}

#[test]
fn an_index_that_was_removed_leaves_the_times_of_records_to_tell_runs_apart() {
    each(&RECORDS, |format| {
        let state = State::new();
        for number in 1..=2 {
            run(&state, number, format, "on", &[]);
        }
        let mut index = state.log_path("web").into_os_string();
        index.push(".idx");
        fs::remove_file(index).unwrap();
        run(&state, 3, format, "on", &[]);
        each_has_its_own(&state, 3);
    });
}

#[test]
fn a_single_raw_run_without_marks_is_what_is_between_the_marks_of_others() {
    let state = State::new();
    for (number, index) in [(1, "on"), (2, "off"), (3, "on"), (4, "off")] {
        run(&state, number, "raw", index, &[]);
        for number in 1..=number {
            let expected = (format!("out{number}\n"), Some(0));
            assert_eq!(of(&state, &["logs"], &number.to_string()), expected);
        }
    }
}

#[test]
fn raw_runs_that_neither_marks_nor_times_tell_apart_are_not_found() {
    let state = State::new();
    for (number, index) in [(1, "on"), (2, "off"), (3, "off"), (4, "on")] {
        run(&state, number, "raw", index, &[]);
        let known = [(1, "out1\n"), (4, "out4\n")];
        for (known, expected) in known.into_iter().filter(|(known, _)| *known <= number) {
            assert_eq!(of(&state, &["logs"], &known.to_string()), (expected.to_owned(), Some(0)));
        }
        if number >= 3 {
            for unknown in ["2", "3"] {
                assert_eq!(of(&state, &["logs"], unknown), (String::new(), Some(1)), "{unknown}");
            }
        }
    }
}

#[test]
fn a_run_whose_start_mark_was_rotated_away_has_the_rest_of_its_output() {
    each(&["raw", "cri", "json"], |format| {
        let state = State::new();
        let options = ["--log-max-size", "1000", "--log-max-files", "1"];
        run(&state, 1, format, "on", &options);
        let all = [&["--no-forward", "--log-format", format], &options[..]].concat();
        state.ran("web", &all, "seq 1000");
        let (kept, _) = of(&state, &["logs"], "all");
        assert!(kept.ends_with("\n1000\n") && !kept.contains("out1"), "{kept}");
        assert_eq!(of(&state, &["logs"], "2"), (kept.clone(), Some(0)));
        run(&state, 3, format, "on", &["--log-max-size", "0"]);
        assert_eq!(of(&state, &["logs"], "1"), (String::new(), Some(1)));
        assert_eq!(of(&state, &["logs"], "2"), (kept, Some(0)));
        assert_eq!(of(&state, &["logs"], "3"), ("out3\n".to_owned(), Some(0)));
    });
}

#[test]
fn a_run_whose_supervisor_was_killed_ends_where_one_without_marks_begins() {
    each(&["raw", "cri", "json"], |format| {
        let state = State::new();
        let all = ["--no-forward", "--log-format", format];
        let mut first = Process::spawn(&mut state.run("web", &all, "echo out1; exec sleep 100"));
        state.wait_for_log("web", b"out1");
        eventually("its times are indexed", || {
            let (text, _) = of(&state, &["logs", "-t"], "1");
            text.ends_with(" out1\n") && !text.starts_with('-')
        });
        signal(&first, Signal::SIGKILL);
        wait(&mut first);
        run(&state, 2, format, "off", &[]);
        for _ in 0..2 {
            assert_eq!(of(&state, &["logs"], "1"), ("out1\n".to_owned(), Some(0)), "{format}");
            run(&state, 3, format, "off", &[]);
        }
    });
}
