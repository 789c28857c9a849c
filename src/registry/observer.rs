//! The [`Observer`] that records one sandbox.

mod earlier;

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::connection::{self, Kept, random};
use super::error::{At, RegistryError};
use super::lost::{LostRun, sweep};
use super::record::{Follow, Record};
use super::spool::{self, Reserve};
use super::store::{self, Stored};
use super::{Paths, Registry};
use crate::monitor::{Claim, Observer, Progress, Starting, Transition, Wait, WaitKind};
use crate::timestamp::rfc3339;
use earlier::{Earlier, spool_last, spool_record};

/// How long an open connection waits for the next transition, where connections are kept, and a
/// run until room for its end is reserved.
const KEEP_CONNECTION: Duration = Duration::from_millis(50);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_CLAIM_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A shorter delay of the record is not reported.
const UNREPORTED_DELAY: Duration = Duration::from_secs(1);
/// How long after the end of a run writing it is retried before it is spooled.
const SPOOL_AFTER: Duration = Duration::from_secs(5);

/// Records the runs of one sandbox; created by [`Registry::observer`].
///
/// No call waits for a lock, and between two calls no connection is open, with two exceptions. The
/// connection of a granted claim stays open for the transition that follows at once and is closed
/// with it. A registry that was [opened for a start](Registry::open_for_start) closes it after 50
/// ms without a transition, and one that [keeps its connection](Registry::keep_connection) lends it
/// for each call. The only effect of an open connection on other programs is that they
/// can't change the journal mode of the database.
///
/// - A claim is refused while the sandbox has an unfinished run whose supervisor lives, or may live
///   where that can't be checked, such as on another machine, or is RUNNING under another program
///   whose supervisor's pid exists.
///   Runs that a dead supervisor left open are closed with the reason `supervisor-lost`, once the
///   remaining processes of their session or cgroup have been killed and have ended. Until then,
///   and while the database is locked or full, the claim is retried; any other failure refuses it.
/// - After the claim, no failure of the database affects the child. A delay of more than a second
///   is reported in one warning, and its end in one message. After the end of the run, writing is
///   retried for five seconds, then the record goes to the [spool directory](Registry::spool_dir).
/// - 50 ms after the child runs, room for the end is reserved in the spool directory: a file of
///   usually 8 KiB, which is removed at the end. If the database has no room for the end, it is
///   written there at once.
/// - The claim of a child that is already running, handed over by a host, may be late too: then the
///   whole record is written at once. If another supervisor has the name, this run is not recorded,
///   with a warning.
/// - The claim of a restarted command closes the previous run and adds its own in one transaction:
///   the name is never free in between. While that can't be written, the end of the previous run is
///   retried with it, and goes to a file after five seconds as well, or is among the last 16 that
///   wait for what is reserved.
/// - `Draining` is written if the end has not followed within 50 ms: a supervisor that is lost
///   while it drains for longer leaves a run with its exit code.
#[derive(Debug)]
pub struct RegistryObserver {
    registry: Registry,
    /// Stored in the spec of its runs.
    options: Value,
    state: State,
    /// Ends of earlier runs that are not written yet.
    earlier: Earlier,
    /// The connection of a claim until the next transition; with `open_for_start`, that of any
    /// transition for a moment.
    kept: Option<Kept>,
    spool_after: Duration,
    /// Room for the end of the current or the last run, on a disk that is full by then. It is made
    /// when no transition has come for a moment: a shorter run does without.
    reserve: Option<Reserve>,
    /// Why the record is late, and since when.
    late: Option<Box<(String, Instant)>>,
}

#[derive(Debug)]
enum State {
    /// No run, or a run that is not recorded.
    Idle,
    /// A claim is being retried; nothing is started.
    Claiming(Delay),
    /// The rows match the record.
    Written(Box<Record>),
    /// The rows are older than the record, or missing.
    Pending(Box<Record>, Delay),
    /// The run is over, and written or spooled.
    Over { started_at: String },
}

/// The back-off of retries.
#[derive(Debug, Clone, Copy)]
struct Delay {
    since: Instant,
    next: Duration,
    /// Whether a warning has reported the delay.
    reported: bool,
    /// When the end of the run was first observed.
    ended: Option<Instant>,
    /// Whether the end, which another run follows, is in a file.
    spooled: bool,
}

