//! `vmon run --log off`.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::common::{Detached, State, one_line};

const OFF: &str = "has no log: it was started with --log off";

fn vmon(state: &State, words: &[&str]) -> Output {
    state.vmon().args(words).output().unwrap()
}

fn inspected(state: &State) -> Value {
    let output = vmon(state, &["inspect", "x"]);
    let objects: Value = serde_json::from_slice(&output.stdout).unwrap();
    objects[0].clone()
}

#[test]
fn the_output_is_forwarded_and_no_log_is_made() {
    let state = State::new();
    let hook = format!("echo \"log=$VMON_LOG\" >{}", state.file("hook").display());
    let options = ["--log", "off", "--on-exit", &hook];
    let output = state.run("x", &options, "echo out; echo err >&2; exit 3").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert!(!state.path().join("log").exists());
    assert_eq!(state.run_column("x", "bytes_logged").as_deref(), Some("0"));
    assert_eq!(fs::read_to_string(state.file("hook")).unwrap(), "log=\n");
    for words in [
        &["logs", "x"][..],
        &["logs", "-f", "x"],
        &["replay", "x"],
        &["export", "x", "--to", "cri"],
    ] {
        let refused = vmon(&state, words);
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        assert!(one_line(&refused).contains(&format!("Sandboxfile/x {OFF}")), "{refused:?}");
    }
    let inspected = inspected(&state);
    assert_eq!(inspected["log"], Value::Null);
    assert_eq!(inspected["log_error"], "it was started with --log off");
}

#[test]
fn consoles_have_none_either() {
    let state = State::new();
    let options = ["-d", "--log", "off", "--console", "c=pty"];
    let _x = Detached::start(&state, &mut state.run("x", &options, "exec sleep 1000"));
    let live = inspected(&state);
    assert_eq!(live["consoles"][0]["name"], "c");
    assert_eq!(live["consoles"][0]["log"], Value::Null);
    assert_eq!(live["live"]["consoles"][0]["log"], Value::Null);
    let console = vmon(&state, &["logs", "--console", "c", "x"]);
    assert!(one_line(&console).contains(OFF), "{console:?}");
    assert!(vmon(&state, &["stop", "x"]).status.success());
    assert_eq!(inspected(&state)["consoles"][0]["log"], Value::Null);
    assert!(!state.path().join("log").exists());
}

#[test]
fn the_log_of_an_earlier_run_is_left_as_it_is() {
    let state = State::new();
    state.ran("x", &[], "echo first");
    state.ran("x", &["--log", "off"], "echo second");
    assert_eq!(state.log("x"), b"first\n");
    assert_eq!(vmon(&state, &["logs", "x"]).stdout, b"first\n");
    let last = vmon(&state, &["logs", "--run", "last", "x"]);
    assert_eq!(last.status.code(), Some(1));
    assert!(one_line(&last).contains(OFF), "{last:?}");
}

#[test]
fn a_log_directory_that_can_not_be_written_does_not_matter() {
    let state = State::new();
    let options = ["--log", "off", "--log-dir", "/dev/null/log"];
    let output = state.run("x", &options, "echo out; exit 3").output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"out\n"[..]));
    assert_eq!(output.stderr, b"");
}

#[test]
fn options_that_only_a_log_has_are_refused() {
    let state = State::new();
    for option in [
        ["--log-max-size", "1M"],
        ["--log-max-files", "1"],
        ["--log-max-age", "1h"],
        ["--log-rotate-every", "1h"],
        ["--log-total-size", "1M"],
        ["--log-rotate-command", "gzip"],
        ["--log-format", "cri"],
        ["--on-log-error", "drop"],
    ] {
        let options = ["--log", "off", option[0], option[1]];
        let output = state.run("x", &options, "true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{option:?}");
        let expected = format!("{} has no effect with --log off", option[0]);
        assert!(one_line(&output).contains(&expected), "{output:?}");
    }
    let journal = ["--log", "off", "--log-format", "journald", "--on-log-error", "drop"];
    assert_eq!(state.run("x", &journal, "exit 3").output().unwrap().status.code(), Some(3));
}
