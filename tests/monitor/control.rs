//! The control socket: its path, access, methods, and what an independent client
//! makes of it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command as StdCommand;
use std::time::Duration;

use crate::common::served::{Served, socket_of};
use crate::common::turning::start_added;
use crate::common::{self, CONFIG, State, TIMEOUT, contains, eventually, served};
use vmon::child::{Command, Identity, Liveness, Signal};
use vmon::control::{Client, ClientError, INTERFACE_DESCRIPTION, Server};
use vmon::monitor::{
    Attach, AttachTo, End, Input, Monitor, Phase, Reason, Restart, Sandbox, StartError,
};
use vmon::reactor::Reactor;
use vmon::terminal::WindowSize;

const SLEEP: &str = "echo up; exec sleep 1000";

/// Why nothing was started.
fn refusal(end: &End) -> String {
    match end.error() {
        Some(StartError::Service(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn start_in(state: &State) -> End {
    served::run(state.path(), "a", "exit 0", false, |sandbox| sandbox)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_socket_and_its_directories_are_private_and_removed_at_the_end() {
    let host = Served::start(SLEEP);
    let directory = host.path.parent().unwrap();
    assert!(fs::symlink_metadata(&host.path).unwrap().file_type().is_socket());
    let sticky = if cfg!(target_os = "linux") { 0o1000 } else { 0 };
    assert_eq!(mode(&host.path), 0o600 | sticky);
    assert_eq!((mode(directory), mode(directory.parent().unwrap())), (0o700, 0o700));
    // Nothing else is left beside it.
    eventually("the first name is gone", || fs::read_dir(directory).unwrap().count() == 1);
    let path = host.path.clone();
    let (end, _state) = host.stop();
    assert_eq!((end.reason(), path.exists()), (Reason::Stopped, false));
}

#[test]
fn status_describes_the_sandbox() {
    let host = Served::with(SLEEP, false, |sandbox| sandbox.label("app", "\"x\"=ä").unwrap());
    host.state.wait_for_log("a", b"up\n");
    let status = host.client().status().unwrap();
    assert_eq!(status.labels.iter().collect::<Vec<_>>(), [("app", "\"x\"=ä")]);
    assert_eq!((status.name.as_str(), status.config_file.as_str()), ("a", CONFIG));
    assert_eq!((status.phase, status.tty, status.restarts), (Phase::Running, Some(false), 0));
    assert_eq!(status.supervisor, Identity::current());
    assert_eq!(status.child.unwrap().liveness(), Liveness::Alive);
    assert_eq!((status.log, status.bytes_logged), (Some(host.state.log_path("a")), 3));
    assert!(status.running_at.unwrap() >= status.started_at);
    assert!(status.sessions.is_empty() && status.end.is_none());
    host.stop();
}

#[test]
fn watch_reports_each_transition_and_the_end() {
    let host = Served::start("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done");
    host.state.wait_for_log("a", b"up\n");
    let mut watch = host.client().watch().unwrap();
    let first = watch.next().unwrap().unwrap();
    assert_eq!((first.phase, first.child.is_some()), (Phase::Running, true));
    let quiet = watch.next_within(Some(Duration::from_millis(1)));
    assert!(matches!(quiet, Err(ClientError::Timeout(_))), "{quiet:?}");
    let (end, _state) = host.stop();
    let events: Vec<_> = watch.map(Result::unwrap).collect();
    let phases: Vec<_> = events.iter().map(|event| event.phase).collect();
    assert_eq!(phases, [Phase::Stopping, Phase::Draining, Phase::Stopped]);
    let reported = events[2].end.clone().unwrap();
    assert_eq!((reported.reason, reported.exit_code), (Some(Reason::Stopped), Some(3)));
    assert_eq!((reported.code(), reported.bytes_logged), (end.exit_code(), Some(end.bytes_logged)));
    assert_eq!(events[1].end.as_ref().unwrap().reason, None);
}

#[test]
fn watch_continues_over_restarts_until_a_stop() {
    let host = Served::with("echo up; exit 4", false, |it| it.restart(Restart::Always));
    let mut watch = Client::connect(&host.path).unwrap().watch().unwrap();
    let restarting = watch.find_map(|event| {
        let event = event.unwrap();
        (event.phase == Phase::Restarting && event.restart_in.is_some()).then_some(event)
    });
    let restarting = restarting.unwrap();
    assert_eq!(restarting.end.unwrap().exit_code, Some(4));
    let client = Client::connect(&host.path).unwrap();
    let mut client = client;
    client.stop(None).unwrap();
    let last = watch.last().unwrap().unwrap();
    assert!(last.is_final() && last.end.is_some());
    host.end();
}

#[test]
fn an_end_by_a_signal_is_reported_with_the_signal() {
    let host = Served::start(SLEEP);
    let mut client = host.client();
    let watch = Client::connect(&host.path).unwrap().watch().unwrap();
    client.signal(Signal::KILL).unwrap();
    let end = watch.last().unwrap().unwrap().end.unwrap();
    assert_eq!((end.signal, end.exit_code, end.code()), (Some(Signal::KILL), None, 137));
    assert_eq!(end.reason, Some(Reason::Signalled));
    host.end();
}

#[test]
fn a_stop_kills_after_the_timeout_that_it_names() {
    let host = Served::start("trap '' TERM; echo up; while :; do sleep 0.01; done");
    host.state.wait_for_log("a", b"up\n");
    host.client().stop(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(host.end().0.reason(), Reason::Killed);
}

#[test]
fn the_log_is_reopened_by_its_name() {
    let host = Served::with("echo one; read go; echo two; exec sleep 1000", false, |it| {
        it.input(Input::Attached)
    });
    host.state.wait_for_log("a", b"one\n");
    let moved = host.state.file("moved");
    fs::rename(host.state.log_path("a"), &moved).unwrap();
    host.client().reopen_log().unwrap();
    let (_, mut session) = host.client().attach(&Attach::default()).unwrap();
    session.write_all(b"go\n").unwrap();
    host.state.wait_for_log("a", b"two\n");
    assert_eq!(fs::read(&moved).unwrap(), b"one\n");
    drop(session);
    host.stop();
}

#[test]
fn a_socket_that_was_removed_is_made_again_when_the_log_is_reopened_or_indexed() {
    let host = Served::with("while read line; do echo $line; done; sleep 1000", false, |it| {
        it.input(Input::Attached)
    });
    let (mut earlier, mut waiting) = (host.client(), host.client());
    let (_, mut session) = Client::connect(&host.path).unwrap().attach(&Attach::default()).unwrap();
    // With its directories.
    fs::remove_dir_all(host.state.file("run")).unwrap();
    earlier.reopen_log().unwrap();
    eventually("it is there again", || host.path.exists());
    assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    // The index is written soon after output.
    fs::remove_file(&host.path).unwrap();
    session.write_all(b"go\n").unwrap();
    eventually("it is there again", || host.path.exists());
    host.client().status().unwrap();
    // A client that was connected before is still served.
    waiting.status().unwrap();
    drop(session);
    let path = host.path.clone();
    host.stop();
    assert!(!path.exists());
}

#[test]
fn a_removed_socket_whose_path_is_taken_is_made_again_when_it_is_free() {
    let host = Served::start(SLEEP);
    let mut client = host.client();
    fs::remove_file(&host.path).unwrap();
    fs::write(&host.path, "other").unwrap();
    client.reopen_log().unwrap();
    assert_eq!(fs::read(&host.path).unwrap(), b"other");
    fs::remove_file(&host.path).unwrap();
    client.reopen_log().unwrap();
    eventually("it is there again", || host.path.exists());
    host.stop();
}

#[test]
fn an_attached_client_gets_the_tail_and_new_output_and_sends_input() {
    let script = "echo one; while read line; do echo got $line; done; exec sleep 1000";
    let host = Served::with(script, false, |it| it.input(Input::Attached));
    host.state.wait_for_log("a", b"one\n");
    let request = Attach::default().tail(3);
    let (attached, mut session) = host.client().attach(&request).unwrap();
    assert_eq!((attached.to, attached.tail), (AttachTo::Stdout, 3));
    session.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut seen = [0; 3];
    session.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"ne\n");
    session.write_all(b"two\n").unwrap();
    let mut seen = [0; 8];
    session.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"got two\n");
    let sessions = host.client().status().unwrap().sessions;
    assert_eq!((sessions.len(), sessions[0].session), (1, attached.session));
    let refused = host.client().resize(attached.session, WindowSize::new(10, 20)).unwrap_err();
    assert_eq!(refused.name(), Some("NotATerminal"));
    host.stop();
}

#[test]
fn bytes_after_the_attach_call_are_the_childs_input() {
    let host = Served::with("read line; echo got $line; exec sleep 1000", false, |it| {
        it.input(Input::Attached)
    });
    host.client();
    let mut raw = host.raw();
    let call = br#"{"method":"io.vmon.Monitor.Attach","upgrade":true}"#;
    raw.send([&call[..], b"\0early\n"].concat());
    assert_eq!(raw.next().unwrap()["parameters"]["stream"], "stdout");
    assert_eq!(raw.bytes(10), b"got early\n");
    host.stop();
}

#[test]
fn a_terminal_takes_the_size_of_a_session() {
    let script = "trap 'stty size' WINCH; echo up; while :; do sleep 0.01; done";
    let host = Served::with(script, true, |it| it.input(Input::Attached));
    host.state.wait_for_log("a", b"up");
    let (attached, mut session) = host.client().attach(&Attach::default()).unwrap();
    assert_eq!(attached.to, AttachTo::Tty);
    host.client().resize(attached.session, WindowSize::new(33, 77)).unwrap();
    // The size follows the newest writer, and this one has not written yet.
    session.write_all(b"x").unwrap();
    host.client().resize(attached.session, WindowSize::new(33, 77)).unwrap();
    host.state.wait_for_log("a", b"33 77");
    host.stop();
}

#[test]
fn an_impossible_request_is_a_named_error() {
    let host = Served::start(SLEEP);
    host.client();
    let mut raw = host.raw();
    let mut error = |call: &str| {
        let answer = raw.ask(call);
        let name = answer["error"].as_str().unwrap_or_else(|| panic!("{call}: {answer}"));
        format!("{name} {}", answer["parameters"])
    };
    let ours = |method: &str, parameters: &str| {
        format!(r#"{{"method":"io.vmon.Monitor.{method}","parameters":{parameters}}}"#)
    };
    let cases = [
        (ours("Nothing", "{}"), "MethodNotFound", r#"{"method":"io.vmon.Monitor.Nothing"}"#),
        (r#"{"method":"a.b.C"}"#.into(), "InterfaceNotFound", r#"{"interface":"a.b"}"#),
        (ours("Watch", "{}"), "ExpectedMore", "{}"),
        (ours("Attach", "{}"), "ExpectedUpgrade", "{}"),
        (ours("Attach", r#"{"stream":"x"}"#), "InvalidParameter", r#"{"parameter":"stream"}"#),
        (ours("Signal", r#"{"signal":"TREM"}"#), "InvalidSignal", r#"{"signal":"TREM"}"#),
        (ours("Signal", "{}"), "InvalidParameter", r#"{"parameter":"signal"}"#),
        (ours("GetStatus", r#"{"x":1}"#), "InvalidParameter", r#"{"parameter":"x"}"#),
        (ours("Stop", r#"{"timeout":-1}"#), "InvalidParameter", r#"{"parameter":"timeout"}"#),
        (
            ours("Resize", r#"{"session":9,"rows":1,"columns":0}"#),
            "InvalidParameter",
            r#"{"parameter":"columns"}"#,
        ),
        (
            ours("Resize", r#"{"session":9,"rows":1,"columns":1}"#),
            "NoSuchSession",
            r#"{"session":9}"#,
        ),
    ];
    for (call, name, parameters) in cases {
        let reported = error(&call);
        assert!(reported.ends_with(&format!(".{name} {parameters}")), "{call}: {reported}");
    }
    let call =
        r#"{"method":"io.vmon.Monitor.Attach","parameters":{"stream":"tty"},"upgrade":true}"#;
    assert_eq!(error(call), r#"io.vmon.Monitor.NoSuchStream {"stream":"tty"}"#);
    // It is an ordinary connection still.
    let status = raw.ask(r#"{"method":"io.vmon.Monitor.GetStatus"}"#);
    assert_eq!(status["parameters"]["status"]["state"], "RUNNING");
    host.stop();
}

#[test]
fn calls_in_one_write_are_answered_in_order_and_oneway_calls_are_not() {
    let host = Served::start(SLEEP);
    host.client();
    let mut raw = host.raw();
    let mut calls = Vec::new();
    for _ in 0..50 {
        calls.extend(b"{\"method\":\"io.vmon.Monitor.GetStatus\"}\0");
        calls.extend(b"{\"method\":\"io.vmon.Monitor.GetStatus\",\"oneway\":true}\0");
        calls.extend(b"{\"method\":\"org.varlink.service.GetInfo\",\"more\":true}\0");
    }
    raw.send(&calls);
    for _ in 0..50 {
        assert_eq!(raw.next().unwrap()["parameters"]["status"]["name"], "a");
        let info = raw.next().unwrap();
        assert_eq!(info["parameters"]["product"], "vmon");
        assert!(info.get("continues").is_none());
    }
    host.stop();
}

#[test]
fn a_client_that_has_shut_down_its_sending_side_gets_its_replies() {
    let host = Served::start(SLEEP);
    host.client();
    let mut raw = host.raw();
    raw.send(b"{\"method\":\"io.vmon.Monitor.Watch\",\"more\":true}\0");
    raw.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.next().unwrap()["parameters"]["event"]["state"], "RUNNING");
    host.client().stop(None).unwrap();
    let mut last = None;
    while let Some(reply) = raw.next() {
        last = Some(reply);
    }
    let last = last.unwrap();
    assert_eq!(last["parameters"]["event"]["end"]["reason"], "stopped");
    assert!(last.get("continues").is_none());
    host.end();
}

#[test]
fn removing_a_monitor_from_its_reactor_removes_its_socket() {
    let state = State::new();
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
    let server = Server::new(state.path().join("run"));
    let path = server.path(&sandbox).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let command = Command::new("sleep").args(["1000"]);
    let id = Monitor::builder(sandbox).control_socket(server).unwrap().spawn(&mut reactor, command);
    start_added(&mut reactor);
    assert!(path.exists());
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    // A client that is only connected causes no wake-ups either.
    eventually("nothing is due", || {
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        reactor.next_deadline().is_none()
    });
    reactor.call(id, |it, _| it.signal_child(Signal::KILL)).unwrap().unwrap();
    drop(reactor.remove(id).unwrap());
    assert!(!path.exists());
    drop(client);
}

#[test]
fn a_stale_socket_is_replaced() {
    let state = State::new();
    let path = socket_of(&state, "a");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(start_in(&state).reason(), Reason::Exited);
    assert!(!path.exists());
}

/// Another sandbox whose socket would have the same path: one process writes a log once.
fn logging_to(mut sandbox: Sandbox, log_dir: PathBuf) -> Sandbox {
    sandbox.log_dir = log_dir;
    sandbox
}

#[test]
fn a_live_socket_is_never_replaced() {
    let host = Served::start(SLEEP);
    let before = fs::metadata(&host.path).unwrap().ino();
    let log_dir = host.state.file("other");
    let end = served::run(host.state.path(), "a", "exit 0", false, |it| logging_to(it, log_dir));
    assert!(refusal(&end).contains("in use by a live supervisor"), "{}", refusal(&end));
    assert_eq!(fs::metadata(&host.path).unwrap().ino(), before);
    assert_eq!(fs::read_dir(host.path.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    host.stop();
}

#[test]
fn of_many_starts_at_once_over_a_stale_socket_one_gets_the_name() {
    for _ in 0..20 {
        let state = State::new();
        let path = socket_of(&state, "a");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let hosts: Vec<_> = (0..4)
            .map(|number| {
                let directory = state.path().to_owned();
                let log_dir = state.file(&format!("log-{number}"));
                std::thread::spawn(move || {
                    let describe = |it| logging_to(it, log_dir);
                    served::run(&directory, "a", "exec sleep 1000", false, describe)
                })
            })
            .collect();
        // All but one are reported so.
        eventually("one is left", || hosts.iter().filter(|it| !it.is_finished()).count() == 1);
        // They may have lost before it is in its place.
        eventually("it is served", || Client::connect(&path).is_ok());
        let mut client = Client::connect(&path).unwrap();
        eventually("it runs", || client.status().unwrap().phase == Phase::Running);
        client.stop(None).unwrap();
        let ends: Vec<End> = hosts.into_iter().map(|host| host.join().unwrap()).collect();
        let refused = ends.iter().filter(|end| end.reason() == Reason::StartFailed);
        assert_eq!(refused.map(refusal).filter(|text| text.contains("in use")).count(), 3);
    }
}

#[test]
fn a_file_that_is_not_a_socket_is_not_replaced() {
    let state = State::new();
    let path = socket_of(&state, "a");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let elsewhere = state.file("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(refusal(&start_in(&state)).contains("is not a socket"));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    assert!(refusal(&start_in(&state)).contains("is not a socket"));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_link_in_place_of_the_directory_is_not_followed() {
    let state = State::new();
    let elsewhere = state.file("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(state.file("run")).unwrap();
    symlink(&elsewhere, state.path().join("run").join(CONFIG)).unwrap();
    assert!(refusal(&start_in(&state)).contains("is not a directory"));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn a_path_beyond_sun_path_is_served_and_reached() {
    let state = State::new();
    let mut runtime = state.path().join("run");
    for _ in 0..3 {
        runtime.push("d".repeat(100));
    }
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
    let path = runtime.join(CONFIG).join("a.sock");
    let start = {
        let runtime = runtime.clone();
        move || {
            let server = Server::new(&runtime);
            let mut reactor = Reactor::new().unwrap();
            let command = Command::new("sleep").args(["1000"]);
            let id = Monitor::builder(sandbox)
                .control_socket(server)
                .unwrap()
                .spawn(&mut reactor, command);
            reactor.run().unwrap();
            reactor.remove(id).unwrap().into_end().unwrap()
        }
    };
    let host = std::thread::spawn(start);
    eventually("the socket is there", || path.exists());
    let mut client = Client::connect(&path).unwrap();
    eventually("it runs", || client.status().unwrap().phase == Phase::Running);
    client.stop(None).unwrap();
    assert_eq!(host.join().unwrap().reason(), Reason::Stopped);
    assert!(!path.exists());
}

#[test]
fn a_dead_supervisor_and_a_hanging_one_are_different_errors() {
    let state = State::new();
    let path = state.file("a.sock");
    assert!(Client::connect(&path).unwrap_err().is_gone());
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap().timeout(Duration::from_millis(20));
    assert!(matches!(client.status(), Err(ClientError::Timeout(_))));
    drop(listener);
    assert!(Client::connect(&path).unwrap_err().is_gone());
    assert!(client.status().unwrap_err().is_gone());
}

#[test]
fn a_client_of_another_user_is_refused_with_a_named_error() {
    if !common::is_root() || common::python().is_none() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let host = Served::start(SLEEP);
    host.client();
    // Only the credentials are left to keep it out.
    for directory in host.path.ancestors().take(4) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = "
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
print(s.makefile('rb').read().decode())";
    let output = StdCommand::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ])
        .arg(&host.path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("io.vmon.Monitor.PermissionDenied"), "{said} {output:?}");
    host.stop();
}

#[test]
fn an_independent_varlink_library_introspects_and_calls() {
    let Some(mut python) = common::python() else { return };
    let host = Served::with(
        "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done",
        false,
        |sandbox| sandbox.label("app", "web").unwrap(),
    );
    host.state.wait_for_log("a", b"up\n");
    let script = r#"
import sys, varlink
address = "unix:" + sys.argv[1]
client = varlink.Client(address)
info = client.get_interfaces()
assert set(info) == {"org.varlink.service", "io.vmon.Monitor"}, info
interface = client.get_interface("io.vmon.Monitor")
members = set(interface.members)
assert {"GetStatus", "Signal", "Stop", "ReopenLog", "Attach", "Resize", "Watch"} <= members, members
assert {"NotRunning", "InvalidSignal", "NoSuchStream", "NoSuchSession"} <= members, members
with client.open("io.vmon.Monitor") as monitor:
    status = monitor.GetStatus()["status"]
    assert status["state"] == "RUNNING" and status["name"] == "a", status
    assert status["labels"] == {"app": "web"}, status
    try:
        monitor.Signal("NOPE")
        raise SystemExit("no error")
    except varlink.VarlinkError as error:
        assert error.error() == "io.vmon.Monitor.InvalidSignal", error
    with client.open("io.vmon.Monitor") as other:
        states = []
        for reply in other.Watch(_more=True):
            event = reply["event"]
            states.append(event["state"])
            if event["state"] == "RUNNING":
                monitor.Stop(5000)
        assert states == ["RUNNING", "STOPPING", "DRAINING", "STOPPED"], states
        assert event["end"]["reason"] == "stopped" and event["end"]["exit_code"] == 3, event
print("all well")
"#;
    let output = python.args(["-c", script]).arg(&host.path).output().unwrap();
    assert!(contains(&output.stdout, b"all well"), "{output:?}");
    host.end();
}

#[test]
fn an_independent_varlink_command_introspects_and_calls() {
    let Some(python) = common::python() else { return };
    let python = python.get_program().to_owned();
    let host = Served::start(SLEEP);
    host.client();
    let address = format!("unix:{}", host.path.display());
    let varlink = |words: &[&str]| {
        let output =
            StdCommand::new(&python).args(["-m", "varlink.cli"]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(varlink(&["info", &address]).contains("io.vmon.Monitor"));
    let help = varlink(&["help", &format!("{address}/io.vmon.Monitor")]);
    assert!(help.contains("method GetStatus() -> (status: Status)"), "{help}");
    let status = varlink(&["call", &format!("{address}/io.vmon.Monitor.GetStatus"), "{}"]);
    assert!(status.contains("RUNNING"), "{status}");
    varlink(&["call", &format!("{address}/io.vmon.Monitor.Stop"), r#"{"timeout": 5000}"#]);
    assert_eq!(host.end().0.reason(), Reason::Stopped);
}

#[test]
fn the_interface_description_has_every_key_of_the_replies() {
    for name in ["MessageTooLong", "MessageTimeout", "TooManyConnections", "TooMuchUnfinished"] {
        assert!(INTERFACE_DESCRIPTION.contains(&format!("\nerror {name} (limit: int)\n")));
    }
}
