//! `vmon prune`: removes ended runs from the record.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use tracing::{debug, warn};
use vmon::monitor::Identity;
use vmon::registry::{Pruned, Registry, Run};
use vmon::timestamp::rfc3339;

use super::Failure;
use super::filter::LabelFilters;
use super::log_files::{Leftover, LockError, Roots, remove_logs};
use super::outcome::Outcome;
use super::output::{print, print_json};
use super::rm::remove_left;
use super::run_object::labels;
use super::shared_args::SharedArgs;

/// Remove ended runs from the record, and each sandbox whose last run was removed
///
/// Running sandboxes and those of other programs are kept. With --logs, a sandbox whose logs can't
/// be removed is kept too. With --filter, the labels of the current or last run of a sandbox decide
/// on all its ended runs, and logs that belong to no sandbox on record are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TIME is whole seconds or a number with ms, s, m or h. Ages are measured up to now, or up to the last
recorded time plus the time the kernel has counted since, whichever is earlier. So a clock that is
ahead removes no run early.

With --json, an object: sandboxes is an array of the removed sandboxes as CONFIG/NAME, runs is the
number of removed runs, logs is an array of the sandboxes not on record whose logs were removed.

Examples:
  vmon prune                          remove all ended runs
  vmon prune --filter label=ci        remove those of sandboxes with this label
  vmon prune --older-than 168h --logs remove what ended more than a week ago, with its logs")]
pub struct PruneArgs {
    /// Only remove runs that ended longer ago than this
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = vmon::values::time)]
    older_than: Duration,

    #[command(flatten)]
    filters: LabelFilters,

    /// Remove the logs of removed sandboxes too, and the logs in the state directory that belong to no
    /// sandbox on record
    #[arg(long)]
    logs: bool,

    /// With --logs, also remove logs in or below DIR; by default only those in the state directory.
    /// May be repeated
    #[arg(long, value_name = "DIR", requires = "logs")]
    log_dir: Vec<PathBuf>,

    /// Print a JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// The unit of start times: USER_HZ on Linux (proc_pid_stat(5)), microseconds elsewhere.
const TICKS: u64 = if cfg!(target_os = "linux") { 100 } else { 1_000_000 };

/// Start times are cut to whole ticks, and seconds.
const ROUNDING: Duration = Duration::from_secs(2);

/// Later than any time on record, in a form of the same width.
const LAST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(time) => time,
    None => DateTime::<Utc>::MIN_UTC,
};

/// Removes the runs, and prints how many.
pub fn prune(args: PruneArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let places = shared.places()?;
    let roots = args.logs.then(|| Roots::new(&places, &args.log_dir)).transpose()?;
    let mut pruned = Vec::new();
    let registry = places.registry()?;
    let before = |now: DateTime<Utc>| match args.older_than {
        // Whatever has ended, also under a clock that was ahead.
        Duration::ZERO => LAST,
        age => {
            let age = chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX);
            now.checked_sub_signed(age).unwrap_or_default()
        }
    };
    let mut now = Utc::now();
    if let Some(registry) = &registry {
        registry.reconcile()?;
        now = self::now(registry)?;
        let before = before(now);
        let selected = selected(registry, &args.filters)?;
        let is_kept = |pruned: &Pruned| {
            let sandbox = (pruned.config_file.clone(), pruned.name.clone());
            selected.as_ref().is_some_and(|selected| !selected.contains(&sandbox))
        };
        let also = |pruned: &Pruned| match &roots {
            _ if is_kept(pruned) => false,
            Some(roots) if pruned.whole => may_remove(pruned, roots, outcome),
            _ => true,
        };
        pruned = registry.prune_with(before, also)?;
    }
    let mut left = Vec::new();
    // Logs of which nothing is on record have no labels.
    if let Some(roots) = roots.as_ref().filter(|_| args.filters.is_empty()) {
        let log_dir = places.default_log_dir();
        let found = outcome.ok(old_logs(registry.as_ref(), roots, &log_dir, |newest| {
            before(now.min(latest_after(newest, &Identity::current())))
        }));
        for logs in found.unwrap_or_default() {
            match remove_left(registry.as_ref(), &logs, roots, true) {
                Ok(()) => left.push(format!("{}/{}", logs.config_file, logs.name)),
                // Of another state directory, or started meanwhile.
                Err(LockError::InUse(reason)) => debug!("{reason}"),
                Err(LockError::Failed(error)) => {
                    let Leftover { config_file, name, .. } = logs;
                    outcome
                        .failed(&format!("can't remove the log of {config_file}/{name}: {error}"));
                }
            }
        }
    }
    let whole = |pruned: &&Pruned| pruned.whole;
    let name = |pruned: &Pruned| format!("{}/{}", pruned.config_file, pruned.name);
    let runs: usize = pruned.iter().map(|pruned| pruned.runs.len()).sum();
    let sandboxes: Vec<String> = pruned.iter().filter(whole).map(name).collect();
    if args.json {
        print_json(&json!({ "sandboxes": sandboxes, "runs": runs, "logs": left }))?;
    } else {
        let (of_sandboxes, of_runs) =
            (many(sandboxes.len(), "sandbox", "es"), many(runs, "run", "s"));
        let of_logs = match left.len() {
            0 => String::new(),
            count => format!(", and the logs of {} not on record", many(count, "sandbox", "es")),
        };
        print(&format!("removed {of_sandboxes} and {of_runs}{of_logs}\n"))?;
    }
    Ok(())
}

