//! `vmon kill`: sends a signal to the command of a sandbox, through its supervisor.

use vmon::child::Signal;

use super::outcome::Outcome;
use super::record::{Names, Record, Recorded};
use super::shared_args::SharedArgs;
use super::{Failure, live};
use live::LiveError;

/// Send a signal to running sandboxes
///
/// The signal goes to the process group of the command. A command that it terminates counts as
/// signalled, not as stopped, so --restart may start it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon kill web         send SIGKILL
  vmon kill -s HUP web  make it reload its configuration")]
pub struct KillArgs {
    #[command(flatten)]
    names: Names,

    /// Signal to send, by name or number
    #[arg(short, long, value_name = "SIG", default_value = "KILL")]
    signal: Signal,
}

/// Sends the signal to each, and does not wait for its effect.
pub fn kill(args: KillArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = Record::latest(shared)?;
    for sandbox in record.select(&args.names.names, outcome) {
        if let Err(error) = send(sandbox, args.signal) {
            outcome.failed(&format!("can't signal {sandbox}: {error}"));
        }
    }
    Ok(())
}

/// Sends it through the supervisor, or directly to the command if the supervisor is a `vmon run`
/// whose socket is not served.
fn send(sandbox: &Recorded, signal: Signal) -> Result<(), LiveError> {
    let error = match live::connect(sandbox) {
        Ok(mut client) => return Ok(client.signal(signal)?),
        Err(error) => error,
    };
    let Some(run) = live::unserved(sandbox, &error) else { return Err(error) };
    match &run.child {
        Some(_) if live::is_commands(run) => live::signalled(run.signal_child(signal), run.pid),
        _ => Err(live::not_served(run)),
    }
}
