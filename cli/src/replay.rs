//! `vmon replay`: plays a log at its original pace.

mod player;
mod schedule;

use std::time::Duration;

use tracing::warn;
use vmon::monitor::command_signals;
use vmon::reactor::Reactor;
use vmon::terminal::{self, Direction, Handle};

use super::outcome::Outcome;
use super::run_log::{LogSelectionArgs, LogSource, Runs};
use super::shared_args::SharedArgs;
use super::{Failure, args, signalled};
use player::{Player, ReplayEnd};
use schedule::Pace;

/// Play the output of a sandbox at its original pace
///
/// Plays the last run unless --run is given. On a terminal, q quits, the space bar pauses, and the
/// terminal is restored at the end; a pipe or a file gets the bytes unchanged. The output of a
/// running sandbox is played up to the present.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Pauses are limited to --max-idle first, then divided by --speed. Bytes whose time is not known are
played with the bytes before them. On a terminal, escape sequences are removed that would make it
reply, set its title or clipboard, or change its mouse and keyboard modes.

Examples:
  vmon replay web                          play the last run
  vmon replay web --speed 4 --max-idle 2s  play faster, without long pauses
  vmon replay web --run 17                 play the run with the number 17 in 'vmon history'")]
pub struct ReplayArgs {
    #[command(flatten)]
    run: LogSelectionArgs,

    /// Speed factor, from 0.1 to 1000
    #[arg(long, value_name = "X", default_value = "1", value_parser = args::speed)]
    speed: f64,

    /// Limit pauses to this time; 0 removes them
    #[arg(long, value_name = "TIME", value_parser = vmon::values::time)]
    max_idle: Option<Duration>,
}

/// Plays the log until it ends, q is typed, or stdout is closed.
pub fn replay(args: ReplayArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = args.run.record(shared, Runs::Last)?;
    let found = LogSource::find(&args.run, &record, &shared.places()?);
    let Some(source) = outcome.ok(found) else { return Ok(()) };
    match play(&args, &source)? {
        Ok(ReplayEnd::Ended) => {}
        Ok(ReplayEnd::Signalled(signal)) => outcome.code = signalled(signal),
        Err(error) => outcome.failed(&format!("can't replay {source}: {error}")),
    }
    Ok(())
}

fn play(args: &ReplayArgs, source: &LogSource) -> Result<Result<ReplayEnd, String>, Failure> {
    let log = match args.run.open(source, Runs::Last) {
        Ok(log) => log,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let stdout = Handle::open(terminal::stdout(), Direction::Write).map_err(Failure::SetUp)?;
    let Some(stdout) = stdout else { return Ok(Err("stdout is closed".to_owned())) };
    let pace = Pace { speed: args.speed, max_idle: args.max_idle };
    let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
    reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
    let id = reactor.add(Player::new(log, pace, stdout).map_err(Failure::SetUp)?);
    reactor.run().map_err(Failure::Loop)?;
    let Some(player) = reactor.remove(id) else { return Err(Failure::NoEnd) };
    // The terminal has been restored, so warnings can be printed.
    let (end, mut log) = player.end();
    for warning in log.take_warnings() {
        warn!("{warning}");
    }
    match &end {
        Ok(ReplayEnd::Ended) if log.is_empty => {
            warn!("the log of {source} has no output of this selection")
        }
        Ok(ReplayEnd::Ended) if !log.is_timed => {
            warn!("the log of {source} has no times: all bytes were played at once");
        }
        _ => {}
    }
    Ok(end)
}
