//! Keys and job control: the child gets the keys, and the shell in which vmon runs keeps its jobs.

#![cfg(target_os = "linux")]

use std::process::Command;

use crate::common::{self, State, Terminal, eventually, process_state, raw};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

const PROMPT: &str = "prompt> ";

/// Bytes of keys.
const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

/// A child that evaluates each line that it reads. The quotes keep its words apart from the echo
/// of the command that starts it.
const OBEY: &str = r#"'echo re""ady; while read -r line; do eval "$line"; done'"#;

/// An interactive bash, in which `vmon` is on the path.
fn bash(state: &State, options: &[&str]) -> Command {
    let mut bash = Command::new("bash");
    let vmon = std::path::Path::new(env!("CARGO_BIN_EXE_vmon")).parent().unwrap();
    let path = format!("{}:{}", vmon.display(), std::env::var("PATH").unwrap());
    bash.args(["--norc", "--noprofile"]).args(options).arg("-i");
    bash.env("PATH", path).env("PS1", PROMPT).env("TERM", "dumb").env("INPUTRC", "/dev/null");
    bash.env("VMON_STATE_DIR", state.path()).env("HISTFILE", "").env("LC_ALL", "C");
    bash
}

/// Spawns `command` on a terminal. Returns the modes before the command could change them.
fn spawn(command: &mut Command) -> (Terminal, Termios) {
    let mut before = None;
    let terminal = Terminal::spawn_on(command, |master| before = Some(tcgetattr(master).unwrap()));
    (terminal, before.unwrap())
}

/// A shell at its first prompt, and the terminal's modes there. Without line editing, commands
/// start with the same modes.
fn shell(state: &State) -> (Terminal, Termios) {
    let mut terminal = Terminal::spawn(&mut bash(state, &["--noediting"]));
    terminal.wait_for(PROMPT);
    let modes = terminal.modes();
    (terminal, modes)
}

/// Waits for the next prompt, and asserts that the modes are restored and that the exit code of the
/// last command is `code`.
#[track_caller]
fn assert_back(terminal: &mut Terminal, before: &Termios, code: i32) {
    terminal.wait_for(PROMPT);
    assert!(terminal.modes() == *before, "other modes at the prompt");
    terminal.send("echo co\"\"de=$?.\n");
    terminal.wait_for(format!("code={code}."));
    terminal.wait_for(PROMPT);
    assert!(terminal.modes() == *before);
}

/// The pid of the vmon that runs `name`.
fn supervisor(state: &State, name: &str) -> u32 {
    state.wait_for_status(name, "RUNNING");
    state.sandbox_column(name, "supervisor_pid").unwrap().parse().unwrap()
}

#[track_caller]
fn stop(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
    eventually("vmon is stopped", || process_state(pid) == Some('T'));
}

#[test]
fn ctrl_c_ctrl_z_and_ctrl_backslash_reach_the_childs_handlers() {
    let state = State::new();
    let script = "
        trap 'echo got-INT' INT; trap 'echo got-QUIT' QUIT; trap 'echo got-TSTP' TSTP
        trap 'kill $!; exit 3' TERM
        echo ready; while :; do sleep 1000 & wait $!; kill $!; done";
    let (mut terminal, before) = spawn(&mut state.run("a", &[], script));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    for (key, word) in [(CTRL_C, "got-INT"), (CTRL_Z, "got-TSTP"), (CTRL_BACKSLASH, "got-QUIT")] {
        terminal.send(key);
        terminal.wait_for(word);
    }
    common::signal(&terminal.child, Signal::SIGTERM);
    assert_eq!(terminal.finish(), 3);
    assert!(terminal.modes() == before);
}

