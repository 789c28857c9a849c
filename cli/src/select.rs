//! Which sandboxes a command is about: `[CONFIG/]NAME` on the command line, looked up in the record.
//!
//! ```ignore
//! let record = Record::read(&args.shared)?;
//! let mut tally = Tally::new(messages);
//! for sandbox in record.select(&args.names, &mut tally) {
//!     if let Err(error) = stop(sandbox.latest()) {
//!         tally.failed(&format!("can't stop {sandbox}: {error}"));
//!     }
//! }
//! Ok(tally.code())
//! ```
//!
//! A name that is unknown or that several configs have is told, and the others are done all the
//! same.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use tracing::warn;
use vmon::registry::{Lost, Registry, Run, Status};
use vmon::terminal::Messages;

use super::shared::SharedArgs;
use super::{Failure, NOT_ALL_DONE, tell};

/// What is named on the command line. Any text: another program's sandboxes have names that ours
/// could not have, and a name that nobody has is unknown, not a usage error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    config_file: Option<String>,
    name: String,
}

/// The names of a command that wants at least one.
#[derive(Debug, clap::Args)]
pub struct Names {
    /// The sandboxes, as NAME, or as CONFIG/NAME where several configs have that name
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<Selector>,
}

/// The names of a command that is about all sandboxes when none is named.
#[derive(Debug, clap::Args)]
pub struct AnyNames {
    /// Only these sandboxes, as NAME, or as CONFIG/NAME where several configs have that name
    #[arg(value_name = "NAME")]
    pub names: Vec<Selector>,
}

/// Why a name leads to no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("no sandbox is called '{0}': 'vmon ps --all' lists them")]
    Unknown(Selector),
    #[error("several configs have a sandbox '{name}': say which one, {candidates}")]
    Ambiguous { name: Selector, candidates: String },
}

/// Every sandbox in the record, after that has been reconciled.
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
    /// Newest first; never empty.
    runs: Vec<Run>,
}

/// What a command could not do, told as it happens, and the exit code that follows.
#[derive(Debug)]
pub struct Tally<'a> {
    messages: Option<&'a Messages>,
    failures: Vec<String>,
    code: u8,
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
    /// The same, in this config; nobody's where another one is named too.
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

    /// Whether a sandbox is meant by it.
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
    /// The run that goes on, else the last one.
    pub fn latest(&self) -> Option<&Run> {
        self.runs.iter().find(|run| run.status == Status::Running).or_else(|| self.runs.first())
    }

    /// Whether this is a run of it.
    pub fn is_of(&self, run: &Run) -> bool {
        (&self.config_file, &self.name) == (&run.config_file, &run.name)
    }

    /// The run that goes on.
    pub fn running(&self) -> Option<&Run> {
        self.latest().filter(|run| run.status == Status::Running)
    }

    /// How many runs its supervisor had before the latest one.
    pub fn restarts(&self) -> usize {
        let supervisor = self.runs.first().and_then(|run| run.supervisor);
        self.runs.iter().skip(1).take_while(|run| run.supervisor == supervisor).count()
    }

    /// Every run, newest first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}

impl Record {
    /// Reconciles the record, and reads it. Where there is none, it has no sandbox.
    pub fn read(shared: &SharedArgs) -> Result<Self, Failure> {
        let places = shared.places()?;
        let Some(registry) = places.registry()? else {
            return Ok(Self { registry: None, sandboxes: Vec::new() });
        };
        let reconciled = registry.reconcile();
        let sandboxes = grouped(registry.runs()?);
        // A record that can't be made true now can still be read.
        match reconciled {
            Ok(lost) => lost.iter().for_each(warn_of_remains),
            Err(error) => warn!("{error}"),
        }
        Ok(Self { registry: Some(registry), sandboxes })
    }

    /// Where it was read from; `None` where there is no database.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Every sandbox, the one that was started last first.
    pub fn sandboxes(&self) -> &[Recorded] {
        &self.sandboxes
    }

    /// The one sandbox that is meant.
    pub fn find(&self, selector: &Selector) -> Result<&Recorded, SelectError> {
        let mut found: Vec<&Recorded> = self
            .sandboxes
            .iter()
            .filter(|sandbox| selector.matches(&sandbox.config_file, &sandbox.name))
            .collect();
        found.sort_by(|a, b| a.config_file.cmp(&b.config_file));
        match found.as_slice() {
            [] => Err(SelectError::Unknown(selector.clone())),
            [sandbox] => Ok(sandbox),
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(SelectError::Ambiguous { name: selector.clone(), candidates: names.join(", ") })
            }
        }
    }

    /// The sandboxes that are meant, in the order of their names on the command line, none twice.
    /// What is wrong with the other names is told.
    pub fn select(&self, names: &[Selector], tally: &mut Tally<'_>) -> Vec<&Recorded> {
        let mut selected: Vec<&Recorded> = Vec::new();
        for name in names {
            match self.find(name) {
                Ok(sandbox) if selected.iter().any(|other| std::ptr::eq(*other, sandbox)) => {}
                Ok(sandbox) => selected.push(sandbox),
                Err(error) => tally.failed(&error.to_string()),
            }
        }
        selected
    }

    /// As [`select`](Self::select), and every sandbox where none is named.
    pub fn select_or_all(&self, names: &[Selector], tally: &mut Tally<'_>) -> Vec<&Recorded> {
        match names {
            [] => self.sandboxes.iter().collect(),
            names => self.select(names, tally),
        }
    }
}

fn warn_of_remains(lost: &Lost) {
    if let Some(remains) = &lost.remains {
        let Run { config_file, name, .. } = &lost.run;
        warn!(
            "the supervisor of {config_file}/{name} is gone, but something of it stays: {remains}"
        );
    }
}

/// The runs, oldest first, by their sandboxes.
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

impl<'a> Tally<'a> {
    pub fn new(messages: &'a Messages) -> Self {
        Self { messages: Some(messages), failures: Vec::new(), code: 0 }
    }

    /// One that tells nobody: what it hears has been told before.
    pub fn silent() -> Self {
        Self { messages: None, failures: Vec::new(), code: 0 }
    }

    /// Tells what could not be done, as one line.
    pub fn failed(&mut self, text: &str) {
        if let Some(messages) = self.messages {
            tell::failure(messages, text);
        }
        self.failures.push(text.to_owned());
        self.code = NOT_ALL_DONE;
    }

    /// What could not be done.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The exit code of a command that has done the rest.
    pub fn code(&self) -> u8 {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap_or_else(|never: Infallible| match never {})
    }

    #[test]
    fn a_name_stands_alone_or_behind_its_config() {
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
