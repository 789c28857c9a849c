//! Detached runs. The supervisor is a second process of this program, in a session of its own.
//!
//! It reads its plan from its stdin, a pipe ([`handover`]). Its stdout is a second pipe, to which it
//! writes lines of JSON: messages, and finally the name and pid of the running command, or the
//! failure. It then closes the pipe, keeps no inherited descriptor open, and writes its messages to
//! `NAME@supervisor.log` ([`supervisor_log`](crate::supervisor_log)).

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde_json::Value;
use vmon::monitor::{Sandbox, Service, ServiceContext, Transition};
use vmon::process;
use vmon::terminal::Messages;

use super::plan::Plan;
use super::{descriptors, handover};
use crate::messages::{self, Listener};
use crate::output::stdout;
use crate::supervisor_log::SupervisorLog;
use crate::{Failure, OWN_FAILURE, reason};

/// Starts a supervisor for the plan, returns when the command runs, and prints its name and pid.
pub fn launch(plan: &Plan, messages: &Messages) -> Result<u8, Failure> {
    let (name, pid) = start(plan, messages)?;
    print_start(&name, pid).map(|()| 0)
}

/// Prints the name and pid of a command that runs. On an error it keeps running.
pub fn print_start(name: &str, pid: u64) -> Result<(), Failure> {
    stdout(format!("{name} {pid}\n").as_bytes()).map_err(|error| Failure::Unreported {
        name: name.to_owned(),
        pid,
        reason: reason(&error),
    })
}

/// As [`launch`], without printing the result.
pub fn start(plan: &Plan, messages: &Messages) -> Result<(String, u64), Failure> {
    // A pipe of the caller that stayed open in the supervisor would withhold end of file from its
    // reader.
    process::keep_descriptors_from_programs().map_err(Failure::Supervisor)?;
    descriptors::let_inherit(&plan.command).map_err(Failure::Supervisor)?;
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
    if let Some(started) = read_start(reader, messages)? {
        return Ok(started);
    }
    let status = supervisor.wait().map_err(Failure::Supervisor)?;
    Err(Failure::SupervisorDied(status))
}

/// Reads the lines that [`SupervisorLog`] writes, until the command runs or its start has failed.
fn read_start(
    supervisor: PipeReader,
    messages: &Messages,
) -> Result<Option<(String, u64)>, Failure> {
    for line in BufReader::new(supervisor).lines() {
        let line = line.map_err(Failure::Supervisor)?;
        let report: Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |key: &str| report.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| report.get(key).and_then(Value::as_u64);
        if let Some(message) = text("said") {
            messages.line(&message);
        } else if let (Some(why), Some(code)) = (text("failed"), number("code")) {
            return Err(Failure::Detached { why, code: u8::try_from(code).unwrap_or(OWN_FAILURE) });
        } else {
            return Ok(text("running").zip(number("pid")));
        }
    }
    Ok(None)
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
pub fn supervise(mut plan: Plan) -> Result<u8, Failure> {
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
    messages::install_on(log.clone(), plan.options.log_level);
    log.install_panic_hook();
    let mut sandbox = plan.sandbox.clone();
    sandbox.name = plan.name.first.clone();
    let passed = descriptors::pass_missing(&mut plan.command);
    let ended = passed.and_then(|()| plan.execute(Some(&log))).inspect_err(|failure| {
        log.leave_lost_starter(&sandbox);
        log.failed(&failure.to_string(), failure.exit_code());
    });
    log.flush();
    ended
}

/// The process that waits for the start has ended before the command was started.
#[derive(Debug, thiserror::Error)]
#[error("not started: the 'vmon run -d' or 'vmon restart' that asked for it has ended before")]
struct StarterGone;

/// Reports to the process that waits for the start that the command runs. If that process has ended
/// by then, nothing is started: its user has given up, and does not expect a command to start later.
///
/// It must be the monitor's last service: the record, the PID file and the control socket must exist
/// when the start is reported.
pub struct StartReport {
    pub log: SupervisorLog,
    pub sandbox: Sandbox,
}

impl Service for StartReport {
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self.log.leave_lost_starter(&self.sandbox) {
            true => Err(StarterGone.into()),
            false => Ok(()),
        }
    }

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        if let Transition::Running { child, .. } = transition {
            self.log.ready(&self.sandbox, child.pid);
        }
    }
}
