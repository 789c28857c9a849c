//! `vmon ps`: lists the runs on record, as a table, JSON, names, metrics or by a template.

mod metrics;
mod template;

use std::collections::HashMap;
use std::str::FromStr;

use vmon::monitor::Phase;
use vmon::registry::{Location, Run, RunStatus};

use self::template::{Template, TemplateError};
use super::live::{self, Answer};
use super::messages::printable;
use super::outcome::Outcome;
use super::output::{exit, is_at_terminal, or_dash, print, print_json, short, word};
use super::record::{Record, Recorded};
use super::run_object::run_objects;
use super::shared_args::SharedArgs;
use super::{Failure, waits};

const HEADER: [&str; 8] =
    ["NAME", "CONFIG", "STATUS", "PID", "SUPERVISOR", "STARTED", "ENDED", "EXIT"];

/// List running sandboxes, newest first
///
/// Times in the table are local. EXIT is the exit code, or the name of the signal that terminated
/// the command. WAITS FOR is what holds a sandbox up, if anything does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FORMAT is one of
  table        the default
  json         a JSON array, as --json
  names        each sandbox once, in the form that other commands accept
  openmetrics  the OpenMetrics text format: each sandbox and its last run; on a terminal, control
               characters in labels are escaped
  TEMPLATE     one line for each run: {name}, and every other key of --json in braces, is replaced
               by its value, or by '-' if that is not known. {{ and }} are braces, \\t is a tab and
               \\n a newline

With --json, an array of objects, newest first; a value that is not known is null:
  id, name, config_file, state, status, pid, supervisor_pid, host, started_at, running_at,
  ended_at, exit_code, signal, reason, bytes_logged, bytes_dropped, consoles, rootfs_paths, waits
Times are RFC 3339, in UTC; a signal is its number.

Examples:
  vmon ps                               list running sandboxes
  vmon ps --all --json                  every run on record, as JSON
  vmon ps --format '{name} {pid}'       one line each
  vmon ps --all --format openmetrics    for a textfile collector")]
pub struct PsArgs {
    /// Also list ended runs
    #[arg(long, short)]
    all: bool,

    /// Print a JSON array instead of a table
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Output format: table, json, names, openmetrics, or a template such as '{name} {pid}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone)]
enum Format {
    Table,
    Json,
    Names,
    OpenMetrics,
    Template(Template),
}

impl FromStr for Format {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Ok(match text {
            "table" => Self::Table,
            "json" => Self::Json,
            "names" => Self::Names,
            "openmetrics" => Self::OpenMetrics,
            template => Self::Template(template.parse()?),
        })
    }
}

/// Prints the list.
pub fn ps(args: PsArgs, shared: &SharedArgs, _: &mut Outcome) -> Result<(), Failure> {
    let format = if args.json { Format::Json } else { args.format };
    // Metrics count earlier runs.
    let record = match format {
        Format::OpenMetrics => Record::read(shared)?,
        _ if args.all => Record::read(shared)?,
        _ => Record::latest(shared)?,
    };
    match format {
        Format::Table => print(&list(&runs(&record, args.all))),
        Format::Json => print_json(&run_objects(&runs(&record, args.all))),
        Format::Names => print(&names(&record, args.all)),
        Format::OpenMetrics if is_at_terminal() => {
            print(&metrics::shown(&sandboxes(&record, args.all)))
        }
        Format::OpenMetrics => print(&metrics::exposition(&sandboxes(&record, args.all))),
        Format::Template(template) => print(&template.lines(&runs(&record, args.all))),
    }
}

/// The current runs, or all, newest first.
fn runs(record: &Record, all: bool) -> Vec<&Run> {
    let mut runs: Vec<&Run> = record.sandboxes().iter().flat_map(Recorded::runs).collect();
    if !all {
        runs.retain(|run| run.status == RunStatus::Running);
    }
    runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.id));
    runs
}

/// The running sandboxes, or all.
fn sandboxes(record: &Record, all: bool) -> Vec<&Recorded> {
    record.sandboxes().iter().filter(|sandbox| all || sandbox.running().is_some()).collect()
}

/// The names in the form that commands accept: with the config if several sandboxes on record have
/// the name, listed or not.
fn names(record: &Record, all: bool) -> String {
    let mut owners: HashMap<&str, u32> = HashMap::new();
    for sandbox in record.sandboxes() {
        *owners.entry(&sandbox.name).or_default() += 1;
    }
    let line = |sandbox: &Recorded| match owners.get(sandbox.name.as_str()) {
        Some(1) => format!("{}\n", printable(&sandbox.name)),
        _ => format!("{}\n", printable(&sandbox.to_string())),
    };
    sandboxes(record, all).into_iter().map(line).collect()
}

/// The table. It has a column for the host if a run is on another machine.
fn list(runs: &[&Run]) -> String {
    let is_elsewhere = |run: &Run| run.location == Some(Location::OtherMachine);
    let has_host = runs.iter().any(|run| is_elsewhere(run));
    let rows = runs.iter().zip(live::answers(runs)).map(|(run, answer)| {
        let host = has_host.then(|| or_dash(run.host.as_ref().filter(|_| is_elsewhere(run))));
        (row(run, &answer).into_iter().chain(host), waits::cell(&answer))
    });
    waits::table_with_waits(HEADER.into_iter().chain(has_host.then_some("HOST")), rows)
}

fn row(run: &Run, answer: &Answer) -> [String; 8] {
    // The supervisor knows states that are not on record, or not yet.
    let live = answer.as_ref().and_then(|answer| answer.as_ref().ok());
    let state = live.map(|live| live.phase).or(run.state);
    let status = match (run.status, state) {
        (RunStatus::Running, Some(state)) if run.id.is_some() => state.as_str(),
        (status, _) => word(status),
    };
    // Its last process has ended.
    let has_ended = matches!(state, Some(Phase::Draining | Phase::Restarting));
    [
        run.name.clone(),
        run.config_file.clone(),
        status.to_owned(),
        or_dash(run.pid.filter(|_| !has_ended)),
        or_dash(run.supervisor),
        or_dash(run.started_at.map(short)),
        or_dash(run.ended_at.map(short)),
        exit(run.exit_code, run.signal),
    ]
}
