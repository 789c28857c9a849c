//! Create and restore.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use nix::sys::signal::Signal;

use crate::engine::{CID, Engine};
use crate::eventually;

#[test]
fn a_container_is_reported_logged_and_its_exit_code_written() {
    let container = "echo out; echo err >&2; printf part; read go; exit 7";
    let mut engine = Engine::new(container, &["-i"]).start();
    let (code, said) = engine.first_end();
    assert_eq!((code, said.as_str()), (0, ""));
    // The file is there when the first process has ended.
    let monitor: i32 = fs::read_to_string(engine.path("conmon.pid")).unwrap().parse().unwrap();
    let message = engine.sync.message();
    let pid: i32 = engine.text("pid").parse().unwrap();
    assert_eq!(message, format!("{{\"pid\": {pid}}}\n"));
    assert_eq!(engine.monitor(), monitor);
    // There before the pid is reported.
    let attach = fs::metadata(engine.path("links").join(CID).join("attach")).unwrap();
    assert!(attach.file_type().is_socket());
    assert_eq!(attach.permissions().mode() & 0o7777, 0o700);
    assert!(fs::metadata(engine.path("bundle/ctl")).unwrap().file_type().is_fifo());
    eventually("the output is in the log", || engine.log().len() == 3);
    engine.signal(pid, Signal::SIGKILL);
    assert_eq!(engine.exit_file(), "137");
    assert_eq!(fs::read_to_string(engine.path("persist/exit")).unwrap(), "137");
    assert_eq!(engine.end_of(monitor), 137);
    let mut log = engine.log();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout P part"]);
    assert_eq!(engine.sync.rest(), "");
    // The socket and its link are gone; the FIFO is the engine's to remove.
    assert!(!engine.path("bundle/attach").exists());
    assert!(fs::symlink_metadata(engine.path("links").join(CID)).is_err());
    assert!(engine.path("bundle/ctl").exists());
    assert_eq!(fs::read_dir(engine.path("exits")).unwrap().count(), 1);
}

#[test]
fn the_key_of_the_newer_api_is_data() {
    let mut engine = Engine::new("exit 0", &["--api-version", "1", "--full-attach"]).start();
    let message = engine.sync.message();
    assert_eq!(message, format!("{{\"data\": {}}}\n", engine.text("pid")));
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(fs::read_dir(engine.path("links")).unwrap().count(), 0);
}

#[test]
fn nothing_is_started_before_the_byte_on_the_start_pipe() {
    let mut engine = Engine::new("exit 0", &[]).launch();
    // The log is there, and nothing else.
    eventually("the log is open", || engine.path("log").exists());
    assert!(!engine.path("args").exists() && !engine.sync.is_readable());
    let children = format!("/proc/{0}/task/{0}/children", engine.first_pid());
    assert_eq!(fs::read_to_string(children).unwrap(), "");
    engine.go_on();
    assert!(engine.sync.number() > 0);
}

#[test]
fn sigterm_before_the_start_ends_it_with_1() {
    let mut engine = Engine::new("exit 0", &[]).launch();
    eventually("the log is open", || engine.path("log").exists());
    let blocked = format!("/proc/{}/status", engine.first_pid());
    eventually("SIGTERM is awaited", || {
        let status = fs::read_to_string(&blocked).unwrap();
        status.lines().any(|line| line.starts_with("SigBlk:") && line.ends_with("4000"))
    });
    engine.signal(engine.first_pid(), Signal::SIGTERM);
    assert_eq!(engine.first_end().0, 1);
    assert_eq!(engine.sync.rest(), "");
}

#[test]
fn a_runtime_that_fails_is_reported_with_its_words() {
    let mut engine = Engine::new("exit 0", &["--exit-command", "/bin/sh"])
        .word("--exit-command-arg=-c")
        .word("--exit-command-arg=echo ran >ran")
        .runtime_fails("can't \"do\" it\n/tmp\n")
        .start();
    assert_eq!(engine.first_end().0, 0);
    let expected = r#"{"pid": -1, "message": "can't \"do\" it\n\/tmp\n"}"#.to_owned() + "\n";
    assert_eq!(engine.sync.message(), expected);
    // The exit command is run all the same.
    assert_eq!(engine.text("ran"), "ran\n");
    assert_eq!(fs::read_dir(engine.path("exits")).unwrap().count(), 0);
}

