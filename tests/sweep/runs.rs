//! Small runs, and what one of them leaves.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Detached, State, Terminal, code, contains, is_alive, wait};
use crate::strace::{self, Fault};

/// How long one run may take, with anything that fails once.
const BOUND: Duration = Duration::from_secs(20);

/// How long a run may wait for better times before it is stopped.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long its processes may take to go when it has ended.
const LEFT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `vmon run`, with pipes as its stdio.
    Foreground,
    /// `vmon run` on a terminal.
    Terminal,
    /// The supervisor of `vmon run -d`, with a client that sends the input.
    Detached,
    /// `vmon run -d` itself.
    Starter,
    /// Another command, which the options are, while a run in the background goes on.
    Command,
}

/// A run, and what is right.
#[derive(Debug)]
pub struct Run {
    pub kind: Kind,
    pub options: &'static [&'static str],
    pub script: &'static str,
    pub input: &'static str,
    pub out: String,
    pub err: &'static str,
    pub code: i32,
}

/// What a run has left.
pub struct Seen {
    /// `None`: it did not end in time.
    pub code: Option<i32>,
    pub out: Vec<u8>,
    /// What vmon said, and the command's stderr; of a detached run, what its supervisor said.
    pub said: String,
    /// What the log has, read back.
    pub log: Vec<u8>,
    /// What other commands said afterwards, and other harm.
    pub readers: String,
    pub record: Option<Record>,
    /// Processes of the run that have outlived it.
    pub left: Vec<String>,
    pub trace: PathBuf,
    pub state: State,
}

#[derive(Debug)]
pub struct Record {
    pub status: String,
    pub state: String,
    pub code: Option<String>,
}

impl Run {
    /// Runs it once, with this fault.
    pub fn once(&self, plan: Option<&Plan>, fault: Option<&Fault>) -> Seen {
        let state = State::new();
        let trace = state.file("trace");
        let mut seen = match self.kind {
            Kind::Foreground => self.foreground(state, trace, fault),
            Kind::Terminal => self.terminal(state, trace, fault),
            Kind::Detached => self.detached(state, trace, plan.unwrap(), fault),
            Kind::Starter => self.starter(state, trace, fault),
            Kind::Command => self.beside(state, trace, fault),
        };
        let state = &seen.state;
        // Closes lost runs, so it comes first.
        let ps = state.vmon().args(["ps", "-a"]).output().unwrap();
        if !ps.status.success() || !ps.stderr.is_empty() {
            seen.readers.push_str(&format!("ps: {ps:?}\n"));
        }
        let column = |name| state.run_column("a", name);
        seen.record = state.sandbox_column("a", "status").map(|status| Record {
            status,
            state: column("state").unwrap_or_default(),
            code: column("exit_code"),
        });
        let logs = state.vmon().args(["logs", "a"]).output().unwrap();
        if !logs.status.success() || !logs.stderr.is_empty() {
            seen.readers.push_str(&format!("logs: {}", String::from_utf8_lossy(&logs.stderr)));
        }
        seen.log = logs.stdout;
        seen
    }

    fn command(&self, state: &State) -> Command {
        let mut command = state.run("a", self.options, self.script);
        // The child searches for `sh`: its execve(2) is not the first of its kind, which is ours.
        command.env("PATH", "/nonexistent:/usr/bin:/bin");
        command
    }

    fn foreground(&self, state: State, trace: PathBuf, fault: Option<&Fault>) -> Seen {
        let mut strace = strace::traced(&self.command(&state), &trace, fault);
        strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = strace.spawn().unwrap();
        // A run that fails at once does not read it.
        let _ = child.stdin.take().unwrap().write_all(self.input.as_bytes());
        let mut seen = Seen::of(&mut child, state, trace, fault);
        child.stdout.unwrap().read_to_end(&mut seen.out).unwrap();
        child.stderr.unwrap().read_to_string(&mut seen.said).unwrap();
        seen
    }

