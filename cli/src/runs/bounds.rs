//! Computes the part of a log that is selected by run and by time.

use vmon::logfile::read::{LogReader, Position, ReadError};
use vmon::logfile::{Mark, Timestamp};
use vmon::registry::Run;

use super::source::LogSource;
use super::{Runs, moment};

/// A part of a log.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub start: Position,
    /// `None` if the part can still grow.
    pub end: Option<Position>,
    /// The run's start mark, just before `start`.
    pub mark: Option<(Timestamp, Mark)>,
}

/// Why there is no such part.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    #[error("it has no run {number}: 'vmon history {log}' lists those on record")]
    NoRun { log: String, number: i64 },
    #[error("it is not on record, and its log has no marks of runs")]
    NoRuns,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Bounds {
    /// The part of these runs.
    pub fn of(runs: Runs, source: &LogSource, reader: &mut LogReader) -> Result<Self, BoundsError> {
        let run = match (source.run(runs), runs) {
            (_, Runs::All) => {
                return Ok(Self { start: reader.position(), end: None, mark: None });
            }
            (Some(run), _) => run,
            (None, Runs::Last) => return Self::last_begun(reader)?.ok_or(BoundsError::NoRuns),
            (None, Runs::Number(number)) => {
                return Err(BoundsError::NoRun { log: source.to_string(), number });
            }
        };
        let recorded = source.sandbox.as_ref();
        let others = recorded.map(|sandbox| sandbox.runs()).unwrap_or_default();
        Ok(Self::of_run(run, others, reader)?)
    }

    /// A run lasts from its start mark to its stop mark or the next start mark. If its start mark
    /// was rotated away or the log has no marks, the times on record are used.
    fn of_run(run: &Run, others: &[Run], reader: &mut LogReader) -> Result<Self, ReadError> {
        let window = Window::of(run, others);
        let Some(from) = window.from else {
            return Ok(Self { start: reader.position(), end: None, mark: None });
        };
        let from = reader.find_time(from)?;
        reader.seek(from);
        let mut begun = None;
        while let Some((time, mark)) = reader.next_mark()? {
            match (mark, begun) {
                // Output of the latest run may follow its stop mark.
                (Mark::Stop(_), Some(_)) if window.until.is_none() => {}
                (Mark::Start { .. } | Mark::Stop(_), Some((start, mark))) => {
                    let end = Some(reader.position());
                    return Ok(Self { start, end, mark: Some(mark) });
                }
                (Mark::Start { pid }, None) if window.begins_with(time, pid) => {
                    begun = Some((reader.position(), (time, mark)));
                }
                (Mark::Start { .. }, None) if window.until.is_some_and(|until| until <= time) => {
                    break;
                }
                _ => {}
            }
        }
        let end = match (begun, window.until) {
            (None, Some(until)) => Some(reader.find_time(until)?),
            _ => None,
        };
        let (start, mark) = begun.unzip();
        Ok(Self { start: start.unwrap_or(from), end, mark })
    }

    /// The part after the last start mark.
    fn last_begun(reader: &mut LogReader) -> Result<Option<Self>, ReadError> {
        let mut last = None;
        while let Some((time, mark)) = reader.next_mark()? {
            if let Mark::Start { .. } = mark {
                let mark = Some((time, mark));
                last = Some(Self { start: reader.position(), end: None, mark });
            }
        }
        Ok(last)
    }

    /// Limits the part to entries since this time.
    pub fn since(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        self.start = self.start.max(reader.find_time(time)?);
        Ok(())
    }

    /// Limits the part to entries before this time.
    pub fn until(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        self.end_at(reader.find_time(time)?);
        Ok(())
    }

    /// Limits the part to what is before this position.
    pub fn end_at(&mut self, end: Position) {
        self.end = Some(self.end.map_or(end, |own| own.min(end)));
    }

    /// Restricts a reader to the part.
    pub fn apply(&self, reader: &mut LogReader) {
        if let Some(end) = self.end {
            reader.stop_at(end);
        }
        reader.seek(self.start);
    }
}

/// The time of a run.
struct Window {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    pid: Option<u32>,
}

impl Window {
    /// A run lasts until the next one of the sandbox is started.
    fn of(run: &Run, runs: &[Run]) -> Self {
        let later = runs.iter().filter(|other| other.id > run.id);
        let until = later.filter_map(|other| other.started_at).min();
        Self { from: run.started_at.map(moment), until: until.map(moment), pid: run.pid }
    }

    fn begins_with(&self, time: Timestamp, pid: u32) -> bool {
        self.pid.is_none_or(|own| own == pid) && self.from.is_none_or(|from| from <= time)
    }
}
