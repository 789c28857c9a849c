//! Consoles on the command line: the terminal, attaching, printing, the record and restarts.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Process, State, Terminal, code, contains, eventually, signal, vmm, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
#[ignore = "a process of its own that other tests start"]
fn stand_in() {
    vmm::stand_in();
}

/// `vmon run --name vm OPTIONS…` of a stand-in.
fn run(state: &State, options: &[&str], kind: &str, path: &str) -> Command {
    let mut command = state.vmon();
    command.args(["run", "--name", "vm"]).args(options).arg("--").args(vmm::arguments(
        module_path!(),
        kind,
        path,
    ));
    command
}

fn console(state: &State, kind: &str) -> (String, String) {
    let path = state.file("console").to_str().unwrap().to_owned();
    (format!("serial={kind}:{path}"), path)
}

/// The output of a command, which must succeed.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(code(output.status), 125, "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_own_log_of_a_command_that_fails_at_once_without_output_at_its_console_is_printed() {
    let state = State::new();
    let failing = |options: &[&str], script: &str| {
        let mut command = state.vmon();
        command.args(["run", "--name", "vm"]).args(options);
        command.args(["--", "sh", "-c", script]).output().unwrap()
    };
    let earlier = failing(&["--console", "pty"], "echo an earlier run");
    assert!(contains(&earlier.stderr, b"an earlier run\n"), "{earlier:?}");

    let options = ["--console", "pty", "--log-format", "json"];
    let script = "seq 20; printf 'no such \\033[1mdevice\\n' >&2; exit 3";
    let output = failing(&options, script);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(code(output.status), 3);
    assert!(stderr.contains("vm.log:\n12\n13\n"), "the last ten lines: {stderr}");
    assert!(stderr.ends_with("\n20\nno such \\u{1b}[1mdevice\n"), "{stderr}");
    assert_eq!(output.stdout, b"");

    // Nothing was missed: the console had output, or the log is what the terminal has shown.
    for (options, script) in [
        (&["--console", "pty"][..], "echo own; echo shown >\"$1\"; exit 3"),
        (&[], "echo own >&2; exit 3"),
        (&["--console", "pty", "--interactive", "stdio"], "echo own >&2; exit 3"),
    ] {
        let mut command = state.vmon();
        command.args(["run", "--name", "vm"]).args(options);
        let output = command.args(["--", "sh", "-c", script, "sh", "{console}"]).output().unwrap();
        assert_eq!(code(output.status), 3);
        assert!(!contains(&output.stderr, b"vm.log"), "{options:?}: {output:?}");
    }
}

#[test]
fn the_only_console_has_the_terminal_in_raw_mode_while_it_is_open() {
    let state = State::new();
    let (serial, path) = console(&state, "listen");
    let mut terminal = Terminal::spawn(&mut run(&state, &["--console", &serial], "connect", &path));
    let modes = terminal.modes();
    terminal.wait_for("login: ");
    eventually("it is raw", || terminal.modes() != modes);
    terminal.send("one\n");
    terminal.wait_for("got one\n");
    terminal.send("quit\n");
    assert_eq!(terminal.finish(), 0);
    assert_eq!(terminal.modes(), modes);
    // Neither an echo nor messages of the VMM.
    assert_eq!(String::from_utf8_lossy(&terminal.seen), "login: got one\n");
    assert_eq!(state.log("vm@serial"), terminal.seen);
    assert!(contains(&state.log("vm"), b"the vmm ends"));
}

#[test]
fn a_silent_console_has_the_terminal_in_raw_mode_each_time_it_is_opened() {
    let state = State::new();
    let (serial, path) = console(&state, "listen");
    let mut command = state.vmon();
    command.args(["run", "--name", "vm", "--console", &serial, "--", "sleep", "1000"]);
    let mut terminal = Terminal::spawn(&mut command);
    let modes = terminal.modes();
    for key in ["a", "b"] {
        let mut peer = None;
        eventually("it listens", || {
            peer = UnixStream::connect(&path).ok();
            peer.is_some()
        });
        let mut peer = peer.unwrap();
        eventually("it is raw", || terminal.modes() != modes);
        terminal.send(key);
        let mut received = [0];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received, key.as_bytes());
        drop(peer);
        eventually("it is as before", || terminal.modes() == modes);
    }
    printed(state.vmon().args(["stop", "vm"]));
    terminal.finish();
}

