//! Which log a command is about, and which runs of it: `[CONFIG/]NAME`, `--config-file`, `--run`.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use vmon::logfile::read::{Entry, LogReader, Position, ReadError, Warning};
use vmon::logfile::{Mark, Stream, Timestamp};
use vmon::registry::{Run, Status};

use super::select::{Record, Recorded, SelectError, Selector};

/// A sandbox, and which of its runs.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The sandbox, as NAME, or as CONFIG/NAME where several configs have that name
    #[arg(value_name = "NAME")]
    name: Selector,

    /// The config that has the sandbox; the same as CONFIG/NAME
    #[arg(long, value_name = "CONFIG")]
    config_file: Option<String>,

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

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum NoRun {
    #[error("it has no run {number}: 'vmon history {sandbox}' lists those on record")]
    Number { sandbox: String, number: i64 },
    #[error("it is not on record where its log lies")]
    Place,
    #[error(transparent)]
    Log(#[from] ReadError),
}

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

    /// The sandbox that is meant.
    pub fn find<'a>(&self, record: &'a Record) -> Result<&'a Recorded, SelectError> {
        record.find(&self.selector())
    }

    /// What is to be read of its log; `otherwise`: where no run is named.
    pub fn open<'a>(&self, sandbox: &'a Recorded, otherwise: Runs) -> Result<RunLog<'a>, NoRun> {
        RunLog::open(sandbox, self.run.unwrap_or(otherwise))
    }
}

/// A log, as far as it belongs to the runs that were asked for.
#[derive(Debug)]
pub struct RunLog<'a> {
    run: &'a Run,
    reader: LogReader,
    window: Window,
    /// Before the run, and behind what is known to be older.
    start: Option<Position>,
    place: Place,
    /// The bytes that were given last.
    bytes: Vec<u8>,
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

/// Where in the log we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the run. Its mark may have been rotated away, or the log has none: then times count.
    Before,
    /// The same, but that others have begun here: ours does with its mark.
    BeforeMark,
    /// In the run, until its time is over.
    Within,
    /// In the run, until another one begins.
    WithinMarks,
    /// In what was asked for, to the end.
    Everything,
    After,
}

/// What an entry is, without its bytes.
#[derive(Debug, Clone, Copy)]
enum Head {
    Bytes { time: Option<Timestamp>, stream: Option<Stream> },
    Mark { time: Timestamp, mark: Mark },
}

impl<'a> RunLog<'a> {
    /// Opens the log of `sandbox`.
    pub fn open(sandbox: &'a Recorded, runs: Runs) -> Result<Self, NoRun> {
        let run = match runs {
            Runs::Last | Runs::All => sandbox.latest().ok_or(NoRun::Place)?,
            Runs::Number(number) => {
                let run = sandbox.runs().iter().find(|run| run.id == Some(number));
                run.ok_or_else(|| NoRun::Number { sandbox: sandbox.to_string(), number })?
            }
        };
        let window = Window::of(run, sandbox.runs());
        let place = match (runs, window.from) {
            (Runs::All, _) | (_, None) => Place::Everything,
            _ => Place::Before,
        };
        let mut reader = open(run)?;
        let start = match (place, window.from) {
            (Place::Before, Some(from)) => Some(reader.find_time(from)?),
            _ => None,
        };
        if let Some(start) = start {
            reader.seek(start);
        }
        Ok(Self { run, reader, window, start, place, bytes: Vec::new(), timed: false, empty: true })
    }

    /// The run; of all runs the latest.
    pub fn run(&self) -> &'a Run {
        self.run
    }

    /// When the run was asked for, as the record has it.
    pub fn started(&self) -> Timestamp {
        self.run.started_at.map(moment).unwrap_or_default()
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

    /// What comes next; `None` at the end of what is there.
    ///
    /// What comes after all that was there before the run is taken for it, where no time is known.
    pub fn next(&mut self) -> Result<Option<Entry<'_>>, NoRun> {
        let head = loop {
            if self.place == Place::After {
                return Ok(None);
            }
            let (head, bytes) = match self.reader.next()? {
                Some(Entry::Bytes { time, stream, bytes }) => (Head::Bytes { time, stream }, bytes),
                Some(Entry::Mark { time, mark }) => (Head::Mark { time, mark }, &[][..]),
                None => match self.start.filter(|_| self.place == Place::Before && !self.timed) {
                    Some(start) => {
                        self.reader.seek(start);
                        self.place = Place::Everything;
                        continue;
                    }
                    None => return Ok(None),
                },
            };
            self.timed |= head.time().is_some();
            self.place = self.place.after(&head, &self.window);
            if self.place.is_within() {
                self.bytes.clear();
                self.bytes.extend_from_slice(bytes);
                self.empty &= bytes.is_empty();
                break head;
            }
        };
        Ok(Some(match head {
            Head::Bytes { time, stream } => Entry::Bytes { time, stream, bytes: &self.bytes },
            Head::Mark { time, mark } => Entry::Mark { time, mark },
        }))
    }
}

