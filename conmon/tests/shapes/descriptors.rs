//! Descriptors, variables and streams that the monitor inherits and passes on.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};

use crate::engine::{Engine, limit};

/// Whether the pipe has an end of file now, without waiting.
fn is_closed(pipe: &PipeReader) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).unwrap();
    polled[0].revents().unwrap().contains(PollFlags::POLLHUP)
}

#[test]
fn inherited_descriptors_are_passed_on_and_closed_before_the_exit_files() {
    let (mut reader, writer) = io::pipe().unwrap();
    // A number that no script uses.
    let number = fcntl(&writer, FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap();
    drop(writer);
    // SAFETY: the descriptor has just been made.
    let writer = unsafe { OwnedFd::from_raw_fd(number) };
    let container = format!(
        "echo to the engine >/proc/$$/fd/{number}
        while [ -e container ] && ! [ -e go ]; do sleep 0.01; done"
    );
    let mut engine = Engine::new(&container, &[]).inherits(writer).start();
    assert!(engine.sync.number() > 0);
    let mut line = [0; 14];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"to the engine\n");
    // The monitor has it open, too.
    let held = fs::read_link(format!("/proc/{}/fd/{number}", engine.monitor())).unwrap();
    let ours = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
    assert_eq!(held, ours);
    fs::write(engine.path("go"), "").unwrap();
    engine.exit_file();
    assert!(is_closed(&reader));
}

#[test]
fn the_pipes_of_the_engine_are_not_inherited_by_the_runtime() {
    let mut engine = Engine::new("exit 0", &[]).start();
    assert!(engine.sync.number() > 0);
    let listed = engine.text("fds");
    assert!(!listed.contains("socket:"), "{listed}");
}

#[test]
fn the_streams_of_the_caller_are_let_go() {
    let mut engine =
        Engine::new("while [ -e container ] && ! [ -e go ]; do sleep 0.01; done", &[]).start();
    // Both are read to their end while the container runs.
    assert_eq!(engine.first_end(), (0, String::new()));
    assert!(engine.sync.number() > 0);
    assert!(!engine.path("persist/exit").exists());
    fs::write(engine.path("go"), "").unwrap();
    engine.exit_file();
}

#[test]
fn listen_pid_becomes_that_of_the_runtime() {
    for (words, value, replaced) in [(&["--replace-listen-pid"][..], "1", true), (&[], "1", false)]
    {
        let mut engine = Engine::new("exit 0", words).variable("LISTEN_PID", value).start();
        assert!(engine.sync.number() > 0);
        let text = engine.text("listen");
        let (listen, pid) = text.trim().split_once(' ').unwrap();
        assert_eq!(listen == pid, replaced, "{text}");
        assert!(replaced || listen == value);
    }
    let mut engine = Engine::new("exit 0", &[]).variable("LISTEN_PID", "x").start();
    assert!(engine.sync.message().contains("invalid LISTEN_PID x"));
}

#[test]
fn a_pipe_of_the_engine_that_is_not_open_ends_it_with_1() {
    for (value, text) in
        [("x", "unable to parse _OCI_STARTPIPE"), ("999", "descriptor 999 is not open")]
    {
        let engine = Engine::new("exit 0", &["--sync"]).without_start_pipe();
        let mut engine = engine.variable("_OCI_STARTPIPE", value).launch();
        let (code, said) = engine.first_end();
        assert_eq!(code, 1);
        assert!(said.contains(text), "{said}");
        assert!(!engine.path("args").exists());
    }
}

#[test]
fn a_pid_is_reported_only_if_an_exit_file_follows_however_few_descriptors_there_are() {
    let mut refused = 0;
    let mut monitored = 0;
    for descriptors in 6..30 {
        let mut engine = Engine::new("exit 3", &["--sync"]).launch();
        limit(engine.first_pid(), descriptors);
        engine.go_on();
        let message = engine.sync.message();
        if message.is_empty() || message.contains("-1") {
            refused += 1;
        } else {
            monitored += 1;
            assert_eq!(engine.exit_file(), "3", "{descriptors} descriptors, {message}");
        }
        engine.first_end();
    }
    assert!(refused > 0 && monitored > 0, "{refused} {monitored}");
}

#[test]
fn passthrough_hands_the_streams_of_the_caller_to_the_container() {
    let container = "echo out; echo err >&2; exit 2";
    let mut engine = Engine::new(container, &["--sync"]).log("passthrough").start();
    let (code, said) = engine.first_end();
    assert_eq!((code, said.as_str()), (2, "out\nerr\n"));
    assert!(engine.sync.number() > 0);
    assert!(!engine.path("log").exists());
    assert_eq!(fs::read_dir(engine.path("bundle")).unwrap().count(), 0);
}
