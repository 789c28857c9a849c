//! Exec with both versions of the interface.

use std::fs;

use crate::engine::{CID, Engine};
use crate::eventually;

const EXEC: [&str; 3] = ["-e", "--exec-process-spec", "/spec"];

fn api_0(container: &str, words: &[&str]) -> Engine {
    let engine = Engine::new(container, &[&EXEC[..], &["--sync"], words].concat());
    // CRI-O has made the file.
    fs::write(engine.path("pid"), "").unwrap();
    engine
}

#[test]
fn an_exec_reports_its_exit_code_and_nothing_before() {
    let mut engine = api_0("echo out; exit 5", &[]).start();
    assert_eq!(engine.first_end(), (5, String::new()));
    assert_eq!(engine.sync.rest(), "{\"exit_code\": 5}\n");
    assert_eq!(engine.log(), ["stdout F out"]);
    let words = fs::read_to_string(engine.path("args")).unwrap();
    let pid = engine.path("pid");
    let expected =
        format!("exec\n--pid-file\n{}\n--process\n/spec\n--detach\n{CID}\n", pid.display());
    assert_eq!(words, expected);
}

#[test]
fn an_exec_that_takes_too_long_is_reported_as_timed_out() {
    let mut engine = api_0("exec sleep 1000", &["-T", "1"]).start();
    assert_eq!(engine.first_end().0, 255);
    let expected = "{\"exit_code\": -1, \"message\": \"command timed out\"}\n";
    assert_eq!(engine.sync.rest(), expected);
}

#[test]
fn an_exec_that_the_runtime_refuses_says_why_in_the_message_and_in_the_log() {
    let mut engine = api_0("exit 0", &[]).runtime_fails("no such command\n").start();
    assert_eq!(engine.first_end().0, 1);
    let expected = "{\"exit_code\": -1, \"message\": \"no such command\\n\"}\n";
    assert_eq!(engine.sync.rest(), expected);
    assert_eq!(engine.log(), ["stderr F no such command"]);
}

#[test]
fn a_daemon_that_an_exec_leaves_on_its_pipes_does_not_delay_its_end() {
    let mut engine = api_0("setsid sleep 1000 & echo $! >daemon; echo out", &[]).start();
    assert_eq!(engine.first_end().0, 0);
    assert_eq!(engine.sync.rest(), "{\"exit_code\": 0}\n");
    assert_eq!(engine.log(), ["stdout F out"]);
    let daemon: i32 = engine.text("daemon").trim().parse().unwrap();
    engine.signal(daemon, nix::sys::signal::Signal::SIGKILL);
}

fn api_1(container: &str, words: &[&str]) -> Engine {
    let words = [&EXEC[..], &["--api-version", "1", "--exec-attach"], words].concat();
    Engine::new(container, &words).with_attach_pipe()
}

#[test]
fn the_caller_attaches_before_the_command_is_run() {
    let mut engine = api_1("echo out; exit 6", &[]).start();
    let mut attach = engine.attach.take().unwrap();
    assert_eq!(attach.message(), "{\"data\": 0}\n");
    // The sockets are there, and the runtime waits for the second byte.
    assert!(engine.path("bundle/attach").exists() && engine.path("bundle/ctl").exists());
    assert!(!engine.path("args").exists() && !engine.sync.is_readable());
    engine.go_on();
    let pid = engine.sync.number();
    assert_eq!(pid.to_string(), engine.text("pid"));
    assert_eq!(engine.sync.rest(), "{\"data\": 6}\n");
    assert_eq!(engine.exit_file(), "6");
}

#[test]
fn an_exec_that_fails_is_reported_with_the_newer_interface_too() {
    let mut engine = api_1("exit 0", &["--exit-command", "/bin/sh"])
        .word("--exit-command-arg=-c")
        .word("--exit-command-arg=echo ran >ran")
        .runtime_fails("refused")
        .start();
    assert_eq!(engine.attach.take().unwrap().number(), 0);
    engine.go_on();
    assert_eq!(engine.sync.rest(), "{\"data\": -1, \"message\": \"refused\"}\n");
    assert_eq!(engine.text("ran"), "ran\n");
}

#[test]
fn without_the_attach_pipe_there_is_no_exec_to_attach_to() {
    let words = [&EXEC[..], &["--api-version", "--exec-attach", "--sync"]].concat();
    let mut engine = Engine::new("exit 0", &words).start();
    let (code, said) = engine.first_end();
    assert_eq!(code, 1);
    assert!(said.contains("--attach specified but _OCI_ATTACHPIPE was not"), "{said}");
    eventually("the pipe is closed", || engine.sync.is_readable());
    assert_eq!(engine.sync.rest(), "");
}
