//! Computes the part of a log that is selected by run and by time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use vmon::logfile::read::{Entry, LogReader, Position, ReadError};
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

    /// A run lasts from its start mark to its stop mark or the next start mark. Marks are in the order
    /// of the runs, so no time decides. A run without a start mark is between the marks of the runs
    /// around it; if others are there too, times tell them apart.
    fn of_run(run: &Run, others: &[Run], reader: &mut LogReader) -> Result<Self, ReadError> {
        let beginning = reader.position();
        let is_latest = others.iter().all(|other| other.id <= run.id);
        if let Some(begun) = Begun::find(run, others, beginning, reader)? {
            reader.seek(begun.at);
            let end = Self::end(run, others, reader)?;
            return Ok(Self { start: begun.at, end, mark: Some((begun.time, begun.mark)) });
        }
        reader.seek(beginning);
        let gap = Gap::read(run, others, reader)?;
        let without_mark = |start, end| Self { start, end, mark: None };
        if gap.is_closed && gap.is_of_one {
            return Ok(without_mark(gap.start, gap.end));
        }
        let window = Window::of(run, others);
        let start = window.from.map_or(Ok(gap.start), |from| gap.find_time(from, reader))?;
        if gap.is_of_one {
            return Ok(without_mark(start, gap.end));
        }
        if !has_time(start, reader)? {
            // Neither marks nor times tell the runs apart.
            let end = reader.end()?;
            return Ok(without_mark(end, (!is_latest).then_some(end)));
        }
        let until = window.until.map(|until| gap.find_time(until, reader)).transpose()?;
        Ok(without_mark(start, until.or(gap.end)))
    }

    /// The end of the run whose start mark is just before the reader. Output of the latest run may
    /// follow its stop mark. A run without a stop mark ends by time if the next one has no mark.
    fn end(
        run: &Run,
        others: &[Run],
        reader: &mut LogReader,
    ) -> Result<Option<Position>, ReadError> {
        let next = next(run, others).and_then(|next| next.id);
        let is_latest = others.iter().all(|other| other.id <= run.id);
        let mut gap = Gap::after(reader.position());
        while let Some((time, mark)) = reader.next_mark()? {
            let at = reader.position();
            match mark {
                Mark::Stop(_) if !is_latest => return Ok(Some(at)),
                Mark::Start { pid } => {
                    if begun_by(pid, time, others).and_then(|run| run.id) == next {
                        return Ok(Some(at));
                    }
                    gap.end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let until = Window::of(run, others).until;
        let until = until.map(|until| gap.find_time(until, reader)).transpose()?;
        Ok(until.or(gap.end))
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

    /// Limits the part to entries since this time. Where the clock was set back, it has earlier ones
    /// too.
    pub fn since(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        self.start = self.start.max(reader.find_time(time)?);
        Ok(())
    }

    /// Limits the part to entries before this time.
    pub fn until(&mut self, time: Timestamp, reader: &mut LogReader) -> Result<(), ReadError> {
        self.end_at(reader.find_end(time)?);
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
}

impl Window {
    /// A run lasts until the next one of the sandbox is started.
    fn of(run: &Run, runs: &[Run]) -> Self {
        let from = run.started_at.map(moment);
        let until = next(run, runs).and_then(|next| next.started_at).map(moment);
        // Not after the clock was set back.
        Self { from, until: until.filter(|until| Some(*until) >= from) }
    }
}

/// The next run that had a process.
fn next<'a>(run: &Run, runs: &'a [Run]) -> Option<&'a Run> {
    let later = runs.iter().filter(|other| other.id > run.id && other.pid.is_some());
    later.min_by_key(|other| other.id)
}

/// A start mark.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Just behind it.
    at: Position,
    time: Timestamp,
    mark: Mark,
    pid: u32,
}

/// The start mark and the recorded start are read from the same clock within this time.
const MARK_TOLERANCE: Duration = Duration::from_secs(10);

impl Begun {
    /// Finds the start mark of a run: by its time on record, or else by its pid alone.
    fn find(
        run: &Run,
        others: &[Run],
        beginning: Position,
        reader: &mut LogReader,
    ) -> Result<Option<Self>, ReadError> {
        let Some(time) = run.running_at.or(run.started_at).map(moment) else { return Ok(None) };
        if let Some(found) = Self::find_near(run, time, reader)? {
            return Ok(Some(found));
        }
        reader.seek(beginning);
        if let Some(found) = Self::nearest(run, time, reader, |_| false)? {
            return Ok(Some(found));
        }
        // An index of an earlier vmon has no times after the clock was set back.
        let shares_pid = |other: &Run| other.id != run.id && other.pid == run.pid;
        if others.iter().any(shares_pid) {
            return Ok(None);
        }
        reader.seek(beginning);
        Self::find_only_of_pid(run, reader)
    }

    /// Finds the mark where the index has the time on record.
    fn find_near(
        run: &Run,
        time: Timestamp,
        reader: &mut LogReader,
    ) -> Result<Option<Self>, ReadError> {
        let near = reader.find_time(earlier(time, MARK_TOLERANCE))?;
        reader.seek(near);
        let far = |begun: &Self| begun.time.since(time) > MARK_TOLERANCE;
        Self::nearest(run, time, reader, far)
    }

    /// Finds the mark with the run's pid; `None` if there are several.
    fn find_only_of_pid(run: &Run, reader: &mut LogReader) -> Result<Option<Self>, ReadError> {
        let mut of_pid = None;
        while let Some(begun) = Self::next(reader)? {
            if Some(begun.pid) == run.pid && of_pid.replace(begun).is_some() {
                return Ok(None);
            }
        }
        Ok(of_pid)
    }

    /// The mark of the run's pid that is nearest to the time, up to one that is too `far`.
    fn nearest(
        run: &Run,
        time: Timestamp,
        reader: &mut LogReader,
        far: impl Fn(&Self) -> bool,
    ) -> Result<Option<Self>, ReadError> {
        let mut nearest: Option<Self> = None;
        while let Some(begun) = Self::next(reader)?.filter(|begun| !far(begun)) {
            let distance = |begun: &Self| apart(begun.time, time);
            if Some(begun.pid) == run.pid
                && distance(&begun) <= MARK_TOLERANCE
                && nearest.as_ref().is_none_or(|other| distance(&begun) < distance(other))
            {
                nearest = Some(begun);
            }
        }
        Ok(nearest)
    }

    fn next(reader: &mut LogReader) -> Result<Option<Self>, ReadError> {
        while let Some((time, mark)) = reader.next_mark()? {
            if let Mark::Start { pid } = mark {
                return Ok(Some(Self { at: reader.position(), time, mark, pid }));
            }
        }
        Ok(None)
    }
}

/// The part between the marks of other runs in which a run without a start mark is.
#[derive(Debug)]
struct Gap {
    start: Position,
    end: Option<Position>,
    /// Whether no output of the run before can be in it.
    is_closed: bool,
    /// Whether no other run on record can be in it.
    is_of_one: bool,
}

impl Gap {
    fn after(start: Position) -> Self {
        Self { start, end: None, is_closed: false, is_of_one: false }
    }

    fn read(run: &Run, others: &[Run], reader: &mut LogReader) -> Result<Self, ReadError> {
        let (mut start, mut end, mut is_closed) = (reader.position(), None, false);
        let (mut after, mut before) = (None, None);
        let mut is_first = true;
        while let Some((time, mark)) = reader.next_mark()? {
            let at = reader.position();
            match mark {
                Mark::Start { pid } => {
                    let begun = begun_by(pid, time, others).and_then(|run| run.id);
                    if begun > run.id {
                        (end, before) = (Some(at), begun);
                        break;
                    }
                    (start, after, is_closed) = (at, begun, false);
                }
                Mark::Stop(_) => {
                    if is_first {
                        after = ended_at(time, others).and_then(|run| run.id);
                    }
                    if is_first && after == run.id {
                        // The start marks up to its own were rotated away.
                        let is_latest = others.iter().all(|other| other.id <= run.id);
                        let end = (!is_latest).then_some(at);
                        return Ok(Self { start, end, is_closed: true, is_of_one: true });
                    }
                    (start, is_closed) = (at, true);
                }
                _ => continue,
            }
            is_first = false;
        }
        let is_outside = |other: &Run| {
            other.id == run.id
                || other.pid.is_none()
                || other.id <= after
                || before.is_some_and(|before| other.id >= Some(before))
        };
        let is_of_one = others.iter().all(is_outside);
        Ok(Self { start, end, is_closed, is_of_one })
    }

    /// The position of a time, within the gap.
    fn find_time(&self, time: Timestamp, reader: &mut LogReader) -> Result<Position, ReadError> {
        let at = reader.find_time(time)?.max(self.start);
        Ok(self.end.map_or(at, |end| at.min(end)))
    }
}

/// The run of a start mark.
fn begun_by(pid: u32, time: Timestamp, runs: &[Run]) -> Option<&Run> {
    let of_pid: Vec<&Run> = runs.iter().filter(|run| run.pid == Some(pid)).collect();
    match of_pid.as_slice() {
        // An index of an earlier vmon has no times after the clock was set back.
        [only] => Some(only),
        several => nearest(time, several.iter().copied(), |run| run.running_at.or(run.started_at)),
    }
}

/// The run of a stop mark.
fn ended_at(time: Timestamp, runs: &[Run]) -> Option<&Run> {
    nearest(time, runs.iter(), |run| run.ended_at)
}

fn nearest<'a>(
    time: Timestamp,
    runs: impl Iterator<Item = &'a Run>,
    of: impl Fn(&Run) -> Option<DateTime<Utc>>,
) -> Option<&'a Run> {
    let distances = runs.filter_map(|run| Some((apart(moment(of(run)?), time), run)));
    let near = distances.filter(|(distance, _)| *distance <= MARK_TOLERANCE);
    near.min_by_key(|(distance, _)| *distance).map(|(_, run)| run)
}

/// Whether the bytes at this position have a time. At the end of the log there are none without.
fn has_time(position: Position, reader: &mut LogReader) -> Result<bool, ReadError> {
    reader.seek(position);
    while let Some(entry) = reader.next()? {
        if let Entry::Bytes { time, .. } = entry {
            return Ok(time.is_some());
        }
    }
    Ok(true)
}

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanoseconds(time.nanoseconds().saturating_sub(by))
}
