//! strace(1): a program whose calls are counted, and one of them made to fail.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One call that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// As in the table of errors, `fcntl F_SETLK`.
    pub call: String,
    pub error: &'static str,
    /// Counted from 1, among all calls of this name of each process.
    pub at: usize,
    /// Whether all later ones fail too.
    pub lasts: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, error, at, lasts } = self;
        write!(f, "{call} {error} {at}{}", if *lasts { "+" } else { "" })
    }
}

/// Whether strace is there, and may trace. If not, the test is skipped and says so; with
/// `VMON_REQUIRE_STRACE` set, that is a failure.
pub fn is_usable() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-b", "execve", "-o", "/dev/null", "true"]);
    let is_usable = probe.status().is_ok_and(|status| status.success());
    if !is_usable {
        assert!(std::env::var_os("VMON_REQUIRE_STRACE").is_none(), "strace does not work");
        eprintln!("skipped: strace does not work");
    }
    is_usable
}

/// `command` under strace, which writes its calls to `trace`.
pub fn traced(command: &Command, trace: &Path, fault: Option<&Fault>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-b", "execve", "-y", "-s", "64", "-o"]).arg(trace);
    if let Some(Fault { call, error, at, lasts }) = fault {
        let call = call.split(' ').next().unwrap();
        let when = format!("{at}{}", if *lasts { "+" } else { "" });
        strace.args(["-e", "trace=all", "-e", &format!("inject={call}:error={error}:when={when}")]);
    }
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// A call that can be made to fail.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    pub at: usize,
    /// As strace has written it.
    pub text: String,
}

/// The calls of a trace, without those of the dynamic loader and of Rust's start, and those of the
/// child before it executes its program.
pub fn calls(trace: &Path) -> Vec<Call> {
    let text = fs::read(trace).unwrap();
    let text = String::from_utf8_lossy(&text);
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut begun = false;
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some((name, args)) = rest.split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let at = counts.entry((pid, name)).or_default();
        *at += 1;
        // The first call of `startup::prepare`.
        begun |= rest.starts_with("rt_sigaction(SIGCHLD");
        if begun {
            calls.push(Call { name: class(name, args), at: *at, text: rest.to_owned() });
        }
    }
    calls
}

/// The call that has failed; `None` if there was none of its number.
pub fn injected(trace: &Path) -> Option<Call> {
    calls(trace).into_iter().find(|call| call.text.ends_with("(INJECTED)"))
}

/// The name of a call in the table of errors: `write pipe`, `fcntl F_SETLK`, `bind`.
fn class(name: &str, args: &str) -> String {
    let (first, rest) = args.split_once([',', ')']).unwrap_or((args, ""));
    match name {
        "epoll_ctl" | "fcntl" | "ioctl" => {
            // `SNDCTL_TMR_START or TCSETS` is one number of two drivers.
            let operation = rest.split([',', ')']).next().unwrap_or("").trim();
            format!("{name} {}", operation.rsplit(' ').next().unwrap_or(""))
        }
        "read" | "write" | "writev" => {
            let kind = match first.split_once('<').map_or("", |(_, path)| path) {
                path if path.starts_with("pipe:") => "pipe",
                path if path.starts_with("socket:") || path.starts_with("UNIX") => "socket",
                path if path.starts_with("/dev/pt") => "tty",
                _ => "file",
            };
            format!("{name} {kind}")
        }
        "mmap" if args.contains("MAP_ANONYMOUS") => "mmap memory".to_owned(),
        "mmap" => "mmap file".to_owned(),
        _ => name.to_owned(),
    }
}
