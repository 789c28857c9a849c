//! `vmon events`: prints each lifecycle transition as it happens.

mod supervisors;
mod tracker;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::poll::{PollFd, PollFlags};
use serde_json::json;
use tracing::warn;
use vmon::control::Client;
use vmon::monitor::Reason;
use vmon::process;
use vmon::registry::{Lost, Registry, RegistryError, Run};

use self::supervisors::Supervisors;
use self::tracker::{Event, RunTracker, Sandbox, What};
use super::Failure;
use super::file_watcher::{FileWatcher, Target, is_remote};
use super::filter::LabelFilters;
use super::interruptible_wait::{InterruptibleWait, WaitResult};
use super::messages::printable;
use super::outcome::Outcome;
use super::output::{exit, json_line as json_text, or_dash, print, short, stamp};
use super::places::Places;
use super::record::{AnyNames, Selector};
use super::run_object::labels_object;
use super::shared_args::SharedArgs;

/// Interval at which the record is read again after it could not be read.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Interval at which the record is reconciled while a supervisor can't be watched.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Timeout of a supervisor's status reply.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Stream lifecycle events
///
/// Prints one line for each event from now on, also of sandboxes that start later. Every start and
/// every end is reported, however short the run. Ends on SIGINT or SIGTERM, or when the reader closes
/// stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An event is one of starting, running, stopping, restarting (the run has ended and another one
follows), stopped and removed (from the record). Times are local.

With --json, each line is an object; a value that is not known is null:
  time, event, name, config_file, run, pid, supervisor_pid, exit_code, signal, reason,
  bytes_logged, bytes_dropped, restarts, restart_at, labels
restarts and restart_at are those of restarting: the number of restarts so far, and the time of the
next start. The time is RFC 3339, in UTC; run is the id that 'vmon ps --json' prints.

Examples:
  vmon events             all sandboxes
  vmon events web --json  one sandbox, as JSON
  vmon events --filter label=app=web
                          sandboxes with this label")]
pub struct EventsArgs {
    #[command(flatten)]
    names: AnyNames,

    #[command(flatten)]
    filters: LabelFilters,

    /// Print each event as a JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Prints events until a signal arrives or stdout is closed.
pub fn events(args: EventsArgs, shared: &SharedArgs, _: &mut Outcome) -> Result<(), Failure> {
    let interruptible = InterruptibleWait::new().map_err(Failure::SetUp)?;
    // One descriptor for each supervisor. Those beyond the limit are polled.
    let _ = process::raise_file_limit();
    let mut feed = Feed::new(shared.places()?)?;
    loop {
        let poll = || feed.poll(|sandbox| args.want(sandbox));
        let Some(events) = interruptible.while_blocked(poll) else { return Ok(()) };
        for event in events? {
            print(&if args.json { json_line(&event) } else { line(&event) })?;
        }
        if feed.wait(&interruptible) == WaitResult::Quit {
            return Ok(());
        }
    }
}

impl EventsArgs {
    fn want(&self, sandbox: &Sandbox) -> bool {
        let names = &self.names.names;
        let is_selected = |name: &Selector| name.matches(&sandbox.config_file, &sandbox.name);
        (names.is_empty() || names.iter().any(is_selected))
            && self.filters.match_labels(sandbox.labels.as_ref())
    }
}

/// The record, and the events reported so far.
struct Feed {
    places: Places,
    /// Set once there is a database. Kept open: it remembers which warnings have been printed.
    registry: Option<Registry>,
    tracker: RunTracker,
    /// Of the files of the database.
    watcher: FileWatcher,
    supervisors: Supervisors,
    /// Whether a supervisor has ended, or may have.
    must_reconcile: bool,
    /// Whether the last read failed.
    must_retry: bool,
    /// The last reconciliation error that was reported.
    refused: Option<String>,
}

impl Feed {
    fn new(places: Places) -> Result<Self, Failure> {
        let watcher = match is_remote(&places.state_dir) {
            true => FileWatcher::polling("the file system may be changed by other machines"),
            false => FileWatcher::default(),
        };
        let mut feed = Self {
            places,
            registry: None,
            tracker: RunTracker::default(),
            watcher,
            supervisors: Supervisors::default(),
            must_reconcile: false,
            must_retry: false,
            refused: None,
        };
        feed.watch_files();
        // Earlier transitions are not reported.
        if let Some(registry) = feed.registry()? {
            let reconciled = registry.reconcile();
            feed.tracker.begin(registry.latest()?);
            let unfinished = registry.changes(&feed.tracker.seen())?.runs;
            feed.tracker.begin_unfinished(unfinished);
            // The same error is reported once.
            feed.report(reconciled);
        }
        Ok(feed)
    }