    /// Its supervisor is not traced: it is executed.
    fn starter(&self, state: State, trace: PathBuf, fault: Option<&Fault>) -> Seen {
        let mut strace = strace::traced(&self.command(&state), &trace, fault);
        strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = strace.spawn().unwrap();
        let code = wait_for(&mut child, BOUND);
        let (mut out, mut said) = (String::new(), String::new());
        if code.is_some() {
            child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        }
        let mut readers = String::new();
        // What it reported, with its exit code, is true.
        let is_started = code == Some(0) || said.contains(" runs, with pid ");
        if is_started {
            let stop = state.vmon().args(["stop", "a"]).output().unwrap();
            if !stop.status.success() {
                readers = format!("stop: {stop:?}\n");
            }
        }
        let mut seen = Seen::of(&mut child, state, trace, fault);
        seen.code = code;
        seen.out = out.split(' ').next().unwrap().to_owned().into_bytes();
        (seen.said, seen.readers) = (said, readers);
        seen
    }

    fn beside(&self, state: State, trace: PathBuf, fault: Option<&Fault>) -> Seen {
        let sandbox = Detached::start(&state, &mut state.run("a", &["-d"], self.script));
        state.wait_for_log("a", b"hello\n");
        let mut command = state.vmon();
        command.args(self.options);
        let mut strace = strace::traced(&command, &trace, fault);
        strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = strace.spawn().unwrap();
        let code = wait_for(&mut child, BOUND);
        let (mut out, mut said) = (Vec::new(), String::new());
        if code.is_some() {
            child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        }
        let mut readers = String::new();
        // It still runs, and is on record so; unless it was stopped.
        let stops = self.options.contains(&"stop");
        if stops && code == Some(0) {
            if is_alive(sandbox.pid) {
                readers.push_str("stopped, and runs\n");
            }
        } else {
            if !stops && !is_alive(sandbox.pid) {
                readers.push_str("it was ended\n");
            }
            let stop = state.vmon().args(["stop", "a"]).output().unwrap();
            if !stop.status.success() && !stops {
                readers.push_str(&format!("stop: {stop:?}\n"));
            }
        }
        let mut seen = Seen::of(&mut child, state, trace, None);
        (seen.code, seen.out, seen.said, seen.readers) = (code, out, said, readers);
        seen
    }

    fn terminal(&self, state: State, trace: PathBuf, fault: Option<&Fault>) -> Seen {
        let strace = strace::traced(&self.command(&state), &trace, fault);
        let said = state.file("said");
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" 2>\"$0\""]).arg(&said);
        shell.arg(strace.get_program()).args(strace.get_args());
        for (name, value) in strace.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let mut before = None;
        let mut terminal = Terminal::spawn_on(&mut shell, |master| before = tcgetattr(master).ok());
        // Before, the outer terminal would show it too.
        if terminal.is_shown("up", BOUND) {
            terminal.send(self.input);
        }
        let mut seen = Seen::of(&mut terminal.child, state, trace, fault);
        if Some(terminal.modes()) != before {
            seen.readers.push_str("the terminal's settings are not what they were\n");
        }
        seen.out = terminal.rest();
        seen.said = fs::read_to_string(said).unwrap();
        seen
    }

    /// The supervisor alone is traced, with a plan that was made for another run.
    fn detached(&self, state: State, trace: PathBuf, plan: &Plan, fault: Option<&Fault>) -> Seen {
        let mut supervisor = state.vmon();
        supervisor.args(["run", "--detach", "--supervisor", "--name", "a"]);
        let mut strace = strace::traced(&supervisor, &trace, fault);
        strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut supervisor = strace.spawn().unwrap();
        let _ = supervisor.stdin.take().unwrap().write_all(&plan.of(&state));
        let (mut said, running) = read_report(supervisor.stdout.take().unwrap());
        let mut out = Vec::new();
        if running {
            let mut attach = state.vmon();
            attach.args(["attach", "a"]);
            attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut attach = attach.spawn().unwrap();
            let _ = attach.stdin.take().unwrap().write_all(self.input.as_bytes());
            let ended = wait_for(&mut attach, BOUND);
            let _ = attach.kill();
            attach.stdout.unwrap().read_to_end(&mut out).unwrap();
            let mut text = String::new();
            attach.stderr.unwrap().read_to_string(&mut text).unwrap();
            if ended != Some(0) {
                said.push_str(&format!("the client ended with {ended:?}: {text}\n"));
            }
        } else {
            said.push_str("no start was reported\n");
        }
        if !said.is_empty() {
            // The command may wait for its input.
            stop(&state);
        }
        let mut seen = Seen::of(&mut supervisor, state, trace, fault);
        let log = seen.state.logs().join("a@supervisor.log");
        said.push_str(&fs::read_to_string(log).unwrap_or_default());
        (seen.out, seen.said) = (out, said);
        seen
    }
}

