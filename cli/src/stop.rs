//! `vmon stop`: stops sandboxes, and waits until they have stopped.

use std::time::Duration;

use tracing::warn;
use vmon::child::Signal;
use vmon::control::{Client, Watch};
use vmon::monitor::{DEFAULT_STOP_TIMEOUT, Identity, WaitKind};

use super::filter::Targets;
use super::outcome::Outcome;
use super::record::{Record, Recorded};
use super::shared_args::SharedArgs;
use super::{Failure, live};
use live::{Endings, LiveError};

/// Stop sandboxes, and wait until they have stopped
///
/// Sends each command its stop signal, and SIGKILL after the stop timeout. A sandbox that has already
/// stopped is not an error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon stop web                 stop it with the signal and timeout given to 'vmon run'
  vmon stop web db --timeout 2  stop both at once, with SIGKILL after two seconds
  vmon stop --filter label=app=web
                                stop all that have this label")]
pub struct StopArgs {
    #[command(flatten)]
    targets: Targets,

    /// Time to wait after the stop signal before sending SIGKILL [default: the --stop-timeout of the
    /// run]
    #[arg(long, short, value_name = "TIME", value_parser = vmon::values::time)]
    timeout: Option<Duration>,
}

/// Stops the selected sandboxes in parallel.
pub fn stop(args: StopArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = Record::latest(shared)?;
    let selected = args.targets.select(&record, outcome);
    stop_all(&record, &selected, args.timeout, outcome);
    Ok(())
}

/// Requests each to stop, then waits for each. Returns those that have stopped.
pub fn stop_all<'a>(
    record: &Record,
    sandboxes: &[&'a Recorded],
    timeout: Option<Duration>,
    outcome: &mut Outcome,
) -> Vec<&'a Recorded> {
    let requested: Vec<_> =
        sandboxes.iter().map(|sandbox| (*sandbox, request_stop(sandbox, timeout))).collect();
    // The end of all is awaited before the record is read, so that one read may suffice.
    let ended: Vec<_> = requested
        .into_iter()
        .map(|(sandbox, requested)| {
            (
                sandbox,
                requested.and_then(|requested| {
                    requested.map(|requested| requested.follow(sandbox)).transpose()
                }),
            )
        })
        .collect();
    let mut endings = Endings::new(record);
    let mut stopped = Vec::new();
    for (sandbox, ended) in ended {
        let settled = match ended {
            // A lost run may have left processes behind.
            Ok(None) if sandbox.latest().is_none_or(live::is_closed) => Ok(None),
            Ok(_) => endings.settled(sandbox),
            Err(error) => endings.lost(sandbox, error),
        };
        match settled {
            Ok(_) => stopped.push(sandbox),
            Err(error) => outcome.failed(&format!("can't stop {sandbox}: {error}")),
        }
    }
    stopped
}

/// How the end of a sandbox is awaited that was requested to stop, and its stop timeout.
enum StopRequest {
    /// Through the control socket; with the pid of the command.
    Watched(Watch, u32, Duration),
    /// By the supervisor's exit: a `vmon run` without a socket was sent SIGTERM.
    Signalled(Identity, Duration),
}

impl StopRequest {
    fn follow(self, sandbox: &Recorded) -> Result<(), LiveError> {
        match self {
            Self::Watched(watch, pid, timeout) => match live::follow_stop(watch, pid, timeout) {
                Err(LiveError::Unkillable { pid, seconds, .. }) => {
                    let mut client = live::connect(sandbox)?;
                    let waits = client.status().map(|status| status.waits).unwrap_or_default();
                    let wait = waits.into_iter().find(|wait| wait.kind == WaitKind::Command);
                    let named = format!("pid {pid}: ");
                    let reason = wait.map(|wait| wait.reason.replacen(&named, "", 1));
                    Err(LiveError::Unkillable { pid, seconds, reason })
                }
                followed => followed,
            },
            // As long for the output as for the command.
            Self::Signalled(supervisor, timeout) => {
                live::supervisor_gone(&supervisor, timeout.saturating_mul(2))
            }
        }
    }
}

/// Requests a sandbox to stop; `None` if it is not running.
fn request_stop(
    sandbox: &Recorded,
    timeout: Option<Duration>,
) -> Result<Option<StopRequest>, LiveError> {
    let Some(run) = sandbox.running() else { return Ok(None) };
    let own = run.spec.as_ref().map_or(DEFAULT_STOP_TIMEOUT, |spec| spec.sandbox.stop_timeout);
    let client = match live::connect(sandbox) {
        Ok(client) => client,
        Err(error) => return stop_by_signal(sandbox, timeout.is_some(), own, error).map(Some),
    };
    // Watched before the request, so that the end is not missed.
    let watch = client.watch()?;
    let mut client = live::connect(sandbox)?;
    client.stop(timeout)?;
    warn_of_waits(sandbox, &mut client);
    Ok(Some(StopRequest::Watched(watch, run.pid.unwrap_or_default(), timeout.unwrap_or(own))))
}

/// Reports at once what the stop will have to wait for. A sandbox that has ended by now waits for
/// nothing.
fn warn_of_waits(sandbox: &Recorded, client: &mut Client) {
    let waits = client.status().map(|status| status.waits).unwrap_or_default();
    for wait in waits {
        if let WaitKind::Log | WaitKind::Record | WaitKind::Command = wait.kind {
            warn!("{sandbox} waits for its {}: {}", wait.kind, wait.reason);
        }
    }
}

/// Stops a sandbox whose socket is not served, by a signal to its supervisor. A host's supervisor
/// is not signalled, because its signals concern the whole host.
fn stop_by_signal(
    sandbox: &Recorded,
    other_timeout: bool,
    own: Duration,
    error: LiveError,
) -> Result<StopRequest, LiveError> {
    let run = live::unserved(sandbox, &error).filter(|run| live::is_commands(run));
    let Some((run, supervisor)) = run.and_then(|run| Some((run, run.supervisor_identity.clone()?)))
    else {
        return Err(error);
    };
    if other_timeout {
        warn!(
            "no process serves the control socket of {sandbox}: the stop timeout given at its start applies"
        );
    }
    live::signalled(run.signal_supervisor(Signal::TERM), run.supervisor)?;
    Ok(StopRequest::Signalled(supervisor, own))
}
