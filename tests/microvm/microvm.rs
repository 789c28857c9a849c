//! A real microVM under `vmon run`: QEMU's `microvm` machine boots a Linux kernel, on a terminal
//! and on pipes.
//!
//! `examples/microvm.sh --prepare` defines what is booted. Where something that it needs is missing,
//! these tests are skipped and say so; with `VMON_REQUIRE_QEMU` set, they fail.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // the size of QEMU's terminal

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::common::machine::{Machine, READY, machine};
use crate::common::{self, State, TIMEOUT, Terminal, contains, eventually, is_alive, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use nix::sys::signal::Signal;

/// `vmon run` of it, as `vm`.
fn run(machine: &Machine, state: &State) -> Command {
    let mut command = state.vmon();
    command.args(["run", "--name", "vm", "--"]).args(&machine.command);
    command
}

fn qemu_pid(state: &State) -> u32 {
    state.run_column("vm", "pid").unwrap().parse().unwrap()
}

/// The size of the terminal that is this process's stdin: rows and columns.
fn terminal_size(pid: u32) -> (u16, u16) {
    let stdin = format!("/proc/{pid}/fd/0");
    let terminal = File::options().read(true).custom_flags(libc::O_NOCTTY).open(stdin).unwrap();
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to a live exclusive reference.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    assert_eq!(result, 0, "QEMU's stdin is no terminal");
    (size.ws_row, size.ws_col)
}

/// The last run is on record as stopped, with this exit code and for this reason.
#[track_caller]
fn assert_stopped(state: &State, exit_code: Option<&str>, reason: &str) {
    assert_eq!(state.sandbox_column("vm", "status").as_deref(), Some("STOPPED"));
    assert_eq!(state.run_column("vm", "state").as_deref(), Some("STOPPED"));
    assert_eq!(state.run_column("vm", "exit_code").as_deref(), exit_code);
    assert_eq!(state.run_column("vm", "reason").as_deref(), Some(reason));
    let logged = state.run_column("vm", "bytes_logged").unwrap();
    assert_eq!(logged, state.whole_log("vm").len().to_string());
}

/// One boot is enough for a whole session, each step of which is named where it is taken.
#[test]
fn a_microvm_at_a_terminal_is_an_interactive_session() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let mut terminal = Terminal::spawn(&mut run(machine, &state));
    let modes = terminal.modes();

    // The boot reaches the screen and the log, the log first.
    terminal.wait_for("Linux version");
    assert!(contains(&state.log("vm"), b"Linux version"));
    terminal.wait_for(READY);
    terminal.wait_for("# ");
    assert!(contains(&state.log("vm"), READY.as_bytes()));
    state.wait_for_status("vm", "RUNNING");
    assert_ne!(terminal.modes(), modes, "the terminal is raw meanwhile");

    // A line that is typed runs in the guest. What is looked for is not what was typed.
    terminal.send("echo $((6 * 7)) is the answer\r");
    terminal.wait_for("42 is the answer");
    assert!(contains(&state.log("vm"), b"42 is the answer"));

    // QEMU's terminal has the size of ours, at first and ever after.
    let qemu = qemu_pid(&state);
    assert_eq!(terminal_size(qemu), (40, 100));
    for (rows, columns) in [(50, 132), (24, 80)] {
        terminal.resize(rows, columns);
        eventually("QEMU's terminal follows", || terminal_size(qemu) == (rows, columns));
    }

    // Ctrl-C is a byte for the guest, where it ends a job, and no signal for QEMU or vmon.
    terminal.send("sh -c 'echo $((40 + 3)) begins; exec sleep 1000'\r");
    terminal.wait_for("43 begins");
    terminal.send("\x03");
    terminal.wait_for("# ");
    terminal.send("echo $((40 + 4)) goes on\r");
    terminal.wait_for("44 goes on");
    assert!(is_alive(qemu));

    // Powering off ends the run, and the terminal is as it was.
    terminal.send("poweroff -f\r");
    assert_eq!(terminal.finish(), 0);
    assert_eq!(terminal.modes(), modes);
    assert_stopped(&state, Some("0"), "exited");
    assert_eq!(state.whole_log("vm"), terminal.seen, "the log is what was on the screen");
}

/// A microVM on pipes.
struct Piped {
    vmon: Child,
    stdout: ChildStdout,
    seen: Vec<u8>,
    searched: usize,
}

impl Piped {
    /// Boots it, up to the shell's prompt.
    fn boot(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut vmon = command.spawn().unwrap();
        let stdout = vmon.stdout.take().unwrap();
        let mut machine = Self { vmon, stdout, seen: Vec::new(), searched: 0 };
        machine.wait_for(READY);
        machine.wait_for("# ");
        machine
    }

    /// Reads until this has come, after what was waited for before.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + TIMEOUT;
        loop {
            let new = &self.seen[self.searched..];
            if let Some(at) = new.windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
                self.searched += at + text.len();
                return;
            }
            let left = give_up.saturating_duration_since(Instant::now()).as_millis();
            let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap_or(0) > 0;
            let mut buffer = [0; 65536];
            let count = if ready { self.stdout.read(&mut buffer).unwrap() } else { 0 };
            let seen = String::from_utf8_lossy(&self.seen);
            assert_ne!(count, 0, "{text:?} never came; what came: {seen}");
            self.seen.extend_from_slice(&buffer[..count]);
        }
    }

    fn send(&mut self, line: &str) {
        self.vmon.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Reads to the end and gives the exit code.
    #[track_caller]
    fn finish(&mut self) -> i32 {
        self.stdout.read_to_end(&mut self.seen).unwrap();
        common::code(wait(&mut self.vmon))
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.vmon.kill();
        let _ = self.vmon.wait();
    }
}

#[test]
fn a_microvm_on_pipes_takes_commands_and_powers_off() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let mut vm = Piped::boot(&mut run(machine, &state));
    assert!(contains(&state.log("vm"), b"Linux version"));
    vm.send("echo $((6 * 7)) is the answer\n");
    vm.wait_for("42 is the answer");
    assert!(contains(&state.log("vm"), b"42 is the answer"));
    vm.send("poweroff -f\n");
    assert_eq!(vm.finish(), 0);
    assert_stopped(&state, Some("0"), "exited");
    assert!(contains(&state.whole_log("vm"), &vm.seen), "what was forwarded is in the log");
}

#[test]
fn a_stop_ends_a_microvm() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let mut vm = Piped::boot(&mut run(machine, &state));
    let qemu = qemu_pid(&state);
    common::signal(&vm.vmon, Signal::SIGTERM);
    // QEMU ends of itself when it is asked to.
    assert_eq!(vm.finish(), 0);
    assert!(!is_alive(qemu));
    assert_stopped(&state, Some("0"), "stopped");
}

#[test]
fn a_microvm_does_not_outlive_a_supervisor_that_is_killed() {
    let Some(machine) = machine() else { return };
    let state = State::new();
    let mut vm = Piped::boot(&mut run(machine, &state));
    let qemu = qemu_pid(&state);
    assert!(is_alive(qemu));
    common::signal(&vm.vmon, Signal::SIGKILL);
    assert_eq!(common::code(wait(&mut vm.vmon)), 128 + 9);
    eventually("QEMU is gone", || !is_alive(qemu));
    // No process could write the end; the next reader records it.
    assert_eq!(state.run_column("vm", "state").as_deref(), Some("RUNNING"));
    let listed = state.vmon().args(["ps", "--all"]).output().unwrap();
    assert!(contains(&listed.stdout, b"STOPPED"), "{listed:?}");
}
