//! `vmon serve`, and `vmon run -d --via` its socket: sandboxes of a host are like any other.

#![cfg(target_os = "linux")]

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::common::hosted::Hosted;
use crate::common::{
    Detached, Process, State, TIMEOUT, code, contains, eventually, is_gone, is_root, one_line,
    signal, wait,
};

const SLEEP: &str = "echo up; exec sleep 1000";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_command_acts_on_a_sandbox_of_a_host() {
    let host = Hosted::start();
    let pid = host.started("web", &["--metrics-interval", "50ms"], SLEEP);
    let supervisor = host.state.run_column("web", "supervisor_pid").unwrap();
    assert_eq!(supervisor, host.pid().to_string());
    host.state.wait_for_log("web", b"up\n");
    let listed = text(&host.vmon(&["ps", "--json"]));
    assert!(listed.contains(r#""name":"web""#) || listed.contains(r#""name": "web""#), "{listed}");
    assert_eq!(text(&host.vmon(&["logs", "web"])), "up\n");
    let inspected: serde_json::Value =
        serde_json::from_slice(&host.vmon(&["inspect", "web"]).stdout).unwrap();
    let inspected = inspected.to_string();
    assert!(inspected.contains(&pid.to_string()) && inspected.contains("RUNNING"), "{inspected}");
    assert_eq!(code(host.vmon(&["stats", "web"]).status), 0);
    assert_eq!(code(host.vmon(&["kill", "-s", "CONT", "web"]).status), 0);
    let waiting = host.state.vmon().args(["wait", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(code(host.vmon(&["stop", "web"]).status), 0);
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"143\n");
    assert!(is_gone(pid));
    assert_eq!(host.state.run_column("web", "reason").as_deref(), Some("stopped"));
    assert_eq!(code(host.vmon(&["rm", "web", "--logs"]).status), 0);
    assert_eq!(host.end(Signal::SIGTERM).0, Some(0));
}

#[test]
fn a_terminal_of_a_sandbox_in_a_host_is_attached_to() {
    let host = Hosted::start();
    host.started("tty", &["-t"], "read line; echo got $line; exec sleep 1000");
    let mut attach = host.state.vmon();
    attach.args(["attach", "tty"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = Process::spawn(&mut attach);
    std::io::Write::write_all(attached.stdin.as_mut().unwrap(), b"x\n").unwrap();
    host.state.wait_for_log("tty", b"got x");
    drop(attached);
    host.end(Signal::SIGTERM);
}

#[test]
fn a_sandbox_gets_the_environment_and_the_directory_of_the_client() {
    let host = Hosted::with(State::new(), |command| command.env("OF_HOST", "1"));
    let directory = host.state.path().canonicalize().unwrap();
    let given = ["--env", "GIVEN=a b", "--env", "LISTEN_FDS=1"];
    let script = "pwd; echo \"$OWN,$GIVEN,$OF_HOST,$LISTEN_FDS.\"";
    let mut run = host.run("env", &given, script);
    run.env("OWN", "o").env_remove("OF_HOST").current_dir(&directory);
    assert_eq!(code(run.output().unwrap().status), 0);
    host.state.wait_for_log("env", b",1.\n");
    let expected = format!("{}\no,a b,,1.\n", directory.display());
    assert_eq!(String::from_utf8(host.state.log("env")).unwrap(), expected);
    host.end(Signal::SIGTERM);
}

#[test]
fn a_start_is_refused_as_without_a_host() {
    let host = Hosted::start();
    host.started("web", &[], SLEEP);
    let not_executable = host.state.file("file");
    fs::write(&not_executable, "x").unwrap();
    let not_executable = not_executable.to_str().unwrap();
    for words in [
        &["--name", "web", "--", "true"][..],
        &["--name", "none", "--", "/nonexistent"],
        &["--name", "none", "--", not_executable],
        &["--name", "none", "--exit-file", "/nonexistent/x", "--", "true"],
        &["--name", "none", "--log-max-files", "0", "--log-rotate-command", "x", "--", "true"],
        &["--name", "none", "--runtime-dir", "/proc/x", "--", "true"],
        &["--name", "none", "--log-dir", "/proc/x", "--", "true"],
    ] {
        let plain = host.state.vmon().args(["run", "-d"]).args(words).output().unwrap();
        let mut via = host.state.vmon();
        let via = via.args(["run", "-d"]).args(words).env("VMON_HOST", &host.socket);
        let via = via.output().unwrap();
        assert_ne!(plain.status.code(), Some(0), "{words:?}");
        assert_eq!(one_line(&via), one_line(&plain), "{words:?}");
        assert_eq!(via.status.code(), plain.status.code(), "{words:?}");
    }
    host.end(Signal::SIGTERM);
}

#[test]
fn what_a_host_cannot_do_is_refused_by_name() {
    let host = Hosted::start();
    let refused = |options: &[&str]| {
        let output = host.run("x", options, "true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{options:?}");
        one_line(&output)
    };
    assert!(refused(&["--on-exit", "true"]).contains("--on-exit"));
    let elsewhere = host.state.file("elsewhere");
    let message = refused(&["--state-dir", elsewhere.to_str().unwrap()]);
    assert!(message.contains(&format!("--state-dir {}", host.state.path().display())), "{message}");
    assert!(!elsewhere.exists());
    let plain = host.state.vmon().args(["run", "--via", "x", "true"]).output().unwrap();
    assert!(one_line(&plain).contains("--detach"), "{plain:?}");
    let mut nowhere = host.state.vmon();
    let nowhere = nowhere.args(["run", "-d", "--via", "/nonexistent/socket", "true"]);
    let nowhere = nowhere.output().unwrap();
    assert_eq!(nowhere.status.code(), Some(125));
    assert!(one_line(&nowhere).contains("--via"), "{nowhere:?}");
    host.end(Signal::SIGTERM);
}

#[test]
fn a_name_that_is_not_given_gets_a_number_in_a_host() {
    let host = Hosted::start();
    let run = || {
        let mut run = host.state.vmon();
        run.args(["run", "-d", "sleep", "1000"]).env("VMON_HOST", &host.socket);
        text(&run.output().unwrap()).split(' ').next().unwrap().to_owned()
    };
    assert_eq!([run(), run(), run()], ["sleep", "sleep-2", "sleep-3"]);
    host.end(Signal::SIGTERM);
}

#[test]
fn a_restart_goes_through_the_host_while_it_serves() {
    let host = Hosted::start();
    let first = host.started("web", &["--stop-signal", "INT"], SLEEP);
    assert_eq!(code(host.vmon(&["restart", "web"]).status), 0);
    let column = |state: &State, column| state.run_column("web", column).unwrap();
    assert_eq!(column(&host.state, "supervisor_pid"), host.pid().to_string());
    assert!(is_gone(first));
    let pid = host.pid().to_string();
    let (code_of_host, state) = host.end(Signal::SIGTERM);
    assert_eq!(code_of_host, Some(0));
    let again = Detached::start(&state, state.vmon().args(["restart", "web"]));
    assert_ne!(column(&state, "supervisor_pid"), pid);
    assert_eq!(again.supervisor.to_string(), column(&state, "supervisor_pid"));
    assert!(column(&state, "spec").contains("INT\""));
}

#[test]
fn a_term_stops_all_within_their_stop_timeouts() {
    let host = Hosted::start();
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let pids = [
        host.started("a", &[], SLEEP),
        host.started("b", &["--restart", "always"], SLEEP),
        host.started("c", &["--stop-timeout", "50ms"], stubborn),
    ];
    host.state.wait_for_log("c", b"up\n");
    let socket = host.socket.clone();
    let (code, state) = host.end(Signal::SIGTERM);
    assert_eq!((code, socket.exists()), (Some(0), false));
    assert!(pids.into_iter().all(is_gone));
    let reasons = ["a", "b", "c"].map(|name| state.run_column(name, "reason").unwrap());
    assert_eq!(reasons, ["stopped", "stopped", "killed"]);
}

#[test]
fn the_sandboxes_of_a_killed_host_end_and_are_closed_on_record() {
    let host = Hosted::start();
    let pids = [host.started("a", &[], SLEEP), host.started("b", &[], SLEEP)];
    let (code, state) = host.end(Signal::SIGKILL);
    assert_eq!(code, None);
    for pid in pids {
        eventually("the command has ended", || is_gone(pid));
    }
    assert!(contains(&state.vmon().args(["ps", "-a"]).output().unwrap().stdout, b"STOPPED"));
    let reasons = ["a", "b"].map(|name| state.run_column(name, "reason").unwrap());
    assert_eq!(reasons, ["supervisor-lost", "supervisor-lost"]);
    // The socket that it has left behind is replaced.
    assert!(state.file("run/@host.sock").exists());
    Hosted::with(state, |command| command).end(Signal::SIGTERM);
}

#[test]
fn a_second_host_at_the_same_socket_is_refused() {
    let host = Hosted::start();
    let second = host.state.vmon().arg("serve").output().unwrap();
    assert_eq!(second.status.code(), Some(125));
    assert!(one_line(&second).contains("(--socket)"), "{second:?}");
    host.end(Signal::SIGTERM);
}

#[test]
fn the_service_manager_is_notified_and_its_socket_is_used() {
    let state = State::new();
    let (notify, listen) = (state.file("notify"), state.file("listen"));
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let listener = UnixListener::bind(&listen).unwrap();
    // As the manager does: the socket is descriptor 3, and the variables name the process.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve";
    let mut serve = Command::new("sh");
    serve.args(["-c", script, env!("CARGO_BIN_EXE_vmon")]).stdin(OwnedFd::from(listener));
    serve.env("VMON_STATE_DIR", state.path()).env("NOTIFY_SOCKET", &notify);
    let mut process = Process::spawn(&mut serve);
    let message = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    assert_eq!(message(), "READY=1\n");
    let mut run = state.vmon();
    run.args(["run", "-d", "--name", "web", "--via"]).arg(&listen);
    let script = "echo \"[$LISTEN_FDS$LISTEN_PID$NOTIFY_SOCKET]\"; ls /proc/self/fd | wc -l";
    assert_eq!(code(run.args(["sh", "-c", script]).output().unwrap().status), 0);
    state.wait_for_log("web", b"4\n");
    assert_eq!(state.log("web"), b"[]\n4\n");
    signal(&process, Signal::SIGTERM);
    assert_eq!(message(), "STOPPING=1\n");
    assert_eq!(code(wait(&mut process)), 0);
    // It is the manager's.
    assert!(listen.exists());
}

/// `vmon serve` with `stdin` as descriptor 3, which a service manager is said to have passed.
fn activated(stdin: OwnedFd, state_dir: &Path) -> Output {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve";
    let mut serve = Command::new("sh");
    serve.args(["-c", script, env!("CARGO_BIN_EXE_vmon")]).stdin(stdin);
    serve.env("VMON_STATE_DIR", state_dir).output().unwrap()
}

#[test]
fn messages_are_kept_with_a_socket_of_the_service_manager() {
    let state = State::new();
    let listener = UnixListener::bind(state.file("listen")).unwrap();
    let output = activated(listener.into(), Path::new("/proc/x"));
    assert_eq!(output.status.code(), Some(125));
    assert!(one_line(&output).contains("/proc/x"), "{output:?}");
}

#[test]
fn what_is_no_listening_unix_stream_socket_is_refused() {
    let state = State::new();
    let file = state.file("file");
    fs::write(&file, "").unwrap();
    for passed in [
        OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()),
        UnixDatagram::bind(state.file("datagrams")).unwrap().into(),
        UnixStream::pair().unwrap().0.into(),
        fs::File::open(file).unwrap().into(),
    ] {
        let output = activated(passed, state.path());
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(one_line(&output).contains("no listening Unix stream socket"), "{output:?}");
    }
}

#[test]
fn commands_inherit_no_descriptor_of_the_host() {
    let state = State::new();
    let socket = state.file("run/@host.sock");
    let mut serve = Command::new("sh");
    serve.args(["-c", "exec 9</dev/null; exec \"$0\" serve", env!("CARGO_BIN_EXE_vmon")]);
    serve.env("VMON_STATE_DIR", state.path());
    let process = Process::spawn(&mut serve);
    eventually("the host serves", || UnixStream::connect(&socket).is_ok());
    let host = Hosted { state, process, socket };
    host.started("web", &[], "test -e /proc/self/fd/9 && echo open; echo done");
    host.state.wait_for_log("web", b"done\n");
    assert_eq!(host.state.log("web"), b"done\n");
    host.end(Signal::SIGTERM);
}

#[test]
fn root_hands_no_start_to_a_host_of_another_user() {
    if !is_root() {
        return;
    }
    let state = State::new();
    let other = state.file("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::chown(&other, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut serve = state.vmon();
    serve.arg("serve").env("VMON_STATE_DIR", &other).uid(65534).gid(65534);
    // The program may be where that user can't read.
    let Ok(process) = serve.spawn() else { return };
    let mut process = Process(process);
    let socket = other.join("run/@host.sock");
    eventually("the host serves", || UnixStream::connect(&socket).is_ok());
    let mut run = state.vmon();
    run.args(["run", "-d", "--state-dir"]).arg(&other).arg("--via").arg(&socket);
    let refused = run.args(["--name", "web", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    assert!(one_line(&refused).contains("is served by uid 65534"), "{refused:?}");
    assert!(!other.join("log").exists());
    signal(&process, Signal::SIGTERM);
    assert_eq!(code(wait(&mut process)), 0);
}
