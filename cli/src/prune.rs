//! `vmon prune`: removes ended runs from the record.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use serde_json::json;
use vmon::registry::Pruned;
use vmon::terminal::Messages;

use super::Failure;
use super::files::{Removal, Roots};
use super::output::{print, print_json};
use super::select::Outcome;
use super::shared::SharedArgs;

/// Remove all ended runs from the record, and sandboxes without runs
///
/// Running sandboxes and those of other programs are kept. With --logs, a sandbox whose logs can't
/// be removed is kept too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
TIME is whole seconds or a number with ms, s, m or h.

With --json, an object: sandboxes is an array of the removed sandboxes as CONFIG/NAME, runs is the
number of removed runs.

Examples:
  vmon prune                          remove all ended runs
  vmon prune --older-than 168h --logs remove what ended more than a week ago, with its logs")]
pub struct PruneArgs {
    /// Only remove runs that ended longer ago than this
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = vmon::values::time)]
    older_than: Duration,

    /// Remove the logs of removed sandboxes too
    #[arg(long)]
    logs: bool,

    /// Also remove logs in or below DIR; by default only those in the state directory. May be
    /// repeated
    #[arg(long, value_name = "DIR", requires = "logs")]
    log_dir: Vec<PathBuf>,

    /// Print a JSON object instead of a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Removes the runs, and prints how many.
pub fn prune(args: PruneArgs, messages: &Messages) -> Result<u8, Failure> {
    let mut outcome = Outcome::new(messages);
    let places = args.shared.places()?;
    let roots = args.logs.then(|| Roots::new(&places, &args.log_dir)).transpose()?;
    let mut pruned = Vec::new();
    if let Some(registry) = places.registry()? {
        registry.reconcile()?;
        let now = Utc::now();
        let age = chrono::Duration::from_std(args.older_than).unwrap_or(chrono::Duration::MAX);
        let before = now.checked_sub_signed(age).unwrap_or_default();
        let also = |pruned: &Pruned| match &roots {
            Some(roots) if pruned.whole => remove_logs(pruned, roots, &mut outcome),
            _ => true,
        };
        pruned = registry.prune_with(before, also)?;
    }
    let whole = |pruned: &&Pruned| pruned.whole;
    let name = |pruned: &Pruned| format!("{}/{}", pruned.config_file, pruned.name);
    let runs: usize = pruned.iter().map(|pruned| pruned.runs.len()).sum();
    let sandboxes: Vec<String> = pruned.iter().filter(whole).map(name).collect();
    if args.json {
        print_json(&json!({ "sandboxes": sandboxes, "runs": runs }))?;
    } else {
        let (of_sandboxes, of_runs) =
            (many(sandboxes.len(), "sandbox", "es"), many(runs, "run", "s"));
        print(&format!("removed {of_sandboxes} and {of_runs}\n"))?;
    }
    Ok(outcome.code())
}

/// Removes the logs of a sandbox. Returns whether the sandbox may be removed.
fn remove_logs(pruned: &Pruned, roots: &Roots, outcome: &mut Outcome<'_>) -> bool {
    let Pruned { config_file, name, runs, .. } = pruned;
    let removed = Removal::prepare(runs, roots).and_then(Removal::carry_out);
    if let Err(error) = &removed {
        outcome.failed(&format!("can't remove {config_file}/{name}: {error}"));
    }
    removed.is_ok()
}

fn many(count: usize, what: &str, plural: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}
