//! `vmon rm`: takes sandboxes out of the record, and their logs off the disk when asked to.

use vmon::registry::{Registry, Removal, Run};
use vmon::terminal::Messages;

use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::stop::stop_all;
use super::{Failure, files};

/// Remove sandboxes that have stopped from the record
///
/// All runs of a sandbox go, and its metrics. Its logs stay unless --logs is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon rm web                 of one that has stopped
  vmon rm --force --logs web  whether it runs or not, without a trace")]
pub struct RmArgs {
    #[command(flatten)]
    names: Names,

    /// Remove the log too: the current one, its older generations and what lies beside them
    #[arg(long)]
    logs: bool,

    /// Stop those that run first, with their own stop signal and timeout
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Removes each sandbox that is named.
pub fn rm(args: RmArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let mut tally = Tally::new(messages);
    let selected = record.select(&args.names.names, &mut tally);
    let Some(registry) = record.registry() else { return Ok(tally.code()) };
    for sandbox in stopped(&record, &selected, args.force, &mut tally) {
        if let Err(error) = remove(registry, sandbox, args.logs) {
            tally.failed(&format!("can't remove {sandbox}: {error}"));
        }
    }
    Ok(tally.code())
}

/// Those that have stopped, or have been made to, if that is what was said.
fn stopped<'a>(
    record: &Record,
    selected: &[&'a Recorded],
    force: bool,
    tally: &mut Tally<'_>,
) -> Vec<&'a Recorded> {
    if force {
        return stop_all(record, selected, None, tally);
    }
    let (running, stopped): (Vec<&Recorded>, Vec<&Recorded>) =
        selected.iter().partition(|sandbox| sandbox.running().is_some());
    for sandbox in running {
        tally.failed(&format!(
            "can't remove {sandbox}: it runs; 'vmon stop {sandbox}' first, or give --force"
        ));
    }
    stopped
}

fn remove(registry: &Registry, sandbox: &Recorded, with_logs: bool) -> Result<(), String> {
    let mut removed_logs = Ok(());
    let also = |runs: &[Run]| {
        if with_logs {
            removed_logs = files::remove(runs);
        }
    };
    match registry.remove_with(&sandbox.config_file, &sandbox.name, also) {
        Ok(Removal::Removed(_)) => {
            removed_logs.map_err(|error| format!("it is out of the record, but its log: {error}"))
        }
        // Somebody else was faster.
        Ok(Removal::Unknown) => Ok(()),
        Ok(Removal::Live { supervisor }) => {
            Err(format!("it runs under pid {supervisor}: stop it first, or give --force"))
        }
        Err(error) => Err(error.to_string()),
    }
}
