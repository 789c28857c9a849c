//! Derives events from successive reads of what has changed in the record. States that were entered
//! and left in between are derived from the times on record.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use vmon::monitor::{Identity, Labels, Phase, Restart};
use vmon::registry::{Location, Run, RunStatus, Seen};

use super::super::run_object::labels;

/// One transition.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: DateTime<Utc>,
    pub what: What,
    pub sandbox: Sandbox,
    /// The run as it is on record now; `None` for a removed sandbox.
    pub run: Option<Run>,
    /// With a restart: how often the command has been restarted before, if that is known.
    pub restarts: Option<u32>,
    /// With a restart: the start of the next run, if that is known.
    pub restart_at: Option<DateTime<Utc>>,
}

/// A sandbox and its last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub config_file: String,
    pub name: String,
    /// The number of its last run.
    pub run: Option<i64>,
    pub supervisor: Option<u32>,
    /// The labels of that run; `None` if it is of another program.
    pub labels: Option<Labels>,
    started_at: Option<DateTime<Utc>>,
}

impl Sandbox {
    fn of(run: &Run) -> Self {
        Self {
            config_file: run.config_file.clone(),
            name: run.name.clone(),
            run: run.id,
            supervisor: run.supervisor,
            labels: labels(run).cloned(),
            started_at: run.started_at,
        }
    }

    fn is_named_as(&self, run: &Run) -> bool {
        self.name == run.name && self.config_file == run.config_file
    }
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

/// Identifies a run. A number can change, when an earlier run comes on record late, and is used again
/// after a removal; so it is the sandbox and the time of the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Ours(i64, Option<DateTime<Utc>>),
    /// A sandbox of another program, of which only the present state is on record.
    Foreign(i64),
}

impl Key {
    fn of(run: &Run) -> Self {
        match run.id {
            Some(_) => Self::Ours(run.sandbox_id, run.started_at),
            None => Self::Foreign(run.sandbox_id),
        }
    }
}

#[derive(Debug)]
struct Known {
    /// The last event reported.
    reported: What,
    run: Run,
}

impl Known {
    /// Whether there can be further events. A run that was lost stays unfinished until it is closed.
    fn is_unfinished(&self) -> bool {
        let is_open = self.run.id.is_some() && self.run.state != Some(Phase::Stopped);
        self.reported < What::Stopped || is_open
    }
}

/// The sandboxes on record, and their runs that were unfinished at the last read.
#[derive(Debug, Default)]
pub struct RunTracker {
    known: HashMap<Key, Known>,
    /// Runs found without a supervisor whose end is not on record. The supervisor may be writing
    /// it; the next read decides.
    doubtful: HashSet<Key>,
    sandboxes: BTreeMap<i64, Sandbox>,
    /// The run with the highest number.
    last: Option<(i64, Key)>,
}

impl RunTracker {
    /// Sets the known state without reporting events: the latest run of each sandbox.
    pub fn begin(&mut self, latest: Vec<Run>) {
        self.note(latest.iter());
        for run in latest {
            self.know(run);
        }
    }

    /// Adds a run that was unfinished before the first event. Returns nothing to report.
    fn know(&mut self, run: Run) {
        let known = Known { reported: What::of(&run), run };
        if known.is_unfinished() {
            self.known.insert(Key::of(&known.run), known);
        }
    }

    /// Adds further unfinished runs to the known state.
    pub fn begin_unfinished(&mut self, runs: Vec<Run>) {
        runs.into_iter().for_each(|run| self.know(run));
    }

