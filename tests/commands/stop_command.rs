//! `vmon stop`, `vmon kill` and `vmon wait`: requests go to the supervisor, never to a pid.

#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::{Output, Stdio};

use crate::common::{Detached, Process, State, code, contains, eventually, is_alive, wait};
use nix::sys::signal::Signal;

/// A command that exits with this code at SIGTERM, and prints `ready` when its handler is
/// installed.
fn ends_with(code: i32) -> String {
    format!("trap 'exit {code}' TERM; echo ready; while :; do sleep 0.05; done")
}

const DEAF: &str = "trap '' TERM; echo ready; while :; do sleep 0.05; done";

fn start(state: &State, name: &str, options: &[&str], script: &str) -> Detached {
    let options: Vec<&str> = ["-d"].into_iter().chain(options.iter().copied()).collect();
    let before = state.log(name).len();
    let sandbox = Detached::start(state, &mut state.run(name, &options, script));
    // The log may contain output of earlier runs.
    eventually("it is ready", || contains(&state.log(name)[before..], b"ready\n"));
    sandbox
}

fn vmon(state: &State, args: &[&str]) -> Output {
    state.vmon().args(args).output().unwrap()
}

#[track_caller]
fn succeeds(state: &State, args: &[&str]) -> String {
    let output = vmon(state, args);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(state: &State, args: &[&str], why: &str) -> String {
    let output = vmon(state, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{said}");
    assert!(said.lines().all(|line| line.starts_with("vmon: ")), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn socket(state: &State, name: &str) -> PathBuf {
    state.path().join("run/Sandboxfile").join(format!("{name}.sock"))
}

#[test]
fn stop_returns_when_the_record_says_stopped_and_the_name_is_free() {
    let state = State::new();
    for _ in 0..5 {
        let sandbox = start(&state, "web", &[], &ends_with(3));
        assert_eq!(succeeds(&state, &["stop", "web"]), "");
        assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
        assert_eq!(state.run_column("web", "reason").as_deref(), Some("stopped"));
        assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("3"));
        assert!(!is_alive(sandbox.pid));
        assert!(!socket(&state, "web").exists());
    }
    // Stopping it again is no error.
    succeeds(&state, &["stop", "web"]);
}

#[test]
fn several_sandboxes_are_stopped_in_parallel() {
    let state = State::new();
    // Each ends only after the other has been requested to stop too.
    let script = |own: &str, other: &str| {
        let (own, other) = (state.file(own), state.file(other));
        let (own, other) = (own.display(), other.display());
        format!(
            "trap 'touch {own}; while ! test -e {other}; do sleep 0.05; done; exit 0' TERM
            echo ready; while :; do sleep 0.05; done"
        )
    };
    let _a = start(&state, "a", &["--stop-timeout", "1h"], &script("a", "b"));
    let _b = start(&state, "b", &["--stop-timeout", "1h"], &script("b", "a"));
    succeeds(&state, &["stop", "a", "b"]);
}

#[test]
fn a_given_timeout_overrides_the_one_on_record() {
    let state = State::new();
    let _web = start(&state, "web", &["--stop-timeout", "1h"], DEAF);
    succeeds(&state, &["stop", "web", "--timeout", "200ms"]);
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("killed"));
}

#[test]
fn a_failed_stop_is_reported_and_the_others_are_stopped() {
    let state = State::new();
    let _web = start(&state, "web", &[], &ends_with(0));
    fails(&state, &["stop", "nosuch", "web"], "no sandbox has the name 'nosuch'");
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
}

#[test]
fn a_stop_ends_a_sandbox_that_is_being_restarted() {
    let state = State::new();
    let _web = start(&state, "web", &["--restart", "always"], "echo ready");
    eventually("it has run three times", || state.log("web").len() >= 18);
    succeeds(&state, &["stop", "web"]);
    let runs = state.log("web").len();
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
    succeeds(&state, &["wait", "web"]);
    assert_eq!(state.log("web").len(), runs);
}

#[test]
fn kill_sends_a_signal_and_does_not_wait() {
    let state = State::new();
    let script = "trap 'echo got' USR1; echo ready; while :; do sleep 0.05; done";
    let _web = start(&state, "web", &[], script);
    succeeds(&state, &["kill", "-s", "USR1", "web"]);
    state.wait_for_log("web", b"got\n");
    succeeds(&state, &["kill", "web"]);
    assert_eq!(succeeds(&state, &["wait", "web"]), "137\n");
    state.wait_for_status("web", "STOPPED");
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("signalled"));
    fails(&state, &["kill", "web"], "can't signal Sandboxfile/web: it is not running");
    let usage = vmon(&state, &["kill", "-s", "NOSUCH", "web"]);
    assert_eq!(usage.status.code(), Some(125));
}

#[test]
fn wait_prints_each_exit_code_in_the_order_of_the_names() {
    let state = State::new();
    let sandboxes =
        [("a", 3), ("b", 4)].map(|(name, code)| start(&state, name, &[], &ends_with(code)));
    let mut waiting = state.vmon();
    waiting.args(["wait", "b", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = waiting.spawn().unwrap();
    sandboxes.iter().for_each(|sandbox| sandbox.signal(Signal::SIGTERM));
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "4\n3\n");
    // They have stopped by now.
    assert_eq!(succeeds(&state, &["wait", "a", "b"]), "3\n4\n");
}

#[test]
fn wait_follows_restarts_to_the_end() {
    let state = State::new();
    let script = "echo ready; test -e done && exit 5; touch done; exit 1";
    let options = ["-d", "--restart", "on-failure:1"];
    let mut run = state.run("web", &options, script);
    let directory = state.file("work");
    std::fs::create_dir(&directory).unwrap();
    let _web = Detached::start(&state, run.current_dir(&directory));
    assert_eq!(succeeds(&state, &["wait", "web"]), "5\n");
}

#[test]
fn wait_reports_an_unknown_exit_code() {
    let state = State::new();
    let sandbox = start(&state, "web", &[], DEAF);
    let mut waiting = state.vmon();
    waiting.args(["wait", "web"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = waiting.spawn().unwrap();
    sandbox.signal(Signal::SIGKILL);
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(1), b"125\n".to_vec()), "{said}");
    assert!(said.contains("its supervisor was lost"), "{said}");
}

#[test]
fn a_foreground_run_is_stopped_in_the_same_way() {
    let state = State::new();
    let mut run = Process::spawn(state.run("web", &[], &ends_with(9)).stdout(Stdio::null()));
    state.wait_for_log("web", b"ready\n");
    succeeds(&state, &["stop", "web"]);
    assert_eq!(code(wait(&mut run)), 9);
}

#[test]
fn a_command_has_the_supervisor_make_a_removed_socket_again() {
    let state = State::new();
    let _web = start(&state, "web", &["--stop-timeout", "1h"], DEAF);
    std::fs::remove_file(socket(&state, "web")).unwrap();
    let mut attach = state.vmon();
    attach.args(["attach", "web", "--no-stdin"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = Process::spawn(&mut attach);
    eventually("it is there again", || socket(&state, "web").exists());
    std::fs::remove_dir_all(state.file("run")).unwrap();
    // The timeout takes effect, which a signal to the supervisor can't give.
    succeeds(&state, &["stop", "web", "--timeout", "0"]);
    wait(&mut client);
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("killed"));
}

#[test]
fn a_run_whose_socket_can_not_be_made_again_is_still_stopped_and_signalled() {
    let state = State::new();
    let script = "trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready
        while :; do sleep 0.05; done";
    let sandbox = start(&state, "web", &[], script);
    std::fs::remove_dir_all(state.file("run")).unwrap();
    std::fs::write(state.file("run"), "").unwrap();
    succeeds(&state, &["kill", "-s", "USR1", "web"]);
    state.wait_for_log("web", b"usr1\n");
    fails(&state, &["wait", "web"], "is alive: signal that process yourself");
    succeeds(&state, &["stop", "web"]);
    assert!(!is_alive(sandbox.pid));
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("stopped"));
    assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("3"));
}

#[test]
fn an_unreachable_supervisor_of_a_host_is_named_and_not_signalled() {
    let state = State::new();
    let sandbox = start(&state, "web", &[], DEAF);
    std::fs::remove_file(socket(&state, "web")).unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    // A host records no options.
    db.execute("UPDATE vmon_runs SET spec = json_remove(spec, '$.options')", []).unwrap();
    drop(db);
    for command in ["stop", "kill"] {
        let why = format!("pid {}, is alive: signal that process yourself", sandbox.supervisor);
        fails(&state, &[command, "web"], &why);
    }
    assert!(is_alive(sandbox.pid));
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
}

#[test]
fn without_a_socket_no_unproven_process_is_signalled() {
    let state = State::new();
    let sandbox = start(&state, "web", &[], DEAF);
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE vmon_runs SET socket = NULL", []).unwrap();
    drop(db);
    for command in ["stop", "kill", "wait"] {
        fails(&state, &[command, "web"], "has no control socket");
    }
    assert!(is_alive(sandbox.pid));
}
