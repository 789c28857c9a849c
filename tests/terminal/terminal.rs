//! The child's PTY and the outer terminal: their sizes and modes, and how the latter is restored.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Output, Stdio};

use crate::common::{
    State, Terminal, assert_same, bytes_waiting, code, contains, eventually, is_alive, noise,
    own_test, process_state, raw, set_size, signal, spawn_piped, wait,
};
use nix::sys::signal::Signal;
use nix::sys::termios::{
    FlowArg, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcflow, tcgetattr, tcsetattr,
};
use nix::unistd::Pid;
use vmon::monitor::{Forward, Input, Monitor, Sandbox};
use vmon::reactor::Reactor;
use vmon::terminal::Modes;

/// A child that evaluates each line that it reads.
const OBEY: &str = "echo ready; while read -r line; do eval \"$line\"; done";

/// A child that runs until it is stopped.
const LAST: &str = "echo ready; exec sleep 1000";

/// Sets unusual terminal modes.
fn odd_modes(master: &fs::File) {
    let mut modes = tcgetattr(master).unwrap();
    modes.control_chars[SpecialCharacterIndices::VERASE as usize] = b'#';
    modes.local_flags.remove(LocalFlags::ECHOCTL);
    tcsetattr(master, SetArg::TCSANOW, &modes).unwrap();
}

/// Spawns `command` on a terminal with unusual modes, and waits for `ready` and raw mode. Returns
/// the former modes.
#[track_caller]
fn ready(command: &mut Command) -> (Terminal, Termios) {
    let mut before = None;
    let mut terminal = Terminal::spawn_on(command, |master| {
        odd_modes(master);
        before = Some(tcgetattr(master).unwrap());
    });
    let before = before.unwrap();
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    (terminal, before)
}

/// Runs `vmon run` with `input` on a pipe. The outputs must fit into pipes.
#[track_caller]
fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut vmon = spawn_piped(command);
    let mut stdin = vmon.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    ended(vmon)
}

/// Waits for the end, with a timeout.
#[track_caller]
fn ended(mut vmon: Child) -> Output {
    wait(&mut vmon);
    vmon.wait_with_output().unwrap()
}

fn touch(state: &State, name: &str) {
    fs::write(state.file(name), "").unwrap();
}

/// A shell command that waits until the test creates a file.
fn until(state: &State, name: &str) -> String {
    format!("until [ -e {} ]; do sleep 0.01; done", state.file(name).display())
}