fn open(run: &Run) -> Result<LogReader, NoRun> {
    let spec = run.spec.as_ref().ok_or(NoRun::Place)?;
    let mut reader = LogReader::open(&spec.log_dir, &run.config_file, &run.name)?;
    if run.status == Status::Running {
        reader.written_as(spec.log.format);
    }
    Ok(reader)
}

impl Head {
    fn time(&self) -> Option<Timestamp> {
        match *self {
            Self::Bytes { time, .. } => time,
            Self::Mark { time, .. } => Some(time),
        }
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

    fn has(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= time) && self.until.is_none_or(|until| time < until)
    }
}

fn moment(time: DateTime<Utc>) -> Timestamp {
    std::time::SystemTime::from(time).into()
}

impl Place {
    fn is_within(self) -> bool {
        matches!(self, Self::Within | Self::WithinMarks | Self::Everything)
    }

    /// Where we are with this entry.
    ///
    /// Times decide only where there are no marks: a clock that was set back makes those of two
    /// runs overlap.
    fn after(self, head: &Head, window: &Window) -> Self {
        match (self, *head) {
            (Self::Everything | Self::After, _) => self,
            (Self::Before | Self::BeforeMark, Head::Mark { time, mark: Mark::Start { pid } }) => {
                if window.begins_with(time, pid) {
                    Self::WithinMarks
                } else {
                    Self::BeforeMark
                }
            }
            (Self::Within | Self::WithinMarks, Head::Mark { mark: Mark::Start { .. }, .. }) => {
                Self::After
            }
            (Self::Before, _) if head.time().is_some_and(|time| window.has(time)) => Self::Within,
            (Self::Within, _) if head.time().is_some_and(|time| !window.has(time)) => Self::After,
            (place, _) => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(seconds * 1_000_000_000)
    }

    fn bytes(seconds: u64) -> Head {
        Head::Bytes { time: Some(second(seconds)), stream: None }
    }

    fn start(seconds: u64, pid: u32) -> Head {
        Head::Mark { time: second(seconds), mark: Mark::Start { pid } }
    }

    const UNKNOWN: Head = Head::Bytes { time: None, stream: None };

    /// Which of these belong to the run with pid 7 that was started at 10, before another at 20.
    fn within(heads: &[Head]) -> Vec<bool> {
        let window = Window { from: Some(second(10)), until: Some(second(20)), pid: Some(7) };
        let mut place = Place::Before;
        let mut told = Vec::new();
        for head in heads {
            place = place.after(head, &window);
            told.push(place.is_within());
        }
        told
    }

    #[test]
    fn a_run_goes_from_its_mark_to_the_next_one() {
        let heads =
            [start(5, 6), bytes(6), start(10, 7), UNKNOWN, bytes(12), start(21, 8), bytes(22)];
        assert_eq!(within(&heads), [false, false, true, true, true, false, false]);
        // The clock was set back before the run, or in it.
        let heads = [start(5, 6), bytes(13), start(13, 7), bytes(14), bytes(30), start(30, 8)];
        assert_eq!(within(&heads), [false, false, true, true, true, false]);
        let heads = [start(5, 7), bytes(6), start(11, 7), bytes(12)];
        assert_eq!(within(&heads), [false, false, true, true]);
    }

    #[test]
    fn without_marks_times_tell_a_run() {
        let heads = [UNKNOWN, bytes(9), UNKNOWN, bytes(10), UNKNOWN, bytes(19), bytes(20), UNKNOWN];
        assert_eq!(within(&heads), [false, false, false, true, true, true, false, false]);
    }

    #[test]
    fn a_run_whose_mark_was_rotated_away_ends_with_the_next_one() {
        assert_eq!(
            within(&[bytes(11), bytes(12), start(20, 8), bytes(21)]),
            [true, true, false, false]
        );
    }

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
