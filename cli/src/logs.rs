//! `vmon logs`: prints the log of a sandbox.

mod life;
mod output;
mod printer;
mod view;

use std::env;

use clap::ValueEnum;
use vmon::logfile::{Stream, Timestamp};

use super::outcome::Outcome;
use super::record::Record;
use super::run_log::{LogSelectionArgs, LogSource, Runs};
use super::shared_args::SharedArgs;
use super::{Failure, args};
use view::LogView;

/// Print the log of a sandbox
///
/// Reads the log with all its generations, including compressed ones, and prints the bytes that the
/// command wrote. On a terminal, stderr is red, and escape sequences that would change the terminal
/// are removed. A pipe or a file gets every byte unchanged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TIME is a date and time in RFC 3339, such as 2026-01-31T12:00:00Z; the same without a zone, in local
time; a date, meaning its beginning; or an age, such as 10m, 2h30m or 7d. With --run, the log is cut
at the marks of runs in its time index, or at the times on record.

The output of a terminal counts as stdout. So do bytes whose stream is not known, as after a crash
or with --log-index off. With --timestamps, the time of bytes without a known time is '-'. --since
and --until leave such bytes out only if they are certainly outside.

Exit codes: 0 on success, also when the reader closes stdout; 1 if there is no such log, or if a part
of it is not available, such as a generation that was removed before it was read; 125 for a usage
error, or a state directory or database that can't be used.

Examples:
  vmon logs web                             the whole log
  vmon logs -f -n 20 web                    the last 20 lines, then new output
  vmon logs --since 10m --stream stderr web errors of the last ten minutes
  vmon logs -t --run last web               the last run, with times
  vmon logs --console serial vm             a console of a VM
  vmon logs --plain web | tail              text only, safe for a terminal
  vmon logs --raw web | less -R             with all escape sequences")]
pub struct LogsArgs {
    #[command(flatten)]
    run: LogSelectionArgs,

    /// Follow the log through rotations and restarts, until the sandbox stops
    #[arg(long, short)]
    follow: bool,

    /// Number of lines to print from the end of the log
    #[arg(short = 'n', long, value_name = "LINES", alias = "tail")]
    lines: Option<u64>,

    /// Print output since this time
    #[arg(long, value_name = "TIME", value_parser = args::moment)]
    since: Option<Timestamp>,

    /// Print output before this time
    #[arg(long, value_name = "TIME", value_parser = args::end)]
    until: Option<Timestamp>,

    /// Print only this stream
    #[arg(long, value_name = "STREAM", value_enum)]
    stream: Option<Only>,

    /// Prefix each line with a timestamp: when its first byte was read, in local time
    #[arg(long, short)]
    timestamps: bool,

    /// Print every byte unchanged, on a terminal too
    #[arg(long)]
    raw: bool,

    /// Print text only, also into a pipe or file: no escape sequences, and of the control characters
    /// only newline and tab
    #[arg(long, conflicts_with = "raw")]
    plain: bool,

    /// Do not colour stderr; $NO_COLOR has the same effect
    #[arg(long)]
    no_color: bool,
}

/// The value of --stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Stdout,
    Stderr,
}

impl Only {
    fn has(self, stream: Option<Stream>) -> bool {
        match stream {
            // A notice about dropped output belongs to both streams.
            Some(Stream::Notice) => true,
            Some(Stream::Stderr) => self == Self::Stderr,
            _ => self == Self::Stdout,
        }
    }
}

impl LogsArgs {
    fn wants(&self, stream: Option<Stream>) -> bool {
        self.stream.is_none_or(|only| only.has(stream))
    }

    fn is_within(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time < until)
    }

    fn tints(&self) -> bool {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        !self.no_color && !set("NO_COLOR") && !dumb
    }
}

/// Prints the log until its end, or until stdout is closed.
pub fn logs(args: LogsArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = match args.run.runs() {
        None | Some(Runs::All) => Record::beside_log(Record::latest(shared))?,
        Some(runs) => args.run.record(shared, runs)?,
    };
    let found = LogSource::find(&args.run, &record, &shared.places()?);
    let Some(source) = outcome.ok(found) else { return Ok(()) };
    drop(record);
    let name = source.to_string();
    match LogView::open(&args, shared, source) {
        Ok(mut view) => view.run(outcome)?,
        Err(error) => outcome.failed(&format!("can't read the log of {name}: {error}")),
    }
    Ok(())
}