#[test]
fn an_uncaught_ctrl_c_terminates_the_child_with_exit_code_130() {
    let state = State::new();
    let (mut terminal, before) = spawn(&mut state.run("a", &[], "echo ready; exec sleep 1000"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    terminal.send(CTRL_C);
    assert_eq!(terminal.finish(), 130);
    assert!(terminal.modes() == before);
    assert_eq!(state.run_column("a", "reason").as_deref(), Some("signalled"));
}

#[test]
fn a_shell_under_vmon_suspends_and_resumes_a_job() {
    let state = State::new();
    let inner = bash(&state, &["--noediting"]);
    let mut vmon = state.vmon();
    vmon.args(["run", "--name", "a", "--"]).arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        vmon.env(key, value.unwrap());
    }
    let (mut terminal, before) = spawn(&mut vmon);
    terminal.wait_for(PROMPT);
    terminal.wait_for_modes(&raw(&before));
    assert!(!common::contains(&terminal.seen, b"job control"), "bash has no job control");
    // A command that does not read: a reader could still take the line after Ctrl-Z. Not dash,
    // whose vfork(2) can be stopped halfway.
    let traps = r#"trap "echo re\"\"sumed" CONT; trap "exit 7" INT"#;
    terminal.send(format!("bash -c '{traps}; echo run\"\"ning; while :; do sleep 0.05; done'\r"));
    terminal.wait_for("running");
    terminal.send(CTRL_Z);
    terminal.wait_for("Stopped");
    terminal.wait_for(PROMPT);
    terminal.send("fg\r");
    terminal.wait_for("resumed");
    terminal.send(CTRL_C);
    terminal.wait_for(PROMPT);
    terminal.send("echo co\"\"de=$?.\r");
    terminal.wait_for("code=7.");
    terminal.wait_for(PROMPT);
    terminal.send("exit 9\r");
    assert_eq!(terminal.finish(), 9);
    assert!(terminal.modes() == before);
}

#[test]
fn ctrl_z_in_a_session_goes_to_the_child_and_not_to_vmon() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    let script =
        r#"'trap "echo got-TS""TP; kill \$!; exit 8" TSTP; echo re""ady; sleep 1000 & wait'"#;
    terminal.send(format!("vmon run --name a -- sh -c {script}\n"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    terminal.send(CTRL_Z);
    terminal.wait_for("got-TSTP");
    assert_back(&mut terminal, &before, 8);
    assert!(!common::contains(&terminal.seen, b"Stopped"));
}

#[test]
fn a_suspended_vmon_restores_the_terminal_and_resumes_with_the_new_size() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    terminal.send(format!("vmon run --name a -- sh -c {OBEY}\n"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    let vmon = supervisor(&state, "a");
    for round in 1..=2 {
        stop(vmon, Signal::SIGTSTP);
        assert!(terminal.modes() == before, "other modes while it is stopped");
        terminal.wait_for("Stopped");
        terminal.wait_for(PROMPT);
        terminal.resize(50 + round, 120);
        terminal.send("fg\n");
        terminal.wait_for_modes(&raw(&before));
        terminal.send("stty size\r");
        terminal.wait_for(format!("5{round} 120"));
    }
    terminal.send("exit 5\r");
    assert_back(&mut terminal, &before, 5);
}

#[test]
fn a_suspended_vmon_restores_the_modes_by_itself() {
    let state = State::new();
    let vmon = state.run("a", &[], "echo ready; while read -r line; do eval \"$line\"; done");
    // In a shell that does not restore modes itself (dash, unlike bash).
    let script = "set -m; \"$@\"; echo sus\"\"pended; read -r go; fg; echo code=$?.";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(vmon.get_program()).args(vmon.get_args());
    shell.env("VMON_STATE_DIR", state.path());
    let (mut terminal, before) = spawn(&mut shell);
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    stop(supervisor(&state, "a"), Signal::SIGTSTP);
    terminal.wait_for("suspended");
    assert!(terminal.modes() == before);
    terminal.send("go\n");
    terminal.wait_for_modes(&raw(&before));
    terminal.send("exit 5\r");
    terminal.wait_for("code=5.");
    assert_eq!(terminal.finish(), 0);
    assert!(terminal.modes() == before);
}

#[test]
fn sigstop_and_fg_leave_the_session_and_the_terminal_as_they_were() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    terminal.send(format!("vmon run --name a -- sh -c {OBEY}\n"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    stop(supervisor(&state, "a"), Signal::SIGSTOP);
    terminal.wait_for("Stopped");
    terminal.wait_for(PROMPT);
    terminal.send("fg\n");
    terminal.wait_for_modes(&raw(&before));
    terminal.send("echo he\"\"re; exit 5\r");
    terminal.wait_for("here");
    assert_back(&mut terminal, &before, 5);
}

#[test]
fn a_suspended_vmon_resumes_in_the_background_without_touching_the_terminal() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    terminal.send(format!("vmon run --name a -- sh -c {OBEY}\n"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    let vmon = supervisor(&state, "a");
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
        stop(vmon, signal);
        terminal.wait_for("Stopped");
        terminal.wait_for(PROMPT);
        terminal.send("bg\n");
        terminal.wait_for(PROMPT);
        eventually("vmon goes on", || process_state(vmon) != Some('T'));
        terminal.send("jobs; echo shell-wo\"\"rks\n");
        terminal.wait_for("Running");
        terminal.wait_for("shell-works");
        terminal.wait_for(PROMPT);
        assert!(terminal.modes() == before);
        terminal.send("fg\n");
        to_the_foreground(&mut terminal, &before);
    }
    terminal.send("exit 4\r");
    assert_back(&mut terminal, &before, 4);
}

#[test]
fn a_suspension_that_was_ignored_at_entry_stays_ignored() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    let script = r#"'trap "stty size; kill \$!; exit 2" WINCH; echo re""ady; sleep 1000 & wait'"#;
    terminal.send(format!("(trap '' TSTP; exec vmon run --name a -- sh -c {script})\n"));
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    kill(Pid::from_raw(supervisor(&state, "a") as i32), Signal::SIGTSTP).unwrap();
    terminal.resize(42, 142);
    terminal.wait_for("42 142");
    assert_back(&mut terminal, &before, 2);
    assert!(!common::contains(&terminal.seen, b"Stopped"));
}

/// vmon notices by the next input that it is in the foreground, so Enter is sent.
#[track_caller]
fn to_the_foreground(terminal: &mut Terminal, before: &Termios) {
    let raw = raw(before);
    eventually("vmon takes the terminal", || {
        terminal.modes() == raw || {
            terminal.send("\n");
            false
        }
    });
}

#[test]
fn in_the_background_nothing_stops_and_nothing_changes_the_terminal_until_fg() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    terminal.send(format!("vmon run --name a -- sh -c {OBEY} &\n"));
    terminal.wait_for("ready");
    let vmon = supervisor(&state, "a");
    terminal.send("jobs; echo shell-wo\"\"rks\n");
    terminal.wait_for("Running");
    terminal.wait_for("shell-works");
    terminal.wait_for(PROMPT);
    assert!(terminal.modes() == before);
    assert_ne!(process_state(vmon), Some('T'));
    terminal.resize(37, 91);
    terminal.send("fg\n");
    to_the_foreground(&mut terminal, &before);
    terminal.send("stty size; exit 4\r");
    terminal.wait_for("37 91");
    assert_back(&mut terminal, &before, 4);
}

#[test]
fn a_run_that_ends_in_the_background_does_not_touch_the_terminal() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    // With tostop, a background job that writes is stopped unless it prevents that (termios(3)).
    terminal.send("stty tostop\n");
    terminal.wait_for(PROMPT);
    let tostop = terminal.modes();
    assert!(tostop != before);
    terminal.send(
        "vmon run --name a -- sh -c 'echo out\"\"put; exit 6' & wait $!; echo co\"\"de=$?.\n",
    );
    terminal.wait_for("output");
    terminal.wait_for("code=6.");
    terminal.wait_for(PROMPT);
    assert!(terminal.modes() == tostop);
}

#[test]
fn a_child_started_in_the_background_gets_no_modes_of_the_line_editor() {
    let state = State::new();
    let fifo = state.file("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut terminal = Terminal::spawn(&mut bash(&state, &[]));
    terminal.wait_for(PROMPT);
    let script = "'stty -a; echo en\"\"d'";
    terminal.send(format!(
        "(read -r go <{}; exec vmon run --name a -- sh -c {script}) &\r",
        fifo.display()
    ));
    terminal.wait_for(PROMPT);
    let editing = terminal.modes();
    std::fs::write(&fifo, "go\n").unwrap();
    state.wait_for_log("a", b"end");
    terminal.wait_for("end");
    let log = String::from_utf8(state.log("a")).unwrap();
    let modes: Vec<&str> = log.split_whitespace().collect();
    for mode in ["icanon", "echo", "icrnl", "opost", "isig"] {
        assert!(modes.contains(&mode), "{mode}: {log}");
    }
    assert!(terminal.modes() == editing);
}

#[test]
fn a_size_that_was_given_holds_until_the_terminal_is_resized() {
    let state = State::new();
    let (mut terminal, before) = shell(&state);
    let script = r#"'trap "stty size" WINCH; stty size; echo re""ady
        while :; do sleep 1000 & wait $!; kill $!; done'"#;
    terminal.send(format!("vmon run --name a --tty-size 33x99 -- sh -c {script}\n"));
    terminal.wait_for("33 99");
    terminal.wait_for("ready");
    terminal.wait_for_modes(&raw(&before));
    stop(supervisor(&state, "a"), Signal::SIGTSTP);
    terminal.wait_for("Stopped");
    terminal.wait_for(PROMPT);
    terminal.send("fg\n");
    terminal.wait_for_modes(&raw(&before));
    terminal.resize(50, 120);
    terminal.wait_for("50 120");
    assert!(!common::contains(&terminal.seen, b"40 100"));
    // Back to the size that the terminal had at the start, too.
    terminal.resize(40, 100);
    terminal.wait_for("40 100");
    terminal.send(CTRL_C);
    assert_back(&mut terminal, &before, 130);
}