#[test]
fn the_words_of_a_runtime_fit_into_the_buffer_of_the_engine() {
    let words = format!("{}the reason", "x".repeat(20_000));
    let mut engine = Engine::new("exit 0", &[]).runtime_fails(&words).start();
    let message = engine.sync.message();
    assert!(message.len() <= 4096, "{}", message.len());
    assert!(message.starts_with(r#"{"pid": -1, "message": "...x"#), "{message}");
    assert!(message.ends_with("the reason\"}\n"), "{message}");
}

#[test]
fn a_runtime_that_can_not_be_executed_is_reported() {
    let engine = Engine::new("exit 0", &[]);
    fs::write(engine.path("runtime"), "#!/nonexistent/interpreter\n").unwrap();
    let mut engine = engine.start();
    let message = engine.sync.message();
    assert!(message.contains("can't execute "), "{message}");
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn neither_the_runtime_nor_the_exit_command_has_a_blocked_signal() {
    // dash would clear the mask that it has inherited, and bash blocks SIGCHLD while it waits for grep.
    let find = "while read -r key mask; do [ $key != SigBlk: ] || echo $mask";
    let find = format!("{find}; done </proc/$$/status");
    let engine = Engine::new("exit 0", &["--exit-command", "/bin/bash", "--exit-command-arg=-c"])
        .word(format!("--exit-command-arg={find} >mask"));
    fs::write(engine.path("runtime"), format!("#!/bin/bash\n{find} >&2; exit 1\n")).unwrap();
    let mut engine = engine.start();
    let message = engine.sync.message();
    assert!(message.contains("\"0000000000000000\\n\""), "{message}");
    assert_eq!(engine.text("mask"), "0000000000000000\n");
}

#[test]
fn a_runtime_without_a_pid_is_reported() {
    let engine = Engine::new("exit 0", &[]).runtime_runs("exit 0");
    let mut engine = engine.start();
    let message = engine.sync.message();
    assert!(message.starts_with(r#"{"pid": -1, "message": ""#), "{message}");
    assert!(message.contains("has written no pid to"), "{message}");
}

#[test]
fn the_runtime_gets_its_arguments_as_bytes() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(vec![b'x', 0xff, 0xe4]);
    let mut engine = Engine::new("exit 0", &["--restore", "/image", "--runtime-arg", "--log"])
        .word("--runtime-opt")
        .word(bytes)
        .variable("LC_ALL", "C")
        .start();
    assert!(engine.sync.number() > 0);
    let words = fs::read(engine.path("args")).unwrap();
    let (bundle, pid) = (engine.path("bundle"), engine.path("pid"));
    let (bundle, pid) = (bundle.to_str().unwrap(), pid.to_str().unwrap());
    let expected = [
        "--log",
        "restore",
        "--bundle",
        bundle,
        "--pid-file",
        pid,
        "--detach",
        "--image-path",
        "/image",
        "--work-path",
        bundle,
        "",
    ];
    let mut expected = expected.join("\n").into_bytes();
    expected.extend(b"x\xff\xe4\n");
    expected.extend(CID.bytes());
    expected.push(b'\n');
    assert_eq!(words, expected);
}

#[test]
fn signals_go_to_the_first_process_of_the_container_alone() {
    let container = "trap 'echo got; exit 9' TERM; setsid sleep 1000 & echo $! >sleeper
        while [ -e container ]; do sleep 0.01; done";
    let mut engine = Engine::new(container, &[]).start();
    assert!(engine.sync.number() > 0);
    let sleeper: i32 = engine.text("sleeper").trim().parse().unwrap();
    let monitor = engine.monitor();
    engine.signal(monitor, Signal::SIGTERM);
    assert_eq!(engine.exit_file(), "9");
    assert_eq!(engine.end_of(monitor), 9);
    assert_eq!(engine.log(), ["stdout F got"]);
    // What the container has left behind goes on.
    engine.signal(sleeper, Signal::SIGKILL);
}

#[test]
fn a_signal_before_the_container_goes_to_the_runtime() {
    let mut engine = Engine::new("exit 0", &[])
        .runtime_runs(
            "trap 'echo stopped >&2; exit 1' TERM; : >ready; while [ -e container ]; do sleep 0.01; done",
        )
        .start();
    eventually("the runtime runs", || engine.path("ready").exists());
    engine.signal(engine.monitor(), Signal::SIGTERM);
    assert_eq!(engine.sync.message(), "{\"pid\": -1, \"message\": \"stopped\\n\"}\n");
}

#[test]
fn the_log_is_opened_again_and_keeps_what_is_there() {
    let container =
        "echo one; while [ -e container ] && ! [ -e go ]; do sleep 0.01; done; echo two";
    let mut engine = Engine::new(container, &[]).start();
    engine.sync.number();
    eventually("the first line is logged", || engine.log().len() == 1);
    fs::rename(engine.path("log"), engine.path("moved")).unwrap();
    engine.order("2 0 0\n");
    eventually("the log is there again", || engine.path("log").exists());
    fs::write(engine.path("go"), "").unwrap();
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(engine.log(), ["stdout F two"]);
    assert!(fs::read_to_string(engine.path("moved")).unwrap().ends_with(" stdout F one\n"));
}

#[test]
fn a_timeout_kills_the_process_group_and_has_exit_code_minus_1() {
    let mut engine = Engine::new("trap '' TERM; sleep 1000 & sleep 1000", &["-T", "1"]).start();
    assert!(engine.sync.number() > 0);
    let monitor = engine.monitor();
    assert_eq!(engine.exit_file(), "-1");
    assert_eq!(engine.end_of(monitor), 255);
}

#[test]
fn an_orphan_of_the_container_is_reaped() {
    // Of a session of its own, and in that of the monitor.
    let container = "(setsid sh -c : &); (sh -c : &); echo done; while [ -e container ] && ! [ -e go ]; do sleep 0.01; done";
    let mut engine = Engine::new(container, &[]).start();
    let pid = engine.sync.number();
    let monitor = engine.monitor();
    eventually("the container is at its end", || engine.log() == ["stdout F done"]);
    let children = format!("/proc/{monitor}/task/{monitor}/children");
    eventually("only the container is left", || {
        fs::read_to_string(&children).unwrap().trim() == pid.to_string()
    });
    fs::write(engine.path("go"), "").unwrap();
    assert_eq!(engine.exit_file(), "0");
}

#[test]
fn the_engine_alone_waits_in_the_foreground_with_sync() {
    let mut engine = Engine::new("exit 3", &["--sync"]).start();
    assert_eq!(engine.first_end(), (3, String::new()));
    assert!(engine.sync.number() > 0);
    assert!(!engine.path("conmon.pid").exists());
}

#[test]
fn without_pipes_the_container_is_run_all_the_same() {
    let mut engine = Engine::new("exit 4", &[]).without_start_pipe().start();
    assert_eq!(engine.first_end().0, 0);
    assert_eq!(engine.exit_file(), "4");
}

#[test]
fn a_flood_is_limited_by_a_variable_of_the_engine() {
    let container = "i=0; while [ $i -lt 2000 ]; do echo \"line $i of a flood that goes on and on\"
        i=$((i + 1)); done";
    let limit = "1KiB/s,burst=4KiB,over=drop";
    let mut engine = Engine::new(container, &[]).variable("VMON_CONMON_LOG_RATE", limit).start();
    assert!(engine.sync.number() > 0);
    assert_eq!(engine.exit_file(), "0");
    let log = fs::read_to_string(engine.path("log")).unwrap();
    assert!(log.contains("line 0 of"), "{log}");
    assert!(log.contains(" bytes left out]"), "{log}");
}

#[test]
fn a_limit_that_can_not_be_read_is_ignored() {
    let mut engine = Engine::new("echo out", &[]).variable("VMON_CONMON_LOG_RATE", "x").start();
    assert!(engine.sync.number() > 0);
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(engine.log(), ["stdout F out"]);
}