/// The bytes, with what undoes the modes that they set in a terminal.
fn and_undo(bytes: &[u8]) -> Vec<u8> {
    let mut modes = Modes::default();
    modes.scan(bytes);
    let mut all = bytes.to_vec();
    modes.undo(&mut all);
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// When the child gets a PTY.

const WHAT: &str = "for fd in 0 1 2; do if [ -t $fd ]; then echo tty; else echo none; fi; done";

#[test]
fn on_a_terminal_the_child_gets_a_pty() {
    let state = State::new();
    let mut terminal = Terminal::spawn(&mut state.run("a", &[], &format!("{WHAT}; tty")));
    assert_eq!(terminal.finish(), 0);
    let seen = text(&terminal.seen);
    let lines: Vec<&str> = seen.split("\r\n").collect();
    assert_eq!(lines[..3], ["tty"; 3], "{seen:?}");
    assert!(lines[3].starts_with("/dev/pts/"), "{seen:?}");
    assert_ne!(lines[3], terminal.path());
}

#[test]
fn without_a_terminal_the_child_gets_pipes() {
    let state = State::new();
    let output = fed(&mut state.run("a", &[], WHAT), b"");
    assert_eq!(text(&output.stdout), "none\nnone\nnone\n");
}

#[test]
fn a_terminal_on_one_side_only_is_not_enough() {
    let state = State::new();
    for pipe in ["\"$@\" | cat", "true | \"$@\""] {
        let vmon = state.run("a", &[], WHAT);
        let mut shell = Command::new("sh");
        shell.args(["-c", pipe, "sh"]).arg(vmon.get_program()).args(vmon.get_args());
        shell.env("VMON_STATE_DIR", state.path());
        let mut terminal = Terminal::spawn(&mut shell);
        assert_eq!(terminal.finish(), 0);
        assert_eq!(text(&terminal.seen), "none\r\nnone\r\nnone\r\n", "{pipe}");
    }
}

#[test]
fn dash_t_without_a_terminal_gives_a_pty_of_24_rows_and_80_columns() {
    let state = State::new();
    let output = fed(&mut state.run("a", &["-t"], &format!("{WHAT}; stty size")), b"");
    assert_eq!(text(&output.stdout).replace("^D\u{8}\u{8}", ""), "tty\r\ntty\r\ntty\r\n24 80\r\n");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(code(output.status), 0);
}

#[test]
fn a_pty_without_a_terminal_behind_it_edits_utf8_and_has_a_terminal_type() {
    let state = State::new();
    let script = "stty -a; echo term=$TERM.";
    let output = fed(state.run("a", &["-t"], script).env_remove("TERM"), b"");
    let shown = text(&output.stdout);
    assert!(shown.contains(" iutf8") && shown.contains("term=xterm."), "{shown}");
    for (options, term) in [(&["-t"][..], "vt100"), (&["-t", "--env", "TERM=ansi"], "ansi")] {
        let output = fed(state.run("a", options, script).env("TERM", "vt100"), b"");
        let shown = text(&output.stdout);
        assert!(shown.contains(&format!("term={term}.")), "{shown}");
    }
}

#[test]
fn capital_dash_t_gives_pipes_on_a_terminal_too() {
    let state = State::new();
    let mut before = None;
    let mut vmon = state.run("a", &["-T"], &format!("{WHAT}; read a; echo got-$a"));
    let mut terminal =
        Terminal::spawn_on(&mut vmon, |master| before = Some(tcgetattr(master).unwrap()));
    let before = before.unwrap();
    terminal.wait_for("none\r\nnone\r\nnone\r\n");
    assert!(terminal.modes() == before);
    terminal.send("line\n");
    terminal.wait_for("got-line\r\n");
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.modes() == before);
}

// Properties of the PTY.

#[test]
fn the_child_leads_the_session_and_the_foreground_of_its_terminal() {
    let state = State::new();
    let script = "echo through-dev-tty >/dev/tty; echo $$; cat /proc/$$/stat";
    let mut terminal = Terminal::spawn(&mut state.run("a", &[], script));
    assert_eq!(terminal.finish(), 0);
    let seen = text(&terminal.seen);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "through-dev-tty", "{seen:?}");
    // proc(5): state ppid pgrp session tty_nr tpgid
    let fields: Vec<&str> = lines[2].rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!([fields[2], fields[3], fields[5]], [lines[1]; 3], "{seen:?}");
    assert_ne!(fields[4], "0");
}

