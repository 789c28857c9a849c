//! `vmon attach`: several clients attach to a sandbox, and detach without affecting it.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    self, Detached, Process, State, Terminal, assert_same, code, eventually, noise, raw, signal,
    spawn_piped, wait,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{InputFlags, SpecialCharacterIndices, Termios, tcgetattr};

const LEAVE: &[u8] = b"\x10\x11";

fn attach(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.arg("attach").args(args);
    command
}

/// Spawns the command on a terminal. Returns the terminal and its former modes.
fn on_terminal(command: &mut Command) -> (Terminal, Termios) {
    let mut modes = None;
    let terminal = Terminal::spawn_on(command, |master| modes = tcgetattr(master).ok());
    (terminal, modes.unwrap())
}

/// A sandbox with a terminal and a shell without a prompt.
fn shell(state: &State) -> Detached {
    let script = "PS1='$ ' exec sh -i";
    let sandbox = Detached::start(state, &mut state.run("web", &["-dt"], script));
    state.wait_for_log("web", b"$ ");
    sandbox
}

fn is_attached(state: &State, sessions: usize) {
    // The supervisor reports its sessions; the record does not have them.
    eventually("all are attached", || {
        let socket = state.path().join("run/Sandboxfile/web.sock");
        let status = vmon::control::Client::connect(socket).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.sessions.len() == sessions)
    });
}

#[test]
fn attach_resizes_the_sandbox_and_restores_the_terminals_modes() {
    let state = State::new();
    let _web = shell(&state);
    let (mut terminal, modes) = on_terminal(&mut attach(&state, &["web"]));
    terminal.wait_for_modes(&raw(&modes));
    terminal.send("stty size\r");
    terminal.wait_for("40 100");
    terminal.resize(33, 77);
    is_attached(&state, 1);
    eventually("the new size", || {
        terminal.send("stty size\r");
        terminal.wait_for("$ ");
        common::contains(&terminal.seen, b"33 77")
    });
    terminal.send(LEAVE);
    assert_eq!(terminal.finish(), 0);
    assert_eq!(terminal.modes(), modes);
    let said = String::from_utf8_lossy(&terminal.seen).into_owned();
    assert!(
        said.ends_with("vmon: detached from Sandboxfile/web, which keeps running\r\n"),
        "{said:?}"
    );
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
}

#[test]
fn several_clients_see_the_same_output_and_a_read_only_one_sends_nothing() {
    let state = State::new();
    let _web = shell(&state);
    let mut first = Terminal::spawn(&mut attach(&state, &["web"]));
    let mut second = Terminal::spawn(&mut attach(&state, &["web"]));
    let (mut third, modes) = on_terminal(&mut attach(&state, &["web", "--read-only"]));
    is_attached(&state, 3);
    third.wait_for_modes(&raw(&modes));
    third.send("echo never\r");
    first.send("echo fir''st\r");
    for terminal in [&mut first, &mut second, &mut third] {
        terminal.wait_for("first\r\n");
    }
    second.send("echo sec''ond\r");
    for terminal in [&mut first, &mut second, &mut third] {
        terminal.wait_for("second\r\n");
    }
    // A read-only client detaches with Ctrl-C and does not send it.
    third.send("\x03");
    assert_eq!(third.finish(), 0);
    assert!(!common::contains(&state.whole_log("web"), b"never"));
    first.send(LEAVE);
    assert_eq!(first.finish(), 0);
}

#[test]
fn the_keys_detach_from_a_command_on_pipes_with_line_editing_and_echo() {
    let state = State::new();
    let options = ["-d", "-T", "--stdin", "forward"];
    let _web = Detached::start(&state, &mut state.run("web", &options, "exec cat"));
    let (mut terminal, modes) = on_terminal(&mut attach(&state, &["web"]));
    let wait_for_lines = |terminal: &Terminal| {
        eventually("lines end with the keys", || {
            let now = terminal.modes();
            let veol = now.control_chars[SpecialCharacterIndices::VEOL as usize];
            (veol, now.input_flags) == (0x11, modes.input_flags & !InputFlags::IXON)
                && now.local_flags == modes.local_flags
        });
    };
    wait_for_lines(&terminal);
    // Erased by line editing before it is sent; seen once as echo and once as output.
    terminal.send("onx\x7fe\n");
    terminal.wait_for("onx\x08 \x08e\r\none\r\n");
    // The last character of the sequence is passed on when it is typed without the ones before it.
    terminal.send("two\x11");
    state.wait_for_log("web", b"one\ntwo\x11");
    terminal.send("three");
    terminal.send(LEAVE);
    assert_eq!(terminal.finish(), 0);
    assert_eq!(terminal.modes(), modes);
    state.wait_for_log("web", b"two\x11three");
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));

    let mut terminal = Terminal::spawn(&mut attach(&state, &["web"]));
    wait_for_lines(&terminal);
    signal(&terminal.child, Signal::SIGTERM);
    assert_eq!(terminal.finish(), 143);
    assert_eq!(terminal.modes(), modes);
    // This last key does not end a line, so Enter is needed.
    let mut terminal = Terminal::spawn(&mut attach(&state, &["web", "--detach-keys", "x,y"]));
    is_attached(&state, 2);
    assert_eq!(terminal.modes(), modes);
    terminal.send("xy\n");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn attach_ends_with_the_sandbox() {
    let state = State::new();
    let _web = shell(&state);
    let mut terminal = Terminal::spawn(&mut attach(&state, &["web"]));
    is_attached(&state, 1);
    terminal.send("exit 3\r");
    assert_eq!(terminal.finish(), 0);
    assert!(common::contains(&terminal.seen, b"vmon: Sandboxfile/web has stopped"));
}

