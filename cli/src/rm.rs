//! `vmon rm`: removes sandboxes from the record, optionally with their logs.

use std::path::PathBuf;

use tracing::warn;
use vmon::registry::{Registry, Removal};

use super::Failure;
use super::live::{self, LiveError};
use super::log_files::{Roots, remove_logs};
use super::outcome::Outcome;
use super::record::{Names, Record, Recorded};
use super::shared_args::SharedArgs;
use super::stop::stop_all;

/// Remove stopped sandboxes from the record
///
/// Removes all runs of a sandbox and its metrics. The logs are kept unless --logs is given. A
/// sandbox whose logs can't be removed stays on record.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon rm web                 remove a stopped sandbox
  vmon rm --force --logs web  stop it if it is running, and remove its logs too")]
pub struct RmArgs {
    #[command(flatten)]
    names: Names,

    /// Remove the logs too, with all generations and indexes
    #[arg(long)]
    logs: bool,

    /// With --logs, also remove logs in or below DIR; by default only those in the state directory.
    /// May be repeated
    #[arg(long, value_name = "DIR", requires = "logs")]
    log_dir: Vec<PathBuf>,

    /// Stop running sandboxes first. Those whose supervisor can't be checked or is on another machine
    /// are removed without being stopped
    #[arg(long, short)]
    force: bool,
}

/// Removes each selected sandbox.
pub fn rm(args: RmArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let record = Record::of_names(shared, &args.names.names, |_| true)?;
    let places = shared.places()?;
    let roots = args.logs.then(|| Roots::new(&places, &args.log_dir)).transpose()?;
    let mut selected = record.select(&args.names.names, outcome);
    let Some(registry) = record.registry() else { return Ok(()) };
    if let Some(roots) = &roots {
        // Checked before any of them is stopped.
        selected.retain(|sandbox| {
            let permitted = roots.permit(sandbox.runs());
            permitted.map_err(|error| refuse(sandbox, &error, outcome)).is_ok()
        });
    }
    let mut removable = Vec::new();
    if args.force {
        let (unproven, others): (Vec<&Recorded>, _) =
            selected.into_iter().partition(|sandbox| live::is_unproven(sandbox));
        selected = others;
        removable.extend(unproven.into_iter().filter(|sandbox| {
            let closed = close(registry, sandbox);
            closed.map_err(|error| refuse(sandbox, &error, outcome)).is_ok()
        }));
    }
    removable.extend(stopped(&record, &selected, args.force, outcome));
    for sandbox in removable {
        if let Err(error) = remove(registry, sandbox, roots.as_ref()) {
            refuse(sandbox, &error, outcome);
        }
    }
    Ok(())
}

fn refuse(sandbox: &Recorded, error: &str, outcome: &mut Outcome) {
    outcome.failed(&format!("can't remove {sandbox}: {error}"));
}

/// The stopped ones among the selected sandboxes. With `force`, running ones are stopped first.
fn stopped<'a>(
    record: &Record,
    selected: &[&'a Recorded],
    force: bool,
    outcome: &mut Outcome,
) -> Vec<&'a Recorded> {
    if force {
        return stop_all(record, selected, None, outcome);
    }
    let (running, stopped): (Vec<&Recorded>, Vec<&Recorded>) =
        selected.iter().partition(|sandbox| sandbox.running().is_some());
    for sandbox in running {
        let error = match live::connect(sandbox) {
            Err(error @ (LiveError::OtherMachine { .. } | LiveError::Unproven { .. })) => {
                error.to_string()
            }
            _ => format!("it is running; run 'vmon stop {sandbox}' first, or give --force"),
        };
        refuse(sandbox, &error, outcome);
    }
    stopped
}

/// Closes the run of a sandbox on the word of the user.
fn close(registry: &Registry, sandbox: &Recorded) -> Result<(), String> {
    let Some(run) = sandbox.running() else { return Ok(()) };
    match registry.close_unproven(run).map_err(|error| error.to_string())? {
        true => {
            warn!("{sandbox} was not stopped: its supervisor can't be reached");
            Ok(())
        }
        false => Err("its supervisor is alive after all; run the command again".to_owned()),
    }
}

/// Removes a sandbox, with its logs if `roots` is given.
fn remove(registry: &Registry, sandbox: &Recorded, roots: Option<&Roots>) -> Result<(), String> {
    let mut logs = Ok(());
    let removed = registry.remove_with(&sandbox.config_file, &sandbox.name, |runs| {
        if let Some(roots) = roots {
            logs = remove_logs(runs, roots);
        }
        logs.is_ok()
    });
    match removed.map_err(|error| error.to_string())? {
        // Unknown: another command has removed it in the meantime.
        Removal::Removed(_) | Removal::Unknown => Ok(()),
        Removal::Kept => logs,
        Removal::Live { supervisor } => {
            Err(format!("it is running under pid {supervisor}: stop it first, or give --force"))
        }
    }
}
