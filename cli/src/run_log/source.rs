//! Finds the log of a sandbox, by the record or in the state directory.

use std::fs;
use std::path::PathBuf;

use vmon::logfile::read::{LogReader, ReadError};
use vmon::logfile::{Format, LogOptions, names};
use vmon::monitor::Name;
use vmon::registry::Run;

use super::super::args::ConsoleChoice;
use super::super::places::Places;
use super::super::record::{Record, Recorded, SelectError, Selector};
use super::{LogSelectionArgs, Runs};

/// A log and its sandbox. Displayed as CONFIG/NAME, or as CONFIG/NAME@CONSOLE.
#[derive(Debug, Clone)]
pub struct LogSource {
    pub log_dir: PathBuf,
    pub config_file: String,
    pub name: String,
    /// The console, if the log is that of a console.
    pub console: Option<Name>,
    /// `None` if the sandbox is not on record.
    pub sandbox: Option<Recorded>,
}

impl std::fmt::Display for LogSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.config_file, self.log_name())
    }
}

impl LogSource {
    /// Finds the selected log. For a sandbox that is not on record, the state directory is
    /// searched.
    pub fn find(
        args: &LogSelectionArgs,
        record: &Record,
        places: &Places,
    ) -> Result<Self, SelectError> {
        let log_dir = places.default_log_dir();
        let console = args.console.as_ref().and_then(ConsoleChoice::name);
        match record.find(&args.selector()) {
            Ok(sandbox) => {
                Self::of(sandbox.clone(), console.cloned(), log_dir).checked(args.runs())
            }
            Err(SelectError::Unknown(selector)) => Self::left(log_dir, selector, console.cloned()),
            Err(error) => Err(error),
        }
    }

    /// The name of the log without `.log`.
    pub fn log_name(&self) -> String {
        log_name(&self.name, self.console.as_ref())
    }

    /// The log of a sandbox. The record of another program has no log directory; `otherwise` is
    /// used.
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

    /// Refuses a run that has no log. One that an earlier run of the sandbox has left is there for
    /// all of them together.
    fn checked(self, runs: Option<Runs>) -> Result<Self, SelectError> {
        let run = self.run(runs.unwrap_or(Runs::All));
        let is_off = run.and_then(|run| run.spec.as_ref()).is_some_and(|it| it.sandbox.log_off);
        let is_left = || matches!(runs, None | Some(Runs::All)) && self.reader().is_ok();
        match is_off && !is_left() {
            true => Err(SelectError::NoLog(self.to_string())),
            false => Ok(self),
        }
    }

    /// A log whose sandbox is not on record.
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

    /// The selected run, or the latest of all runs; `None` if it is not on record.
    pub fn run(&self, runs: Runs) -> Option<&Run> {
        let sandbox = self.sandbox.as_ref()?;
        match runs {
            Runs::Last | Runs::All => sandbox.latest(),
            Runs::Number(number) => sandbox.runs().iter().find(|run| run.id == Some(number)),
        }
    }

    /// Opens the log.
    pub fn reader(&self) -> Result<LogReader, ReadError> {
        self.with_format(LogReader::open(&self.log_dir, &self.config_file, &self.log_name())?)
    }

    /// As [`reader`](Self::reader), for a log that need not exist yet.
    pub fn expected_reader(&self) -> Result<LogReader, ReadError> {
        self.with_format(LogReader::expect(&self.log_dir, &self.config_file, &self.log_name())?)
    }

    fn with_format(&self, mut reader: LogReader) -> Result<LogReader, ReadError> {
        if let Some(options) = self.options() {
            reader.written_as(options.format);
        }
        Ok(reader)
    }

    /// How the log is written, if on record.
    pub fn options(&self) -> Option<LogOptions> {
        let run = self.sandbox.as_ref()?.latest()?;
        run.spec.as_ref().map(|spec| spec.sandbox.log)
    }

    /// Whether times are indexed some time after the bytes are written.
    pub fn has_late_times(&self) -> bool {
        self.options().is_none_or(|options| options.index && options.format == Format::Raw)
    }

    /// Whether the sandbox is running.
    pub fn is_running(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.running().is_some())
    }
}

fn log_name(name: &str, console: Option<&Name>) -> String {
    match console {
        Some(console) => names::further(name, console.as_str()),
        None => name.to_owned(),
    }
}

/// Whether vmon could have written a log with these names.
fn is_ours(config_file: &str, name: &str) -> bool {
    Name::new(config_file).is_ok() && Name::new(name).is_ok()
}
