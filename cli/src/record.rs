//! Selection of sandboxes by `[CONFIG/]NAME` on the command line.
//!
//! ```ignore
//! let record = Record::latest(shared)?;
//! for sandbox in record.select(&args.names, outcome) {
//!     if let Err(error) = stop(sandbox.latest()) {
//!         outcome.failed(&format!("can't stop {sandbox}: {error}"));
//!     }
//! }
//! Ok(())
//! ```
//!
//! A name that is unknown or ambiguous is reported, and the others are still processed.

use std::cmp::Reverse;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use tracing::warn;
use vmon::registry::{Lost, Registry, RegistryError, Run, RunStatus};

use super::Failure;
use super::outcome::Outcome;
use super::run_pages::RunPages;
use super::shared_args::SharedArgs;

/// A name on the command line. Any text is accepted: sandboxes of other programs have names that
/// vmon does not allow, and a name without a sandbox is unknown, not a usage error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    config_file: Option<String>,
    name: String,
}

/// The arguments of a command that requires a name.
#[derive(Debug, clap::Args)]
pub struct Names {
    /// Sandboxes: NAME, or CONFIG/NAME if several configs have that name
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<Selector>,
}

/// The arguments of a command that applies to all sandboxes without a name.
#[derive(Debug, clap::Args)]
pub struct AnyNames {
    /// Only these sandboxes: NAME, or CONFIG/NAME if several configs have that name
    #[arg(value_name = "NAME")]
    pub names: Vec<Selector>,
}

/// Why a name selects no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("no sandbox has the name '{0}': 'vmon ps --all' lists them")]
    Unknown(Selector),
    #[error("several configs have a sandbox '{name}': give one of {candidates}")]
    Ambiguous { name: Selector, candidates: String },
    #[error("{0} has no log: it was started with --log off")]
    NoLog(String),
}

/// All sandboxes on record, read after reconciliation.
#[derive(Debug)]
pub struct Record {
    registry: Option<Registry>,
    sandboxes: Vec<Recorded>,
}

/// A sandbox and its runs. Displayed as CONFIG/NAME.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub config_file: String,
    pub name: String,
    /// As far as they were read: newest first; never empty.
    runs: Vec<Run>,
}

impl FromStr for Selector {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (config_file, name) = match text.rsplit_once('/') {
            Some((config_file, name)) => (Some(config_file.to_owned()), name),
            None => (None, text),
        };
        Ok(Self { config_file, name: name.to_owned() })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.config_file {
            Some(config_file) => write!(f, "{config_file}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Selector {
    /// The same name in this config. It selects nothing if it has another config already.
    pub fn within(&self, config_file: &str) -> Self {
        let config_file = match &self.config_file {
            Some(own) if own != config_file => format!("{config_file}/{own}"),
            _ => config_file.to_owned(),
        };
        Self { config_file: Some(config_file), name: self.name.clone() }
    }

    /// The sandbox's name, without the config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it selects this sandbox.
    pub fn matches(&self, config_file: &str, name: &str) -> bool {
        self.name == name && self.config_file.as_deref().is_none_or(|own| own == config_file)
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.config_file, self.name)
    }
}

impl Recorded {
    /// The current run, or the last one.
    pub fn latest(&self) -> Option<&Run> {
        self.runs.iter().find(|run| run.status == RunStatus::Running).or_else(|| self.runs.first())
    }

    /// Whether this run belongs to the sandbox.
    pub fn is_of(&self, run: &Run) -> bool {
        (&self.config_file, &self.name) == (&run.config_file, &run.name)
    }

    /// The current run.
    pub fn running(&self) -> Option<&Run> {
        self.latest().filter(|run| run.status == RunStatus::Running)
    }

    /// Number of runs of the latest run's supervisor before that run, if all were read.
    pub fn restarts(&self) -> usize {
        let supervisor = self.runs.first().and_then(|run| run.supervisor);
        self.runs.iter().skip(1).take_while(|run| run.supervisor == supervisor).count()
    }

    /// The runs of vmon, newest first.
    pub fn pages<'a>(&self, registry: &'a Registry) -> RunPages<'a> {
        let mut ids: Vec<i64> =
            self.runs.iter().filter(|run| run.id.is_some()).map(|run| run.sandbox_id).collect();
        ids.dedup();
        RunPages::of(registry, ids)
    }

    /// Adds what is missing of these runs.
    fn add_earlier(&mut self, runs: Vec<Run>) {
        let known: Vec<Option<i64>> = self.runs.iter().map(|run| run.id).collect();
        self.runs.extend(runs.into_iter().filter(|run| !known.contains(&run.id)));
        // Those of other programs, which have no number, first.
        self.runs.sort_by_key(|run| Reverse(run.id.unwrap_or(i64::MAX)));
    }

    /// The runs that were read, newest first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}

impl Record {
    /// Reconciles and reads the record, with the latest run of each sandbox. Without a database it is
    /// empty.
    pub fn latest(shared: &SharedArgs) -> Result<Self, Failure> {
        Self::read_with(shared, |registry| Ok(grouped(registry.latest()?)))
    }

