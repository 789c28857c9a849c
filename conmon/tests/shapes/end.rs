//! The exit command, the files at the end, the proxy of notifications, and the command line.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::engine::{CID, Engine};
use crate::eventually;

#[test]
fn the_exit_command_comes_last_and_in_place_of_the_monitor() {
    // Its arguments may be empty, and look like options.
    let script = "printf '%s,' \"$@\" >ran.tmp; cat exits/* >>ran.tmp; echo \" $$\" >>ran.tmp
        ls -l /proc/$$/fd >fds; mv ran.tmp ran; read go <hold";
    let mut engine = Engine::new("exit 5", &["--exit-command", "/bin/sh"])
        .word("--exit-command-arg=-c")
        .word("--exit-command-arg")
        .word(script);
    for word in ["sh", "", "--root", "x y"] {
        engine = engine.word("--exit-command-arg").word(word);
    }
    nix::unistd::mkfifo(&engine.path("hold"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut engine = engine.start();
    assert!(engine.sync.number() > 0);
    let monitor = engine.monitor();
    assert_eq!(engine.text("ran"), format!(",--root,x y,5 {monitor}\n"));
    // It has nothing of the monitor's open, so the engine sees the end of its pipes.
    assert_eq!(engine.sync.rest(), "");
    assert!(!fs::read_to_string(engine.path("fds")).unwrap().contains("socket:"));
    engine.release(&engine.path("hold"));
    engine.end_of(monitor);
}

#[test]
fn the_exit_command_waits_for_its_delay_in_one_process() {
    let mut engine =
        Engine::new("exit 5", &["--exit-command", "/bin/true", "--exit-delay=1000"]).start();
    assert!(engine.sync.number() > 0);
    let monitor = engine.monitor();
    engine.exit_file();
    let children = format!("/proc/{monitor}/task/{monitor}/children");
    eventually("the engine's pipe is closed", || engine.sync.is_readable());
    assert_eq!(engine.sync.rest(), "");
    assert_eq!(fs::read_to_string(children).unwrap(), "");
    engine.signal(monitor, nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn the_exit_code_is_that_of_the_container_with_sync_and_an_exit_command() {
    let words = ["--sync", "--exit-command", "/bin/sh", "--exit-command-arg=-c"];
    let mut engine =
        Engine::new("exit 5", &words).word("--exit-command-arg=echo ran >ran; exit 9").start();
    assert_eq!(engine.first_end().0, 5);
    assert_eq!(engine.text("ran"), "ran\n");
}

#[test]
fn an_exit_file_that_can_not_be_written_ends_it_with_1() {
    let mut engine = Engine::new("exit 5", &["--sync", "--exit-dir", "/nonexistent"]).start();
    assert_eq!(engine.first_end().0, 1);
    assert_eq!(fs::read_to_string(engine.path("persist/exit")).unwrap(), "5");
}

#[test]
fn the_exit_code_is_written_and_reported_where_it_still_can_be() {
    let words = ["--sync", "-e", "--exec-process-spec", "x", "--persist-dir", "/nonexistent"];
    let mut engine = Engine::new("exit 5", &words).start();
    assert_eq!(engine.sync.message(), "{\"exit_code\": 5}\n");
    assert_eq!(engine.exit_file(), "5");
    assert_eq!(engine.first_end().0, 1);
}

#[test]
fn a_log_that_stays_full_does_not_keep_the_exit_code_from_the_engine() {
    let mut engine = Engine::new("echo last; exit 5", &["--sync"]).log("/dev/full").start();
    assert!(engine.sync.number() > 0);
    assert_eq!(engine.exit_file(), "5");
    assert_eq!(engine.first_end().0, 5);
}

#[test]
fn notifications_of_the_container_go_to_the_service_manager() {
    let container = "while [ -e container ] && ! [ -e go ]; do sleep 0.01; done";
    let mut engine = Engine::new(container, &["--sdnotify-socket"]);
    let host_path = engine.path("host");
    let host = UnixDatagram::bind(&host_path).unwrap();
    fs::create_dir(engine.path("bundle/notify")).unwrap();
    engine = engine.word(&host_path);
    let mut engine = engine.start();
    assert!(engine.sync.number() > 0);
    let container = UnixDatagram::unbound().unwrap();
    let socket = engine.path("bundle/notify/notify.sock");
    container.send_to(b"MAINPID=1\nREADY=1\nSTATUS=up", socket).unwrap();
    let mut received = [0; 100];
    let count = host.recv(&mut received).unwrap();
    assert_eq!(&received[..count], b"READY=1\nSTATUS=up");
    fs::write(engine.path("go"), "").unwrap();
    engine.exit_file();
}

fn conmon(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vmon-conmon")).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_version_has_two_lines_that_engines_parse() {
    let (code, out, _) = conmon(&["--version"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("conmon version 2.2.1+vmon."), "{out}");
    assert!(lines[1].starts_with("commit: ") && lines.len() == 2, "{out}");
}

#[test]
fn a_command_line_that_can_not_be_used_is_refused_with_1() {
    for (words, text) in [
        (&["--unknown"][..], "conmon: option parsing failed: Unknown option --unknown\n"),
        (&[], "conmon: Container ID not provided. Use --cid\n"),
        (&["-c", CID], "[conmon:e]: Container UUID not provided. Use --cuuid\n"),
        (
            &["-c", CID, "-u", CID, "-r", "/tmp", "-l", "/nonexistent/log"],
            "[conmon:e]: Failed to open log file: cannot open the log /nonexistent/log: ",
        ),
    ] {
        let (code, out, said) = conmon(words);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}");
        assert!(said.starts_with(text), "{said}");
    }
}
