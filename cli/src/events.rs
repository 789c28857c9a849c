//! `vmon events`: each transition of the sandboxes, as it happens.

mod changes;

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tracing::warn;
use vmon::registry::{Lost, Registry, RegistryError, Run};
use vmon::terminal::Messages;

use self::changes::{Changes, Event};
use super::Failure;
use super::output::{exit, json_line as json_text, or_dash, print, short, stamp};
use super::pause::{Next, Pause};
use super::select::{AnyNames, Selector};
use super::shared::{Places, SharedArgs};
use super::tell::printable;

/// How often it is looked whether the database has changed: two calls of stat(2).
const LOOK: Duration = Duration::from_millis(150);

/// How often lost supervisors and spilled ends are looked for: nobody writes a row for those.
const RECONCILE: Duration = Duration::from_secs(1);

/// How coarse a file's time may be. After a change as young as that, another one may hide behind
/// the same time.
const GRAIN: Duration = Duration::from_millis(100);

/// Follow what happens to sandboxes: starts, ends and what is between
///
/// A line each, from now on, also of sandboxes that start later. Ends with INT, TERM, or its
/// reader. No start and no end is missed, however short the run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An event is one of starting, running, stopping, draining, restarting (it has ended, and another
run follows), stopped and removed (from the record). Times are local.

With --json, a line each is an object, null where a value is not known:
  time, event, name, config_file, run, pid, supervisor_pid, exit_code, signal, reason,
  bytes_logged, bytes_dropped
The time is RFC 3339, in UTC; run is the id that 'vmon ps --json' prints.

Examples:
  vmon events             what happens to any sandbox
  vmon events web --json  of one, for a program")]
pub struct EventsArgs {
    #[command(flatten)]
    names: AnyNames,

    /// A line of JSON for each event
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Prints events until somebody has had enough.
pub fn events(args: EventsArgs, _: &Messages) -> Result<u8, Failure> {
    let pause = Pause::new().map_err(Failure::SetUp)?;
    let mut feed = Feed::new(args.shared.places()?)?;
    loop {
        for event in feed.look()? {
            if is_wanted(&args.names.names, &event.run) {
                print(&if args.json { json_line(&event) } else { line(&event) })?;
            }
        }
        if pause.wait(LOOK) == Next::Leave {
            return Ok(0);
        }
    }
}

fn is_wanted(names: &[Selector], run: &Run) -> bool {
    names.is_empty() || names.iter().any(|name| name.matches(&run.config_file, &run.name))
}

/// The record, and what has been told of it.
struct Feed {
    places: Places,
    /// Once there is a database. Kept, because it knows which warnings were given.
    registry: Option<Registry>,
    changes: Changes,
    seen: u64,
    /// Whether the last look came long enough after the change that it saw.
    settled: bool,
    reconciled: Instant,
    /// Why the record could not be made true, when that was last reported.
    refused: Option<String>,
}

impl Feed {
    fn new(places: Places) -> Result<Self, Failure> {
        let (seen, settled) = fingerprint(&places.db.path);
        let (changes, reconciled) = (Changes::default(), Instant::now());
        let (registry, refused) = (None, None);
        let mut feed = Self { places, registry, changes, seen, settled, reconciled, refused };
        // What was before is known, and not told.
        if let Some(registry) = feed.registry()? {
            let reconciled = registry.reconcile();
            feed.changes.begin(registry.runs()?);
            // One that can't even be read is told once.
            feed.report(reconciled);
        }
        Ok(feed)
    }

    /// Warns of a record that can't be made true, and so is only read; once of each reason.
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

    /// What has happened since the last look.
    fn look(&mut self) -> Result<Vec<Event>, Failure> {
        let Some(registry) = self.registry()? else { return Ok(Vec::new()) };
        if self.reconciled.elapsed() >= RECONCILE || self.changes.awaits_reconciling() {
            self.report(registry.reconcile());
            self.reconciled = Instant::now();
        }
        let (now, settled) = fingerprint(&self.places.db.path);
        if now == self.seen && self.settled && !self.changes.awaits_reconciling() {
            return Ok(Vec::new());
        }
        match registry.runs() {
            Ok(runs) => {
                (self.seen, self.settled) = (now, settled);
                Ok(self.changes.note(runs))
            }
            Err(error) if error.is_passing() => {
                warn!("{error}; what happens meanwhile is told afterwards");
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What changes with each write to the database, and whether the last one is old enough that
/// another one would show. Taken before the database is read: what is written in between shows
/// at the next look.
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
        settled &= age.is_some_and(|age| age > GRAIN);
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
        let reason = or_dash(run.reason.as_deref());
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
        "reason": run.reason.as_ref().filter(|_| end),
        "bytes_logged": run.bytes_logged.filter(|_| end),
        "bytes_dropped": run.bytes_dropped.filter(|_| end),
    });
    format!("{}\n", json_text(&object))
}
