//! `vmon history`: lists the runs of a sandbox.

use vmon::registry::Run;

use super::Failure;
use super::outcome::Outcome;
use super::output::{JsonArray, TablePages, exit, or_dash, print, short};
use super::record::{Names, Record};
use super::run_object::run_objects;
use super::shared_args::SharedArgs;

const HEADER: [&str; 9] =
    ["NAME", "CONFIG", "RUN", "STATE", "STARTED", "ENDED", "EXIT", "REASON", "LOGGED"];

/// List the runs of a sandbox, newest first
///
/// Times in the table are local. EXIT is the exit code, or the name of the signal that terminated
/// the command. LOGGED is in bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --json, an array of the objects that 'vmon ps --json' prints.

Examples:
  vmon history web           the last runs and how they ended
  vmon history a/web --json  the sandbox web of config a, as JSON")]
pub struct HistoryArgs {
    #[command(flatten)]
    names: Names,

    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the runs of each selected sandbox.
pub fn history(
    args: HistoryArgs,
    shared: &SharedArgs,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let record = Record::latest(shared)?;
    let selected = record.select(&args.names.names, outcome);
    let mut printer = match args.json {
        true => Printer::Json(JsonArray::default()),
        false => Printer::Table(TablePages::new(HEADER)),
    };
    for sandbox in &selected {
        let others: Vec<&Run> = sandbox.runs().iter().filter(|run| run.id.is_none()).collect();
        printer.add(&others)?;
        for page in record.registry().into_iter().flat_map(|registry| sandbox.pages(registry)) {
            printer.add(&page?.iter().collect::<Vec<_>>())?;
        }
    }
    printer.end()
}

/// Prints the runs page by page.
enum Printer {
    Json(JsonArray),
    Table(TablePages),
}

impl Printer {
    fn add(&mut self, runs: &[&Run]) -> Result<(), Failure> {
        match self {
            _ if runs.is_empty() => Ok(()),
            Self::Json(array) => array.add(run_objects(runs)),
            Self::Table(table) => print(&table.page(runs.iter().map(|run| row(run)))),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self {
            Self::Json(array) => array.end(),
            Self::Table(table) => print(&table.end()),
        }
    }
}

fn row(run: &Run) -> [String; 9] {
    [
        run.name.clone(),
        run.config_file.clone(),
        or_dash(run.id),
        or_dash(run.state),
        or_dash(run.started_at.map(short)),
        or_dash(run.ended_at.map(short)),
        exit(run.exit_code, run.signal),
        or_dash(run.reason),
        or_dash(run.bytes_logged),
    ]
}
