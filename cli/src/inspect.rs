//! `vmon inspect`: all that is known of a sandbox, as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};
use vmon::control::{Client, Status};
use vmon::monitor::{AttachTo, SessionReport};
use vmon::registry::Run;
use vmon::terminal::Messages;

use super::Failure;
use super::consoles;
use super::files::Logs;
use super::output::{print_json, run_object, stamp};
use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::stats::Look;
use super::supervise;

/// How long a supervisor has to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Print all that is known of sandboxes, as JSON
///
/// Of each, its run that goes on, else its last one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An array of objects, in the order of the names, null where a value is not known. Each has the keys
of 'vmon ps --json', and
  runs, restarts       how many are on record; how many of this supervisor came before
  spec                 command, directory, options: as the run was started, without environment
  socket               the supervisor's control socket
  live                 what the supervisor says: state, pid, restarts, tty, bytes_logged,
                       bytes_dropped, consoles, sessions; live_error says why there is none
  usage                cpu_seconds, memory_bytes, threads, processes, read_bytes, written_bytes;
                       usage_error
  disk_bound           the most bytes that its logs, their indexes and the supervisor's log take
  log                  path, size, generations and other files beside it; log_error
docs/json.md of the source tells each key.

Examples:
  vmon inspect web
  vmon inspect web | jq -r '.[0].spec.command[0]'")]
pub struct InspectArgs {
    #[command(flatten)]
    names: Names,

    /// JSON: it is what is printed anyway
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Prints an object for each sandbox that is named.
pub fn inspect(args: InspectArgs, messages: &Messages) -> Result<u8, Failure> {
    let InspectArgs { names, json: _, shared } = args;
    let record = Record::read(&shared)?;
    let mut tally = Tally::new(messages);
    let selected = record.select(&names.names, &mut tally);
    let look = Look::new();
    print_json(&selected.into_iter().filter_map(|sandbox| object(sandbox, &look)).collect())?;
    Ok(tally.code())
}

fn object(sandbox: &Recorded, look: &Look) -> Option<Value> {
    let run = sandbox.latest()?;
    let mut object = match run_object(run) {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let (live, live_error) = parts(live(sandbox));
    let (log, log_error) = parts(log(run));
    let (usage, usage_error) = parts(usage(sandbox, look));
    let more = json!({
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
    if let Value::Object(more) = more {
        object.extend(more);
    }
    Some(Value::Object(object))
}

/// The most bytes that the sandbox's files in the log directory may have, however much it prints.
fn disk_bound(run: &Run) -> Option<u64> {
    let (logs, own) = (run.spec.as_ref()?.sandbox.disk_bound()?, supervise::LOG.disk_bound(false)?);
    logs.checked_add(own)
}

/// A value, or the reason why there is none.
fn parts(value: Result<Value, String>) -> (Value, Option<String>) {
    match value {
        Ok(value) => (value, None),
        Err(error) => (Value::Null, Some(error)),
    }
}

fn live(sandbox: &Recorded) -> Result<Value, String> {
    let run = sandbox.running().ok_or("it does not run")?;
    status(run).map(|status| live_object(&status))
}

fn usage(sandbox: &Recorded, look: &Look) -> Result<Value, String> {
    let run = sandbox.running().ok_or("it does not run")?;
    let usage = look.usage(run)?;
    Ok(json!({
        "cpu_seconds": usage.cpu.as_secs_f64(),
        "memory_bytes": usage.resident,
        "threads": usage.threads,
        "processes": usage.processes,
        "read_bytes": usage.read_bytes,
        "written_bytes": usage.write_bytes,
    }))
}

/// What the supervisor of a run says.
pub fn status(run: &Run) -> Result<Status, String> {
    let socket = run.socket.as_ref().ok_or("its supervisor has no control socket")?;
    let asked = Client::connect(socket).and_then(|client| client.timeout(ANSWER).status());
    asked.map_err(|error| error.to_string())
}

fn live_object(status: &Status) -> Value {
    json!({
        "state": status.phase.as_str(),
        "pid": status.child.as_ref().map(|child| child.pid),
        "supervisor_pid": status.supervisor.pid,
        "started_at": stamp(status.started_at),
        "running_at": status.running_at.map(stamp),
        "restarts": status.restarts,
        "tty": status.tty,
        "bytes_logged": status.bytes_logged,
        "bytes_dropped": status.bytes_dropped,
        "consoles": status.consoles.iter().map(consoles::live).collect::<Value>(),
        "sessions": status.sessions.iter().map(session).collect::<Value>(),
    })
}

fn session(session: &SessionReport) -> Value {
    json!({
        "session": session.session.0,
        "to": session.to.as_str(),
        "console": match &session.to {
            AttachTo::Console(name) => Some(name.as_str()),
            AttachTo::Stdout | AttachTo::Stderr | AttachTo::Tty => None,
        },
        "read_only": session.read_only,
        "missed": session.missed,
    })
}

fn log(run: &Run) -> Result<Value, String> {
    let spec = run.spec.as_ref().ok_or("it is another program's")?;
    match Logs::open(&spec.sandbox.log_dir, &run.config_file, &run.name)? {
        Some(logs) => logs.object(),
        None => Err("there is no log directory".to_owned()),
    }
}
