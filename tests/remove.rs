//! `vmon rm` and `vmon prune`: what goes, and what stays.

#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{State, wait};

fn vmon(state: &State, args: &[&str]) -> Output {
    state.vmon().args(args).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The sandboxes on record.
fn names(state: &State) -> Vec<String> {
    let output = vmon(state, &["ps", "--all", "--format", "names"]);
    let mut names: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[test]
fn a_sandbox_is_removed_with_all_its_runs_and_its_log_stays() {
    let state = State::new();
    state.ran("web", &[], "echo 1");
    state.ran("web", &[], "echo 2");
    state.ran("db", &[], "true");
    let output = vmon(&state, &["rm", "web"]);
    assert_eq!((output.status.code(), told(&output)), (Some(0), String::new()));
    assert_eq!(names(&state), ["db"]);
    assert_eq!(state.run_column("web", "id"), None);
    assert_eq!(state.log("web"), b"1\n2\n");
    assert_eq!(vmon(&state, &["rm", "web"]).status.code(), Some(1));
}

#[test]
fn logs_go_only_with_their_sandbox() {
    let state = State::new();
    let options = ["--log-max-size", "4K", "--log-max-files", "3"];
    for name in ["web", "web2", "web.log"] {
        state.ran(name, &options, "seq 4000");
    }
    let logs = state.logs();
    let mine = ["web@supervisor.log", "web@supervisor.log.00000001", "web.log.00000002.gz"];
    let others = ["web.log.x", "web.log.00000001.log", "web-notes", "web2@supervisor.log"];
    for file in mine.iter().chain(&others) {
        fs::write(logs.join(file), "x").unwrap();
    }
    let before = files(&logs);
    let output = vmon(&state, &["rm", "--logs", "web"]);
    assert_eq!((output.status.code(), told(&output)), (Some(0), String::new()));
    let digits = |file: &str| file.bytes().all(|byte| byte.is_ascii_digit());
    let goes = |file: &&String| {
        let log = file.strip_suffix(".idx").unwrap_or(file);
        log == "web.log" || mine.contains(&log) || log.strip_prefix("web.log.").is_some_and(digits)
    };
    let expected: Vec<String> = before.iter().filter(|file| !goes(file)).cloned().collect();
    assert_eq!(files(&logs), expected);
    assert!(expected.contains(&"web.log.log".to_owned()) && expected.len() < before.len() - 3);
}

#[test]
fn removal_of_logs_follows_no_link_and_stays_inside() {
    let state = State::new();
    state.ran("web", &[], "echo hello");
    state.ran("out", &["--config-file", "linked"], "echo hello");
    let kept = state.file("kept");
    fs::write(&kept, "kept").unwrap();
    let logs = state.logs();
    std::os::unix::fs::symlink(&kept, logs.join("web.log.00000001")).unwrap();
    // The directory of a config becomes a link to another one.
    let linked = state.path().join("log/linked");
    fs::rename(&linked, state.file("moved")).unwrap();
    std::os::unix::fs::symlink(state.file("moved"), &linked).unwrap();
    assert_eq!(vmon(&state, &["rm", "--logs", "web"]).status.code(), Some(0));
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    assert!(!state.log_path("web").exists());
    let output = vmon(&state, &["rm", "--logs", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("linked"), "{}", told(&output));
    assert_eq!(files(&state.file("moved")), ["out.log", "out.log.idx"]);
}

#[test]
fn a_name_of_another_program_leads_nowhere() {
    let state = State::new();
    state.ran("web", &[], "true");
    let outside = state.file("outside.log");
    fs::write(&outside, "kept").unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE sandboxes SET config_file = '..', name = 'outside'", []).unwrap();
    drop(db);
    let output = vmon(&state, &["rm", "--logs", "outside"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert_eq!(fs::read(&outside).unwrap(), b"kept");
}

#[test]
fn one_that_runs_is_removed_by_force_only() {
    let state = State::new();
    let mut web = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    state.ran("db", &[], "true");
    let output = vmon(&state, &["rm", "web", "db"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("--force") && told(&output).lines().count() == 1);
    assert_eq!(names(&state), ["web"]);
    assert!(common::is_alive(web.id()));
    let output = vmon(&state, &["rm", "--force", "--logs", "web"]);
    assert_eq!((output.status.code(), told(&output)), (Some(0), String::new()));
    wait(&mut web);
    assert_eq!(names(&state), [] as [String; 0]);
    assert!(!state.log_path("web").exists());
}

#[test]
fn prune_removes_what_has_stopped_and_says_how_much() {
    let state = State::new();
    state.ran("a", &[], "echo a");
    state.ran("a", &[], "echo a");
    state.ran("b", &[], "echo b");
    let mut web = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    let old = vmon(&state, &["prune", "--older-than", "1h"]);
    assert_eq!(String::from_utf8(old.stdout).unwrap(), "removed 0 sandboxes and 0 runs\n");
    let output = vmon(&state, &["prune"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "removed 2 sandboxes and 3 runs\n");
    assert_eq!(names(&state), ["web"]);
    assert_eq!(state.log("a"), b"a\na\n");
    common::signal(&web, nix::sys::signal::Signal::SIGTERM);
    wait(&mut web);
}

#[test]
fn prune_with_logs_leaves_those_that_run() {
    let state = State::new();
    state.ran("web", &[], "echo first");
    state.ran("gone", &[], "echo gone");
    let mut web = state.run("web", &[], "echo second; exec sleep 600").spawn().unwrap();
    state.wait_for_log("web", b"second\n");
    let output = vmon(&state, &["prune", "--logs", "--json"]);
    let pruned: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pruned, serde_json::json!({ "sandboxes": ["Sandboxfile/gone"], "runs": 2 }));
    assert_eq!(files(&state.logs()), ["web.log", "web.log.idx"]);
    assert_eq!(state.log("web"), b"first\nsecond\n");
    common::signal(&web, nix::sys::signal::Signal::SIGTERM);
    wait(&mut web);
}

#[test]
fn prune_of_nothing_is_no_error_and_makes_no_database() {
    let state = State::new();
    let output = vmon(&state, &["prune"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!state.db().exists());
}
