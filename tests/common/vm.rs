//! A real microVM in the background, and its consoles.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::common::machine::{Machine, READY};
use crate::common::{Detached, State, TIMEOUT, contains, eventually};

/// QEMU's arguments with its serial port at another character device than stdio.
pub fn with_serial(machine: &Machine, chardev: &str) -> Vec<String> {
    let mut command = machine.command.clone();
    for argument in &mut command {
        if argument.starts_with("stdio,") {
            *argument = format!("{chardev},id=console");
        }
    }
    command
}

/// One that runs in the background, as `vm`.
pub struct Vm {
    // Ends first.
    pub run: Detached,
    pub state: State,
}

impl Vm {
    pub fn start(state: State, options: &[&str], consoles: &[String], command: &[String]) -> Self {
        let mut run = state.vmon();
        run.args(["run", "-d", "--name", "vm"]).args(options);
        run.args(consoles.iter().map(|console| format!("--console={console}")));
        let run = Detached::start(&state, run.arg("--").args(command));
        Self { run, state }
    }

    pub fn log(&self, console: &str) -> Vec<u8> {
        self.state.whole_log(&format!("vm@{console}"))
    }

    #[track_caller]
    pub fn wait_for(&self, console: &str, text: &str) {
        self.wait_for_times(console, text, 1);
    }

    #[track_caller]
    pub fn wait_for_times(&self, console: &str, text: &str, times: usize) {
        eventually(&format!("{text:?} at {console}"), || {
            let log = self.log(console);
            log.windows(text.len()).filter(|bytes| *bytes == text.as_bytes()).count() >= times
        });
    }

    pub fn attach(&self, console: &str) -> Attached {
        Attached::start(self.state.vmon().args(["attach", "vm", "--console", console]))
    }

    /// Stops it; the VMM's own messages are in the log of its stdio.
    pub fn stop(&self) {
        let output = self.state.vmon().args(["stop", "vm"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let own = self.state.whole_log("vm");
        assert!(!contains(&own, READY.as_bytes()), "{}", String::from_utf8_lossy(&own));
    }
}

/// An attached client.
pub struct Attached {
    client: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Attached {
    pub fn start(command: &mut Command) -> Self {
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
        Self { client, stdin, stdout }
    }

    /// Types a line.
    pub fn send(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Types a line and reads until its answer has come.
    #[track_caller]
    pub fn ask(&mut self, line: &str, answer: &str) {
        self.send(line);
        let give_up = Instant::now() + TIMEOUT;
        let mut seen = Vec::new();
        while !contains(&seen, answer.as_bytes()) {
            let mut buffer = [0; 4096];
            let count = self.stdout.read(&mut buffer).unwrap();
            assert!(count > 0 && Instant::now() < give_up, "{answer:?}: {seen:?}");
            seen.extend_from_slice(&buffer[..count]);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
