//! The [`Observer`] that keeps the record of one sandbox.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::connection::{self, Kept, random};
use super::error::{At, RegistryError};
use super::record::{Follow, Record, timestamp};
use super::store::{self, Stored};
use super::{Paths, Registry, spill};
use crate::monitor::{Claim, Observer, Progress, Starting, Transition};

/// How long a connection is kept for the next transition, where one is.
const LINGER: Duration = Duration::from_millis(50);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_CLAIM_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A delay up to this is no news.
const UNTOLD_DELAY: Duration = Duration::from_secs(1);
/// How long after the end it is tried to write it, before it is spilled.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records the life of one sandbox; made by [`Registry::observer`].
///
/// No call waits for a lock, and between two calls it holds no connection, with two exceptions.
/// The connection of a claim that was granted is kept for the transition that follows at once, and
/// closed with it; by one of a registry that was [opened for a start](Registry::open_for_start),
/// only when nothing else has come for 50 ms. An open connection keeps others from changing the
/// database's journal mode, and from nothing else.
///
/// - A claim is refused while the sandbox has an unfinished run whose supervisor lives, or may
///   live for all that can be told from here (another pid namespace), or is RUNNING under another
///   program whose supervisor's pid exists. What a dead supervisor left open is closed with the
///   reason `supervisor-lost`. A locked or full database is asked again; any other failure refuses.
/// - Once claimed, no failure of the database reaches the child. A delay of more than a second
///   is told in one warning, and its end in one message. After the end it is tried for five
///   seconds, then the record goes to the [spill directory](Registry::spill_dir).
/// - The claim of a child that runs already, handed over by a host, may be late too: then the
///   whole record is written at once. If the sandbox proves to be somebody else's, the record of
///   this run is given up with a warning.
/// - `Draining` is not written by itself: the end brings all that it says. A supervisor that is
///   lost while it drains leaves a run without an exit code.
#[derive(Debug)]
pub struct RegistryObserver {
    registry: Registry,
    /// For the spec of its runs.
    options: Value,
    state: State,
    /// The connection of a claim until the transition that follows it; of a registry that was
    /// opened for a start, that of any transition for a moment.
    kept: Option<Kept>,
    patience: Duration,
}

#[derive(Debug)]
enum State {
    /// No run, or one that is not ours to record.
    Idle,
    /// Nothing is written and nothing started: there is nothing to record yet.
    Claiming(Delay),
    /// The rows say what the record says.
    Written(Box<Record>),
    /// The rows are behind the record, or not there yet.
    Behind(Box<Record>, Delay),
    /// The run is over and written or spilled.
    Over { started_at: String },
}

/// How long to wait before the next attempt, and for how long it has been tried.
#[derive(Debug, Clone, Copy)]
struct Delay {
    since: Instant,
    next: Duration,
    /// Whether the delay has been told.
    told: bool,
    /// When the end was told, if it was.
    ended: Option<Instant>,
}

impl Delay {
    fn begin() -> Self {
        Self { since: Instant::now(), next: FIRST_DELAY, told: false, ended: None }
    }

