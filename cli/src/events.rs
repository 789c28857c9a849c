//! `vmon events`: prints each lifecycle transition as it happens.

mod tracker;

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tracing::warn;
use vmon::monitor::Reason;
use vmon::registry::{Lost, Registry, RegistryError, Run};

use self::tracker::{Event, RunTracker};
use super::Failure;
use super::interruptible_wait::{InterruptibleWait, WaitResult};
use super::messages::printable;
use super::outcome::Outcome;
use super::output::{exit, json_line as json_text, or_dash, print, short, stamp};
use super::places::Places;
use super::record::{AnyNames, Selector};
use super::shared_args::SharedArgs;

/// Interval at which the database is checked for changes, with two calls of stat(2).
const POLL_INTERVAL: Duration = Duration::from_millis(150);

/// Interval at which the record is reconciled. A lost supervisor writes nothing to the database.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

/// Resolution of a file's modification time. A second change within this time may leave the time
/// as it was.
const MTIME_RESOLUTION: Duration = Duration::from_millis(100);

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
  bytes_logged, bytes_dropped
The time is RFC 3339, in UTC; run is the id that 'vmon ps --json' prints.

Examples:
  vmon events             all sandboxes
  vmon events web --json  one sandbox, as JSON")]
pub struct EventsArgs {
    #[command(flatten)]
    names: AnyNames,

    /// Print each event as a JSON object on one line
    #[arg(long)]
    json: bool,
}

/// Prints events until a signal arrives or stdout is closed.
pub fn events(args: EventsArgs, shared: &SharedArgs, _: &mut Outcome) -> Result<(), Failure> {
    let interruptible = InterruptibleWait::new().map_err(Failure::SetUp)?;
    let mut feed = Feed::new(shared.places()?)?;
    loop {
        let Some(events) = interruptible.while_blocked(|| feed.poll()) else { return Ok(()) };
        for event in events? {
            if is_wanted(&args.names.names, &event.run) {
                print(&if args.json { json_line(&event) } else { line(&event) })?;
            }
        }
        if interruptible.wait(POLL_INTERVAL) == WaitResult::Quit {
            return Ok(());
        }
    }
}

fn is_wanted(names: &[Selector], run: &Run) -> bool {
    names.is_empty() || names.iter().any(|name| name.matches(&run.config_file, &run.name))
}

/// The record, and the events reported so far.
struct Feed {
    places: Places,
    /// Set once there is a database. Kept open: it remembers which warnings have been printed.
    registry: Option<Registry>,
    tracker: RunTracker,
    seen: u64,
    /// Whether the modification time at the last poll was old enough to reveal any later change.
    settled: bool,
    reconciled: Instant,
    /// The last reconciliation error that was reported.
    refused: Option<String>,
}

impl Feed {
    fn new(places: Places) -> Result<Self, Failure> {
        let (seen, settled) = fingerprint(&places.db.path);
        let (tracker, reconciled) = (RunTracker::default(), Instant::now());
        let (registry, refused) = (None, None);
        let mut feed = Self { places, registry, tracker, seen, settled, reconciled, refused };
        // Earlier transitions are not reported.
        if let Some(registry) = feed.registry()? {
            let reconciled = registry.reconcile();
            feed.tracker.begin(registry.runs()?);
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

    /// Returns the events since the last poll.
    fn poll(&mut self) -> Result<Vec<Event>, Failure> {
        let Some(registry) = self.registry()? else { return Ok(Vec::new()) };
        if self.reconciled.elapsed() >= RECONCILE_INTERVAL || self.tracker.awaits_reconciling() {
            self.report(registry.reconcile());
            self.reconciled = Instant::now();
        }
        let (now, settled) = fingerprint(&self.places.db.path);
        if now == self.seen && self.settled && !self.tracker.awaits_reconciling() {
            return Ok(Vec::new());
        }
        match registry.runs() {
            Ok(runs) => {
                (self.seen, self.settled) = (now, settled);
                Ok(self.tracker.update(runs))
            }
            Err(error) if error.is_passing() => {
                warn!("{error}; events of this time are reported later");
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A hash that changes with each write to the database, and whether the last write is old enough
/// that the next one will change it. Taken before the database is read, so that a write in between
/// shows at the next poll.
fn fingerprint(db: &Path) -> (u64, bool) {
    use std::os::unix::fs::MetadataExt;

    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    let mut hasher = DefaultHasher::new();
    let mut settled = true;
    for path in [db, Path::new(&wal)] {
        let Ok(metadata) = fs::metadata(path) else { continue };
        let (modified, size) = (metadata.modified().ok(), metadata.size());
        (metadata.dev(), metadata.ino(), modified, size).hash(&mut hasher);
        let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        settled &= age.is_some_and(|age| age > MTIME_RESOLUTION);
    }
    (hasher.finish(), settled)
}

fn line(event: &Event) -> String {
    let Event { at, what, run } = event;
    let mut line = format!("{}  {:<10}  {}/{}", short(*at), what.word(), run.config_file, run.name);
    if let Some(pid) = run.pid.filter(|_| what.has_child() && !what.is_end()) {
        line.push_str(&format!("  pid={pid}"));
    }
    if what.is_end() {
        let reason = or_dash(run.reason);
        line.push_str(&format!("  reason={reason}  exit={}", exit(run.exit_code, run.signal)));
    }
    format!("{}\n", printable(&line))
}

fn json_line(event: &Event) -> String {
    let Event { at, what, run } = event;
    let end = what.is_end();
    let object = json!({
        "time": stamp(*at),
        "event": what.word(),
        "name": run.name,
        "config_file": run.config_file,
        "run": run.id,
        "pid": run.pid.filter(|_| what.has_child()),
        "supervisor_pid": run.supervisor,
        "exit_code": run.exit_code.filter(|_| end),
        "signal": run.signal.filter(|_| end),
        "reason": run.reason.map(Reason::as_str).filter(|_| end),
        "bytes_logged": run.bytes_logged.filter(|_| end),
        "bytes_dropped": run.bytes_dropped.filter(|_| end),
    });
    format!("{}\n", json_text(&object))
}
