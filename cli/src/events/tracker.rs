//! Derives events from two successive reads of the record. States that were entered and left in
//! between are derived from the times on record.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use vmon::monitor::{Phase, Restart};
use vmon::registry::{Run, RunStatus};

/// One transition.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: DateTime<Utc>,
    pub what: What,
    /// The run as it is on record now.
    pub run: Run,
}

/// The kind of an event, in the order of a run's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Starting,
    Running,
    Stopping,
    Restarting,
    Stopped,
    Removed,
}

impl What {
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Removed => "removed",
        }
    }

    /// Whether the run has ended.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Restarting | Self::Stopped)
    }

    /// Whether the child has been started.
    pub fn has_child(self) -> bool {
        !matches!(self, Self::Starting | Self::Removed)
    }

    /// The state of a run on record.
    fn of(run: &Run) -> Self {
        match (run.status, run.state) {
            (RunStatus::Stopped, _) => Self::Stopped,
            (_, Some(Phase::Starting)) => Self::Starting,
            (_, Some(Phase::Stopping)) => Self::Stopping,
            (_, Some(Phase::Restarting)) => Self::Restarting,
            _ => Self::Running,
        }
    }
}

/// Identifies a run. A new database starts its numbers again, so the start time is included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Ours(i64, Option<DateTime<Utc>>),
    /// A sandbox of another program, of which only the present state is on record.
    Foreign(String, String),
}

impl Key {
    fn of(run: &Run) -> Self {
        match run.id {
            Some(id) => Self::Ours(id, run.started_at),
            None => Self::Foreign(run.config_file.clone(), run.name.clone()),
        }
    }
}

#[derive(Debug)]
struct Known {
    /// The last event reported.
    reported: What,
    run: Run,
}

/// The runs seen at the last poll.
#[derive(Debug, Default)]
pub struct RunTracker {
    known: HashMap<Key, Known>,
    /// Runs found without a supervisor whose end is not on record. The supervisor may be writing
    /// it; the next poll decides.
    doubtful: HashSet<Key>,
}

impl RunTracker {
    /// Sets the known state without reporting events.
    pub fn begin(&mut self, runs: Vec<Run>) {
        self.known = runs
            .into_iter()
            .map(|run| (Key::of(&run), Known { reported: What::of(&run), run }))
            .collect();
    }

    /// Whether a run requires reconciliation of the record.
    pub fn awaits_reconciling(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// Returns the events since the last call, in the order of time.
    pub fn update(&mut self, runs: Vec<Run>) -> Vec<Event> {
        let mut events = Vec::new();
        let doubted = std::mem::take(&mut self.doubtful);
        let followed = followed_runs(&runs);
        let mut there = HashMap::with_capacity(runs.len());
        for run in runs {
            let key = Key::of(&run);
            let mut now = What::of(&run);
            let reported = self.known.get(&key).map(|known| known.reported);
            let lost =
                now == What::Stopped && run.state != Some(Phase::Stopped) && run.id.is_some();
            if lost && reported != Some(What::Stopped) && !doubted.contains(&key) {
                self.doubtful.insert(key.clone());
                now = reported.unwrap_or(What::Starting);
            }
            let followed = followed.contains(&key);
            let reported = match key {
                Key::Ours(..) => report_run(&mut events, &run, reported, now, followed),
                Key::Foreign(..) => report_foreign(&mut events, &run, reported, now),
            };
            there.insert(key, Known { reported, run });
        }
        self.report_removed(&mut events, &there);
        self.known = there;
        events.sort_by_key(|event| event.at);
        events
    }

    fn report_removed(&self, events: &mut Vec<Event>, there: &HashMap<Key, Known>) {
        let sandbox = |run: &Run| (run.config_file.clone(), run.name.clone());
        let mut left: HashSet<_> = there.values().map(|known| sandbox(&known.run)).collect();
        let now = Utc::now();
        for (key, Known { reported, run }) in &self.known {
            if there.contains_key(key) {
                continue;
            }
            let mut report = |what| events.push(Event { at: now, what, run: run.clone() });
            if *reported < What::Stopped {
                report(What::Stopped);
            }
            if left.insert(sandbox(run)) {
                report(What::Removed);
            }
        }
    }
}

/// The runs that were followed by another one of the same supervisor, after a restart.
fn followed_runs(runs: &[Run]) -> HashSet<Key> {
    let mut latest: HashMap<i64, &Run> = HashMap::new();
    let mut followed = HashSet::new();
    for run in runs.iter().filter(|run| run.id.is_some()) {
        if let Some(former) = latest.insert(run.sandbox_id, run)
            && former.supervisor_identity == run.supervisor_identity
            && former.spec.as_ref().is_some_and(|spec| spec.sandbox.restart != Restart::No)
        {
            followed.insert(Key::of(former));
        }
    }
    followed
}

/// Adds the events of one of vmon's runs that have not been reported. Returns the last one
/// reported.
fn report_run(
    events: &mut Vec<Event>,
    run: &Run,
    reported: Option<What>,
    now: What,
    followed: bool,
) -> What {
    let observed = Utc::now();
    let mut report = |what, at: Option<DateTime<Utc>>| {
        events.push(Event { at: at.unwrap_or(observed), what, run: run.clone() });
    };
    if reported.is_none() {
        report(What::Starting, run.started_at);
    }
    let mut reported = reported.unwrap_or(What::Starting);
    if reported < What::Running && run.running_at.is_some() {
        report(What::Running, run.running_at);
        reported = What::Running;
    }
    match now {
        What::Stopping if reported < now => report(now, None),
        What::Restarting if reported < now => report(now, run.ended_at),
        What::Stopped if reported < now && !followed => report(now, run.ended_at),
        What::Stopped if reported < What::Restarting => report(What::Restarting, run.ended_at),
        _ => {}
    }
    now.max(reported)
}

/// Adds the event of another program's sandbox, which is either running or stopped.
fn report_foreign(events: &mut Vec<Event>, run: &Run, reported: Option<What>, now: What) -> What {
    let changed = match reported {
        Some(reported) => reported != now,
        None => now == What::Running,
    };
    if changed {
        events.push(Event { at: Utc::now(), what: now, run: run.clone() });
    }
    now
}
