//! A run in the background: the supervisor is this program again, in a session of its own, and
//! reports through a pipe that the command runs, or why it does not.
//!
//! Its plan comes through a pipe that is its stdin ([`handover`]).
//!
//! The pipe is the supervisor's stdout until then. It takes lines of JSON: what the supervisor
//! says meanwhile, and at last either who runs or what failed. From there on the supervisor holds
//! no descriptor of ours, and what it says goes to `NAME@supervisor.log`.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde_json::Value;
use vmon::monitor::{Sandbox, Service, ServiceContext, Transition};
use vmon::terminal::Messages;
use vmon::{process, reactor};

use super::handover;
use super::plan::Plan;
use crate::name::NameChoice;
use crate::supervise::Voice;
use crate::tell::{self, Listener};
use crate::{Failure, reason};

/// A line of the pipe; `Voice` writes them.
enum Word {
    Said(String),
    Outcome(Started),
}

/// Starts a supervisor that carries out the plan; returns when the command runs.
pub fn launch(plan: &Plan, messages: &Messages) -> Result<u8, Failure> {
    match start(plan, messages)? {
        Started::Running { name, pid } => tell_start(&name, pid).map(|()| 0),
        Started::Failed { why, code } => Err(Failure::Detached { why, code }),
    }
}

/// Prints who runs. It does so whether that can be printed or not.
pub fn tell_start(name: &str, pid: u64) -> Result<(), Failure> {
    tell::stdout(format!("{name} {pid}\n").as_bytes()).map_err(|error| Failure::Untold {
        name: name.to_owned(),
        pid,
        reason: reason(&error),
    })
}

/// What has come of a start.
pub enum Started {
    Running { name: String, pid: u64 },
    Failed { why: String, code: u8 },
}

/// As [`launch`], and says nothing of the outcome.
pub fn start(plan: &Plan, messages: &Messages) -> Result<Started, Failure> {
    // A pipe of a caller's that stayed open in the supervisor would keep its reader waiting.
    process::keep_descriptors_from_programs().map_err(Failure::Supervisor)?;
    let (reader, writer) = io::pipe().map_err(Failure::Supervisor)?;
    let mut command = Command::new(ourselves().map_err(Failure::Supervisor)?);
    let (stdin, hand_over) = io::pipe().map_err(Failure::Supervisor)?;
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "vmon".into()));
    let given = match &plan.name {
        NameChoice::Given(name) => Some(name.as_str()),
        NameChoice::FromProgram(_) => None,
    };
    command.args(handover::visible(given));
    command.stdin(stdin).stdout(writer).stderr(Stdio::null());
    let mut supervisor = command.spawn().map_err(Failure::Supervisor)?;
    // It holds the supervisor's ends of the pipes.
    drop(command);
    handover::send(plan, hand_over).map_err(Failure::Supervisor)?;
    for line in BufReader::new(reader).lines() {
        let line = line.map_err(Failure::Supervisor)?;
        match Word::read(&line) {
            Some(Word::Said(line)) => messages.line(&line),
            Some(Word::Outcome(started)) => return Ok(started),
            None => break,
        }
    }
    let status = supervisor.wait().map_err(Failure::Supervisor)?;
    Err(Failure::SupervisorDied(status))
}

/// This program: by its name where that still leads to it, so that lists of processes show it.
fn ourselves() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    let named = std::env::current_exe();
    let is_same = |named: &Path| match (fs::metadata(named), fs::metadata(running)) {
        (Ok(named), Ok(running)) => (named.dev(), named.ino()) == (running.dev(), running.ino()),
        // Elsewhere there is no other way.
        (_, Err(_)) => true,
        (Err(_), _) => false,
    };
    match named {
        Ok(named) if is_same(&named) => Ok(named),
        Ok(_) => Ok(running.to_owned()),
        Err(error) => Err(error),
    }
}

/// Reports to the process that waits for the start why there is none.
pub fn refuse(why: &str, code: u8) {
    Voice::new(Messages::stdout()).failed(why, code);
}

/// Carries out the plan as the detached supervisor.
pub fn supervise(plan: Plan) -> Result<u8, Failure> {
    // A private description, or a shared one that is asked before each write: never ours to change.
    let starter = Messages::stdout();
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(Failure::Supervisor)?;
    let detached = dup2_stdin(&null).and(dup2_stdout(&null)).and(dup2_stderr(&null));
    drop(null);
    // setsid fails for the leader of a process group.
    detached.and(setsid()).map_err(|errno| Failure::Supervisor(errno.into()))?;
    let voice = Voice::new(starter);
    tell::install_on(voice.clone(), plan.options.log_level);
    voice.take_panics();
    let ready = Ready(voice.clone());
    let done = plan.raise_file_limit().carry_out(Some(&ready));
    if let Err(failure) = &done {
        voice.failed(&failure.to_string(), failure.exit_code());
    }
    done.or_else(|failure| Ok(failure.exit_code()))
}

/// Tells the one who waits for it that the command runs.
pub struct Ready(Voice);

impl Ready {
    /// For the start of this sandbox. To be given to the monitor last: who is told that the command
    /// runs finds it on record, its PID file written and its socket served.
    pub fn service(&self, sandbox: &Sandbox) -> impl Service + use<> {
        Teller { voice: self.0.clone(), sandbox: sandbox.clone() }
    }
}

/// Only transitions concern it.
struct Teller {
    voice: Voice,
    sandbox: Sandbox,
}

impl Service for Teller {
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: reactor::Ready, _: &mut ServiceContext<'_, '_>) {}

    fn timer(&mut self, _: u32, _: &mut ServiceContext<'_, '_>) {}

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        if let Transition::Running { child, .. } = transition {
            self.voice.ready(&self.sandbox, child.pid);
        }
    }

    fn is_done(&self) -> bool {
        true
    }
}

impl Word {
    /// `None` for what is no line of a supervisor's.
    fn read(line: &str) -> Option<Self> {
        let word: Value = serde_json::from_str(line).ok()?;
        if let Some(said) = word.get("said") {
            return Some(Self::Said(said.as_str()?.to_owned()));
        }
        if let Some(why) = word.get("failed") {
            let code = u8::try_from(word.get("code")?.as_u64()?).ok()?;
            return Some(Self::Outcome(Started::Failed { why: why.as_str()?.to_owned(), code }));
        }
        let name = word.get("running")?.as_str()?.to_owned();
        Some(Self::Outcome(Started::Running { name, pid: word.get("pid")?.as_u64()? }))
    }
}
