//! `vmon ps`: lists the runs on record, as a table, JSON, names, metrics or by a template.

mod metrics;
mod template;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::str::FromStr;

use vmon::monitor::Phase;
use vmon::registry::{Location, Run, RunStatus};

use self::template::{Template, TemplateError};
use super::filter::Filters;
use super::live::{self, Answer};
use super::messages::printable;
use super::outcome::Outcome;
use super::output::{JsonArray, TablePages, exit, is_at_terminal, or_dash, print, short, word};
use super::record::{Record, Recorded};
use super::run_object::run_objects;
use super::run_pages::RunPages;
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
               by its value, or by '-' if that is not known; {labels.KEY} by the value of a label.
               {{ and }} are braces, \\t is a tab and \\n a newline

STATUS of a filter is starting, running, stopping, restarting or stopped. 'status=stopped' also lists
ended runs.

With --json, an array of objects, newest first; a value that is not known is null:
  id, name, config_file, state, status, pid, supervisor_pid, host, started_at, running_at,
  ended_at, exit_code, signal, reason, bytes_logged, bytes_dropped, consoles, rootfs_paths,
  labels, waits
Times are RFC 3339, in UTC; a signal is its number.

Examples:
  vmon ps                               list running sandboxes
  vmon ps --all --json                  every run on record, as JSON
  vmon ps --filter label=app=web        those with this label
  vmon ps --format '{name} {pid}'       one line each
  vmon ps --all --format openmetrics    for a textfile collector")]
pub struct PsArgs {
    /// Also list ended runs
    #[arg(long, short)]
    all: bool,

    #[command(flatten)]
    filters: Filters,

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
    // As in podman, a filter for an ended status needs no --all.
    let listed = Listed { all: args.all || args.filters.want_ended(), filters: args.filters };
    let record = match format {
        // Metrics count earlier runs.
        Format::OpenMetrics => {
            Record::with_earlier(shared, |it| listed.has_sandbox(it), |_| false)?
        }
        _ => Record::latest(shared)?,
    };
    match format {
        Format::Table => {
            let mut table = RunTable::new(&record, &listed);
            listed.print_pages(&record, |runs| print(&table.page(runs)))?;
            print(&table.pages.end())
        }
        Format::Json => {
            let mut array = JsonArray::default();
            listed.print_pages(&record, |runs| array.add(run_objects(runs)))?;
            array.end()
        }
        Format::Names => print(&names(&record, &listed)),
        Format::OpenMetrics if is_at_terminal() => {
            print(&metrics::shown(&listed.sandboxes(&record)))
        }
        Format::OpenMetrics => print(&metrics::exposition(&listed.sandboxes(&record))),
        Format::Template(template) => {
            listed.print_pages(&record, |runs| print(&template.lines(runs)))
        }
    }
}

/// What is listed: current runs, or all, that match the filters.
struct Listed {
    all: bool,
    filters: Filters,
}

impl Listed {
    fn has(&self, run: &Run) -> bool {
        (self.all || run.status == RunStatus::Running) && self.filters.match_run(run)
    }

    /// Whether a sandbox is represented, by its current run or its last one.
    fn has_sandbox(&self, sandbox: &Recorded) -> bool {
        sandbox.latest().is_some_and(|run| self.has(run))
    }

    fn sandboxes<'a>(&self, record: &'a Record) -> Vec<&'a Recorded> {
        record.sandboxes().iter().filter(|sandbox| self.has_sandbox(sandbox)).collect()
    }

    /// Prints the runs page by page, newest first.
    fn print_pages(
        &self,
        record: &Record,
        mut print: impl FnMut(&[&Run]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut print = |runs: Vec<&Run>| if runs.is_empty() { Ok(()) } else { print(&runs) };
        if self.all {
            for page in record.registry().into_iter().flat_map(RunPages::all) {
                print(page?.iter().filter(|run| self.has(run)).collect())?;
            }
        }
        let runs = record.sandboxes().iter().flat_map(Recorded::runs);
        // With all, the rest is of other programs, which are on no page.
        let is_rest = |run: &&Run| (!self.all || run.id.is_none()) && self.has(run);
        let mut rest: Vec<&Run> = runs.filter(is_rest).collect();
        rest.sort_unstable_by_key(|run| Reverse(run.id));
        print(rest)
    }
}

/// The table of runs. It has a column for the host if the last run of a sandbox is on another machine,
/// and one for what running sandboxes wait for, if one does.
struct RunTable {
    pages: TablePages,
    /// What the supervisors of running sandboxes have answered.
    answers: HashMap<(i64, Option<i64>), Answer>,
    has_host: bool,
    has_waits: bool,
}

impl RunTable {
    fn new(record: &Record, listed: &Listed) -> Self {
        let last = || record.sandboxes().iter().filter_map(Recorded::latest);
        let has_host = last().filter(|run| listed.has(run)).any(is_elsewhere);
        let is_running = |run: &&Run| run.status == RunStatus::Running && listed.has(run);
        let running: Vec<&Run> = last().filter(is_running).collect();
        let answers = live::answers(&running);
        let has_waits = answers.iter().any(|answer| !waits::cell(answer).is_empty());
        let columns = [has_host.then_some("HOST"), has_waits.then_some(waits::HEADER)];
        let header = HEADER.into_iter().chain(columns.into_iter().flatten());
        let keys = running.iter().map(|run| (run.sandbox_id, run.id));
        let answers = keys.zip(answers).collect();
        Self { pages: TablePages::new(header), answers, has_host, has_waits }
    }

    fn page(&mut self, runs: &[&Run]) -> String {
        let Self { pages, answers, has_host, has_waits } = self;
        pages.page(runs.iter().map(|run| {
            let answer = answers.remove(&(run.sandbox_id, run.id)).flatten();
            let host = run.host.as_ref().filter(|_| is_elsewhere(run));
            let host = has_host.then(|| or_dash(host));
            let waits = has_waits.then(|| waits::cell(&answer));
            row(run, &answer).into_iter().chain(host).chain(waits)
        }))
    }
}

fn is_elsewhere(run: &Run) -> bool {
    run.location == Some(Location::OtherMachine)
}

/// The names in the form that commands accept: with the config if several sandboxes on record have
/// the name, listed or not.
fn names(record: &Record, listed: &Listed) -> String {
    let mut owners: HashMap<&str, u32> = HashMap::new();
    for sandbox in record.sandboxes() {
        *owners.entry(&sandbox.name).or_default() += 1;
    }
    let line = |sandbox: &Recorded| match owners.get(sandbox.name.as_str()) {
        Some(1) => format!("{}\n", printable(&sandbox.name)),
        _ => format!("{}\n", printable(&sandbox.to_string())),
    };
    listed.sandboxes(record).into_iter().map(line).collect()
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
