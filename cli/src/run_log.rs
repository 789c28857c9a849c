//! Selects a log and a part of it: `[CONFIG/]NAME`, `--config-file`, `--console` and `--run`.

mod bounds;
mod source;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use vmon::logfile::read::{Entry, LogReader, ReadError, Warning};
use vmon::logfile::{Mark, Timestamp};
use vmon::registry::Run;

use super::Failure;
use super::args::ConsoleChoice;
use super::record::{Record, Recorded, Selector};
use super::shared_args::SharedArgs;
pub use bounds::{Bounds, BoundsError};
pub use source::LogSource;

/// The arguments that select a log and its runs.
#[derive(Debug, Clone, clap::Args)]
pub struct LogSelectionArgs {
    /// Sandbox: NAME, or CONFIG/NAME if several configs have that name
    #[arg(value_name = "NAME")]
    name: Selector,

    /// Config of the sandbox; the same as CONFIG/NAME
    #[arg(long, value_name = "CONFIG")]
    config_file: Option<String>,

    /// Use the log of this console, or stdio for that of the command's own streams [default: stdio]
    #[arg(long, value_name = "CONSOLE")]
    console: Option<ConsoleChoice>,

    /// Select runs: last, all, or a number in the column RUN of 'vmon history' [default: all; last for
    /// replay, asciicast and scriptreplay]
    #[arg(long, value_name = "RUN")]
    run: Option<Runs>,
}

/// The value of --run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// The current run, or the last one.
    Last,
    /// The whole log.
    All,
    /// The run with this number in the record.
    Number(i64),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give last, all, or the number of a run that 'vmon history' lists")]
pub struct RunsError;

impl FromStr for Runs {
    type Err = RunsError;

    fn from_str(text: &str) -> Result<Self, RunsError> {
        match text {
            "last" => Ok(Self::Last),
            "all" => Ok(Self::All),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Self::Number).map_err(|_| RunsError)
            }
            _ => Err(RunsError),
        }
    }
}

impl LogSelectionArgs {
    /// The selected sandbox.
    pub fn selector(&self) -> Selector {
        match &self.config_file {
            Some(config_file) => self.name.within(config_file),
            None => self.name.clone(),
        }
    }

    /// The selected runs; `None` without --run.
    pub fn runs(&self) -> Option<Runs> {
        self.run
    }

    /// Reads the record, with the earlier runs of the selected sandbox where they are needed to tell
    /// runs apart. `otherwise` applies without --run.
    pub fn record(&self, shared: &SharedArgs, otherwise: Runs) -> Result<Record, Failure> {
        let (selector, runs) = (self.selector(), self.run.unwrap_or(otherwise));
        let is_selected = |it: &Recorded| selector.matches(&it.config_file, &it.name);
        let is_whole = |run: &Run| run.id.is_some_and(|id| runs == Runs::Number(id));
        Record::beside_log(Record::with_earlier(shared, is_selected, is_whole))
    }

    /// Opens the log. `otherwise` applies without --run.
    pub fn open(&self, source: &LogSource, otherwise: Runs) -> Result<RunLog, BoundsError> {
        RunLog::open(source, self.run.unwrap_or(otherwise))
    }
}

/// A reader of the selected part of a log.
#[derive(Debug)]
pub struct RunLog {
    reader: LogReader,
    /// The run on record; `None` if several are selected.
    pub run: Option<Run>,
    /// The start time on record of the first selected run, or zero.
    pub started: Timestamp,
    /// The run's start mark, returned first.
    mark: Option<(Timestamp, Mark)>,
    /// Whether reading ends at the next start mark.
    one_run: bool,
    /// Whether the entries read so far have any times.
    pub is_timed: bool,
    /// Whether no byte has been read so far.
    pub is_empty: bool,
}

impl RunLog {
    fn open(source: &LogSource, runs: Runs) -> Result<Self, BoundsError> {
        let mut reader = source.reader()?;
        // Output that arrives later is not read.
        let end = reader.end()?;
        let mut bounds = Bounds::of(runs, source, &mut reader)?;
        bounds.end_at(end);
        bounds.apply(&mut reader);
        let one_run = runs != Runs::All;
        let recorded = source.sandbox.as_ref().map(Recorded::runs).unwrap_or_default();
        let run = if one_run { source.run(runs) } else { recorded.last() };
        let started = run.and_then(|run| run.started_at).map(moment).unwrap_or_default();
        let run = run.filter(|_| one_run || recorded.len() == 1).cloned();
        let (is_timed, is_empty) = (bounds.mark.is_some(), true);
        Ok(Self { reader, run, started, mark: bounds.mark, one_run, is_timed, is_empty })
    }

    /// Takes the warnings since the last call.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        self.reader.take_warnings()
    }

    /// Reads the next entry; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if let Some((time, mark)) = self.mark.take() {
            return Ok(Some(Entry::Mark { time, mark }));
        }
        let entry = self.reader.next()?;
        self.is_timed |= match entry {
            Some(Entry::Bytes { time, .. }) => time.is_some(),
            Some(Entry::Mark { .. }) => true,
            None => false,
        };
        self.is_empty &= !matches!(entry, Some(Entry::Bytes { .. }));
        // The next run's start mark is where this part ends.
        let is_next = matches!(entry, Some(Entry::Mark { mark: Mark::Start { .. }, .. }));
        Ok(entry.filter(|_| !(self.one_run && is_next)))
    }
}

fn moment(time: DateTime<Utc>) -> Timestamp {
    std::time::SystemTime::from(time).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_last_all_or_a_number_on_record() {
        assert_eq!("last".parse(), Ok(Runs::Last));
        assert_eq!("all".parse(), Ok(Runs::All));
        assert_eq!("12".parse(), Ok(Runs::Number(12)));
        for text in ["", "-1", "first", "99999999999999999999", "1.5"] {
            assert_eq!(text.parse::<Runs>(), Err(RunsError), "{text:?}");
        }
    }
}