#[test]
fn the_detach_keys_can_be_chosen_and_an_incomplete_sequence_is_passed_on() {
    let state = State::new();
    let script = "stty raw -echo; echo ready; exec cat";
    let _web = Detached::start(&state, &mut state.run("web", &["-dt"], script));
    state.wait_for_log("web", b"ready");
    let (mut terminal, modes) =
        on_terminal(&mut attach(&state, &["web", "--detach-keys", "ctrl-x,y"]));
    terminal.wait_for_modes(&raw(&modes));
    terminal.send(LEAVE);
    terminal.wait_for(LEAVE);
    terminal.send("\x18\x18z");
    terminal.wait_for("\x18\x18z");
    terminal.send("a\x18y");
    assert_eq!(terminal.finish(), 0);
    state.wait_for_log("web", b"\x18\x18za");
    let usage = attach(&state, &["web", "--detach-keys", "ctrl-"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(125));
}

#[test]
fn the_tail_of_the_log_is_printed_first() {
    let state = State::new();
    let script = "echo 0123456789; exec sleep 100";
    let _web = Detached::start(&state, &mut state.run("web", &["-d"], script));
    state.wait_for_log("web", b"9\n");
    let mut attached = spawn_piped(&mut attach(&state, &["web", "--tail", "4"]));
    let mut tail = [0; 4];
    attached.stdout.as_mut().unwrap().read_exact(&mut tail).unwrap();
    assert_eq!(&tail, b"789\n");
    signal(&attached, Signal::SIGTERM);
    assert_eq!(code(wait(&mut attached)), 143);
}

#[test]
fn on_pipes_every_byte_is_relayed_and_the_streams_stay_separate() {
    let state = State::new();
    // No more than fits the queue of a slow client; more would be dropped. The sandbox's input
    // stays open for other clients, so `head` is needed.
    let bytes = noise(200_000, 7);
    let script = format!("head -c {} | tee /dev/fd/3 3>&2", bytes.len());
    let _web =
        Detached::start(&state, &mut state.run("web", &["-d", "--stdin", "forward"], &script));
    let (input, out, err) = (state.file("in"), state.file("out"), state.file("err"));
    fs::write(&input, &bytes).unwrap();
    let mut attached = attach(&state, &["web"])
        .stdin(File::open(&input).unwrap())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    assert_eq!(code(wait(&mut attached)), 0);
    assert_same(&fs::read(&out).unwrap(), &bytes, "stdout");
    assert_same(&fs::read(&err).unwrap(), &bytes, "stderr");
}

#[test]
fn the_end_of_a_clients_input_leaves_the_sandboxs_input_open() {
    let state = State::new();
    let script = "while read line; do echo \"got $line\"; done";
    let _web =
        Detached::start(&state, &mut state.run("web", &["-d", "--stdin", "forward"], script));
    let mut first = spawn_piped(&mut attach(&state, &["web"]));
    let mut input = first.stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    drop(input);
    state.wait_for_log("web", b"got one\n");
    // The client is still attached, and the sandbox's input is open for another one.
    let mut second = spawn_piped(&mut attach(&state, &["web"]));
    second.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
    state.wait_for_log("web", b"got two\n");
    let stopped = state.vmon().args(["stop", "web"]).status().unwrap();
    assert!(stopped.success());
    let output = first.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"got one\ngot two\n".to_vec()));
    assert_eq!(code(wait(&mut second)), 0);
}

#[test]
fn with_no_stdin_nothing_is_read_and_the_terminals_modes_are_unchanged() {
    let state = State::new();
    let _web = shell(&state);
    let (mut terminal, modes) =
        on_terminal(&mut attach(&state, &["web", "--no-stdin", "--tail", "10"]));
    terminal.wait_for("$ ");
    is_attached(&state, 1);
    assert_eq!(terminal.modes(), modes);
    terminal.send("\x03");
    assert_eq!(terminal.finish(), 130);
}

#[test]
fn a_signal_ends_attach_and_restores_the_terminal() {
    let state = State::new();
    let _web = shell(&state);
    let (mut terminal, modes) = on_terminal(&mut attach(&state, &["web"]));
    terminal.wait_for_modes(&raw(&modes));
    signal(&terminal.child, Signal::SIGTERM);
    assert_eq!(terminal.finish(), 143);
    assert_eq!(terminal.modes(), modes);
}

#[test]
fn a_lost_supervisor_is_reported() {
    let state = State::new();
    let web = shell(&state);
    let mut attached = spawn_piped(&mut attach(&state, &["web"]));
    is_attached(&state, 1);
    web.signal(Signal::SIGKILL);
    assert_eq!(code(wait(&mut attached)), 1);
    let mut said = String::new();
    attached.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("its supervisor was lost"), "{said}");
}

