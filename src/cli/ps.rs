//! `vmon ps`: the runs in the record, as a table or as JSON. It changes nothing that runs.

use serde_json::Value;
use vmon::registry::{Run, Status};
use vmon::terminal::Messages;

use super::Failure;
use super::output::{exit, or_dash, print, print_json, run_object, short, table, word};
use super::select::Record;
use super::shared::SharedArgs;

const HEADER: [&str; 8] =
    ["NAME", "CONFIG", "STATUS", "PID", "SUPERVISOR", "STARTED", "ENDED", "EXIT"];

/// List what runs, newest first
///
/// Times in the table are local. EXIT is the exit code, or the signal that ended the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --json, an array of objects, newest first, null where a value is not known:
  id, name, config_file, state, status, pid, supervisor_pid, started_at, running_at, ended_at,
  exit_code, signal, reason, bytes_logged, bytes_dropped, rootfs_paths
Times are RFC 3339, in UTC; a signal is its number.")]
pub struct PsArgs {
    #[command(flatten)]
    pub shared: SharedArgs,

    /// Also list every run that is over
    #[arg(long)]
    all: bool,

    /// An array of objects instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub fn ps(args: PsArgs, _: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let sandboxes = record.sandboxes().iter();
    let mut runs: Vec<&Run> = sandboxes.flat_map(|sandbox| sandbox.runs()).collect();
    if !args.all {
        runs.retain(|run| run.status == Status::Running);
    }
    runs.sort_by_key(|run| std::cmp::Reverse((run.started_at, run.id)));
    if args.json {
        print_json(&Value::Array(runs.into_iter().map(run_object).collect()))?;
    } else {
        print(&table(HEADER, runs.into_iter().map(row)))?;
    }
    Ok(0)
}

fn row(run: &Run) -> [String; 8] {
    [
        run.name.clone(),
        run.config_file.clone(),
        word(run.status).to_owned(),
        or_dash(run.pid),
        or_dash(run.supervisor),
        or_dash(run.started_at.map(short)),
        or_dash(run.ended_at.map(short)),
        exit(run.exit_code, run.signal),
    ]
}
