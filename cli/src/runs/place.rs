//! Where the log of a sandbox lies: on record, or in the state directory.

use std::fs;
use std::path::PathBuf;

use vmon::logfile::read::LogReader;
use vmon::logfile::{Format, LogOptions};
use vmon::monitor::Name;
use vmon::registry::Run;

use super::super::args::ConsoleChoice;
use super::super::select::{Record, Recorded, SelectError, Selector};
use super::super::shared::Places;
use super::{RunArgs, Runs};

/// A log, and whose it is. Displayed as CONFIG/NAME, of a console CONFIG/NAME@CONSOLE.
#[derive(Debug, Clone)]
pub struct Place {
    pub log_dir: PathBuf,
    pub config_file: String,
    pub name: String,
    /// Of the console beside the sandbox's own streams, where it is one's.
    pub console: Option<Name>,
    /// None of one that is not on record, or not any more.
    pub sandbox: Option<Recorded>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.config_file, self.log_name())
    }
}

impl Place {
    /// The log that is meant. What the record does not know may still be where the state's logs are.
    pub fn find(args: &RunArgs, record: &Record, places: &Places) -> Result<Self, SelectError> {
        let log_dir = places.default_log_dir();
        let console = args.console.as_ref().and_then(ConsoleChoice::name);
        match record.find(&args.selector()) {
            Ok(sandbox) => Ok(Self::of(sandbox.clone(), console.cloned(), log_dir)),
            Err(SelectError::Unknown(selector)) => Self::left(log_dir, selector, console.cloned()),
            Err(error) => Err(error),
        }
    }

    /// What the log's name is without its ending.
    pub fn log_name(&self) -> String {
        log_name(&self.name, self.console.as_ref())
    }

    /// Another program's record does not say where its log is: the ecosystem's place is ours.
    pub fn of(sandbox: Recorded, console: Option<Name>, otherwise: PathBuf) -> Self {
        let spec = sandbox.latest().and_then(|run| run.spec.as_ref());
        Self {
            log_dir: spec.map_or(otherwise, |spec| spec.sandbox.log_dir.clone()),
            config_file: sandbox.config_file.clone(),
            name: sandbox.name.clone(),
            console,
            sandbox: Some(sandbox),
        }
    }

    /// One of which nothing but the log is left.
    fn left(
        log_dir: PathBuf,
        selector: Selector,
        console: Option<Name>,
    ) -> Result<Self, SelectError> {
        let name = selector.name();
        let log = log_name(name, console.as_ref());
        let configs = fs::read_dir(&log_dir).into_iter().flatten();
        let mut found: Vec<String> = configs
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|config| selector.matches(config, name) && is_ours(config, name))
            .filter(|config| LogReader::open(&log_dir, config, &log).is_ok())
            .collect();
        found.sort();
        match found.as_slice() {
            [] => Err(SelectError::Unknown(selector)),
            [config_file] => {
                let (config_file, name) = (config_file.clone(), name.to_owned());
                Ok(Self { log_dir, config_file, name, console, sandbox: None })
            }
            several => {
                let names: Vec<String> =
                    several.iter().map(|config| format!("{config}/{name}")).collect();
                Err(SelectError::Ambiguous { name: selector, candidates: names.join(", ") })
            }
        }
    }

    /// The run that is meant; of all runs the latest. `None` where it is not on record.
    pub fn run(&self, runs: Runs) -> Option<&Run> {
        let sandbox = self.sandbox.as_ref()?;
        match runs {
            Runs::Last | Runs::All => sandbox.latest(),
            Runs::Number(number) => sandbox.runs().iter().find(|run| run.id == Some(number)),
        }
    }

    /// How the log is written, as far as that is known.
    pub fn options(&self) -> Option<LogOptions> {
        let run = self.sandbox.as_ref()?.latest()?;
        run.spec.as_ref().map(|spec| spec.sandbox.log)
    }

    /// Whether what is written gets an index a little later.
    pub fn has_late_times(&self) -> bool {
        self.options().is_none_or(|options| options.index && options.format == Format::Raw)
    }

    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.running().is_some())
    }
}

fn log_name(name: &str, console: Option<&Name>) -> String {
    match console {
        Some(console) => format!("{name}@{console}"),
        None => name.to_owned(),
    }
}

/// Whether a log of that name could be one of ours.
fn is_ours(config_file: &str, name: &str) -> bool {
    Name::new(config_file).is_ok() && Name::new(name).is_ok()
}
