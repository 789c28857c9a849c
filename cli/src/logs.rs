//! `vmon logs`: what sandboxes have printed.

mod life;
mod output;
mod printer;
mod session;

use std::env;

use clap::ValueEnum;
use vmon::logfile::{Stream, Timestamp};
use vmon::terminal::Messages;

use super::runs::{Place, RunArgs};
use super::select::{Record, Tally};
use super::shared::SharedArgs;
use super::{Failure, args};
use session::Session;

/// Print what a sandbox has printed, whether it runs or not
///
/// The log with all its generations, compressed ones too, in any format: what comes out is what the
/// command wrote. At a terminal, stderr is red, and what would change the terminal is left out; a
/// pipe or a file gets every byte as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TIME is a date and time as in RFC 3339, such as 2026-01-31T12:00:00Z; the same without a zone,
which is local; a date, which is its beginning; or how long ago, such as 10m, 2h30m or 7d. With
--run, the log is cut at the runs' marks in its time index, or by the times on record.

A terminal's output counts as stdout. So does what the log does not tell the stream of, as after a
crash, or with --log-index off. Its time is - with --timestamps, and it is left out by --since and
--until only where it can't be in between.

Exit codes: 0, also when the reader goes away; 1 when there is no such log, or not all that was
asked for can be told, as of generations that went before they were read; 125 usage or environment.

Examples:
  vmon logs web                             all that is left of its log
  vmon logs -f -n 20 web                    the last lines, and what comes from now on
  vmon logs --since 10m --stream stderr web its errors of the last ten minutes
  vmon logs -t --run last web               with times, of the last run
  vmon logs --console serial vm             what came from that console of a VM
  vmon logs --raw web | less -R             with everything that the command sent")]
pub struct LogsArgs {
    #[command(flatten)]
    run: RunArgs,

    /// Go on with what comes, through rotations and restarts, until the sandbox ends
    #[arg(long, short)]
    follow: bool,

    /// Only so many lines at the end
    #[arg(short = 'n', long, value_name = "LINES", alias = "tail")]
    lines: Option<u64>,

    /// Only what came at this time or later
    #[arg(long, value_name = "TIME", value_parser = args::moment)]
    since: Option<Timestamp>,

    /// Only what came before this time
    #[arg(long, value_name = "TIME", value_parser = args::moment)]
    until: Option<Timestamp>,

    /// Only what came from there
    #[arg(long, value_name = "STREAM", value_enum)]
    stream: Option<Only>,

    /// Before each line the time at which it began, local, with its zone
    #[arg(long, short)]
    timestamps: bool,

    /// Every byte as it is, at a terminal too
    #[arg(long)]
    raw: bool,

    /// No red stderr. $NO_COLOR does the same
    #[arg(long)]
    no_color: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Of which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Stdout,
    Stderr,
}

impl Only {
    fn has(self, stream: Option<Stream>) -> bool {
        match stream {
            // What vmon says in the place of lost output, whichever that was.
            Some(Stream::Notice) => true,
            Some(Stream::Stderr) => self == Self::Stderr,
            Some(Stream::Stdout | Stream::Tty) | None => self == Self::Stdout,
        }
    }
}

impl LogsArgs {
    fn wants(&self, stream: Option<Stream>) -> bool {
        self.stream.is_none_or(|only| only.has(stream))
    }

    fn tints(&self) -> bool {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        !self.no_color && !set("NO_COLOR") && !dumb
    }
}

/// Prints the log, until its end or until nobody wants more.
pub fn logs(args: LogsArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let places = args.shared.places()?;
    let mut tally = Tally::new(messages);
    let place = match Place::find(&args.run, &record, &places) {
        Ok(place) => place,
        Err(error) => {
            tally.failed(&error.to_string());
            return Ok(tally.code());
        }
    };
    drop(record);
    let told = place.to_string();
    match Session::open(&args, place, places) {
        Ok(mut session) => session.run(&mut tally)?,
        Err(error) => tally.failed(&format!("can't read the log of {told}: {error}")),
    }
    Ok(tally.code())
}
