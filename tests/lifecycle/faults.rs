//! System calls that fail.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{self, Detached, Process, State, code, inject, is_alive, one_line};

/// Shows that faults are injected, and where.
#[test]
fn a_kill_fails_as_long_as_a_file_exists_and_only_that_of_vmon() {
    let state = State::new();
    let refused = state.file("refused");
    fs::write(&refused, "").unwrap();
    // The child kills a process of its own meanwhile, which no rule concerns.
    let script = "sleep 1000 & kill -KILL $!; wait $!; echo $? up; exec sleep 1000";
    let mut run = state.run("a", &["-d"], script);
    inject::faults(&mut run, &inject::kill_fails_while(&refused));
    let run = Detached::start(&state, &mut run);
    state.wait_for_log("a", b"137 up\n");
    let kill = || state.vmon().args(["kill", "-s", "KILL", "a"]).output().unwrap();
    let output = kill();
    assert!(one_line(&output).contains("Operation not permitted"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    assert!(is_alive(run.pid));
    fs::remove_file(&refused).unwrap();
    assert_eq!(kill().status.code(), Some(0));
    state.wait_for_status("a", "STOPPED");
    assert_eq!(state.run_column("a", "signal").as_deref(), Some("9"));
}

/// The command with a file as its stdout whose every write fails with EIO, to its end.
fn onto_failing_disk(command: &mut Command, file: &Path) -> Output {
    inject::faults(command, &[format!("write {} fd={}", libc::EIO, file.display())]);
    command.stdout(File::create(file).unwrap()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(fs::metadata(file).unwrap().len(), 0);
    output
}

#[test]
fn an_io_error_of_stdout_is_not_a_closed_reader() {
    let state = State::new();
    state.ran("a", &["--no-forward"], "seq 1 1000");
    for args in [&["logs", "a"][..], &["replay", "a"], &["export", "a", "--to", "json"], &["ps"]] {
        let output = onto_failing_disk(state.vmon().args(args), &state.file("out"));
        assert!(one_line(&output).contains("stdout: I/O error"), "{args:?} {output:?}");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn output_that_a_failing_disk_does_not_take_is_counted_with_one_warning() {
    let state = State::new();
    let mut run = state.run("a", &[], "printf 12345; printf 67890; exit 3");
    let output = onto_failing_disk(&mut run, &state.file("out"));
    let said = one_line(&output);
    assert!(said.contains("warn: can't forward the child's output any more"), "{said}");
    assert!(said.ends_with(" name=a\n"), "{said}");
    assert_eq!(code(output.status), 3);
    assert_eq!(state.log("a"), b"1234567890");
    assert_eq!(state.run_column("a", "bytes_dropped").as_deref(), Some("10"));
}

#[test]
fn an_attached_output_on_a_failing_disk_is_an_error() {
    let state = State::new();
    let script = "read line; echo $line; exec sleep 1000";
    let _run = Detached::start(&state, &mut state.run("a", &["-d", "--stdin", "forward"], script));
    let mut attach = state.vmon();
    attach.args(["attach", "a"]).stdin(Stdio::piped());
    let file = state.file("out");
    inject::faults(&mut attach, &[format!("write {} fd={}", libc::EIO, file.display())]);
    attach.stdout(File::create(&file).unwrap()).stderr(Stdio::piped());
    let mut attach = attach.spawn().unwrap();
    attach.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let output = attach.wait_with_output().unwrap();
    assert!(one_line(&output).contains("can't write the output of the sandbox"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_stdin_on_a_failing_disk_is_no_end_without_a_warning() {
    let state = State::new();
    let input = state.file("input");
    fs::write(&input, "some text\n").unwrap();
    let rule = format!("read {} fd={}", libc::EIO, input.display());
    let mut run = state.run("a", &["--stdin", "forward"], "cat; exit 5");
    inject::faults(&mut run, std::slice::from_ref(&rule));
    let output = run.stdin(File::open(&input).unwrap()).output().unwrap();
    assert!(one_line(&output).contains("warn: can't read our stdin any more"), "{output:?}");
    assert_eq!(code(output.status), 5);

    let options = ["-d", "--stdin", "forward"];
    let sandbox = Detached::start(&state, &mut state.run("b", &options, "exec sleep 1000"));
    let mut attach = state.vmon();
    inject::faults(attach.args(["attach", "b"]), &[rule]);
    attach.stdin(File::open(&input).unwrap()).stderr(Stdio::piped());
    let mut attach = Process::spawn(&mut attach);
    let mut said = String::new();
    BufReader::new(attach.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("warn: can't read stdin"), "{said}");
    drop(sandbox);
}

#[test]
fn a_lock_that_can_not_be_released_harms_neither_a_start_nor_a_restart() {
    let state = State::new();
    let directory = state.path().join("run").join(common::CONFIG);
    fs::create_dir_all(&directory).unwrap();
    // Closed, and left behind.
    drop(UnixListener::bind(directory.join("a.sock")).unwrap());
    let unlock = [format!("flock {} arg={}", libc::EIO, libc::LOCK_UN)];
    let mut run = state.run("a", &["-d"], "exec sleep 1000");
    inject::faults(&mut run, &unlock);
    let first = Detached::start(&state, &mut run);
    let mut restart = state.vmon();
    inject::faults(restart.args(["restart", "a"]), &unlock);
    let second = Detached::start(&state, &mut restart);
    assert_ne!(first.pid, second.pid);
    let left: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["a.sock"]);
}

#[cfg(target_os = "linux")]
#[test]
fn clients_that_no_descriptor_is_left_for_cost_one_warning() {
    let state = State::new();
    let messages = state.file("messages");
    let mut run = state.run("a", &["--no-forward"], "echo up; exec sleep 1000");
    let run = Process::spawn(run.stderr(File::create(&messages).unwrap()));
    state.wait_for_log("a", b"up\n");
    state.wait_for_closed_db(run.id());
    let proc = Path::new("/proc").join(run.id().to_string());
    let limit = |descriptors: usize| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={}", run.id()), format!("--nofile={descriptors}:")]);
        assert!(prlimit.status().unwrap().success());
    };
    // Sockets alone: files are open for a moment each.
    let sockets = || {
        let entries = fs::read_dir(proc.join("fd")).unwrap();
        let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    let switches = || {
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let warnings =
        || fs::read_to_string(&messages).unwrap().matches("can't accept clients").count();
    let socket = state.path().join("run").join(common::CONFIG).join("a.sock");
    let before = sockets();
    for round in 1..=2 {
        let mut client = None;
        common::eventually("it is reported", || {
            client = None;
            common::eventually("no client is left", || sockets() == before);
            // The number may have been that of a file, and be free by now.
            limit((0..).find(|number| !proc.join(format!("fd/{number}")).exists()).unwrap());
            client = Some(UnixStream::connect(&socket).unwrap());
            common::eventually("it is accepted or refused", || {
                warnings() == round || sockets() > before
            });
            warnings() == round
        });
        let tries = switches();
        common::eventually("it tries again", || switches() >= tries + 5);
        limit(1000);
        common::eventually("the client is accepted", || sockets() > before);
        drop(client);
        common::eventually("the client is gone", || sockets() == before);
    }
    assert_eq!(warnings(), 2);
}

/// A rule by which the poller has no room for descriptors of this kind (epoll_ctl(2)). The back end
/// of mio by poll(2) always has.
#[cfg(not(mio_unsupported_force_poll_poll))]
fn no_room_for(kind: &str) -> String {
    format!("epoll_ctl {} arg={} fd={kind}", libc::ENOSPC, libc::EPOLL_CTL_ADD)
}

#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn a_command_whose_streams_can_not_be_watched_never_begins() {
    let state = State::new();
    let ran = state.file("ran");
    let stderr_alone = format!("{} skip=1", no_room_for("pipe:"));
    let cases = [
        ("stdout", no_room_for("pipe:"), "never"),
        ("stderr", stderr_alone, "never"),
        ("pty", no_room_for("ptmx"), "always"),
    ];
    for (name, rule, tty) in cases {
        let mut run = state.run(name, &["--tty", tty], "touch \"$RAN\"");
        inject::faults(run.env("RAN", &ran), &[rule]);
        let output = run.output().unwrap();
        assert!(one_line(&output).contains("No space left on device"), "{name} {output:?}");
        assert_eq!(code(output.status), 125, "{name}");
        assert!(!ran.exists(), "{name}");
        assert_eq!(state.run_column(name, "reason").as_deref(), Some("start-failed"));
        assert_eq!(state.run_column(name, "pid"), None);
    }
    // A child that is killed at once leaves no file either: here even exec would have failed.
    let mut run = state.vmon();
    run.args(["run", "--name", "none", "--", "/nonexistent"]);
    inject::faults(&mut run, &[no_room_for("pipe:")]);
    assert_eq!(code(run.status().unwrap()), 125);
}

#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn a_child_whose_end_can_not_be_watched_is_polled() {
    let state = State::new();
    let mut run = state.run("a", &[], "echo out; exit 7");
    inject::faults(&mut run, &[no_room_for("pidfd")]);
    let output = run.output().unwrap();
    assert!(one_line(&output).contains("polled"), "{output:?}");
    assert_eq!((code(output.status), &output.stdout[..]), (7, &b"out\n"[..]));

    let mut run =
        state.run("b", &["-d"], "trap 'exit 8' TERM; echo up; while :; do sleep 0.01; done");
    inject::faults(&mut run, &[no_room_for("pidfd")]);
    let _run = Process::spawn(run.stdout(Stdio::null()).stderr(Stdio::null()));
    state.wait_for_log("b", b"up\n");
    assert_eq!(code(state.vmon().args(["stop", "b"]).status().unwrap()), 0);
    assert_eq!(state.run_column("b", "exit_code").as_deref(), Some("8"));
}

/// In a process of its own, whose name is that of this test binary.
#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn a_child_of_a_host_that_can_not_be_watched_is_left_to_it() {
    let state = State::new();
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap().to_owned();
    common::run_host(&state, hosts::MODULE, "hands_over_a_child", "VMON_TEST_STATE", |host| {
        inject::faults_in(&program, host, &[format!("{} skip=1", no_room_for("pipe:"))]);
    });
}

#[cfg(not(mio_unsupported_force_poll_poll))]
mod hosts {
    use vmon::child::ChildIo;
    use vmon::monitor::{Monitor, Outcome, Sandbox};
    use vmon::reactor::Reactor;

    use super::*;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    #[test]
    #[ignore = "run by a_child_of_a_host_that_can_not_be_watched_is_left_to_it"]
    fn hands_over_a_child() {
        let log_dir = Path::new(&std::env::var_os("VMON_TEST_STATE").unwrap()).join("log");
        let mut child = Command::new("sleep");
        child.arg("1000").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Process::spawn(&mut child);
        let io = ChildIo::from(&mut child.0);
        let mut reactor = Reactor::new().unwrap();
        let sandbox = Sandbox::new("a", &log_dir).unwrap();
        let id = Monitor::builder(sandbox).start(&mut reactor, child.id(), io).unwrap();
        reactor.run().unwrap();
        let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
        let Outcome::NotStarted(error) = &end.outcome else { panic!("{end:?}") };
        assert!(error.to_string().contains("No space left on device"), "{error}");
        // It runs, and is this process's to end.
        assert!(is_alive(child.id()));
        child.0.kill().unwrap();
        assert_eq!(code(child.0.wait().unwrap()), 137);
    }
}
