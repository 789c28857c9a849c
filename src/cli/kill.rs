//! `vmon kill`: a signal for the command of a sandbox, sent by its supervisor.

use vmon::child::Signal;
use vmon::terminal::Messages;

use super::select::{Names, Record, Tally};
use super::shared::SharedArgs;
use super::{Failure, live};

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
        let sent = live::connect(sandbox)
            .and_then(|mut client| client.signal(args.signal).map_err(Into::into));
        if let Err(error) = sent {
            tally.failed(&format!("can't signal {sandbox}: {error}"));
        }
    }
    Ok(tally.code())
}