impl Seen {
    /// Waits for the end, and ends what is left.
    fn of(child: &mut Child, state: State, trace: PathBuf, fault: Option<&Fault>) -> Self {
        let mut code = None;
        if fault.is_some_and(|fault| fault.lasts) {
            // It may wait for better times until it is stopped.
            code = wait_for(child, PATIENCE);
            if code.is_none() {
                stop(&state);
            }
        }
        let code = code.or_else(|| wait_for(child, BOUND));
        let give_up = Instant::now() + LEFT;
        // The command may end a moment after vmon.
        while code.is_some() && !processes(&state).is_empty() && Instant::now() < give_up {
            let _ = poll(&mut [], PollTimeout::from(5_u8));
        }
        let left = processes(&state);
        for (pid, _) in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        let left = left.into_iter().map(|(pid, command)| format!("{pid} {command}")).collect();
        let _ = child.wait();
        Self {
            code,
            state,
            trace,
            left,
            out: Vec::new(),
            said: String::new(),
            log: Vec::new(),
            readers: String::new(),
            record: None,
        }
    }
}

/// What `vmon run -d` hands to its supervisor.
#[derive(Debug)]
pub struct Plan {
    text: Vec<u8>,
    made_for: PathBuf,
}

impl Plan {
    /// From the calls of a `vmon run -d`.
    pub fn of_run(run: &Run) -> Self {
        let state = State::new();
        let trace = state.file("plan");
        let detached = run.command(&state);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-xx", "-s", "65536", "-e", "trace=write", "-o"]).arg(&trace);
        strace.arg(detached.get_program()).args(["run", "-d"]).args(detached.get_args().skip(1));
        strace.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null()).stdout(Stdio::null());
        strace.env("PATH", "/nonexistent:/usr/bin:/bin");
        let mut strace = strace.stderr(Stdio::null()).spawn().unwrap();
        state.wait_for_status("a", "RUNNING");
        assert!(state.vmon().args(["stop", "a"]).status().unwrap().success());
        wait(&mut strace);
        let calls = fs::read_to_string(&trace).unwrap();
        let magic = "\"\\x76\\x6d\\x6f\\x6e\\x00";
        let at = calls.find(magic).expect("a plan") + 1;
        let hex = calls[at..].split('"').next().unwrap();
        let byte = |digits| u8::from_str_radix(digits, 16).unwrap();
        let text = hex.split("\\x").skip(1).map(byte).collect();
        Self { text, made_for: state.path().to_owned() }
    }

    /// With the paths of this state directory.
    fn of(&self, state: &State) -> Vec<u8> {
        let (magic, plan) = self.text.split_at(8);
        let plan = std::str::from_utf8(plan).unwrap();
        let plan = plan.replace(self.made_for.to_str().unwrap(), state.path().to_str().unwrap());
        [magic, plan.as_bytes()].concat()
    }
}

/// What a supervisor reports to the process that has started it, and whether the command runs.
fn read_report(mut report: ChildStdout) -> (String, bool) {
    let give_up = Instant::now() + BOUND;
    let mut text = Vec::new();
    while Instant::now() < give_up {
        let mut fds = [PollFd::new(report.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(100_u8)).unwrap() == 0 {
            continue;
        }
        let mut buffer = [0; 4096];
        match report.read(&mut buffer).unwrap() {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    let (reports, said): (Vec<_>, Vec<_>) = std::str::from_utf8(&text)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .partition(|report| report.get("running").is_some());
    let said = said.iter().map(|report| format!("{report}\n")).collect();
    (said, !reports.is_empty())
}

/// The processes of a run, by their environment.
fn processes(state: &State) -> Vec<(Pid, String)> {
    let path = state.path().as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let directory = entry.path();
        let environment = fs::read(directory.join("environ")).unwrap_or_default();
        if contains(&environment, path) && is_alive(pid as u32) {
            let command = fs::read(directory.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((Pid::from_raw(pid), command));
        }
    }
    found
}

/// Sends SIGTERM to what is traced, not to strace.
fn stop(state: &State) {
    for (pid, command) in processes(state) {
        if command.contains("vmon run ") && !command.starts_with("strace") {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
}

fn wait_for(child: &mut Child, time: Duration) -> Option<i32> {
    let give_up = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(code(status));
        }
        if Instant::now() > give_up {
            return None;
        }
        let _ = poll(&mut [], PollTimeout::from(2_u8));
    }
}
