//! `vmon stop`: sandboxes asked to end, and waited for.

use std::time::Duration;

use tracing::warn;
use vmon::child::Signal;
use vmon::control::Watch;
use vmon::monitor::{DEFAULT_STOP_TIMEOUT, Identity};
use vmon::terminal::Messages;

use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::{Failure, live};
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
    #[arg(long, short, value_name = "TIME", value_parser = vmon::values::time)]
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
            // Of a lost run something may still be there.
            Ok(None) if sandbox.latest().is_none_or(live::is_closed) => Ok(None),
            Ok(_) => endings.settled(sandbox),
            Err(error) => endings.lost(sandbox, error),
        };
        match settled {
            Ok(_) => stopped.push(sandbox),
            Err(error) => tally.failed(&format!("can't stop {sandbox}: {error}")),
        }
    }
    stopped
}

/// One that has been asked to stop: how its end is learnt of, and after what time it is killed.
enum Asked {
    /// Through its socket; its command's pid.
    Told(Watch, u32, Duration),
    /// By SIGTERM, which is the same to a `vmon run`: its socket was not served.
    Signalled(Identity, Duration),
}

impl Asked {
    fn follow(self) -> Result<(), LiveError> {
        match self {
            Self::Told(watch, pid, timeout) => live::follow_stop(watch, pid, timeout),
            Self::Signalled(supervisor, timeout) => live::ended(&supervisor, timeout),
        }
    }
}

/// `None` where there is nothing to stop.
fn ask(sandbox: &Recorded, timeout: Option<Duration>) -> Result<Option<Asked>, LiveError> {
    let Some(run) = sandbox.running() else { return Ok(None) };
    let own = run.spec.as_ref().map_or(DEFAULT_STOP_TIMEOUT, |spec| spec.sandbox.stop_timeout);
    let client = match live::connect(sandbox) {
        Ok(client) => client,
        Err(error) => return signal(sandbox, timeout.is_some(), own, error).map(Some),
    };
    // Before the stop, so that no end is missed.
    let watch = client.watch()?;
    live::connect(sandbox)?.stop(timeout)?;
    Ok(Some(Asked::Told(watch, run.pid.unwrap_or_default(), timeout.unwrap_or(own))))
}

/// Without the socket. The signals of a host's supervisor are its own.
fn signal(
    sandbox: &Recorded,
    other_timeout: bool,
    own: Duration,
    error: LiveError,
) -> Result<Asked, LiveError> {
    let run = live::unserved(sandbox, &error).filter(|run| live::is_commands(run));
    let Some((run, supervisor)) = run.and_then(|run| Some((run, run.supervisor_identity.clone()?)))
    else {
        return Err(error);
    };
    if other_timeout {
        warn!(
            "nobody serves the control socket of {sandbox}: it has the stop timeout of its start"
        );
    }
    live::signal_supervisor(run, Signal::TERM)?;
    Ok(Asked::Signalled(supervisor, own))
}
