//! `vmon rm`: takes sandboxes out of the record, and their logs off the disk when asked to.

use std::path::PathBuf;

use vmon::registry::{Registry, Removal as Outcome};
use vmon::terminal::Messages;

use super::Failure;
use super::files::{Removal, Roots};
use super::select::{Names, Record, Recorded, Tally};
use super::shared::SharedArgs;
use super::stop::stop_all;

/// Remove sandboxes that have stopped from the record
///
/// All runs of a sandbox go, and its metrics. Its logs stay unless --logs is given. A sandbox whose
/// logs can't be removed stays on record.
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

    /// Remove logs in or below DIR too; without it, only those in the state directory. May be given
    /// several times
    #[arg(long, value_name = "DIR", requires = "logs")]
    log_dir: Vec<PathBuf>,

    /// Stop those that run first, with their own stop signal and timeout
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Removes each sandbox that is named.
pub fn rm(args: RmArgs, messages: &Messages) -> Result<u8, Failure> {
    let record = Record::read(&args.shared)?;
    let places = args.shared.places()?;
    let roots = args.logs.then(|| Roots::new(&places, &args.log_dir)).transpose()?;
    let mut tally = Tally::new(messages);
    let mut selected = record.select(&args.names.names, &mut tally);
    let Some(registry) = record.registry() else { return Ok(tally.code()) };
    if let Some(roots) = &roots {
        // Before any of them is stopped.
        selected.retain(|sandbox| {
            let permitted = roots.permit(sandbox.runs());
            permitted.map_err(|error| refuse(sandbox, &error, &mut tally)).is_ok()
        });
    }
    for sandbox in stopped(&record, &selected, args.force, &mut tally) {
        if let Err(error) = remove(registry, sandbox, roots.as_ref()) {
            refuse(sandbox, &error, &mut tally);
        }
    }
    Ok(tally.code())
}

fn refuse(sandbox: &Recorded, error: &str, tally: &mut Tally<'_>) {
    tally.failed(&format!("can't remove {sandbox}: {error}"));
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

/// Removes a sandbox, and where `roots` are given its logs first.
fn remove(registry: &Registry, sandbox: &Recorded, roots: Option<&Roots>) -> Result<(), String> {
    let mut logs = Ok(());
    let removed = registry.remove_with(&sandbox.config_file, &sandbox.name, |runs| {
        if let Some(roots) = roots {
            logs = Removal::prepare(runs, roots).and_then(Removal::carry_out);
        }
        logs.is_ok()
    });
    match removed.map_err(|error| error.to_string())? {
        // Unknown: another command was faster.
        Outcome::Removed(_) | Outcome::Unknown => Ok(()),
        Outcome::Kept => logs,
        Outcome::Live { supervisor } => {
            Err(format!("it runs under pid {supervisor}: stop it first, or give --force"))
        }
    }
}