#[test]
fn attaching_to_a_stopped_or_unknown_sandbox_fails_with_a_message() {
    let state = State::new();
    let output = attach(&state, &["web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no sandbox has the name 'web'"));
    wait(&mut state.run("web", &[], "true").spawn().unwrap());
    let output = attach(&state, &["web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "vmon: can't attach to Sandboxfile/web: it is not running; \
        'vmon restart' starts it again\n";
    assert_eq!(said, expected);
}

#[test]
fn a_closed_stdout_ends_attach_without_a_message() {
    let state = State::new();
    let script = "while :; do echo line; sleep 0.01; done";
    let _web = Detached::start(&state, &mut state.run("web", &["-d"], script));
    let vmon = env!("CARGO_BIN_EXE_vmon");
    let mut pipe = Command::new("sh");
    pipe.args(["-c", &format!("{vmon} attach web | head -n 1")]);
    pipe.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null());
    assert_eq!(pipe.output().unwrap().stdout, b"line\n");
}

#[test]
fn output_that_cannot_be_written_is_reported() {
    let state = State::new();
    let script = "while :; do echo line; sleep 0.01; done";
    let _web = Detached::start(&state, &mut state.run("web", &["-d"], script));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = attach(&state, &["web", "--no-stdin"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
}

#[test]
fn a_suspended_attach_restores_the_terminal_and_resumes() {
    let state = State::new();
    let _web = shell(&state);
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "prompt> ");
    bash.env("VMON_STATE_DIR", state.path()).env("HISTFILE", "").env("TERM", "dumb");
    let mut terminal = Terminal::spawn(&mut bash);
    terminal.wait_for("prompt> ");
    let modes = terminal.modes();
    terminal.send(format!("{} attach web\n", env!("CARGO_BIN_EXE_vmon")));
    terminal.wait_for_modes(&raw(&modes));
    kill(terminal.foreground(), Signal::SIGTSTP).unwrap();
    terminal.wait_for("prompt> ");
    assert_eq!(terminal.modes(), modes);
    terminal.send("fg\n");
    terminal.wait_for_modes(&raw(&modes));
    terminal.send("echo st''ill\r");
    terminal.wait_for("still\r\n");
    terminal.send(LEAVE);
    terminal.wait_for("which keeps running");
    terminal.wait_for("prompt> ");
    assert_eq!(terminal.modes(), modes);
}

#[test]
fn attach_in_the_foreground_enters_raw_mode_at_the_next_output() {
    let state = State::new();
    let _web = shell(&state);
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "prompt> ");
    bash.env("VMON_STATE_DIR", state.path()).env("HISTFILE", "").env("TERM", "dumb");
    let mut terminal = Terminal::spawn(&mut bash);
    terminal.wait_for("prompt> ");
    let modes = terminal.modes();
    terminal.send(format!("{} attach web &\n", env!("CARGO_BIN_EXE_vmon")));
    is_attached(&state, 1);
    assert_eq!(terminal.modes(), modes);
    terminal.send("fg\n");
    eventually("it is in the foreground", || {
        terminal.foreground().as_raw() != terminal.child.id().cast_signed()
    });
    let mut other = spawn_piped(&mut attach(&state, &["web"]));
    other.stdin.take().unwrap().write_all(b"echo more\n").unwrap();
    terminal.wait_for_modes(&raw(&modes));
    terminal.send(LEAVE);
    terminal.wait_for("which keeps running");
    other.kill().unwrap();
    wait(&mut other);
}

#[test]
fn attach_ends_when_its_terminal_hangs_up_and_sighup_is_ignored() {
    let state = State::new();
    let _web = shell(&state);
    let mut command = Command::new("sh");
    let vmon = env!("CARGO_BIN_EXE_vmon");
    command.args(["-c", &format!("trap '' HUP; exec {vmon} attach web")]);
    command.env("VMON_STATE_DIR", state.path());
    let (mut terminal, modes) = on_terminal(&mut command);
    terminal.wait_for_modes(&raw(&modes));
    terminal.hang_up();
    wait(&mut terminal.child);
}

#[test]
fn a_signal_ends_a_client_that_waits_for_the_record_of_the_end() {
    let state = State::new();
    let web = Detached::start(&state, &mut state.run("web", &["-d"], "echo ready; sleep 1000"));
    let mut attach = attach(&state, &["web", "--tail", "1KiB"]);
    let mut client = Process::spawn(attach.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut out = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let descriptors = format!("/proc/{}/fd", client.id());
    let open = || fs::read_dir(&descriptors).unwrap().count();
    let attached = open();
    let lock = rusqlite::Connection::open(state.db()).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    web.signal(Signal::SIGKILL);
    eventually("its streams and its loop are closed", || open() + 4 <= attached);
    let begun = Instant::now();
    signal(&client, Signal::SIGTERM);
    assert_eq!(code(wait(&mut client)), 143);
    // Commands wait five seconds for a lock.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(lock);
}
