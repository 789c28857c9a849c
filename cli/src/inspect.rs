//! `vmon inspect`: prints everything known about a sandbox, as JSON.

use serde_json::{Value, json};
use vmon::control::Status;
use vmon::monitor::{AttachTo, SessionReport};
use vmon::registry::{Location, Run, RunStatus};

use super::Failure;
use super::consoles;
use super::live::{self, Answer};
use super::log_files::Logs;
use super::outcome::Outcome;
use super::output::{merged, print_json, stamp};
use super::record::{Names, Record, Recorded};
use super::run_object::run_object;
use super::shared_args::SharedArgs;
use super::usage::{self, ProcessSnapshot};
use super::{supervisor_log, waits};

/// The error of what only a running sandbox has.
const NOT_RUNNING: &str = "it is not running";

/// Why a supervisor can't be asked.
const NO_SOCKET: &str = "its supervisor has no control socket";

/// Display detailed information on sandboxes, as JSON
///
/// Describes the current run of each sandbox, or the last one if none is running.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An array of objects, in the order of the names. A value that is not known is null. Each object has
the keys of 'vmon ps --json', and
  runs, restarts       the number of runs on record; restarts of the command by this supervisor
  spec                 command, directory and options of the run, without the environment
  socket               the supervisor's control socket
  live                 the supervisor's status: state, pid, supervisor_pid, started_at, running_at,
                       restarts, restart_at, tty, bytes_logged, bytes_dropped, consoles, sessions,
                       waits; live_error is the reason if it is null
  usage                cpu_seconds, memory_bytes, threads, processes, read_bytes, written_bytes;
                       usage_error is the reason if it is null
  disk_bound           the limit in bytes of its logs, indexes and the supervisor's log
  log                  path, size, generations and the other files of the log; log_error is the
                       reason if it is null
docs/json.md in the source tree describes each key.

Examples:
  vmon inspect web
  vmon inspect web | jq -r '.[0].spec.command[0]'")]
pub struct InspectArgs {
    #[command(flatten)]
    names: Names,

    /// Accepted for symmetry: the output is always JSON
    #[arg(long)]
    json: bool,
}

/// Prints an object for each selected sandbox.
pub fn inspect(
    args: InspectArgs,
    shared: &SharedArgs,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    // The output is always JSON.
    let InspectArgs { names, json: _ } = args;
    let record = Record::of_names(shared, &names.names, |_| false)?;
    let selected = record.select(&names.names, outcome);
    let processes = ProcessSnapshot::new();
    let runs = selected.into_iter().filter_map(|sandbox| Some((sandbox, sandbox.latest()?)));
    let runs: Vec<(&Recorded, &Run)> = runs.collect();
    let answers = live::answers(&runs.iter().map(|(_, run)| *run).collect::<Vec<_>>());
    let objects = runs.into_iter().zip(answers);
    print_json(&objects.map(|(of, answer)| object(of, &answer, &processes)).collect())
}

fn object(
    (sandbox, run): (&Recorded, &Run),
    answer: &Answer,
    processes: &ProcessSnapshot,
) -> Value {
    let (live, live_error) = parts(live(run, answer));
    let (log, log_error) = parts(log(run));
    let (usage, usage_error) = parts(usage(sandbox, processes));
    let details = json!({
        "runs": sandbox.runs().len(),
        "restarts": sandbox.restarts(),
        "spec": run.spec.as_ref().map(|spec| spec.to_json()),
        "socket": run.socket.as_ref().map(|path| path.to_string_lossy()),
        "live": live,
        "live_error": live_error,
        "usage": usage,
        "usage_error": usage_error,
        "disk_bound": disk_bound(run),
        "log": log,
        "log_error": log_error,
    });
    merged(run_object(run, answer), details)
}

/// The largest size in bytes that the sandbox's files in the log directory can reach.
fn disk_bound(run: &Run) -> Option<u64> {
    let (logs, own) = (
        run.spec.as_ref()?.sandbox.disk_bound()?,
        supervisor_log::log_options().disk_bound(false)?,
    );
    logs.checked_add(own)
}

/// Splits a result into the value and its error message.
fn parts(value: Result<Value, String>) -> (Value, Option<String>) {
    match value {
        Ok(value) => (value, None),
        Err(error) => (Value::Null, Some(error)),
    }
}

fn live(run: &Run, answer: &Answer) -> Result<Value, String> {
    match answer {
        Some(Ok(status)) => Ok(live_object(status)),
        Some(Err(error)) => Err(error.to_string()),
        None if run.location == Some(Location::OtherMachine) => {
            Err("its supervisor is on another machine".to_owned())
        }
        None if run.status == RunStatus::Running => Err(NO_SOCKET.to_owned()),
        None => Err(NOT_RUNNING.to_owned()),
    }
}

fn usage(sandbox: &Recorded, processes: &ProcessSnapshot) -> Result<Value, String> {
    let run = sandbox.running().ok_or(NOT_RUNNING)?;
    Ok(usage::object(Some(&processes.usage(run)?)))
}

fn live_object(status: &Status) -> Value {
    json!({
        "state": status.phase.as_str(),
        "pid": status.child.as_ref().map(|child| child.pid),
        "supervisor_pid": status.supervisor.pid,
        "started_at": stamp(status.started_at),
        "running_at": status.running_at.map(stamp),
        "restarts": status.restarts,
        "restart_at": status.restart_at.map(stamp),
        "tty": status.tty,
        "bytes_logged": status.bytes_logged,
        "bytes_dropped": status.bytes_dropped,
        "consoles": status.consoles.iter().map(consoles::live).collect::<Value>(),
        "sessions": status.sessions.iter().map(session).collect::<Value>(),
        "waits": waits::json(&status.waits),
    })
}

fn session(session: &SessionReport) -> Value {
    json!({
        "session": session.session.0,
        "to": session.to.as_str(),
        "console": match &session.to {
            AttachTo::Console(name) => Some(name.as_str()),
            _ => None,
        },
        "read_only": session.read_only,
        "missed": session.missed,
    })
}

fn log(run: &Run) -> Result<Value, String> {
    let spec = run.spec.as_ref().ok_or("it belongs to another program")?;
    if spec.sandbox.log_off {
        return Err("it was started with --log off".to_owned());
    }
    match Logs::open(&spec.sandbox.log_dir, &run.config_file, &run.name)? {
        Some(logs) => logs.object(),
        None => Err("there is no log directory".to_owned()),
    }
}