impl Delay {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            next: FIRST_DELAY,
            reported: false,
            ended: None,
            spooled: false,
        }
    }

    /// Logs one warning, for a delay that is longer than contention between supervisors explains.
    fn report(&mut self, registry: &Registry, error: &RegistryError) {
        let is_reportable = !error.is_passing() || self.since.elapsed() >= UNREPORTED_DELAY;
        if is_reportable && !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(
                registry = %registry.path().display(), %error,
                "the record is late; the sandbox keeps running",
            );
        }
    }

    /// Returns the time to wait now and doubles the next one.
    ///
    /// Random within the upper half: otherwise fifty supervisors that failed at the same time would
    /// all retry at the same time.
    fn step(&mut self, longest: Duration) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(longest);
        let spread = u32::try_from(random() % 1024).unwrap_or(0);
        delay / 2 + delay / 2 * spread / 1024
    }
}

impl RegistryObserver {
    pub(super) fn new(registry: Registry) -> Self {
        let options = Value::Null;
        let (state, earlier) = (State::Idle, Earlier::default());
        let spool_after = SPOOL_AFTER;
        Self {
            registry,
            options,
            state,
            earlier,
            kept: None,
            spool_after,
            reserve: None,
            late: None,
        }
    }

    /// Sets [`Spec::options`](crate::monitor::codec::Spec::options) of the runs: data of the starting program, for
    /// example what it needs to restart the sandbox. Must not contain values of the environment,
    /// which holds secrets.
    #[must_use]
    pub fn options(mut self, options: Value) -> Self {
        self.options = options;
        self
    }

