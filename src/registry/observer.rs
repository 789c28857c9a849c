//! The [`Observer`] that keeps the record of one sandbox.

mod earlier;

use std::time::{Duration, Instant};

use serde_json::Value;

use super::connection::{self, Kept, random};
use super::error::{At, RegistryError};
use super::lost::{LostRun, sweep};
use super::read::Run;
use super::record::{Follow, Record};
use super::store::{self, Stored};
use super::{Registry, spool};
use crate::child::lost::Leftovers;
use crate::monitor::{Claim, Observer, Progress, Starting, Transition};
use crate::timestamp::rfc3339;
use earlier::{Earlier, spool_record};

/// How long a connection is kept for the next transition, where one is.
const LINGER: Duration = Duration::from_millis(50);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_CLAIM_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// A delay up to this is no news.
const UNTOLD_DELAY: Duration = Duration::from_secs(1);
/// How long after the end it is tried to write it, before it is spooled.
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
///   reason `supervisor-lost`, once what is left of its child's session or cgroup has been killed
///   and is gone. Until then, as while the database is locked or full, the claim is asked again;
///   any other failure refuses.
/// - Once claimed, no failure of the database reaches the child. A delay of more than a second
///   is told in one warning, and its end in one message. After the end it is tried for five
///   seconds, then the record goes to the [spool directory](Registry::spool_dir).
/// - The claim of a child that runs already, handed over by a host, may be late too: then the
///   whole record is written at once. If the sandbox proves to be somebody else's, the record of
///   this run is given up with a warning.
/// - The claim of a command that is started again closes the run before it and adds its own in one
///   transaction: the name is never free in between. Where that can't be written it is late, and
///   the end of the earlier run waits with it, for five seconds, and then in a file as well.
/// - `Draining` is written when the end has not followed within 50 ms: a supervisor that is lost
///   while it drains for longer leaves a run with its exit code.
#[derive(Debug)]
pub struct RegistryObserver {
    registry: Registry,
    /// For the spec of its runs.
    options: Value,
    state: State,
    /// What is still to be written of runs before this one.
    earlier: Earlier,
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
    /// The run is over and written or spooled.
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
    /// Whether a file has the end of a run that another one follows.
    spooled: bool,
}

impl Delay {
    fn begin() -> Self {
        Self { since: Instant::now(), next: FIRST_DELAY, told: false, ended: None, spooled: false }
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
        let (state, earlier) = (State::Idle, Earlier::default());
        Self { registry, options, state, earlier, kept: None, patience: PATIENCE }
    }

