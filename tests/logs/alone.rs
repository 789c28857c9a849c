//! Logs are read without the record and the supervisor where these can't be used.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::{Detached, Process, State, code, eventually, process_state, signal, wait};

/// Makes the database one of a newer vmon.
fn renew(state: &State) {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE vmon_meta SET value = '999' WHERE key = 'schema_version'", []).unwrap();
}

#[track_caller]
fn warns_once(stderr: &[u8]) {
    let said = String::from_utf8_lossy(stderr);
    assert!(said.ends_with("; the log is read without the record\n"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_log_is_printed_replayed_and_exported_without_a_usable_record() {
    let state = State::new();
    state.ran("web", &[], "echo one");
    state.ran("web", &[], "echo two");
    let harms: [&dyn Fn(); 2] =
        [&|| renew(&state), &|| fs::write(state.db(), "no database".repeat(500)).unwrap()];
    for harm in harms {
        harm();
        for (args, expected) in [
            (&["logs", "web"][..], "one\ntwo\n"),
            (&["logs", "--run", "last", "web"], "two\n"),
            (&["logs", "-f", "-n", "1", "web"], "two\n"),
            (&["replay", "web"], "two\n"),
        ] {
            let output = state.vmon().args(args).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{args:?}");
            assert_eq!(code(output.status), 0, "{output:?}");
            warns_once(&output.stderr);
        }
        let exported = state.vmon().args(["export", "web", "--to", "json"]).output().unwrap();
        assert_eq!(exported.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
        warns_once(&exported.stderr);
        let unknown = state.vmon().args(["logs", "other"]).output().unwrap();
        assert_eq!(code(unknown.status), 1, "{unknown:?}");
    }
}

#[test]
fn a_running_sandbox_is_followed_to_its_end_without_a_usable_record() {
    let state = State::new();
    let script = "trap 'echo last; exit' TERM; echo ready; while :; do sleep 0.05; done";
    let web = Detached::start(&state, &mut state.run("web", &["-d"], script));
    state.wait_for_log("web", b"ready\n");
    renew(&state);
    let mut follower = follow(&state);
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    web.signal(Signal::SIGTERM);
    out.read_to_string(&mut line).unwrap();
    // A shell may report the end of its sleep.
    assert!(line.starts_with("ready\n") && line.ends_with("last\n"), "{line}");
    assert_eq!(code(wait(&mut follower)), 0);
    let mut said = Vec::new();
    follower.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    warns_once(&said);
}

fn follow(state: &State) -> Process {
    let mut command = state.vmon();
    command.args(["logs", "-f", "web"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    Process::spawn(&mut command)
}

/// A sandbox that has printed a line, and whose supervisor is suspended.
fn suspended(state: &State) -> Detached {
    let web = Detached::start(state, &mut state.run("web", &["-d"], "echo ready; sleep 1000"));
    state.wait_for_log("web", b"ready\n");
    // Waits for the index.
    state.vmon().args(["logs", "-t", "web"]).output().unwrap();
    web.signal(Signal::SIGSTOP);
    eventually("it is suspended", || process_state(web.supervisor) == Some('T'));
    web
}

#[test]
fn a_suspended_supervisor_is_not_asked_for_what_is_in_its_log() {
    let state = State::new();
    let _web = suspended(&state);
    let begun = Instant::now();
    let run = |command: &mut Command| command.output().unwrap();
    for args in [&["logs", "web"][..], &["logs", "--run", "last", "-t", "web"]] {
        let output = run(state.vmon().args(args));
        assert!(output.stdout.ends_with(b"ready\n"), "{output:?}");
        assert_eq!((code(output.status), output.stderr), (0, Vec::new()));
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn a_follower_of_a_suspended_supervisor_prints_at_once_and_ends_at_a_signal() {
    let state = State::new();
    let web = suspended(&state);
    for end in [Signal::SIGTERM, Signal::SIGINT] {
        let begun = Instant::now();
        let mut follower = follow(&state);
        let mut out = BufReader::new(follower.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        signal(&follower, end);
        assert_eq!(code(wait(&mut follower)), 0);
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }
    // One that has asked is answered once the supervisor goes on.
    let mut follower = follow(&state);
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    web.signal(Signal::SIGCONT);
    web.signal(Signal::SIGTERM);
    out.read_to_string(&mut String::new()).unwrap();
    assert_eq!(code(wait(&mut follower)), 0);
}