    fn new_record(&self, starting: &Starting<'_>) -> Box<Record> {
        Box::new(Record::new(starting, &self.options, &self.registry.paths.state))
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Idle)
    }

    /// Tries once to write `record`; `delay` is the back-off of earlier attempts.
    fn update(&mut self, record: Box<Record>, delay: Option<Delay>) -> Progress {
        let kept = self.take_connection();
        match self.store(&record, kept) {
            Ok((Written::Row(row), kept)) => {
                let keeps = self.registry.keeps_connection() && !record.is_over();
                self.kept = self.registry.after_use(kept).filter(|_| keeps);
                self.written(record, row, delay);
                self.after_transition()
            }
            Ok((Written::Taken { supervisor }, _)) => {
                tracing::warn!(
                    supervisor,
                    "another supervisor has this name; this run is not recorded",
                );
                Progress::Done
            }
            Ok((Written::Held { reason }, _)) => {
                tracing::warn!(
                    "the name is on record as running {reason}; this run is not recorded"
                );
                Progress::Done
            }
            Err(error) => self.retry_later(record, delay, &error),
        }
    }

    fn take_connection(&mut self) -> Option<Kept> {
        self.kept.take().or_else(|| self.registry.take_connection())
    }

    /// Waits for a moment, in which the next transition may come: then an open connection is closed,
    /// and room for the end is reserved.
    fn after_transition(&self) -> Progress {
        let reserves = self.reserve.is_none() && matches!(self.state, State::Written(_));
        match self.kept.is_some() || reserves {
            true => Progress::Later(KEEP_CONNECTION),
            false => Progress::Done,
        }
    }

    /// Reserves room for the end of this run, unless there is none: then the end needs some later.
    fn reserve(&mut self) {
        if let State::Written(record) = &self.state
            && self.reserve.is_none()
        {
            let Paths { db, state } = &*self.registry.paths;
            let spool = &state.spool;
            let failed = |error: &io::Error| {
                tracing::debug!(directory = %spool.display(), %error, "nothing is reserved");
            };
            self.reserve = spool::reserve(spool, db, record).inspect_err(failed).ok();
        }
    }

    fn written(&mut self, mut record: Box<Record>, row: i64, delay: Option<Delay>) {
        if delay.is_some_and(|delay| delay.reported) {
            tracing::info!(
                registry = %self.registry.path().display(),
                "the record is up to date again",
            );
        }
        record.row = Some(row);
        self.late = None;
        self.state = match record.is_over() {
            true => {
                self.reserve = None;
                State::Over { started_at: record.started_at }
            }
            false => State::Written(record),
        };
    }

    /// Reports a delay that is longer than contention explains: in a warning, and as what the
    /// sandbox waits for.
    fn note_late(&mut self, delay: &mut Delay, error: &RegistryError) {
        delay.report(&self.registry, error);
        if delay.reported {
            self.late = Some(Box::new((error.to_string(), delay.since)));
        }
    }

    /// Schedules a retry, or spools an end that has waited long enough.
    fn retry_later(
        &mut self,
        record: Box<Record>,
        delay: Option<Delay>,
        error: &RegistryError,
    ) -> Progress {
        let mut delay = delay.unwrap_or_else(Delay::begin);
        self.note_late(&mut delay, error);
        let mut next = delay.step(LONGEST_DELAY);
        self.earlier.spool_after(self.spool_after, &self.registry);
        if record.ending().is_some() {
            let waited = delay.ended.get_or_insert_with(Instant::now).elapsed();
            // On a full disk there is room for it in what is reserved only.
            let is_full = matches!(error, RegistryError::Full { .. });
            let is_reserved = is_full && record.is_over() && self.reserve.is_some();
            match waited >= self.spool_after || is_reserved {
                true if record.is_over() => {
                    self.give_up(record, error);
                    return Progress::Done;
                }
                // Retries go on: only this supervisor closes the run while it lives.
                true => {
                    delay.spooled =
                        delay.spooled || spool_record(&self.registry, &record, Some(error));
                }
                false => next = next.min(self.spool_after - waited),
            }
        }
        self.state = State::Pending(record, delay);
        Progress::Later(next)
    }

    /// Spools the end and those before it, for the next command.
    fn give_up(&mut self, record: Box<Record>, error: &RegistryError) {
        self.late = None;
        self.spool_last(Some(&record), Some(error));
        self.state = State::Over { started_at: record.started_at };
    }

    /// Spools the ends of earlier runs that are in no file, and that of the last run.
    fn spool_last(&mut self, record: Option<&Record>, error: Option<&RegistryError>) {
        let records: Vec<&Record> = self.earlier.unspooled().chain(record).collect();
        spool_last(&self.registry, &records, error, self.reserve.take());
        self.earlier.clear();
    }

    /// Keeps the end of the previous run for the transaction that adds the next run.
    fn keep_earlier(&mut self, state: State) {
        let (record, spooled) = match state {
            State::Written(record) => (record, false),
            State::Pending(record, delay) => (record, delay.spooled),
            State::Idle | State::Claiming(_) | State::Over { .. } => return,
        };
        if record.ending().is_some() {
            self.earlier.push(record, spooled, &self.registry);
        }
    }

    /// The result of a claim that could not be written.
    fn claim_later(
        &mut self,
        starting: &Starting<'_>,
        record: Box<Record>,
        mut delay: Delay,
        error: RegistryError,
    ) -> Claim {
        let runs = runs_regardless(starting);
        if !runs && !error.is_passing() {
            return Claim::Refused(error.into());
        }
        let next = delay.step(LONGEST_CLAIM_DELAY);
        self.state = if runs { State::Pending(record, delay) } else { State::Claiming(delay) };
        Claim::Later(next, error.into())
    }
}

impl Drop for RegistryObserver {
    /// An end that could not be written yet goes to the spool directory, for the next command.
    fn drop(&mut self) {
        let last = match self.take_state() {
            State::Pending(record, delay) if record.is_over() && !delay.spooled => Some(record),
            _ => None,
        };
        self.spool_last(last.as_deref(), None);
    }
}

/// Whether the child runs whatever the result of the claim, so that a failed claim is retried: a
/// child that was handed over is already running, and a restarted command has the name.
fn runs_regardless(starting: &Starting<'_>) -> bool {
    starting.command.is_none() || starting.restarts > 0
}

/// The result of a write to the database.
enum Written {
    Row(i64),
    Taken { supervisor: u32 },
    Held { reason: String },
}