    /// Warns when the record can't be reconciled, once for each reason.
    fn report(&mut self, reconciled: Result<Vec<Lost>, RegistryError>) {
        let refused = reconciled.err().map(|error| error.to_string());
        if let Some(error) = refused.as_ref().filter(|_| refused != self.refused) {
            warn!("{error}");
        }
        self.refused = refused;
    }

    fn registry(&mut self) -> Result<Option<Registry>, Failure> {
        if self.registry.is_none() {
            self.registry = self.places.registry()?;
        }
        let is_there = |registry: &Registry| registry.path().symlink_metadata().is_ok();
        Ok(self.registry.clone().filter(is_there))
    }

    /// Watches what a transition changes: the database or its write-ahead log, or an end in the spool
    /// directory. Called before the record is read, so that no change is missed.
    fn watch_files(&mut self) {
        let db = &self.places.db.path;
        let mut wal = db.as_os_str().to_owned();
        wal.push("-wal");
        let directory = db.parent().unwrap_or(db);
        self.watcher.watch(&[
            Target::Directory(directory),
            Target::Written(db),
            Target::Written(Path::new(&wal)),
            Target::Directory(&directory.join("run")),
        ]);
        self.watcher.clear();
    }

    /// Returns the events since the last poll, of sandboxes that are wanted.
    fn poll(&mut self, is_wanted: impl Fn(&Sandbox) -> bool) -> Result<Vec<Event>, Failure> {
        self.watch_files();
        let Some(registry) = self.registry()? else { return Ok(Vec::new()) };
        if std::mem::take(&mut self.must_reconcile) || self.tracker.awaits_reconciling() {
            self.report(registry.reconcile());
        }
        let read = self.read(&registry);
        self.supervisors.follow(self.tracker.supervisors());
        self.must_retry = read.is_err();
        match read {
            Err(error) if error.is_passing() => {
                warn!("{error}; events of this time are reported later");
                Ok(Vec::new())
            }
            read => {
                let mut events = read?;
                events.retain(|event| is_wanted(&event.sandbox));
                events.iter_mut().for_each(|event| find_next_run(event, &registry));
                Ok(events)
            }
        }
    }

    /// Reads what has changed.
    fn read(&mut self, registry: &Registry) -> Result<Vec<Event>, RegistryError> {
        let mut changes = registry.changes(&self.tracker.seen())?;
        if !self.tracker.is_continued_by(&changes.runs) {
            self.tracker.go_back(&registry.latest()?);
            changes = registry.changes(&self.tracker.seen())?;
        }
        let latest = match self.tracker.lacks(changes.sandboxes, &changes.runs) {
            true => Some(registry.latest()?),
            false => None,
        };
        let mut events = self.tracker.update(changes.runs);
        if let Some(latest) = latest {
            events.extend(self.tracker.compare(&latest));
        }
        Ok(events)
    }

