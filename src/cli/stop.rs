//! `vmon stop`: sandboxes asked to end, and waited for.

use std::time::Duration;

use tracing::warn;
use vmon::child::Signal;
use vmon::control::Watch;
use vmon::monitor::Identity;
use vmon::terminal::Messages;

use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::{Failure, args, live};
use live::{Endings, LiveError};

/// Ask sandboxes to stop, and return when they have
///
/// Each command gets its stop signal, and is killed when the stop timeout has passed. One that has
/// stopped already is as it should be.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon stop web                 as 'vmon run' was told to, by --stop-signal and --stop-timeout
  vmon stop web db --timeout 2  both at once, and killed after two seconds")]
pub struct StopArgs {
    #[command(flatten)]
    names: Names,

    /// How long after the stop signal the command is killed [default: as the sandbox was started]
    #[arg(long, short, value_name = "TIME", value_parser = args::time)]
    timeout: Option<Duration>,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Stops them all at once.
pub fn stop(args: StopArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    let selected = record.select(&args.names.names, &mut tally);
    stop_all(&record, &selected, args.timeout, &mut tally);
    Ok(tally.code())
}

/// Asks each to stop and then waits for each; gives those that have stopped.
pub fn stop_all<'a>(
    record: &Record,
    sandboxes: &[&'a Recorded],
    timeout: Option<Duration>,
    tally: &mut Tally<'_>,
) -> Vec<&'a Recorded> {
    let asked: Vec<_> = sandboxes.iter().map(|sandbox| (*sandbox, ask(sandbox, timeout))).collect();
    // All of them are waited for before the first is looked up: one look may then tell of all.
    let ended: Vec<_> = asked
        .into_iter()
        .map(|(sandbox, asked)| {
            (sandbox, asked.and_then(|asked| asked.map(Asked::follow).transpose()))
        })
        .collect();
    let mut endings = Endings::new(record);
    let mut stopped = Vec::new();
    for (sandbox, ended) in ended {
        let settled = match ended {
            Ok(None) => Ok(None),
            Ok(Some(_)) => endings.settled(sandbox),
            Err(error) => endings.lost(sandbox, error),
        };
        match settled {
            Ok(_) => stopped.push(sandbox),
            Err(error) => tally.failed(&format!("can't stop {sandbox}: {error}")),
        }
    }
    stopped
}

/// One that has been asked to stop, and how its end is learnt of.
enum Asked {
    Told(Watch),
    /// By SIGTERM, which is the same to a `vmon run`: nobody served its socket.
    Signalled(Identity),
}

impl Asked {
    fn follow(self) -> Result<(), LiveError> {
        match self {
            Self::Told(watch) => live::follow(watch).map(drop),
            Self::Signalled(supervisor) => {
                live::ended(&supervisor);
                Ok(())
            }
        }
    }
}

/// `None` where there is nothing to stop.
fn ask(sandbox: &Recorded, timeout: Option<Duration>) -> Result<Option<Asked>, LiveError> {
    if sandbox.running().is_none() {
        return Ok(None);
    }
    let client = match live::connect(sandbox) {
        Ok(client) => client,
        Err(error) => return signal(sandbox, timeout, error).map(Some),
    };
    // Before the stop, so that no end is missed.
    let watch = client.watch()?;
    live::connect(sandbox)?.stop(timeout)?;
    Ok(Some(Asked::Told(watch)))
}

/// Without the socket. The signals of a host's supervisor are its own.
fn signal(
    sandbox: &Recorded,
    timeout: Option<Duration>,
    error: LiveError,
) -> Result<Asked, LiveError> {
    let run = live::unserved(sandbox, &error).filter(|run| live::is_commands(run));
    let Some(supervisor) = run.and_then(|run| run.supervisor_identity.clone()) else {
        return Err(error);
    };
    if timeout.is_some() {
        warn!(
            "nobody serves the control socket of {sandbox}: it has the stop timeout of its start"
        );
    }
    live::signal(&supervisor, Signal::TERM)?;
    Ok(Asked::Signalled(supervisor))
}