    /// Warns once, of a delay that is more than supervisors getting into each other's way.
    fn tell(&mut self, registry: &Registry, record: &Record, error: &RegistryError) {
        let worth_it = !error.is_passing() || self.since.elapsed() >= UNTOLD_DELAY;
        if worth_it && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                registry = %registry.path().display(), sandbox = %record.name, %error,
                "the record is late; the sandbox goes on",
            );
        }
    }

    /// The time to wait now; the next one is twice as long.
    ///
    /// Spread over the upper half of it: fifty supervisors that failed at the same time would
    /// otherwise fail together again.
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
        Self { registry, options, state: State::Idle, kept: None, patience: PATIENCE }
    }

    /// What the starting program wants to find in [`Spec::options`](super::Spec::options) of the
    /// runs: whatever of its own it needs to start the same again. Never values of the
    /// environment, which holds secrets.
    #[must_use]
    pub fn options(mut self, options: Value) -> Self {
        self.options = options;
        self
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Idle)
    }

    /// Tries once to bring the rows up to `record`; with a `delay` when they were behind already.
    fn bring_up(&mut self, record: Box<Record>, delay: Option<Delay>) -> Progress {
        match store(&self.registry, &record, self.kept.take()) {
            Ok((Stored::Row(row), kept)) => {
                self.kept = Some(kept).filter(|_| self.registry.lingers() && !record.is_over());
                self.written(record, row, delay);
                self.linger()
            }
            Ok((Stored::Taken { supervisor }, _)) => {
                tracing::warn!(
                    sandbox = %record.name, config = %record.config_file, supervisor,
                    "another supervisor has this name: this run is left out of the registry",
                );
                Progress::Done
            }
            Err(error) => self.fall_behind(record, delay, &error),
        }
    }

    /// Keeps a connection that is open for a moment, in which the next transition may come.
    fn linger(&self) -> Progress {
        self.kept.as_ref().map_or(Progress::Done, |_| Progress::Later(LINGER))
    }

    fn written(&mut self, mut record: Box<Record>, row: i64, delay: Option<Delay>) {
        if delay.is_some_and(|delay| delay.told) {
            tracing::info!(
                registry = %self.registry.path().display(), sandbox = %record.name,
                "the record is up to date again",
            );
        }
        record.row = Some(row);
        self.state = match record.ending() {
            Some(_) => State::Over { started_at: record.started_at },
            None => State::Written(record),
        };
    }

    /// What to do about rows that could not be written: wait, or spill an end that has waited.
    fn fall_behind(
        &mut self,
        record: Box<Record>,
        delay: Option<Delay>,
        error: &RegistryError,
    ) -> Progress {
        let mut delay = delay.unwrap_or_else(Delay::begin);
        delay.tell(&self.registry, &record, error);
        let mut next = delay.step(LONGEST_DELAY);
        if record.ending().is_some() {
            let waited = delay.ended.get_or_insert_with(Instant::now).elapsed();
            if waited >= self.patience {
                self.spill(record, error);
                return Progress::Done;
            }
            next = next.min(self.patience - waited);
        }
        self.state = State::Behind(record, delay);
        Progress::Later(next)
    }

    fn spill(&mut self, record: Box<Record>, error: &RegistryError) {
        let Paths { db, spill } = &*self.registry.paths;
        match spill::write(spill, db, &record) {
            Ok(path) => tracing::warn!(
                path = %path.display(), sandbox = %record.name, %error,
                "the end is spilled, for the next command that reads the registry",
            ),
            Err(spilling) => tracing::error!(
                directory = %spill.display(), sandbox = %record.name, %error, %spilling,
                "the end of this run is lost: neither the registry nor a file could be written",
            ),
        }
        self.state = State::Over { started_at: record.started_at };
    }

    /// What a claim that could not be written answers.
    fn claim_later(
        &mut self,
        starting: &Starting<'_>,
        record: Box<Record>,
        mut delay: Delay,
        error: RegistryError,
    ) -> Claim {
        // A child that was handed over runs already, so its record is kept whatever is wrong.
        let runs = starting.command.is_none();
        if !runs && !error.is_passing() {
            return Claim::Refused(error.into());
        }
        let next = delay.step(LONGEST_CLAIM_DELAY);
        self.state = if runs { State::Behind(record, delay) } else { State::Claiming(delay) };
        Claim::Later(next, error.into())
    }
}

/// Makes the one transaction that brings the rows up to `record`. A claim first takes in what was
/// spilled: the last run of its sandbox may be there.
fn store(
    registry: &Registry,
    record: &Record,
    kept: Option<Kept>,
) -> Result<(Stored, Kept), RegistryError> {
    let Paths { db, spill } = &*registry.paths;
    let spilled = if record.row.is_none() { spill::read(spill, db) } else { Vec::new() };
    let stored = connection::write_kept(db, Duration::ZERO, kept, |tx| {
        spill::take_in(tx, &spilled)?;
        Ok(store::store(tx, record)?)
    })
    .at(db)?;
    spill::remove(&spilled);
    Ok(stored)
}

impl Observer for RegistryObserver {
    fn claim(&mut self, starting: &Starting<'_>) -> Claim {
        let (record, delay) = match self.take_state() {
            // A transition of a child that was handed over has written the claim meanwhile.
            State::Written(record) if record.is_of(starting) => {
                self.state = State::Written(record);
                return Claim::Granted;
            }
            State::Over { started_at } if started_at == timestamp(starting.at) => {
                self.state = State::Over { started_at };
                return Claim::Granted;
            }
            State::Behind(record, delay) if record.is_of(starting) => (record, Some(delay)),
            State::Claiming(delay) => (Box::new(Record::new(starting, &self.options)), Some(delay)),
            _ => (Box::new(Record::new(starting, &self.options)), None),
        };
        match store(&self.registry, &record, self.registry.take_first()) {
            Ok((Stored::Row(row), kept)) => {
                self.kept = Some(kept);
                self.written(record, row, delay);
                Claim::Granted
            }
            Ok((Stored::Taken { supervisor }, kept)) => {
                self.registry.give_back_first(kept);
                Claim::Taken { supervisor }
            }
            Err(error) => {
                let mut delay = delay.unwrap_or_else(Delay::begin);
                if starting.command.is_none() {
                    delay.tell(&self.registry, &record, &error);
                }
                self.claim_later(starting, record, delay, error)
            }
        }
    }

    fn transition(&mut self, transition: &Transition) -> Progress {
        let (mut record, delay) = match self.take_state() {
            State::Written(record) => (record, None),
            State::Behind(record, delay) => (record, Some(delay)),
            // Refused, taken by another or given up: there is no record to follow.
            state @ (State::Idle | State::Claiming(_) | State::Over { .. }) => {
                self.state = state;
                return Progress::Done;
            }
        };
        if record.apply(transition) == Follow::Later && delay.is_none() {
            self.state = State::Written(record);
            return self.linger();
        }
        self.bring_up(record, delay)
    }

    fn retry(&mut self) -> Progress {
        match self.take_state() {
            State::Behind(record, delay) => self.bring_up(record, Some(delay)),
            state => {
                self.state = state;
                // Nothing has come for a moment.
                self.kept = None;
                Progress::Done
            }
        }
    }
}

#[cfg(test)]
mod tests;