    /// Waits until the record may have changed or a supervisor has ended, without a limit where both
    /// can be watched.
    fn wait(&mut self, interruptible: &InterruptibleWait) -> WaitResult {
        let intervals = [
            self.tracker.awaits_reconciling().then_some(Duration::ZERO),
            self.must_retry.then_some(RETRY_INTERVAL),
            (!self.supervisors.are_watched()).then_some(RECONCILE_INTERVAL),
            self.watcher.poll_interval(),
        ];
        let fds = self.watcher.event_fd().into_iter().chain(self.supervisors.event_fds());
        let fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let result = interruptible.wait_for(&fds, intervals.into_iter().flatten().min());
        let are_watched = self.supervisors.are_watched();
        self.must_reconcile = self.supervisors.have_ended() || !are_watched;
        result
    }
}

fn line(event: &Event) -> String {
    let Event { at, what, sandbox, run, .. } = event;
    let Sandbox { config_file, name, .. } = sandbox;
    let mut line = format!("{}  {:<10}  {config_file}/{name}", short(*at), what.word());
    let Some(run) = run else { return format!("{}\n", printable(&line)) };
    if let Some(pid) = run.pid.filter(|_| what.has_child() && !what.is_end()) {
        line.push_str(&format!("  pid={pid}"));
    }
    if what.is_end() {
        let reason = or_dash(run.reason);
        line.push_str(&format!("  reason={reason}  exit={}", exit(run.exit_code, run.signal)));
    }
    if *what == What::Restarting {
        let next = or_dash(event.restart_at.map(short));
        line.push_str(&format!("  restarts={}  next={next}", or_dash(event.restarts)));
    }
    format!("{}\n", printable(&line))
}

fn json_line(event: &Event) -> String {
    let Event { at, what, sandbox, run, .. } = event;
    let run = run.as_ref();
    let ended = run.filter(|_| what.is_end());
    let object = json!({
        "time": stamp(*at),
        "event": what.word(),
        "name": sandbox.name,
        "config_file": sandbox.config_file,
        "labels": labels_object(sandbox.labels.as_ref()),
        "run": sandbox.run,
        "pid": run.and_then(|run| run.pid).filter(|_| what.has_child()),
        "supervisor_pid": sandbox.supervisor,
        "exit_code": ended.and_then(|run| run.exit_code),
        "signal": ended.and_then(|run| run.signal),
        "reason": ended.and_then(|run| run.reason).map(Reason::as_str),
        "bytes_logged": ended.and_then(|run| run.bytes_logged),
        "bytes_dropped": ended.and_then(|run| run.bytes_dropped),
        "restarts": event.restarts,
        "restart_at": event.restart_at.map(stamp),
    });
    format!("{}\n", json_text(&object))
}

/// Finds out how often the command of a run that is restarted has been restarted before, and when the
/// next run starts, or has started. Its supervisor knows that, during this run and the next one.
fn find_next_run(event: &mut Event, registry: &Registry) {
    let Some(run) = event.run.as_ref().filter(|run| run.trusted) else { return };
    if event.what != What::Restarting {
        return;
    }
    let Some(Ok(status)) = Client::statuses(&run.socket, STATUS_TIMEOUT).pop() else { return };
    if Some(status.started_at) == run.started_at {
        event.restarts = Some(status.restarts);
        event.restart_at = status.restart_at.or(event.restart_at);
        return;
    }
    // It may have started since the record was read, and may not be on record yet.
    event.restart_at = event.restart_at.or_else(|| start_after(run, registry, status.started_at));
    if Some(status.started_at) == event.restart_at {
        event.restarts = status.restarts.checked_sub(1);
    }
}

/// The start of the run that followed another one of the same supervisor, which is now in a run that
/// started at `now`. `None` if further runs have followed.
fn start_after(run: &Run, registry: &Registry, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let is_it = |other: &Run| other.id == run.id && other.started_at == run.started_at;
    match registry.page(Some(run.sandbox_id), None, 2).ok()?.as_slice() {
        [last, ..] if is_it(last) => Some(now),
        [next, before] if is_it(before) => next.started_at,
        _ => None,
    }
}