    /// Like [`latest`](Self::latest), and with the earlier runs of some sandboxes. Those have no `spec`,
    /// which takes most of a run's memory, unless `is_whole`.
    pub fn with_earlier(
        shared: &SharedArgs,
        is_selected: impl Fn(&Recorded) -> bool,
        is_whole: impl Fn(&Run) -> bool,
    ) -> Result<Self, Failure> {
        Self::read_with(shared, |registry| {
            let mut sandboxes = grouped(registry.latest()?);
            for sandbox in sandboxes.iter_mut().filter(|it| is_selected(it)) {
                let mut runs = Vec::new();
                for page in sandbox.pages(registry) {
                    let mut page = page?;
                    page.iter_mut().filter(|run| !is_whole(run)).for_each(|run| run.spec = None);
                    runs.extend(page);
                }
                sandbox.add_earlier(runs);
            }
            Ok(sandboxes)
        })
    }

    /// Like [`with_earlier`](Self::with_earlier), for the sandboxes with these names.
    pub fn of_names(
        shared: &SharedArgs,
        names: &[Selector],
        is_whole: impl Fn(&Run) -> bool,
    ) -> Result<Self, Failure> {
        let is_selected = |it: &Recorded| {
            names.iter().any(|selector| selector.matches(&it.config_file, &it.name))
        };
        Self::with_earlier(shared, is_selected, is_whole)
    }

    /// What was read, for a command that needs nothing but the log: a record that can't be used causes
    /// a warning, and is empty.
    pub fn beside_log(read: Result<Self, Failure>) -> Result<Self, Failure> {
        match read {
            Err(Failure::Registry(error)) => {
                warn!("{error}; the log is read without the record");
                Ok(Self { registry: None, sandboxes: Vec::new() })
            }
            read => read,
        }
    }

    fn read_with(
        shared: &SharedArgs,
        read: impl FnOnce(&Registry) -> Result<Vec<Recorded>, RegistryError>,
    ) -> Result<Self, Failure> {
        let places = shared.places()?;
        let Some(registry) = places.registry()? else {
            return Ok(Self { registry: None, sandboxes: Vec::new() });
        };
        let reconciled = registry.reconcile();
        let sandboxes = read(&registry)?;
        // A record that can't be reconciled now can still be read.
        match reconciled {
            Ok(lost) => lost.iter().for_each(warn_of_leftovers),
            Err(error) => warn!("{error}"),
        }
        Ok(Self { registry: Some(registry), sandboxes })
    }

    /// The database; `None` if it does not exist.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// All sandboxes, the one started last first.
    pub fn sandboxes(&self) -> &[Recorded] {
        &self.sandboxes
    }

    /// Finds the sandbox with this name.
    pub fn find(&self, selector: &Selector) -> Result<&Recorded, SelectError> {
        let found: Vec<&Recorded> = self
            .sandboxes
            .iter()
            .filter(|sandbox| selector.matches(&sandbox.config_file, &sandbox.name))
            .collect();
        match found.as_slice() {
            [] => Err(SelectError::Unknown(selector.clone())),
            [sandbox] => Ok(sandbox),
            several => {
                let mut names: Vec<String> = several.iter().map(ToString::to_string).collect();
                names.sort();
                Err(SelectError::Ambiguous { name: selector.clone(), candidates: names.join(", ") })
            }
        }
    }

    /// The selected sandboxes, in the order of the names, without duplicates. Reports names that
    /// select none.
    pub fn select(&self, names: &[Selector], outcome: &mut Outcome) -> Vec<&Recorded> {
        let mut selected: Vec<&Recorded> = Vec::new();
        for name in names {
            match self.find(name) {
                Ok(sandbox) if selected.iter().any(|other| std::ptr::eq(*other, sandbox)) => {}
                Ok(sandbox) => selected.push(sandbox),
                Err(error) => outcome.failed(&error.to_string()),
            }
        }
        selected
    }

    /// Like [`select`](Self::select), but all sandboxes without a name.
    pub fn select_or_all(&self, names: &[Selector], outcome: &mut Outcome) -> Vec<&Recorded> {
        match names {
            [] => self.sandboxes.iter().collect(),
            names => self.select(names, outcome),
        }
    }
}

fn warn_of_leftovers(lost: &Lost) {
    if let Some(remains) = &lost.leftovers {
        let Run { config_file, name, .. } = &lost.run;
        warn!(
            "the supervisor of {config_file}/{name} is gone, but left something behind: {remains}"
        );
    }
}

/// Groups runs, oldest first, by sandbox.
fn grouped(runs: Vec<Run>) -> Vec<Recorded> {
    let mut sandboxes: Vec<Recorded> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for run in runs.into_iter().rev() {
        let key = (run.config_file.clone(), run.name.clone());
        let place = *places.entry(key).or_insert_with(|| {
            let (config_file, name) = (run.config_file.clone(), run.name.clone());
            sandboxes.push(Recorded { config_file, name, runs: Vec::new() });
            sandboxes.len() - 1
        });
        if let Some(sandbox) = sandboxes.get_mut(place) {
            sandbox.runs.push(run);
        }
    }
    sandboxes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap_or_else(|never: Infallible| match never {})
    }

    #[test]
    fn a_name_may_have_its_config_in_front() {
        assert!(selector("web").matches("a", "web"));
        assert!(selector("a/web").matches("a", "web"));
        assert!(!selector("b/web").matches("a", "web"));
        assert!(!selector("we").matches("a", "web"));
        assert!(selector("dir/a/web").matches("dir/a", "web"));
        assert!(selector("web").within("a").matches("a", "web"));
        assert!(selector("a/web").within("a").matches("a", "web"));
        assert!(!selector("b/web").within("a").matches("b", "web"));
        for text in ["web", "a/web", "/web", "a/"] {
            assert_eq!(selector(text).to_string(), text);
        }
    }
}
