//! `vmon rm`: removes sandboxes from the record, optionally with their logs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tracing::warn;
use vmon::registry::{Registry, Removal};

use super::Failure;
use super::filter::Targets;
use super::live::{self, LiveError};
use super::log_files::{Leftover, LockError, Roots, remove_logs};
use super::outcome::Outcome;
use super::places::Places;
use super::record::{Record, Recorded, SelectError, Selector};
use super::shared_args::SharedArgs;
use super::stop::stop_all;

/// Remove stopped sandboxes from the record
///
/// Removes all runs of a sandbox and its metrics. The logs are kept unless --logs is given. A
/// sandbox whose logs can't be removed stays on record. With --logs, a name that is not on record
/// selects the logs of that name that are left.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon rm web                 remove a stopped sandbox
  vmon rm --force --logs web  stop it if it is running, and remove its logs too
  vmon rm --filter status=stopped --filter label=app=web
                              remove those that have stopped and have this label")]
pub struct RmArgs {
    #[command(flatten)]
    targets: Targets,

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
    let record = Record::with_earlier(shared, |it| args.targets.include(it), |_| true)?;
    let places = shared.places()?;
    let roots = args.logs.then(|| Roots::new(&places, &args.log_dir)).transpose()?;
    let (names, left) = match &roots {
        Some(roots) => left_logs(&record, &places, roots, &args, outcome),
        None => (args.targets.names.clone(), Vec::new()),
    };
    if let Some(roots) = &roots {
        for (left, is_ours) in &left {
            if let Err(error) = remove_left(record.registry(), left, roots, *is_ours) {
                let error = error.into_reason();
                let Leftover { config_file, name, .. } = left;
                outcome.failed(&format!("can't remove the log of {config_file}/{name}: {error}"));
            }
        }
    }
    let mut selected = match args.targets.names.is_empty() {
        true => args.targets.select(&record, outcome),
        false => record.select(&names, outcome),
    };
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

/// The names that are to be looked up in the record, and the logs of the others, with whether they are
/// in the log directory of the state directory.
fn left_logs(
    record: &Record,
    places: &Places,
    roots: &Roots,
    args: &RmArgs,
    outcome: &mut Outcome,
) -> (Vec<Selector>, Vec<(Leftover, bool)>) {
    let (mut names, mut left) = (Vec::new(), Vec::new());
    for name in &args.targets.names {
        if !matches!(record.find(name), Err(SelectError::Unknown(_))) {
            names.push(name.clone());
            continue;
        }
        let mut found = Vec::new();
        let default = places.default_log_dir();
        for log_dir in std::iter::once(&default).chain(&args.log_dir) {
            let all = match Leftover::find(roots, log_dir) {
                Ok(all) => all,
                Err(error) => {
                    outcome.failed(&error);
                    continue;
                }
            };
            let selected = all.into_iter().filter(|it| name.matches(&it.config_file, &it.name));
            found.extend(selected.map(|it| (it, *log_dir == default)));
        }
        let configs: BTreeSet<&str> = found.iter().map(|(it, _)| it.config_file.as_str()).collect();
        if configs.len() > 1 {
            let candidates: Vec<String> =
                configs.iter().map(|config| format!("{config}/{}", name.name())).collect();
            let candidates = candidates.join(", ");
            outcome.failed(&SelectError::Ambiguous { name: name.clone(), candidates }.to_string());
        } else if found.is_empty() {
            // Reported as unknown.
            names.push(name.clone());
        } else {
            left.extend(found);
        }
    }
    (names, left)
}

/// Removes the logs of a sandbox that is not on record, while it can't be started.
pub fn remove_left(
    registry: Option<&Registry>,
    left: &Leftover,
    roots: &Roots,
    is_ours: bool,
) -> Result<(), LockError> {
    let remove = || left.remove(roots, is_ours);
    let Some(registry) = registry else { return remove() };
    match registry.unless_recorded(&left.config_file, &left.name, remove) {
        Ok(Some(removed)) => removed,
        Ok(None) => Err(LockError::InUse("it has been started".to_owned())),
        Err(error) => Err(LockError::Failed(error.to_string())),
    }
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
