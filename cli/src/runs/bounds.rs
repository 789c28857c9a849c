//! Which part of a log is meant: of which run, from when, until when.

use vmon::logfile::read::{LogReader, Position, ReadError};
use vmon::logfile::{Mark, Timestamp};
use vmon::registry::Run;

use super::place::Place;
use super::{Runs, Window};

/// A part of a log.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub start: Position,
    /// Open where more may come.
    pub end: Option<Position>,
    /// The mark of the run, which is just before the start.
    pub mark: Option<(Timestamp, Mark)>,
}

/// Why there is no such part.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    #[error("it has no run {number}: 'vmon history {place}' lists those on record")]
    NoRun { place: String, number: i64 },
    #[error("it is not on record, and its log does not tell its runs apart")]
    NoRuns,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Bounds {
    /// The part that belongs to these runs.
    pub fn of(runs: Runs, place: &Place, reader: &mut LogReader) -> Result<Self, BoundsError> {
        let run = match (place.run(runs), runs) {
            (_, Runs::All) => {
                return Ok(Self { start: reader.position(), end: None, mark: None });
            }
            (Some(run), _) => run,
            (None, Runs::Last) => return Self::last_begun(reader)?.ok_or(BoundsError::NoRuns),
            (None, Runs::Number(number)) => {
                return Err(BoundsError::NoRun { place: place.to_string(), number });
            }
        };
        let recorded = place.sandbox.as_ref();
        let others = recorded.map(|sandbox| sandbox.runs()).unwrap_or_default();
        Ok(Self::of_run(run, others, reader)?)
    }

    /// A run goes from its mark to that of its end, or of the next one. Where its mark is not to be
    /// found, because it was rotated away, or the log has none, times tell.
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
                // The latest may not be all that there is of it yet.
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

    /// What follows the last mark of a run that begins.
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

    /// Not before this time.
    pub fn since(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        self.start = self.start.max(reader.find_time(time)?);
        Ok(())
    }

    /// Only what was there before this time.
    pub fn until(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        let end = reader.find_time(time)?;
        self.end = Some(self.end.map_or(end, |own| own.min(end)));
        Ok(())
    }
}