impl RegistryObserver {
    /// Writes `record`, after the remaining processes of lost runs of the sandbox have been ended.
    /// On success the ends of earlier runs are written too.
    fn store(
        &mut self,
        record: &Record,
        mut kept: Option<Kept>,
    ) -> Result<(Written, Kept), RegistryError> {
        let mut cleared = Vec::new();
        loop {
            let (stored, now) = self.store_once(record, kept, &cleared)?;
            let written = match stored {
                Stored::Row(row) => Written::Row(row),
                Stored::Taken { supervisor } => Written::Taken { supervisor },
                Stored::Held { reason } => Written::Held { reason },
                Stored::Lost { runs, open } => {
                    self.registry.check_trust()?;
                    now.check_trust().at(&self.registry.paths.db)?;
                    // Each iteration clears at least one more run, or returns.
                    for run in &runs {
                        if let Some(reason) = LostRun::end_all(run, &open) {
                            let (config_file, name) = (run.config_file.clone(), run.name.clone());
                            return Err(RegistryError::Leftovers { config_file, name, reason });
                        }
                        sweep(run, &self.registry.paths.state.spool);
                    }
                    cleared.extend(runs.iter().filter_map(|run| run.id));
                    kept = Some(now);
                    continue;
                }
            };
            self.earlier.clear();
            return Ok((written, now));
        }
    }

    /// Runs one transaction. A claim first imports spooled ends: the last run of its sandbox may be
    /// there.
    fn store_once(
        &self,
        record: &Record,
        kept: Option<Kept>,
        cleared: &[i64],
    ) -> Result<(Stored, Kept), RegistryError> {
        let db = &self.registry.paths.db;
        let spooled = if record.row.is_none() { self.registry.spooled() } else { Vec::new() };
        let stored = connection::write_kept(db, Duration::ZERO, kept, |tx| {
            spool::import(tx, &spooled)?;
            for ended in self.earlier.records() {
                store::store(tx, ended, &[])?;
            }
            Ok(store::store(tx, record, cleared)?)
        })
        .at(db)?;
        spool::remove(&spooled);
        Ok(stored)
    }
}

impl Observer for RegistryObserver {
    fn claim(&mut self, starting: &Starting<'_>) -> Claim {
        let (record, delay) = match self.take_state() {
            // A transition of a child that was handed over has written the claim meanwhile.
            State::Written(record) if record.is_of(starting) => {
                self.state = State::Written(record);
                return Claim::Granted;
            }
            State::Over { started_at } if started_at == rfc3339(starting.at) => {
                self.state = State::Over { started_at };
                return Claim::Granted;
            }
            State::Pending(record, delay) if record.is_of(starting) => (record, Some(delay)),
            state if starting.restarts > 0 => {
                self.keep_earlier(state);
                (self.new_record(starting), None)
            }
            State::Claiming(delay) => (self.new_record(starting), Some(delay)),
            _ => (self.new_record(starting), None),
        };
        let kept = self.take_connection();
        match self.store(&record, kept) {
            Ok((Written::Row(row), kept)) => {
                self.kept = self.registry.after_use(kept);
                self.written(record, row, delay);
                Claim::Granted
            }
            Ok((Written::Taken { supervisor }, kept)) => {
                self.registry.give_back(kept);
                Claim::Taken { supervisor }
            }
            Ok((Written::Held { reason }, kept)) => {
                self.registry.give_back(kept);
                Claim::Held { reason }
            }
            Err(error) => {
                let mut delay = delay.unwrap_or_else(Delay::begin);
                if runs_regardless(starting) {
                    self.note_late(&mut delay, &error);
                }
                self.claim_later(starting, record, delay, error)
            }
        }
    }

    fn transition(&mut self, transition: &Transition) -> Progress {
        let (mut record, delay) = match self.take_state() {
            State::Written(record) => (record, None),
            State::Pending(record, delay) => (record, Some(delay)),
            // Refused, taken by another supervisor, or given up: there is no record.
            state @ (State::Idle | State::Claiming(_) | State::Over { .. }) => {
                self.state = state;
                return Progress::Done;
            }
        };
        if record.apply(transition) == Follow::Later && delay.is_none() {
            self.state = State::Pending(record, Delay::begin());
            return Progress::Later(FIRST_DELAY);
        }
        self.update(record, delay)
    }

    fn retry(&mut self) -> Progress {
        match self.take_state() {
            State::Pending(record, delay) => self.update(record, Some(delay)),
            state => {
                self.state = state;
                // No transition has come for a moment.
                self.kept = None;
                self.reserve();
                Progress::Done
            }
        }
    }

    fn waits_for(&self) -> Option<Wait> {
        let (reason, since) = &**self.late.as_ref()?;
        Some(Wait::new(WaitKind::Record, reason.as_str(), *since))
    }
}

#[cfg(test)]
mod tests;
