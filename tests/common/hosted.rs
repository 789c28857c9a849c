//! A `vmon serve`, which goes with the test.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::base::served::Raw;
use super::base::{Process, State, eventually, signal, wait};

pub struct Hosted {
    pub state: State,
    pub process: Process,
    pub socket: PathBuf,
}

impl Hosted {
    pub fn start() -> Self {
        Self::with(State::new(), |command| command)
    }

    pub fn with(state: State, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let socket = state.file("run/@host.sock");
        let mut command = state.vmon();
        command.arg("serve").stderr(Stdio::piped());
        let process = Process::spawn(prepare(&mut command));
        eventually("the host serves", || Raw::try_connect(&socket).is_some());
        Self { state, process, socket }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `vmon run -d --via SOCKET --name NAME OPTIONS… -- sh -c SCRIPT`.
    pub fn run(&self, name: &str, options: &[&str], script: &str) -> Command {
        let mut command = self.state.vmon();
        command.args(["run", "-d", "--via"]).arg(&self.socket).args(["--name", name]);
        command.args(options).args(["--", "sh", "-c", script]);
        command
    }

    /// Runs that, and returns the pid of the command.
    #[track_caller]
    pub fn started(&self, name: &str, options: &[&str], script: &str) -> u32 {
        let output = self.run(name, options, script).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let pid = answer.trim_end().strip_prefix(&format!("{name} "));
        pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{output:?}"))
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    /// Signals the host and waits for its end.
    pub fn end(mut self, with: Signal) -> (Option<i32>, State) {
        signal(&self.process, with);
        let code = wait(&mut self.process).code();
        (code, self.state)
    }

    #[track_caller]
    pub fn vmon(&self, args: &[&str]) -> Output {
        self.state.vmon().args(args).output().unwrap()
    }
}

/// A call of a method of `io.vmon.Host`.
pub fn call(method: &str, parameters: Value) -> String {
    json!({ "method": format!("io.vmon.Host.{method}"), "parameters": parameters }).to_string()
}

/// The same with a flag.
pub fn call_with(flag: &str, method: &str, parameters: Value) -> String {
    let method = format!("io.vmon.Host.{method}");
    json!({ "method": method, "parameters": parameters, flag: true }).to_string()
}
