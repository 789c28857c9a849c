//! Which log a command is about, and which runs of it: `[CONFIG/]NAME`, `--config-file`, `--run`.

mod bounds;
mod place;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use vmon::logfile::read::{Entry, LogReader, ReadError, Warning};
use vmon::logfile::{Mark, Timestamp};
use vmon::registry::Run;

use super::args::ConsoleChoice;
use super::select::{Recorded, Selector};
pub use bounds::{Bounds, BoundsError};
pub use place::Place;

/// A sandbox, and which of its runs.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The sandbox, as NAME, or as CONFIG/NAME where several configs have that name
    #[arg(value_name = "NAME")]
    name: Selector,

    /// The config that has the sandbox; the same as CONFIG/NAME
    #[arg(long, value_name = "CONFIG")]
    config_file: Option<String>,

    /// The log of this console, instead of that of the sandbox's own streams, which is stdio's
    #[arg(long, value_name = "CONSOLE")]
    console: Option<ConsoleChoice>,

    /// Which run: last, all, or its number in 'vmon history'
    #[arg(long, value_name = "RUN")]
    run: Option<Runs>,
}

/// Which runs of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// The one that goes on, or was the last.
    Last,
    /// Everything that is left of the log.
    All,
    /// The one with this number in the record.
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

impl RunArgs {
    /// What is named.
    pub fn selector(&self) -> Selector {
        match &self.config_file {
            Some(config_file) => self.name.within(config_file),
            None => self.name.clone(),
        }
    }

    /// Which runs are; `None` where none is.
    pub fn runs(&self) -> Option<Runs> {
        self.run
    }

    /// What is to be read of a log; `otherwise`: where no run is named.
    pub fn open(&self, place: &Place, otherwise: Runs) -> Result<RunLog, BoundsError> {
        RunLog::open(place, self.run.unwrap_or(otherwise))
    }
}

/// What there is of a log, as far as it belongs to the runs that were asked for.
#[derive(Debug)]
pub struct RunLog {
    reader: LogReader,
    run: Option<Run>,
    started: Timestamp,
    /// What it begins with, until that is given.
    mark: Option<(Timestamp, Mark)>,
    /// What comes behind the next run's mark is no part of it.
    one_run: bool,
    timed: bool,
    empty: bool,
}

/// From when to when something goes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pid: Option<u32>,
}

impl RunLog {
    fn open(place: &Place, runs: Runs) -> Result<Self, BoundsError> {
        let mut reader = LogReader::open(&place.log_dir, &place.config_file, &place.log_name())?;
        if let Some(options) = place.options() {
            reader.written_as(options.format);
        }
        // What comes later is another play's.
        let end = reader.end()?;
        let bounds = Bounds::of(runs, place, &mut reader)?;
        reader.stop_at(bounds.end.map_or(end, |own| own.min(end)));
        reader.seek(bounds.start);
        let one_run = runs != Runs::All;
        let recorded = place.sandbox.as_ref().map(Recorded::runs).unwrap_or_default();
        let run = if one_run { place.run(runs) } else { recorded.last() };
        let started = run.and_then(|run| run.started_at).map(moment).unwrap_or_default();
        let run = run.filter(|_| one_run || recorded.len() == 1).cloned();
        let (timed, empty) = (bounds.mark.is_some(), true);
        Ok(Self { reader, run, started, mark: bounds.mark, one_run, timed, empty })
    }

    /// The run, as the record has it; of several there is no one.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// When the first of the runs was asked for, as far as that is known.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// Whether no byte has been given.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether the log tells any times, as far as it was read.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// What has turned up since this was last called.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        self.reader.take_warnings()
    }

    /// What comes next; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if let Some((time, mark)) = self.mark.take() {
            return Ok(Some(Entry::Mark { time, mark }));
        }
        let entry = self.reader.next()?;
        self.timed |= match entry {
            Some(Entry::Bytes { time, .. }) => time.is_some(),
            Some(Entry::Mark { .. }) => true,
            None => false,
        };
        self.empty &= !matches!(entry, Some(Entry::Bytes { .. }));
        // It is where the next one begins, but belongs to that.
        let is_next = matches!(entry, Some(Entry::Mark { mark: Mark::Start { .. }, .. }));
        Ok(entry.filter(|_| !(self.one_run && is_next)))
    }
}

impl Window {
    /// A run goes on until the next one of the sandbox is started.
    pub fn of(run: &Run, runs: &[Run]) -> Self {
        let later = runs.iter().filter(|other| other.id > run.id);
        let until = later.filter_map(|other| other.started_at).min();
        Self { from: run.started_at.map(moment), until: until.map(moment), pid: run.pid }
    }

    pub fn begins_with(&self, time: Timestamp, pid: u32) -> bool {
        self.pid.is_none_or(|own| own == pid) && self.from.is_none_or(|from| from <= time)
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
