//! Detached runs. The supervisor is a second process of this program, in a session of its own.
//!
//! It reads its plan from its stdin, a pipe ([`handover`]). Its stdout is a second pipe, to which it
//! writes lines of JSON: messages, and finally the name and pid of the running command, or the
//! failure. It then closes the pipe, keeps no inherited descriptor open, and writes its messages to
//! `NAME@supervisor.log` ([`supervise`](crate::supervise)).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde_json::Value;
use vmon::monitor::{Sandbox, Service, ServiceContext, Transition};
use vmon::process;
use vmon::terminal::Messages;

use super::handover;
use super::plan::Plan;
use crate::report::{self, Listener};
use crate::supervise::SupervisorLog;
use crate::{Failure, reason};

/// One line from the supervisor, written by [`SupervisorLog`].
enum Report {
    Message(String),
    Start(Started),
}

/// Starts a supervisor for the plan, returns when the command runs, and prints its name and pid.
pub fn launch(plan: &Plan, messages: &Messages) -> Result<u8, Failure> {
    match start(plan, messages)? {
        Started::Running { name, pid } => print_start(&name, pid).map(|()| 0),
        Started::Failed { why, code } => Err(Failure::Detached { why, code }),
    }
}

/// Prints the name and pid of a command that runs. On an error it keeps running.
pub fn print_start(name: &str, pid: u64) -> Result<(), Failure> {
    report::stdout(format!("{name} {pid}\n").as_bytes()).map_err(|error| Failure::Unreported {
        name: name.to_owned(),
        pid,
        reason: reason(&error),
    })
}

/// The result of a start.
pub enum Started {
    Running { name: String, pid: u64 },
    Failed { why: String, code: u8 },
}

/// As [`launch`], without printing the result.
pub fn start(plan: &Plan, messages: &Messages) -> Result<Started, Failure> {
    // A pipe of the caller that stayed open in the supervisor would withhold end of file from its
    // reader.
    process::keep_descriptors_from_programs().map_err(Failure::Supervisor)?;
    let (reader, writer) = io::pipe().map_err(Failure::Supervisor)?;
    let mut command = Command::new(own_program().map_err(Failure::Supervisor)?);
    let (stdin, hand_over) = io::pipe().map_err(Failure::Supervisor)?;
    command.arg0(std::env::args_os().next().unwrap_or_else(|| "vmon".into()));
    let given = plan.name.is_given.then(|| plan.name.first.as_str());
    command.args(handover::public_args(given));
    command.stdin(stdin).stdout(writer).stderr(Stdio::null());
    let mut supervisor = command.spawn().map_err(Failure::Supervisor)?;
    // `Command` holds the supervisor's ends of the pipes.
    drop(command);
    handover::send(plan, hand_over).map_err(Failure::Supervisor)?;
    for line in BufReader::new(reader).lines() {
        let line = line.map_err(Failure::Supervisor)?;
        match Report::read(&line) {
            Some(Report::Message(line)) => messages.line(&line),
            Some(Report::Start(started)) => return Ok(started),
            None => break,
        }
    }
    let status = supervisor.wait().map_err(Failure::Supervisor)?;
    Err(Failure::SupervisorDied(status))
}

/// The path of this program, or `/proc/self/exe` if another file is at that path by now. The path is
/// preferred because lists of processes show it.
fn own_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    let named = std::env::current_exe();
    let is_same = |named: &Path| match (fs::metadata(named), fs::metadata(running)) {
        (Ok(named), Ok(running)) => (named.dev(), named.ino()) == (running.dev(), running.ino()),
        // Without /proc there is no other path.
        (_, Err(_)) => true,
        (Err(_), _) => false,
    };
    match named {
        Ok(named) if is_same(&named) => Ok(named),
        Ok(_) => Ok(running.to_owned()),
        Err(error) => Err(error),
    }
}

/// Reports to the process that waits for the start why it failed.
pub fn refuse(why: &str, code: u8) {
    SupervisorLog::new(Messages::stdout()).failed(why, code);
}

/// Executes the plan as the detached supervisor.
pub fn supervise(plan: Plan) -> Result<u8, Failure> {
    // Uses a private open file description, or polls a shared one before each write. O_NONBLOCK is
    // never set on the inherited one.
    let starter = Messages::stdout();
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(Failure::Supervisor)?;
    let detached = dup2_stdin(&null).and(dup2_stdout(&null)).and(dup2_stderr(&null));
    drop(null);
    // setsid fails for the leader of a process group.
    detached.and(setsid()).map_err(|errno| Failure::Supervisor(errno.into()))?;
    let log = SupervisorLog::new(starter);
    report::install_on(log.clone(), plan.options.log_level);
    log.install_panic_hook();
    let ready = Ready(log.clone());
    let done = plan.execute(Some(&ready));
    if let Err(failure) = &done {
        log.failed(&failure.to_string(), failure.exit_code());
    }
    done.or_else(|failure| Ok(failure.exit_code()))
}

/// Reports to the process that waits for the start that the command runs.
pub struct Ready(SupervisorLog);

impl Ready {
    /// A service for the start of this sandbox. It must be the monitor's last service: the record,
    /// the PID file and the control socket must exist when the start is reported.
    pub fn service(&self, sandbox: &Sandbox) -> impl Service + use<> {
        ReadyService { log: self.0.clone(), sandbox: sandbox.clone() }
    }
}

/// Uses transitions only; it has no sources and no timers.
struct ReadyService {
    log: SupervisorLog,
    sandbox: Sandbox,
}

impl Service for ReadyService {
    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        if let Transition::Running { child, .. } = transition {
            self.log.ready(&self.sandbox, child.pid);
        }
    }
}

impl Report {
    /// `None` if the line is not a supervisor's.
    fn read(line: &str) -> Option<Self> {
        let report: Value = serde_json::from_str(line).ok()?;
        if let Some(message) = report.get("said") {
            return Some(Self::Message(message.as_str()?.to_owned()));
        }
        if let Some(why) = report.get("failed") {
            let code = u8::try_from(report.get("code")?.as_u64()?).ok()?;
            return Some(Self::Start(Started::Failed { why: why.as_str()?.to_owned(), code }));
        }
        let name = report.get("running")?.as_str()?.to_owned();
        Some(Self::Start(Started::Running { name, pid: report.get("pid")?.as_u64()? }))
    }
}
