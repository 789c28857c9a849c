//! The tests of the command: `vmon` in a state directory.

#![allow(dead_code)] // each area uses a part

#[path = "mod.rs"]
mod base;
pub mod cgroups;
pub mod guest;
pub mod held;
pub mod hosted;
pub mod inject;
pub mod machine;
pub mod recorded;
pub mod vm;
pub mod works;

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use base::*;

impl State {
    /// `vmon` with this state directory and no input.
    pub fn vmon(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmon"));
        command.env("VMON_STATE_DIR", self.path()).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null());
        command
    }

    /// `vmon run --name NAME OPTIONS… -- sh -c SCRIPT`.
    pub fn run(&self, name: &str, options: &[&str], script: &str) -> Command {
        let mut command = self.vmon();
        command.args(["run", "--name", name]).args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// The same, to its end, whatever that is.
    pub fn ran(&self, name: &str, options: &[&str], script: &str) {
        let mut run = self.run(name, options, script);
        wait(&mut run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
}

/// A sandbox in the background, which goes with the test.
pub struct Detached {
    pub name: String,
    pub pid: u32,
    pub supervisor: u32,
}

impl Detached {
    /// From what `vmon run -d` has printed.
    #[track_caller]
    pub fn of(state: &State, answer: &str) -> Self {
        let (name, pid) = answer.trim_end().split_once(' ').unwrap();
        let supervisor = state.run_column(name, "supervisor_pid").unwrap().parse().unwrap();
        Self { name: name.to_owned(), pid: pid.parse().unwrap(), supervisor }
    }

    /// Runs a `vmon run -d`, which must succeed without a word.
    #[track_caller]
    pub fn start(state: &State, command: &mut Command) -> Self {
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        Self::of(state, &String::from_utf8(output.stdout).unwrap())
    }

    /// Signals the supervisor.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.supervisor as i32), signal).unwrap();
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // The pid is not reused so soon: at most it is a zombie that has not been reaped.
        if is_alive(self.supervisor) {
            self.signal(Signal::SIGKILL);
        }
    }
}