    /// What the starting program wants to find in
    /// [`Spec::options`](crate::monitor::codec::Spec::options) of the runs: whatever of its own it needs to start the same again. Never values of the
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
        let kept = self.kept.take();
        match self.store(&record, kept) {
            Ok((Fate::Row(row), kept)) => {
                self.kept = Some(kept).filter(|_| self.registry.lingers() && !record.is_over());
                self.written(record, row, delay);
                self.linger()
            }
            Ok((Fate::Taken { supervisor }, _)) => {
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
        self.state = match record.is_over() {
            true => State::Over { started_at: record.started_at },
            false => State::Written(record),
        };
    }

    /// What to do about rows that could not be written: wait, or spool an end that has waited.
    fn fall_behind(
        &mut self,
        record: Box<Record>,
        delay: Option<Delay>,
        error: &RegistryError,
    ) -> Progress {
        let mut delay = delay.unwrap_or_else(Delay::begin);
        delay.tell(&self.registry, &record, error);
        let mut next = delay.step(LONGEST_DELAY);
        self.earlier.spool_after(self.patience, &self.registry);
        if record.ending().is_some() {
            let waited = delay.ended.get_or_insert_with(Instant::now).elapsed();
            match waited >= self.patience {
                true if record.is_over() => {
                    self.give_up(record, error);
                    return Progress::Done;
                }
                // It stays ours to write: nobody else closes it while we live.
                true => {
                    delay.spooled =
                        delay.spooled || spool_record(&self.registry, &record, Some(error));
                }
                false => next = next.min(self.patience - waited),
            }
        }
        self.state = State::Behind(record, delay);
        Progress::Later(next)
    }

    /// Leaves the end, and those before it, to the next command.
    fn give_up(&mut self, record: Box<Record>, error: &RegistryError) {
        self.earlier.spool_after(Duration::ZERO, &self.registry);
        self.earlier.clear();
        spool_record(&self.registry, &record, Some(error));
        self.state = State::Over { started_at: record.started_at };
    }

    /// Keeps the end of the run before one that begins, for the transaction that adds that.
    fn keep_earlier(&mut self, state: State) {
        let (record, spooled) = match state {
            State::Written(record) => (record, false),
            State::Behind(record, delay) => (record, delay.spooled),
            State::Idle | State::Claiming(_) | State::Over { .. } => return,
        };
        if record.ending().is_some() {
            self.earlier.push(record, spooled, &self.registry);
        }
    }

    /// What a claim that could not be written answers.
    fn claim_later(
        &mut self,
        starting: &Starting<'_>,
        record: Box<Record>,
        mut delay: Delay,
        error: RegistryError,
    ) -> Claim {
        let runs = runs_anyhow(starting);
        if !runs && !error.is_passing() {
            return Claim::Refused(error.into());
        }
        let next = delay.step(LONGEST_CLAIM_DELAY);
        self.state = if runs { State::Behind(record, delay) } else { State::Claiming(delay) };
        Claim::Later(next, error.into())
    }
}

/// Whether the child runs whatever a claim says, so that its record is kept whatever is wrong: one
/// that was handed over runs already, and one that is started again has the name.
fn runs_anyhow(starting: &Starting<'_>) -> bool {
    starting.command.is_none() || starting.restarts > 0
}

/// What became of a record, once nothing stood in its way any more.
enum Fate {
    Row(i64),
    Taken { supervisor: u32 },
}

impl RegistryObserver {
    /// Brings the rows up to `record`, after what is left of lost runs in its place has been ended.
    /// On success nothing of earlier runs waits any more.
    fn store(
        &mut self,
        record: &Record,
        mut kept: Option<Kept>,
    ) -> Result<(Fate, Kept), RegistryError> {
        let mut cleared = Vec::new();
        loop {
            let (stored, now) = self.store_once(record, kept, &cleared)?;
            let fate = match stored {
                Stored::Row(row) => Fate::Row(row),
                Stored::Taken { supervisor } => Fate::Taken { supervisor },
                Stored::Lost { runs, open } => {
                    self.registry.check_trust()?;
                    now.check_trust().at(&self.registry.paths.db)?;
                    // Each turn clears one more at least, or returns.
                    for run in &runs {
                        end_leftovers(run, &open)?;
                        sweep(run, &self.registry.paths.spool);
                    }
                    cleared.extend(runs.iter().filter_map(|run| run.id));
                    kept = Some(now);
                    continue;
                }
            };
            self.earlier.clear();
            return Ok((fate, now));
        }
    }

    /// Makes the one transaction. A claim first takes in what was spooled: the last run of its
    /// sandbox may be there.
    fn store_once(
        &self,
        record: &Record,
        kept: Option<Kept>,
        cleared: &[i64],
    ) -> Result<(Stored, Kept), RegistryError> {
        let db = &self.registry.paths.db;
        let spooled = match record.row {
            None if self.registry.check_trust().is_ok() => self.registry.spooled(),
            _ => Vec::new(),
        };
        let stored = connection::write_kept(db, Duration::ZERO, kept, |tx| {
            spool::take_in(tx, &spooled)?;
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

/// Kills what a lost run has left behind; an error as long as there is any.
fn end_leftovers(run: &Run, open: &[Run]) -> Result<(), RegistryError> {
    let Some(lost_run) = LostRun::of(run, open) else { return Ok(()) };
    let reason = match lost_run.end().map(Leftovers::reason) {
        Ok(None) => return Ok(()),
        Ok(Some(reason)) => reason,
        Err(error) => error.to_string(),
    };
    let (config_file, name) = (run.config_file.clone(), run.name.clone());
    Err(RegistryError::Leftovers { config_file, name, reason })
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
            State::Behind(record, delay) if record.is_of(starting) => (record, Some(delay)),
            state if starting.restarts > 0 => {
                self.keep_earlier(state);
                (Box::new(Record::new(starting, &self.options, &self.registry.paths.state)), None)
            }
            State::Claiming(delay) => (
                Box::new(Record::new(starting, &self.options, &self.registry.paths.state)),
                Some(delay),
            ),
            _ => (Box::new(Record::new(starting, &self.options, &self.registry.paths.state)), None),
        };
        let kept = self.kept.take().or_else(|| self.registry.take_first());
        match self.store(&record, kept) {
            Ok((Fate::Row(row), kept)) => {
                self.kept = Some(kept);
                self.written(record, row, delay);
                Claim::Granted
            }
            Ok((Fate::Taken { supervisor }, kept)) => {
                self.registry.give_back_first(kept);
                Claim::Taken { supervisor }
            }
            Err(error) => {
                let mut delay = delay.unwrap_or_else(Delay::begin);
                if runs_anyhow(starting) {
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
            self.state = State::Behind(record, Delay::begin());
            return Progress::Later(FIRST_DELAY);
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
