//! What lies between two looks at the record, as events: also the states that came and went in
//! between, by the times on record.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use vmon::monitor::Restart;
use vmon::registry::{Run, Status};

/// One transition.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: DateTime<Utc>,
    pub what: What,
    /// The run, as the record has it by now.
    pub run: Run,
}

/// In the order of a run's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Starting,
    Running,
    Stopping,
    Draining,
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
            Self::Draining => "draining",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Removed => "removed",
        }
    }

    /// Whether the run is over with it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Restarting | Self::Stopped)
    }

    /// Whether the child has been there by then.
    pub fn has_child(self) -> bool {
        !matches!(self, Self::Starting | Self::Removed)
    }

    /// Where a run is by now.
    fn of(run: &Run) -> Self {
        match (run.status, run.state.as_str()) {
            (Status::Stopped, _) => Self::Stopped,
            (_, "STARTING") => Self::Starting,
            (_, "STOPPING") => Self::Stopping,
            (_, "DRAINING") => Self::Draining,
            (_, "RESTARTING") => Self::Restarting,
            _ => Self::Running,
        }
    }
}

/// A run in all databases that a path may have led to: numbers begin anew in a new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Ours(i64, Option<DateTime<Utc>>),
    /// Another program's sandbox, of which only the present state is on record.
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
    /// The last that was told of it.
    told: What,
    run: Run,
}

/// What is known of each run.
#[derive(Debug, Default)]
pub struct Changes {
    known: HashMap<Key, Known>,
    /// Those that the last look found without a supervisor, although on record as going on. The
    /// supervisor may have written the end in that very moment: the next look tells.
    doubtful: HashSet<Key>,
}

impl Changes {
    /// Takes what is on record for known.
    pub fn begin(&mut self, runs: Vec<Run>) {
        self.known = runs
            .into_iter()
            .map(|run| (Key::of(&run), Known { told: What::of(&run), run }))
            .collect();
    }

    /// Whether a run waits for the record to be reconciled.
    pub fn awaits_reconciling(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// What has happened since the last look, in the order of time.
    pub fn note(&mut self, runs: Vec<Run>) -> Vec<Event> {
        let mut events = Vec::new();
        let doubted = std::mem::take(&mut self.doubtful);
        let followed = followed_runs(&runs);
        let mut there = HashMap::with_capacity(runs.len());
        for run in runs {
            let key = Key::of(&run);
            let mut now = What::of(&run);
            let told = self.known.get(&key).map(|known| known.told);
            let lost = now == What::Stopped && run.state != "STOPPED" && run.id.is_some();
            if lost && told != Some(What::Stopped) && !doubted.contains(&key) {
                self.doubtful.insert(key.clone());
                now = told.unwrap_or(What::Starting);
            }
            let followed = followed.contains(&key);
            let told = match key {
                Key::Ours(..) => tell_run(&mut events, &run, told, now, followed),
                Key::Foreign(..) => tell_foreign(&mut events, &run, told, now),
            };
            there.insert(key, Known { told, run });
        }
        self.tell_removed(&mut events, &there);
        self.known = there;
        events.sort_by_key(|event| event.at);
        events
    }

    fn tell_removed(&self, events: &mut Vec<Event>, there: &HashMap<Key, Known>) {
        let sandbox = |run: &Run| (run.config_file.clone(), run.name.clone());
        let mut left: HashSet<_> = there.values().map(|known| sandbox(&known.run)).collect();
        let now = Utc::now();
        for (key, Known { told, run }) in &self.known {
            if there.contains_key(key) {
                continue;
            }
            let mut tell = |what| events.push(Event { at: now, what, run: run.clone() });
            if *told < What::Stopped {
                tell(What::Stopped);
            }
            if left.insert(sandbox(run)) {
                tell(What::Removed);
            }
        }
    }
}

/// The runs that the same supervisor has followed by another one, as a restart does.
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

/// Tells what has not been told of a run of ours; says up to where it is told then.
fn tell_run(
    events: &mut Vec<Event>,
    run: &Run,
    told: Option<What>,
    now: What,
    followed: bool,
) -> What {
    let observed = Utc::now();
    let mut tell = |what, at: Option<DateTime<Utc>>| {
        events.push(Event { at: at.unwrap_or(observed), what, run: run.clone() });
    };
    if told.is_none() {
        tell(What::Starting, run.started_at);
    }
    let mut told = told.unwrap_or(What::Starting);
    if told < What::Running && run.running_at.is_some() {
        tell(What::Running, run.running_at);
        told = What::Running;
    }
    match now {
        What::Stopping | What::Draining if told < now => tell(now, None),
        What::Restarting if told < now => tell(now, run.ended_at),
        What::Stopped if told < now && !followed => tell(now, run.ended_at),
        What::Stopped if told < What::Restarting => tell(What::Restarting, run.ended_at),
        _ => {}
    }
    now.max(told)
}

/// Another program's sandbox runs or does not, as often as it likes.
fn tell_foreign(events: &mut Vec<Event>, run: &Run, told: Option<What>, now: What) -> What {
    let changed = match told {
        Some(told) => told != now,
        None => now == What::Running,
    };
    if changed {
        events.push(Event { at: Utc::now(), what: now, run: run.clone() });
    }
    now
}
