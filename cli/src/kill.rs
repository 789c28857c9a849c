//! `vmon kill`: a signal for the command of a sandbox, sent by its supervisor.

use vmon::child::Signal;
use vmon::terminal::Messages;

use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::{Failure, live};
use live::LiveError;

/// Send a signal to the commands of sandboxes
///
/// Their whole process groups get it. A command that ends by it counts as signalled, not as
/// stopped, so --restart may start it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon kill web         KILL
  vmon kill -s HUP web  have it read its configuration again")]
pub struct KillArgs {
    #[command(flatten)]
    names: Names,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIG", default_value = "KILL")]
    signal: Signal,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Sends it to each, and does not wait for what comes of it.
pub fn kill(args: KillArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    for sandbox in record.select(&args.names.names, &mut tally) {
        if let Err(error) = send(sandbox, args.signal) {
            tally.failed(&format!("can't signal {sandbox}: {error}"));
        }
    }
    Ok(tally.code())
}

/// Through the supervisor; where nobody serves its socket and it is a `vmon run`, to the command
/// itself.
fn send(sandbox: &Recorded, signal: Signal) -> Result<(), LiveError> {
    let error = match live::connect(sandbox) {
        Ok(mut client) => return Ok(client.signal(signal)?),
        Err(error) => error,
    };
    let Some(run) = live::unserved(sandbox, &error) else { return Err(error) };
    match &run.child {
        Some(_) if live::is_commands(run) => live::signal_child(run, signal),
        _ => Err(LiveError::NotServed { supervisor: run.supervisor.unwrap_or_default() }),
    }
}