    fn note<'a>(&mut self, runs: impl Iterator<Item = &'a Run>) {
        for run in runs {
            if let Some(id) = run.id.filter(|id| self.last.is_none_or(|(last, _)| last <= *id)) {
                self.last = Some((id, Key::of(run)));
            }
            match run.id {
                Some(_) => drop(self.sandboxes.insert(run.sandbox_id, Sandbox::of(run))),
                // The last run of vmon's, if there is one, stays known.
                None => drop(self.sandboxes.entry(run.sandbox_id).or_insert(Sandbox::of(run))),
            }
        }
    }

    /// What is known, for the next read.
    pub fn seen(&self) -> Seen {
        let mut seen = Seen { last: self.last.map_or(0, |(id, _)| id), ..Seen::default() };
        for known in self.known.values() {
            match known.run.id {
                Some(id) => seen.runs.push(id),
                None => seen.sandboxes.push(known.run.sandbox_id),
            }
        }
        seen
    }

    /// Whether these runs contain the last one of the previous read. If it was removed, or another
    /// database is in its place, further runs may have lower numbers.
    pub fn is_continued_by(&self, runs: &[Run]) -> bool {
        let Some((id, key)) = self.last else { return true };
        runs.iter().any(|run| run.id == Some(id) && Key::of(run) == key)
    }

    /// Goes back to the last run that is still on record, by the latest run of each sandbox.
    pub fn go_back(&mut self, latest: &[Run]) {
        let is_known = |run: &&Run| {
            let sandbox = self.sandboxes.get(&run.sandbox_id);
            sandbox.is_some_and(|it| it.run == run.id && it.started_at == run.started_at)
        };
        let known = latest.iter().filter(is_known).filter_map(|run| Some((run.id?, Key::of(run))));
        self.last = known.max_by_key(|(id, _)| *id);
    }

    /// Whether a run requires reconciliation of the record.
    pub fn awaits_reconciling(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// The supervisors of unfinished runs on this machine.
    pub fn supervisors(&self) -> impl Iterator<Item = &Identity> {
        let runs = self.known.values().map(|known| &known.run);
        let here = runs.filter(|run| run.location != Some(Location::OtherMachine));
        here.filter_map(|run| run.supervisor_identity.as_ref())
    }

    /// Returns the events since the last call, in the order of time.
    pub fn update(&mut self, runs: Vec<Run>) -> Vec<Event> {
        let mut events = Vec::new();
        let doubted = std::mem::take(&mut self.doubtful);
        let followed = followed_runs(&runs);
        let mut before = std::mem::take(&mut self.known);
        let is_past: Vec<bool> = runs.iter().map(|run| self.is_past(run)).collect();
        self.report_replaced(&mut events, &runs);
        self.note(runs.iter());
        for (run, is_past) in runs.into_iter().zip(is_past) {
            let key = Key::of(&run);
            let reported = before.remove(&key).map(|known| known.reported);
            if reported.is_none() && is_past {
                continue;
            }
            let mut now = What::of(&run);
            let lost =
                now == What::Stopped && run.state != Some(Phase::Stopped) && run.id.is_some();
            if lost && reported != Some(What::Stopped) && !doubted.contains(&key) {
                self.doubtful.insert(key);
                now = reported.unwrap_or(What::Starting);
            }
            let reported = match key {
                Key::Ours(..) => report_run(&mut events, &run, reported, now, followed.get(&key)),
                Key::Foreign(..) => report_foreign(&mut events, &run, reported, now),
            };
            let known = Known { reported, run };
            if known.is_unfinished() {
                self.known.insert(key, known);
            }
        }
        // No longer on record.
        for Known { run, .. } in before.into_values().filter(|it| it.reported < What::Stopped) {
            events.push(event(Utc::now(), What::Stopped, run));
        }
        events.sort_by_key(|event| event.at);
        events
    }

    /// Whether a run that is not followed any more has been reported to its end.
    fn is_past(&self, run: &Run) -> bool {
        let sandbox = self.sandboxes.get(&run.sandbox_id);
        sandbox.is_some_and(|it| {
            run.id.is_some() && it.is_named_as(run) && it.started_at == run.started_at
        })
    }

    /// Reports sandboxes whose row another one has taken.
    fn report_replaced(&mut self, events: &mut Vec<Event>, runs: &[Run]) {
        for run in runs {
            if self.sandboxes.get(&run.sandbox_id).is_some_and(|it| !it.is_named_as(run))
                && let Some(sandbox) = self.sandboxes.remove(&run.sandbox_id)
            {
                events.push(removed(sandbox));
            }
        }
    }

    /// Whether the record has other sandboxes than those that are known and those of these runs.
    pub fn lacks(&self, sandboxes: u64, runs: &[Run]) -> bool {
        let mut known: HashSet<i64> = HashSet::new();
        known.extend(runs.iter().map(|run| run.sandbox_id));
        known.retain(|id| !self.sandboxes.contains_key(id));
        usize::try_from(sandboxes) != Ok(self.sandboxes.len() + known.len())
    }

    /// Returns the removals of sandboxes that are not among the latest runs.
    pub fn compare(&mut self, latest: &[Run]) -> Vec<Event> {
        let there: HashMap<i64, &Run> = latest.iter().map(|run| (run.sandbox_id, run)).collect();
        let names: HashSet<(&str, &str)> =
            latest.iter().map(|run| (run.config_file.as_str(), run.name.as_str())).collect();
        let mut gone = Vec::new();
        self.sandboxes.retain(|id, sandbox| {
            let is_there = there.get(id).is_some_and(|run| sandbox.is_named_as(run));
            if !is_there {
                gone.push(sandbox.clone());
            }
            is_there
        });
        for (id, run) in there {
            self.sandboxes
                .entry(id)
                .or_insert_with(|| Sandbox { started_at: None, ..Sandbox::of(run) });
        }
        let is_removed =
            |it: &Sandbox| !names.contains(&(it.config_file.as_str(), it.name.as_str()));
        gone.into_iter().filter(is_removed).map(removed).collect()
    }
}

fn event(at: DateTime<Utc>, what: What, run: Run) -> Event {
    Event { at, what, sandbox: Sandbox::of(&run), run: Some(run), restarts: None, restart_at: None }
}

fn removed(sandbox: Sandbox) -> Event {
    let (at, what) = (Utc::now(), What::Removed);
    Event { at, what, sandbox, run: None, restarts: None, restart_at: None }
}

/// The runs that were followed by another one of the same supervisor, after a restart, with its start.
fn followed_runs(runs: &[Run]) -> HashMap<Key, Option<DateTime<Utc>>> {
    let mut latest: HashMap<i64, &Run> = HashMap::new();
    let mut followed = HashMap::new();
    for run in runs.iter().filter(|run| run.id.is_some()) {
        if let Some(former) = latest.insert(run.sandbox_id, run)
            && former.supervisor_identity == run.supervisor_identity
            && former.spec.as_ref().is_some_and(|spec| spec.sandbox.restart != Restart::No)
        {
            followed.insert(Key::of(former), run.started_at);
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
    followed: Option<&Option<DateTime<Utc>>>,
) -> What {
    let observed = Utc::now();
    let mut report = |what, at: Option<DateTime<Utc>>| {
        let restart_at = followed.copied().flatten().filter(|_| what == What::Restarting);
        events.push(Event { restart_at, ..event(at.unwrap_or(observed), what, run.clone()) });
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
        What::Stopped if reported < now && followed.is_none() => report(now, run.ended_at),
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
        events.push(event(Utc::now(), now, run.clone()));
    }
    now
}
