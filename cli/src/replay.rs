//! `vmon replay`: a session from the log, as it was.

mod player;
mod schedule;

use std::time::Duration;

use tracing::warn;
use vmon::monitor::command_signals;
use vmon::reactor::Reactor;
use vmon::terminal::{self, Direction, Handle, Messages};

use super::runs::{Place, RunArgs, Runs};
use super::select::{Record, Tally};
use super::shared::SharedArgs;
use super::{Failure, args, signalled};
use player::{Outcome, Player};
use schedule::Pace;

/// Play what a sandbox has printed, at the pace at which it came
///
/// Without --run, the last run. At a terminal, q ends it, the space bar halts it, and the
/// terminal is left as it was found; a pipe or a file gets the bytes as they are. Of a sandbox
/// that runs, it is what has come so far.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Pauses are cut to --max-idle first, and what is left of them is shortened by --speed. Bytes of
which the time is not known come with those before them. At a terminal, what would make it answer,
set its title or clipboard, or take its mouse and keyboard is left out.

Examples:
  vmon replay web                          the last run
  vmon replay web --speed 4 --max-idle 2s  faster, without long pauses
  vmon replay web --run 17                 the run that 'vmon history' has as 17")]
pub struct ReplayArgs {
    #[command(flatten)]
    run: RunArgs,

    /// How many times as fast as it was, from 0.1 to 1000
    #[arg(long, value_name = "X", default_value = "1", value_parser = args::speed)]
    speed: f64,

    /// The longest pause; 0 for none at all
    #[arg(long, value_name = "TIME", value_parser = vmon::values::time)]
    max_idle: Option<Duration>,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Plays until the end, or until somebody has had enough.
pub fn replay(args: ReplayArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    match Place::find(&args.run, &record, &args.shared.places()?) {
        Err(error) => tally.failed(&error.to_string()),
        Ok(place) => match play(&args, &place)? {
            Ok(Outcome::Ended) => {}
            Ok(Outcome::Signalled(signal)) => return Ok(signalled(signal)),
            Err(error) => tally.failed(&format!("can't replay {place}: {error}")),
        },
    }
    Ok(tally.code())
}

fn play(args: &ReplayArgs, place: &Place) -> Result<Result<Outcome, String>, Failure> {
    let log = match args.run.open(place, Runs::Last) {
        Ok(log) => log,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let stdout = Handle::open(terminal::stdout(), Direction::Write).map_err(Failure::SetUp)?;
    let Some(stdout) = stdout else { return Ok(Err("our stdout is closed".to_owned())) };
    let pace = Pace { speed: args.speed, max_idle: args.max_idle };
    let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
    reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
    let id = reactor.add(Player::new(log, pace, stdout));
    reactor.run().map_err(Failure::Loop)?;
    let Some(player) = reactor.remove(id) else { return Err(Failure::NoEnd) };
    // The terminal is ours to write to again.
    let (outcome, mut log) = player.end();
    for warning in log.take_warnings() {
        warn!("{warning}");
    }
    match &outcome {
        Ok(Outcome::Ended) if log.is_empty() => warn!("the log of {place} has nothing of this"),
        Ok(Outcome::Ended) if !log.is_timed() => {
            warn!("the log of {place} does not tell when its bytes came: all came at once");
        }
        _ => {}
    }
    Ok(outcome)
}