#[test]
fn a_console_is_opened_again_while_stdout_is_blocked() {
    let state = State::new();
    let (serial, path) = console(&state, "unix-any");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let accepted = || {
        let mut stream = None;
        eventually("it is opened", || {
            stream = listener.accept().ok();
            stream.is_some()
        });
        stream.unwrap().0
    };
    let mut command = state.vmon();
    command.args(["run", "--name", "vm", "--forward-overflow", "drop", "--console", &serial]);
    command.args(["--", "sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut vmon = Process::spawn(&mut command);
    // More than the pipe of stdout and the queue before it hold.
    let mut first = accepted();
    first.write_all(&[b'x'; 1 << 20]).unwrap();
    drop(first);
    let mut second = accepted();
    second.write_all(b"again").unwrap();
    eventually("it is logged", || state.log("vm@serial").ends_with(b"xagain"));
    signal(&vmon, Signal::SIGTERM);
    let mut seen = Vec::new();
    vmon.stdout.take().unwrap().read_to_end(&mut seen).unwrap();
    assert_eq!(code(wait(&mut vmon)), 143);
}

#[test]
fn a_pty_console_replaces_its_link_and_gets_the_window_size() {
    let state = State::new();
    let script = "stty size <$1; stty -a <$1; exec cat $1 >$1";
    let mut command = state.vmon();
    command.args(["run", "--name", "vm", "--console", "pty", "--", "sh", "-c", script, "sh"]);
    let mut terminal = Terminal::spawn(command.arg("{console}"));
    state.wait_for_log("vm", b"speed");
    let log = String::from_utf8(state.log("vm")).unwrap();
    assert!(log.starts_with("40 100\n"), "{log}");
    assert!(log.contains("-echo ") && log.contains("-icanon"), "{log}");
    terminal.send("hello\r");
    terminal.wait_for("hello\r");
    terminal.resize(33, 99);
    let path = consoles(&state)[0]["path"].as_str().unwrap().to_owned();
    eventually("its size follows", || {
        let stty = format!("stty size <{path}");
        printed(Command::new("sh").args(["-c", &stty])) == "33 99\n"
    });
    printed(state.vmon().args(["stop", "vm"]));
    terminal.finish();
}

/// The consoles of the only sandbox, in `ps --json`.
fn consoles(state: &State) -> Value {
    let listed = printed(state.vmon().args(["ps", "--all", "--json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed[0]["consoles"].clone()
}

#[test]
fn with_several_consoles_the_command_has_stdio_unless_one_is_selected() {
    for (interactive, expected) in [(None, "aside"), (Some("out"), ""), (Some("stdio"), "aside")] {
        let state = State::new();
        let mut options = vec!["--console=in=pty", "--console=out=pty"];
        let option = interactive.map(|name| format!("--interactive={name}"));
        options.extend(option.as_deref());
        let mut command = state.vmon();
        command.args(["run", "--name", "vm"]).args(options);
        command.args(["--", "sh", "-c", "echo aside; printf console >$1", "sh", "{out}"]);
        let output = printed(&mut command);
        let expected = if expected.is_empty() { "console" } else { "aside\n" };
        assert_eq!(output, expected, "{interactive:?}");
        assert_eq!(state.log("vm"), b"aside\n");
        assert_eq!(state.log("vm@out"), b"console");
        assert_eq!(state.log("vm@in"), b"");
    }
}

#[test]
fn invalid_consoles_are_usage_errors_and_nothing_is_started() {
    let state = State::new();
    let stderr = |options: &[&str]| {
        let mut command = state.vmon();
        refused(command.args(["run", "--name", "vm"]).args(options).args(["--", "true"]))
    };
    let long = format!("unix:/{}", "x".repeat(108));
    for (options, expected) in [
        (&["--console", "tty"][..], "is no console"),
        (&["--console", "stdio=pty"], "child's own streams"),
        (&["--console", "pty", "--console", "console=pty"], "two consoles have the name"),
        (&["--console", "pty", "--interactive", "serial"], "there is no console \"serial\""),
        (&["--interactive", "serial"], "there is no console \"serial\""),
        (&["--console", &long], "longer than a socket's may be"),
        (&["--console", "a=listen:/nonexistent/b"], "can't listen at /nonexistent/b"),
    ] {
        let stderr = stderr(options);
        assert!(stderr.contains(expected) && stderr.lines().count() < 5, "{options:?}: {stderr}");
    }
    assert!(!state.log_path("vm").exists());
}

/// A stand-in in the background with an open console.
fn detached(state: &State) -> String {
    let (serial, path) = console(state, "listen");
    printed(&mut run(state, &["-d", "--console", &serial], "connect", &path));
    state.wait_for_log("vm@serial", b"login: ");
    path
}

#[test]
fn a_client_attaches_to_a_console_and_to_the_streams_of_the_command() {
    let state = State::new();
    detached(&state);
    // The only console is where the terminal would be connected.
    for options in [&[][..], &["--console", "serial"]] {
        let mut command = state.vmon();
        command.args(["attach", "vm", "--tail", "1KiB"]).args(options);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = client.stdin.take().unwrap();
        let mut stdout = client.stdout.take().unwrap();
        stdin.write_all(b"hello\n").unwrap();
        let mut seen = Vec::new();
        while !contains(&seen, b"got hello\n") {
            let mut buffer = [0; 256];
            let count = stdout.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{seen:?}");
            seen.extend_from_slice(&buffer[..count]);
        }
        client.kill().unwrap();
        client.wait().unwrap();
    }
    let mut stdio = state.vmon();
    stdio.args(["attach", "vm", "--no-stdin", "--tail", "1KiB", "--console", "stdio"]);
    let mut stdio = stdio.stdout(Stdio::piped()).spawn().unwrap();
    let unknown = state.vmon().args(["attach", "vm", "--console", "hvc0"]).output().unwrap();
    assert_eq!(code(unknown.status), 1);
    assert!(
        contains(&unknown.stderr, b"it has no console hvc0; its consoles: serial"),
        "{unknown:?}"
    );

    let listed = consoles(&state);
    assert_eq!(listed[0]["name"], "serial");
    assert_eq!(listed[0]["kind"], "listen");
    assert_eq!(listed[0]["state"], "open");
    assert_eq!(listed[0]["bytes_logged"], state.log("vm@serial").len());
    let inspected = printed(state.vmon().args(["inspect", "vm"]));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["live"]["consoles"][0]["state"], "open");

    // The end of the sandbox is the end of its streams.
    printed(state.vmon().args(["stop", "vm"]));
    wait(&mut stdio);
    let mut seen = String::new();
    stdio.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(seen.contains("the vmm begins"), "{seen}");
    let listed = consoles(&state);
    assert_eq!(listed[0]["bytes_logged"], state.log("vm@serial").len(), "{listed}");
    assert_eq!(listed[0]["state"], Value::Null);
}

#[test]
fn the_logs_of_consoles_are_printed_exported_and_removed_with_the_sandbox() {
    let state = State::new();
    let script = "printf 'one\\ntwo\\n' >$1; echo aside";
    let mut command = state.vmon();
    command.args(["run", "--name", "vm", "--console", "pty", "--", "sh", "-c", script, "sh"]);
    printed(command.arg("{console}"));
    let print = |options: &[&str]| printed(state.vmon().args(options));
    assert_eq!(print(&["logs", "vm"]), "aside\n");
    assert_eq!(print(&["logs", "vm", "--console", "stdio"]), "aside\n");
    assert_eq!(print(&["logs", "vm", "--console", "console", "-n", "1"]), "two\n");
    assert_eq!(print(&["logs", "vm", "--console", "console", "--run", "last"]), "one\ntwo\n");
    assert_eq!(print(&["replay", "vm", "--console", "console"]), "one\ntwo\n");
    let exported = print(&["export", "vm", "--console", "console", "--to", "json"]);
    assert!(exported.contains(r#""log":"one\n""#), "{exported}");
    let unknown = state.vmon().args(["logs", "vm", "--console", "hvc0"]).output().unwrap();
    assert_eq!(code(unknown.status), 1);
    print(&["rm", "vm", "--logs"]);
    assert!(!Path::new(&state.logs()).exists());
}

#[test]
fn a_restart_has_the_same_consoles() {
    let state = State::new();
    let path = detached(&state);
    printed(state.vmon().args(["restart", "vm"]));
    state.wait_for_log("vm@serial", b"login: login: ");
    assert!(fs::exists(&path).unwrap());
    assert_eq!(consoles(&state)[0]["path"], path.as_str());
    printed(state.vmon().args(["stop", "vm"]));
    eventually("it is removed", || !fs::exists(&path).unwrap());
}