#[test]
fn the_childs_terminal_has_the_window_size() {
    let state = State::new();
    let mut terminal = Terminal::spawn(&mut state.run("a", &[], "stty size"));
    terminal.wait_for("40 100\r\n");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn a_terminal_without_a_size_counts_as_24_by_80() {
    let state = State::new();
    let mut command = state.run("a", &[], "stty size");
    let mut terminal = Terminal::spawn_on(&mut command, |master| set_size(master, 0, 0));
    terminal.wait_for("24 80\r\n");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn the_childs_terminal_has_the_modes_of_the_outer_one() {
    let state = State::new();
    let mut terminal = Terminal::spawn_on(&mut state.run("a", &[], "stty -a"), odd_modes);
    terminal.wait_for("erase = #;");
    terminal.wait_for(" -echoctl");
    assert_eq!(terminal.finish(), 0);
    assert!(contains(&terminal.seen, b" icanon "), "{}", text(&terminal.seen));
}

#[test]
fn a_new_window_size_reaches_the_child() {
    let state = State::new();
    let script = "trap 'stty size; kill $!; exit 0' WINCH; echo ready; sleep 1000 & wait";
    let (mut terminal, _) = ready(&mut state.run("a", &[], script));
    terminal.resize(51, 132);
    terminal.wait_for("51 132\r\n");
    assert_eq!(terminal.finish(), 0);
}

// Restoring the outer terminal.

#[test]
fn the_terminal_is_raw_and_is_restored_when_the_child_exits() {
    let state = State::new();
    let (mut terminal, before) = ready(&mut state.run("a", &[], OBEY));
    terminal.send("exit 7\r");
    assert_eq!(terminal.finish(), 7);
    assert!(terminal.modes() == before);
}

#[test]
fn the_terminal_is_restored_when_the_child_is_killed() {
    let state = State::new();
    let (mut terminal, before) = ready(&mut state.run("a", &[], OBEY));
    terminal.send("kill -KILL $$\r");
    assert_eq!(terminal.finish(), 137);
    assert!(terminal.modes() == before);
}

#[test]
fn the_terminal_is_restored_after_term_int_and_hup() {
    for stop in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let state = State::new();
        let (mut terminal, before) = ready(&mut state.run("a", &[], LAST));
        signal(&terminal.child, stop);
        assert_eq!(terminal.finish(), 143, "{stop}");
        assert!(terminal.modes() == before, "{stop}");
        assert_eq!(state.run_column("a", "reason").as_deref(), Some("stopped"), "{stop}");
    }
}

#[test]
fn the_terminal_is_unchanged_when_the_start_fails() {
    let state = State::new();
    let (mut other, _) = ready(&mut state.run("taken", &[], LAST));
    let run = |name: &str, program: &str| {
        let mut vmon = state.vmon();
        vmon.args(["run", "--name", name, "--", program]);
        vmon
    };
    for (mut vmon, expected) in [
        (run("a", "/nonexistent/program"), 127),
        (run("b", "/etc/passwd"), 126),
        (run("taken", "true"), 125),
    ] {
        let mut before = None;
        let mut terminal = Terminal::spawn_on(&mut vmon, |master| {
            odd_modes(master);
            before = Some(tcgetattr(master).unwrap());
        });
        assert_eq!(terminal.finish(), expected, "{}", text(&terminal.seen));
        assert!(terminal.modes() == before.unwrap(), "{expected}");
        assert!(terminal.seen.starts_with(b"vmon: "), "{}", text(&terminal.seen));
        assert!(terminal.seen.ends_with(b"\r\n"), "{}", text(&terminal.seen));
    }
    signal(&other.child, Signal::SIGTERM);
    assert_eq!(other.finish(), 143);
}

/// The state directory of [`panicking_host`]. Without it, that test returns at once.
const HOST: &str = "VMON_TEST_HOST";
const HOOK: &str = "VMON_TEST_HOOK";

/// Not a test: a host that two tests below run in a terminal.
#[test]
#[ignore = "a program that other tests run"]
fn panicking_host() {
    let Some(directory) = std::env::var_os(HOST) else { return };
    if std::env::var_os(HOOK).is_some() {
        vmon::terminal::install_panic_hook();
    }
    let sandbox =
        Sandbox::new("panics", directory).unwrap().forward(Forward::Block).input(Input::Forward);
    let mut reactor = Reactor::new().unwrap();
    let id = Monitor::builder(sandbox)
        .spawn(&mut reactor, vmon::child::Command::new("sleep").args(["1000"]).pty(true));
    while reactor.get(id).unwrap().pid().is_none() {
        reactor.poll_once(None).unwrap();
    }
    let modes = tcgetattr(std::io::stdin()).unwrap();
    let raw = !modes.local_flags.contains(LocalFlags::ICANON);
    panic!("the host's panic, raw: {raw}\nand its second line");
}

fn panicking(state: &State) -> Command {
    let mut host = own_test(module_path!(), "panicking_host");
    host.env(HOST, state.path());
    host
}

#[test]
fn the_terminal_is_restored_when_a_panic_unwinds() {
    let state = State::new();
    let mut before = None;
    let mut terminal = Terminal::spawn_on(&mut panicking(&state), |master| {
        odd_modes(master);
        before = Some(tcgetattr(master).unwrap());
    });
    assert_eq!(terminal.finish(), 101);
    assert!(contains(&terminal.seen, b"panic, raw: true"), "{}", text(&terminal.seen));
    assert!(terminal.modes() == before.unwrap());
}

#[test]
fn the_panic_hook_restores_the_terminal_before_the_message() {
    let state = State::new();
    let mut before = None;
    let mut terminal = Terminal::spawn_on(panicking(&state).env(HOOK, "1"), |master| {
        odd_modes(master);
        before = Some(tcgetattr(master).unwrap());
    });
    assert_eq!(terminal.finish(), 101);
    // Only if the terminal is no longer raw does the second line begin in the first column.
    let message = b"panic, raw: true\r\nand its second line\r\n";
    assert!(contains(&terminal.seen, message), "{}", text(&terminal.seen));
    assert!(terminal.modes() == before.unwrap());
}

// End of input.

#[test]
fn the_end_of_stdin_is_the_end_of_the_childs_input_on_a_pty() {
    let inputs: [&[u8]; 5] = [b"", b"foo", b"foo\n", b"one\ntwo\nthree", b"\n\n"];
    for input in inputs {
        let state = State::new();
        let copy = state.file("copy");
        let script = format!("cat >{}; echo ended", copy.display());
        let output = fed(&mut state.run("a", &["-t"], &script), input);
        assert_eq!(code(output.status), 0);
        assert_eq!(text(&fs::read(copy).unwrap()), text(input));
        assert!(output.stdout.ends_with(b"ended\r\n"), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "", "{}", text(input));
    }
}

#[test]
fn an_empty_stdin_of_any_kind_ends_the_input_of_a_pty() {
    let state = State::new();
    fs::write(state.file("lines"), "from\na file").unwrap();
    for (path, expected) in [("/dev/null".into(), ""), (state.file("lines"), "from\na file")] {
        let copy = state.file("copy");
        let script = format!("cat >{}; echo ended", copy.display());
        let mut vmon = state.run("a", &["-t"], &script);
        vmon.stdin(fs::File::open(path).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = ended(vmon.spawn().unwrap());
        assert_eq!(code(output.status), 0);
        assert_eq!(text(&fs::read(copy).unwrap()), expected);
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn lines_wait_for_a_slow_reader_on_a_pty_and_all_arrive() {
    let state = State::new();
    let copy = state.file("copy");
    let script = format!("{}; cat >{}", until(&state, "go"), copy.display());
    let mut vmon = spawn_piped(&mut state.run("a", &["-t", "--no-forward"], &script));
    let mut stdin = vmon.stdin.take().unwrap();
    let mut lines = Vec::new();
    for number in 0.. {
        if lines.len() >= 1 << 20 {
            break;
        }
        writeln!(lines, "line {number} {}", "x".repeat(number % 200)).unwrap();
    }
    lines.extend(b"unfinished");
    let input = lines.clone();
    let pipe = stdin.as_raw_fd();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    // The pipe is full and vmon sleeps: it reads no more input.
    eventually("the pipe is full", || {
        bytes_waiting(pipe) >= 60 * 1024 && process_state(vmon.id()) == Some('S')
            || writer.is_finished()
    });
    let all_taken = writer.is_finished();
    touch(&state, "go");
    writer.join().unwrap();
    let output = ended(vmon);
    assert_eq!(code(output.status), 0);
    assert_eq!(text(&output.stderr), "");
    assert_same(&fs::read(copy).unwrap(), &lines, "the child's input");
    assert!(!all_taken, "1 MiB of input was taken without a reader");
}

// Hangups.

#[test]
fn a_child_that_closes_its_terminal_can_open_it_again() {
    let state = State::new();
    let script = "exec </dev/null >/dev/null 2>&1
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.01; done
        echo back >/dev/tty; exit 3";
    let output = fed(&mut state.run("a", &["-t", "--stdin", "null"], script), b"");
    assert_eq!(code(output.status), 3);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "back\r\n");
    assert_eq!(text(&state.log("a")), "back\r\n");
}

#[test]
fn keys_typed_while_the_child_has_closed_its_terminal_do_not_end_its_input() {
    let state = State::new();
    let script = format!(
        "echo ready; exec </dev/null >/dev/null 2>&1; : >{}; {}
        exec </dev/tty >/dev/tty; echo back
        while read -r word; do echo got-$word; if [ $word = last ]; then exit 3; fi; done",
        state.file("closed").display(),
        until(&state, "go")
    );
    let (mut terminal, before) = ready(&mut state.run("a", &[], &script));
    eventually("it has let go", || state.file("closed").exists());
    terminal.send("unread\r");
    let slave = terminal.slave();
    eventually("vmon has read the keys", || bytes_waiting(slave.as_raw_fd()) == 0);
    touch(&state, "go");
    terminal.wait_for("back");
    terminal.send("last\r");
    terminal.wait_for("got-last");
    drop(slave);
    assert_eq!(terminal.finish(), 3);
    assert!(terminal.modes() == before);
}

#[test]
fn a_terminal_hangup_stops_the_child() {
    let state = State::new();
    let (mut terminal, _) = ready(&mut state.run("a", &[], LAST));
    let pid: u32 = state.run_column("a", "pid").unwrap().parse().unwrap();
    terminal.hang_up();
    assert_eq!(code(wait(&mut terminal.child)), 143);
    assert!(!is_alive(pid));
    assert_eq!(state.run_column("a", "state").as_deref(), Some("STOPPED"));
    assert_eq!(state.run_column("a", "reason").as_deref(), Some("stopped"));
    assert_eq!(state.run_column("a", "signal").as_deref(), Some("15"));
    assert_eq!(state.sandbox_column("a", "status").as_deref(), Some("STOPPED"));
}

#[test]
fn an_ignored_sighup_stays_ignored_at_a_terminal_hangup() {
    let state = State::new();
    let script = format!("echo ready; {}; echo after; exit 6", until(&state, "go"));
    let vmon = state.run("a", &[], &script);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(vmon.get_program());
    shell.args(vmon.get_args()).env("VMON_STATE_DIR", state.path());
    let (mut terminal, _) = ready(&mut shell);
    terminal.hang_up();
    touch(&state, "go");
    assert_eq!(code(wait(&mut terminal.child)), 6);
    assert_eq!(text(&state.log("a")), "ready\r\nafter\r\n");
    assert_eq!(state.run_column("a", "reason").as_deref(), Some("exited"));
}

// Exact bytes.

#[test]
fn random_bytes_through_a_raw_pty_are_exact_on_the_terminal_and_in_the_log() {
    let state = State::new();
    let bytes = noise(8 << 20, 1);
    fs::write(state.file("bytes"), &bytes).unwrap();
    let script = format!("stty raw -echo; cat {}", state.file("bytes").display());
    let options = ["--log-max-size", "1MiB", "--log-max-files", "100"];
    let mut terminal = Terminal::spawn(&mut state.run("a", &options, &script));
    assert_eq!(terminal.finish(), 0);
    assert_same(&terminal.seen, &and_undo(&bytes), "our terminal");
    assert_same(&state.whole_log("a"), &bytes, "the log");
    assert_eq!(state.run_column("a", "bytes_logged").unwrap(), bytes.len().to_string());
}

#[test]
fn random_bytes_typed_on_the_terminal_are_exact_for_a_child_in_raw_mode() {
    let state = State::new();
    let bytes = noise(4 << 20, 2);
    let copy = state.file("copy");
    let script = format!("stty raw -echo; echo ready; head -c {} >{}", bytes.len(), copy.display());
    let (mut terminal, before) = ready(&mut state.run("a", &[], &script));
    terminal.send(&bytes);
    assert_eq!(terminal.finish(), 0);
    assert_same(&fs::read(copy).unwrap(), &bytes, "the child's input");
    assert!(terminal.modes() == before);
}

// A terminal that is not read.

#[test]
fn with_drop_a_stopped_terminal_blocks_neither_child_nor_log_and_gets_a_notice() {
    let state = State::new();
    let bytes = noise(2 << 20, 3);
    fs::write(state.file("bytes"), &bytes).unwrap();
    let script = format!(
        "stty raw -echo; printf ready; {}; cat {}",
        until(&state, "go"),
        state.file("bytes").display()
    );
    let options = ["--forward-overflow", "drop"];
    let (mut terminal, before) = ready(&mut state.run("a", &options, &script));
    tcflow(terminal.slave(), FlowArg::TCOOFF).unwrap();
    touch(&state, "go");
    let whole = [b"ready".as_slice(), &bytes].concat();
    eventually("all is in the log", || state.log("a").len() == whole.len());
    assert_same(&state.log("a"), &whole, "the log");
    tcflow(terminal.slave(), FlowArg::TCOON).unwrap();
    assert_eq!(terminal.finish(), 0);

    let dropped = state.run_column("a", "bytes_dropped").unwrap();
    let undo = and_undo(&whole).split_off(whole.len());
    let notice = format!("\r\n[vmon: {dropped} bytes left out]\r\n");
    let end = [notice.as_bytes(), &undo].concat();
    let seen = terminal.seen.strip_suffix(end.as_slice()).expect("the notice at the end");
    assert_same(seen, &whole[..seen.len()], "the terminal");
    assert_eq!(seen.len() + dropped.parse::<usize>().unwrap(), whole.len());
    assert!(terminal.modes() == before);
}

#[test]
fn with_block_no_output_is_lost_on_a_terminal_that_is_not_read() {
    let state = State::new();
    let bytes = noise(1 << 20, 4);
    fs::write(state.file("bytes"), &bytes).unwrap();
    let script = format!(
        "stty raw -echo; printf ready; cat {}; : >{}",
        state.file("bytes").display(),
        state.file("done").display()
    );
    let mut terminal = Terminal::spawn(&mut state.run("a", &[], &script));
    let vmon = terminal.child.id();
    eventually("vmon waits for the terminal", || {
        state.log("a").len() > 8 * 1024 && process_state(vmon) == Some('S')
    });
    assert!(!state.file("done").exists());
    assert_eq!(terminal.finish(), 0);
    let whole = [b"ready".as_slice(), &bytes].concat();
    assert_same(&terminal.seen, &and_undo(&whole), "the terminal");
    assert_same(&state.log("a"), &whole, "the log");
    assert_eq!(state.run_column("a", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn a_hangup_of_a_blocked_terminal_does_not_delay_the_end() {
    let state = State::new();
    let (mut terminal, _) = ready(&mut state.run("a", &[], "echo ready; exec cat /dev/zero"));
    let vmon = terminal.child.id();
    eventually("vmon waits for the terminal", || {
        state.log("a").len() > 8 * 1024 && process_state(vmon) == Some('S')
    });
    terminal.hang_up();
    assert_eq!(code(wait(&mut terminal.child)), 143);
    assert_eq!(state.run_column("a", "state").as_deref(), Some("STOPPED"));
}

// Suspensions without a shell.

#[test]
fn the_terminal_stays_raw_when_a_suspension_has_no_effect() {
    let state = State::new();
    // A session leader whose parent is in another session: SIGTSTP does not stop it (signal(7)).
    let script = "trap 'stty size' WINCH; trap 'kill $!; exit 3' TERM
        echo ready; while :; do sleep 1000 & wait $!; kill $!; done";
    let (mut terminal, before) = ready(&mut state.run("a", &[], script));
    signal(&terminal.child, Signal::SIGTSTP);
    // The size is reported after it: when the size has arrived, the suspension has been handled.
    terminal.resize(44, 111);
    terminal.wait_for("44 111");
    terminal.wait_for_modes(&raw(&before));
    signal(&terminal.child, Signal::SIGTERM);
    assert_eq!(terminal.finish(), 3);
    assert!(terminal.modes() == before);
}

#[test]
fn the_terminal_is_raw_again_after_sigstop_and_sigcont() {
    let state = State::new();
    let (mut terminal, before) = ready(&mut state.run("a", &[], OBEY));
    signal(&terminal.child, Signal::SIGSTOP);
    eventually("vmon is stopped", || process_state(terminal.child.id()) == Some('T'));
    // Like a shell whose job has stopped.
    tcsetattr(terminal.slave(), SetArg::TCSANOW, &before).unwrap();
    terminal.resize(33, 99);
    nix::sys::signal::kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGCONT).unwrap();
    terminal.wait_for_modes(&raw(&before));
    terminal.send("stty size; exit 0\r");
    terminal.wait_for("33 99");
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.modes() == before);
}

#[test]
fn a_line_split_by_control_d_reaches_a_child_on_pipes_completely() {
    // The outer terminal is in canonical mode: bytes after ^D need another read, for which there is
    // no further readiness event.
    for (keys, expected) in [("abc\x04def\n\x04", "first\nabcdef\n"), ("abc\x04\x04", "first\nabc")]
    {
        let state = State::new();
        let options = ["--tty", "never", "--no-forward"];
        let mut terminal = Terminal::spawn(&mut state.run("x", &options, "exec cat"));
        terminal.send("first\n");
        state.wait_for_log("x", b"first\n");
        terminal.send(keys);
        assert_eq!(terminal.finish(), 0);
        assert_eq!(String::from_utf8(state.log("x")).unwrap(), expected);
    }
}