/// The sandboxes on record whose current or last run matches the filters; `None` without any.
fn selected(
    registry: &Registry,
    filters: &LabelFilters,
) -> Result<Option<HashSet<(String, String)>>, Failure> {
    if filters.is_empty() {
        return Ok(None);
    }
    let latest = registry.latest()?.into_iter();
    let matching = latest.filter(|run| filters.match_labels(labels(run)));
    Ok(Some(matching.map(|run| (run.config_file, run.name)).collect()))
}

/// The logs of sandboxes that are not on record, and that were last written before a time, which depends
/// on the last write to any of them.
fn old_logs(
    registry: Option<&Registry>,
    roots: &Roots,
    log_dir: &Path,
    before: impl FnOnce(DateTime<Utc>) -> DateTime<Utc>,
) -> Result<Vec<Leftover>, String> {
    let recorded = registry.map_or(Ok(Vec::new()), Registry::latest);
    let recorded = recorded.map_err(|error| error.to_string())?;
    let recorded: HashSet<(&str, &str)> =
        recorded.iter().map(|run| (run.config_file.as_str(), run.name.as_str())).collect();
    let mut logs = Vec::new();
    for left in Leftover::find(roots, log_dir)? {
        let is_recorded = recorded.contains(&(left.config_file.as_str(), left.name.as_str()));
        let written = if is_recorded { None } else { left.written(roots)? };
        let written = written.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        logs.extend(written.map(|written| (left, written)));
    }
    let Some(newest) = logs.iter().map(|(_, written)| *written).max() else {
        return Ok(Vec::new());
    };
    let before = before(newest);
    let old = logs.into_iter().filter(|(_, written)| *written < before);
    Ok(old.map(|(left, _)| left).collect())
}

/// The latest possible time now, from a time that the clock has shown and the start of this process,
/// which began a moment ago.
fn latest_after(shown: DateTime<Utc>, this: &Identity) -> DateTime<Utc> {
    let passed = Duration::from_secs(this.start / TICKS).saturating_add(ROUNDING);
    let passed = chrono::Duration::from_std(passed).unwrap_or(chrono::Duration::MAX);
    shown.checked_add_signed(passed).unwrap_or(LAST)
}

/// The end of all ages: now, or the last recorded time plus the time the kernel has counted since,
/// whichever is earlier. After a reboot the kernel counts from the boot. A clock that is years ahead
/// must not make a run years old.
fn now(registry: &Registry) -> Result<DateTime<Utc>, Failure> {
    let clock = Utc::now();
    let latest = registry.latest()?;
    let newest = latest.iter().filter(|run| run.id.is_some()).max_by_key(|run| run.id);
    let latest = newest.and_then(|run| latest_possible(run, &Identity::current()));
    let Some(latest) = latest.filter(|latest| *latest < clock) else { return Ok(clock) };
    if (clock - latest) > chrono::Duration::minutes(1) {
        warn!(
            "the clock shows {}, later than {}, the last recorded time plus the time since: ages are measured up to the earlier time",
            rfc3339(clock),
            rfc3339(latest),
        );
    }
    Ok(latest)
}

/// The latest possible time now, from a run and the start of this process, which began a moment ago.
fn latest_possible(run: &Run, this: &Identity) -> Option<DateTime<Utc>> {
    let (begun, process) = match (run.running_at, &run.child) {
        (Some(at), Some(child)) => (at, child),
        _ => (run.started_at?, run.supervisor_identity.as_ref()?),
    };
    let same_boot = process.boot_id == this.boot_id && !this.boot_id.is_empty();
    let (from, ticks) = match same_boot {
        true => (begun, this.start.saturating_sub(process.start)),
        false => (run.ended_at.map_or(begun, |ended| ended.max(begun)), this.start),
    };
    let passed = Duration::from_secs(ticks / TICKS).saturating_add(ROUNDING);
    from.checked_add_signed(chrono::Duration::from_std(passed).ok()?)
}

/// Removes the logs of a sandbox. Returns whether the sandbox may be removed.
fn may_remove(pruned: &Pruned, roots: &Roots, outcome: &mut Outcome) -> bool {
    let Pruned { config_file, name, runs, .. } = pruned;
    let removed = remove_logs(runs, roots);
    if let Err(error) = &removed {
        outcome.failed(&format!("can't remove {config_file}/{name}: {error}"));
    }
    removed.is_ok()
}

fn many(count: usize, what: &str, plural: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}
