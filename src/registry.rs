//! The record of sandboxes and runs in an SQLite database, written by an [`Observer`].
//!
//! A [`Registry`] is a path, not a connection. Each write opens the database, makes one transaction
//! and closes it again, so an idle sandbox holds no memory and no locks of SQLite. Between a claim
//! and the RUNNING (or failure) that follows at once, the connection stays open;
//! [`Registry::open_for_start`] and [`Registry::keep_connection`] extend that to save connections.
//! Nothing on the loop waits: a database that is locked, full or broken delays the record, never the
//! child. The registry starts and stops no sandbox. It signals only processes that a
//! [lost run](Lost) has left behind.
//!
//! # Trust
//!
//! A record is data that its owner can write. A record that another user owns or could have written
//! is only read: the database, its directory or the spool directory belongs to another user, or is
//! writable for others. No process is ended, no run closed and nothing removed because of such a
//! record ([`RegistryError::Foreign`], [`RegistryError::Exposed`]). This includes root, which does
//! not write to another user's database. The processes of a lost run are ended only where their
//! environment proves that they belong to that run. SQLite's files are opened without blocking,
//! queries are bounded, and a view or virtual table under the name of a table is refused.
//!
//! # Ownership
//!
//! - A *name* is held by the row of a run that is not STOPPED, for as long as the supervisor in
//!   that row lives. A claim adds the row, the end closes it. Between two runs of a command that is
//!   restarted, the row of the ended run holds it, in state RESTARTING; the claim of the next run
//!   closes that row in the transaction that adds its own. Other programs of the ecosystem hold a
//!   name by a RUNNING row in `sandboxes` and the pid of their supervisor.
//! - The row of a run is written only by its supervisor while that lives. Once the supervisor is
//!   dead ([`Liveness::Dead`](crate::monitor::Liveness)), [`Registry::reconcile`] or the next claim
//!   of the name ends the remaining processes and closes the row. A supervisor that can't be
//!   checked, for example on another machine, keeps its row until [`Registry::close_unproven`].
//! - A supervising process holds a lock in the spool directory for as long as it has an unfinished run
//!   on record: one descriptor for each process and spool directory. It proves to a process in
//!   another pid namespace, or without a complete /proc, whether the supervisor lives.
//! - The row in `sandboxes` belongs to the run, or the program, whose supervisor's pid it contains.
//! - SQLite's write lock is held for one transaction. [`Registry::remove_with`] also holds it while
//!   the sandbox's other files are removed.
//!
//! # Locks, syncs and checkpoints
//!
//! - [`Registry::open`] and the [`RegistryObserver`] never wait for a lock (busy timeout 0).
//!   SQLite's few short retries, when it reads a write-ahead log that is being reset, can't be
//!   avoided. [`Registry::runs`] is for commands, not for an event loop: it waits up to five
//!   seconds.
//! - The database is in WAL mode with `synchronous=NORMAL`: transitions are written without
//!   `fsync`. A crash of vmon loses nothing. A power failure may lose the last transitions; the
//!   database stays consistent.
//! - SQLite's automatic checkpoints, at every thousandth page and on every close, are off.
//!   [`Registry::open`] and [`Registry::runs`] checkpoint a log of more than 128 KiB, so that an
//!   ordinary supervisor never has to. An observer checkpoints only when its own transaction takes
//!   the log past a further 256 KiB, which costs two syncs. The first transaction after any
//!   checkpoint syncs the header of the restarted log. These are the only syncs on the loop, and
//!   none of them waits for a reader or a writer. Other programs checkpoint according to their own
//!   settings.
//! - Until the next checkpoint, `DB-wal` is part of the database: copy or move both files together,
//!   or use `VACUUM INTO`.
//!
//! # Write failures
//!
//! A transition that can't be written stays in the observer, merged with those that follow, and is
//! retried after 50 ms to 1 s. An end that can't be written within five seconds becomes a file in
//! the [spool directory](Registry::spool_dir); the next claim, or the next command that reads,
//! imports it. The same applies to the end of a run that another run follows; its supervisor also
//! keeps retrying. If the file can't be written either (same disk full or read-only), the end is
//! lost: an error is logged, and the run reconciles to `supervisor-lost`. If the database is
//! removed or replaced while a child runs, the next transition recreates schema and rows.
//!
//! [`Observer`]: crate::monitor::Observer

mod columns;
mod connection;
mod error;
mod expiry;
mod holder;
mod lock;
mod lost;
mod metrics;
mod observer;
mod ordering;
mod parts;
mod read;
mod reconcile;
mod record;
mod remove;
mod run;
mod schema;
mod site;
mod spec;
mod spool;
mod sqlite;
mod state_dir;
mod store;
mod trust;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use columns::ConsoleBytes;
use connection::Kept;
pub use error::RegistryError;
use error::{At, Fault};
pub use metrics::Sample;
use nix::unistd::geteuid;
pub use observer::RegistryObserver;
pub use parts::{Changes, Seen};
use read::Selection;
pub use reconcile::Lost;
pub use remove::{Pruned, Removal};
pub use run::{Run, RunStatus};
use rusqlite::{Connection, Transaction};
use schema::Schema;
pub use site::Location;
use spool::Spooled;
use state_dir::StateDir;

/// Busy timeout of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Busy timeout of a command after one that expired: as long as vmon's own transactions take at
/// most.
const REPEATED_TIMEOUT: Duration = Duration::from_millis(250);

/// The record of sandboxes and runs. Cheap to clone; holds paths, and no connection unless it was
/// [opened for a start](Registry::open_for_start).
///
/// ```no_run
/// use vmon::registry::Registry;
///
/// # fn main() -> Result<(), vmon::registry::RegistryError> {
/// let registry = Registry::open("/var/lib/host/sandbox.db")?;
/// let observer = registry.observer(); // one per sandbox, for the monitor
/// for run in registry.runs()? {
///     println!("{}/{}: {:?}", run.config_file, run.name, run.status);
/// }
/// # drop(observer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    paths: Arc<Paths>,
    /// `None` if connections are closed after each transition.
    shared: Option<Arc<Shared>>,
    /// Whether the last repair of the record timed out waiting for the lock. Later ones use
    /// [`REPEATED_TIMEOUT`] until one succeeds, because a command makes several.
    timed_out: Arc<AtomicBool>,
    /// The spool directory and files of it that a warning has named. Only accessed with `try_lock`.
    reported: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A connection for the observers of a registry. Only accessed with `try_lock`: a claim works without.
#[derive(Debug)]
struct Shared {
    connection: Mutex<Option<Kept>>,
    /// Whether it returns here after each transition; otherwise it is for the first claim.
    for_life: bool,
}

#[derive(Debug, Clone)]
struct Paths {
    /// Absolute; its directory contains no symbolic links.
    db: PathBuf,
    state: Arc<StateDir>,
}

impl Registry {
    /// Opens the registry in the database `db` and creates it if missing: directories with mode
    /// 0700, the file with 0600 (SQLite gives `DB-wal` and `DB-shm` the mode of the database).
    ///
    /// In a database of another program of the ecosystem, vmon adds its own tables, and the others
    /// only where they are missing. The mode of the file is not changed.
    ///
    /// Never waits. A locked database is not an error: the remaining setup is done at the next
    /// access.
    ///
    /// # Errors
    ///
    /// The database can't be written for any other reason, with its path: not a regular file (or a
    /// symbolic link), not a database, read-only, created by a newer vmon.
    pub fn open(db: impl AsRef<Path>) -> Result<Self, RegistryError> {
        Self::open_kept(db.as_ref()).map(|(registry, _)| registry)
    }

    /// Like [`open`](Registry::open), for a program that starts one sandbox at once. The connection
    /// stays open, with its memory, descriptors and lock (other processes can't change the journal
    /// mode), and the next claim uses it. Observers close it after 50 ms without a transition, so
    /// that a shorter run costs one connection.
    ///
    /// # Errors
    ///
    /// As [`open`](Registry::open).
    pub fn open_for_start(db: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let (registry, kept) = Self::open_kept(db.as_ref())?;
        Ok(registry.sharing(kept, false))
    }

    /// Keeps one connection open for this registry and its observers, from the first claim until the
    /// last of them is dropped: for a host with many sandboxes. A start then costs less than half of
    /// the CPU time that its record costs otherwise.
    ///
    /// The open connection holds three descriptors and its page cache, at most 2 MB unless SQLite was
    /// built with another limit. Other programs can't change the journal mode of the database
    /// meanwhile.
    ///
    /// Observers that run at the same time on several threads open connections of their own.
    #[must_use]
    pub fn keep_connection(self) -> Self {
        self.sharing(None, true)
    }

    fn sharing(self, connection: Option<Kept>, for_life: bool) -> Self {
        let connection = Mutex::new(connection);
        Self { shared: Some(Arc::new(Shared { connection, for_life })), ..self }
    }

    fn open_kept(given: &Path) -> Result<(Self, Option<Kept>), RegistryError> {
        connection::make_directory(given).at(given)?;
        let registry = Self::at(given).at(given)?;
        let db = &registry.paths.db;
        if !connection::exists(db).at(db)? {
            trust::check_root(db, geteuid().as_raw()).at(db)?;
            connection::make_file(db).at(db)?;
        }
        match registry.prepare() {
            Ok(kept) => Ok((registry, Some(kept))),
            Err(RegistryError::Locked { .. }) => Ok((registry, None)),
            Err(error) => Err(error),
        }
    }

    /// Opens an existing registry for reading; `None` if there is no such file. Creates nothing.
    ///
    /// # Errors
    ///
    /// The path is not a regular file, or lstat(2) failed.
    pub fn open_existing(db: impl AsRef<Path>) -> Result<Option<Self>, RegistryError> {
        let given = db.as_ref();
        let registry = match Self::at(given) {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            registry => registry.at(given)?,
        };
        let exists = connection::exists(&registry.paths.db).at(given)?;
        Ok(exists.then_some(registry))
    }

    /// The directory for ends that can't be written to the database, instead of `run` beside the
    /// database. Created when needed, with mode 0700. All processes that use one database should
    /// use the same one.
    ///
    /// An end in `run` belongs to the database beside it, also after both were moved. In any other
    /// directory, an end belongs to the database whose path it contains. A file that can't be
    /// imported is reported in a warning.
    #[must_use]
    pub fn spool_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        let paths = Arc::make_mut(&mut self.paths);
        Arc::make_mut(&mut paths.state).spool = dir.into();
        self
    }

    /// The state directory, if it is not the directory of the database.
    ///
    /// The path of a log directory ([`Sandbox::log_dir`](crate::monitor::Sandbox::log_dir)) or
    /// control socket within the state directory is recorded relative to it. [`Run::spec`] and
    /// [`Run::socket`] resolve it against the state directory of the registry that reads it, so a
    /// state directory that was moved or copied refers to its own files. Other paths are recorded
    /// unchanged.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        let paths = Arc::make_mut(&mut self.paths);
        paths.state = Arc::new(StateDir::new(dir.into(), paths.state.spool.clone()));
        self
    }

    /// The path of the database: absolute, its directory without symbolic links.
    pub fn path(&self) -> &Path {
        &self.paths.db
    }

    /// Returns an observer that records one sandbox.
    pub fn observer(&self) -> RegistryObserver {
        RegistryObserver::new(self.clone())
    }

    /// Returns every run of every sandbox, oldest first, then the sandboxes of other programs.
    ///
    /// For commands, not for an event loop: imports spooled ends first, and waits up to five
    /// seconds for the lock where that or the reading needs one. A writer's lock on a database in
    /// WAL mode does not block readers. Spooled ends that can't be imported are reported in a
    /// warning.
    ///
    /// # Errors
    ///
    /// The database can't be read. A database that we may not write can be read if `DB-wal` and
    /// `DB-shm` are readable or `DB-wal` does not exist.
    pub fn runs(&self) -> Result<Vec<Run>, RegistryError> {
        self.read_runs(Selection { latest: false, sandbox: None })
    }

    /// Like [`runs`](Registry::runs), but only the latest run of each sandbox: the one in progress,
    /// or the one that began last. A sandbox that another program has taken over is listed as that
    /// program's, unless only our run of it is in progress.
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn latest(&self) -> Result<Vec<Run>, RegistryError> {
        self.read_runs(Selection { latest: true, sandbox: None })
    }

    /// Like [`runs`](Registry::runs), but only the runs of this sandbox.
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn runs_of(&self, config_file: &str, name: &str) -> Result<Vec<Run>, RegistryError> {
        self.read_runs(Selection { latest: false, sandbox: Some((config_file, name)) })
    }

    /// Like [`latest`](Registry::latest), but only for this sandbox.
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn latest_of(&self, config_file: &str, name: &str) -> Result<Option<Run>, RegistryError> {
        let sandbox = Some((config_file, name));
        Ok(self.read_runs(Selection { latest: true, sandbox })?.pop())
    }

    fn read_runs(&self, selection: Selection<'_>) -> Result<Vec<Run>, RegistryError> {
        let runs = |db: &Connection, state: &StateDir| read::runs(db, selection, state);
        let (runs, ()) = self.read_with((), |db, state| Ok((runs(db, state)?, ())))?;
        Ok(runs)
    }

    /// The paths of the registry in `db`. The directory of `db` must exist.
    fn at(db: &Path) -> Result<Self, Fault> {
        let name = db.file_name().ok_or(Fault::NotAFile("a directory"))?;
        // SQLITE_OPEN_NOFOLLOW refuses a symbolic link anywhere in the path. Links in the directory
        // part are the user's choice and are resolved here; a link in place of the file is refused.
        let directory = fs::canonicalize(trust::parent(db))?;
        let spool = directory.join("run");
        let db = directory.join(name);
        let state = Arc::new(StateDir::new(directory, spool));
        Ok(Self {
            paths: Arc::new(Paths { db, state }),
            shared: None,
            timed_out: Arc::default(),
            reported: Arc::default(),
        })
    }

    /// Creates the schema where it is missing; otherwise takes no write lock.
    fn prepare(&self) -> Result<Kept, RegistryError> {
        let db = &self.paths.db;
        let mut kept = Kept::open(db, Duration::ZERO).at(db)?;
        if kept.schema(db).at(db)? != Schema::Complete {
            let made = connection::write_kept(db, Duration::ZERO, Some(kept), |_| Ok(()));
            ((), kept) = made.at(db)?;
        }
        kept.checkpoint_large(db);
        Ok(kept)
    }

    /// Whether an observer keeps its connection for a moment after each transition.
    fn keeps_connection(&self) -> bool {
        self.shared.is_some()
    }

    /// Takes the connection of this registry, if there is one.
    fn take_connection(&self) -> Option<Kept> {
        self.shared.as_ref()?.connection.try_lock().ok()?.take()
    }

    /// Returns the connection of a claim that was not granted, for the next claim.
    fn give_back(&self, kept: Kept) {
        if let Some(shared) = &self.shared
            && let Ok(mut connection) = shared.connection.try_lock()
        {
            *connection = Some(kept);
        }
    }

    /// Returns a connection after its use; `None` if it stays with the registry.
    fn after_use(&self, kept: Kept) -> Option<Kept> {
        if self.shared.as_ref().is_some_and(|shared| shared.for_life) {
            self.give_back(kept);
            return None;
        }
        Some(kept)
    }

    /// Checks that only our effective user could have written the record. Call this before a command
    /// from the record is executed.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Foreign`] or [`RegistryError::Exposed`] if another user could have written it;
    /// [`RegistryError::System`] if lstat(2) failed.
    pub fn check_trust(&self) -> Result<(), RegistryError> {
        let Paths { db, state } = &*self.paths;
        trust::check(db, &state.spool).at(db)
    }

    /// Reads the ends in the spool directory. Each skipped file is reported once.
    fn spooled(&self) -> Vec<Spooled> {
        // Not even read where another user could have put files there.
        if self.check_trust().is_err() {
            return Vec::new();
        }
        spool::read(&self.paths, |path, reason| {
            if self.is_first_report(&path) {
                tracing::warn!("can't import the spooled end {}: {reason}", path.display());
            }
        })
    }

    /// Imports spooled ends, unless the record is not trusted; [`reconcile`](Self::reconcile)
    /// returns that error. Returns those that can't be imported now, on a full disk for example.
    fn import_spooled(&self) -> Vec<Spooled> {
        let spooled = self.spooled();
        if spooled.is_empty() {
            return spooled;
        }
        let directory = &self.paths.state.spool;
        match self.repair(|tx| spool::import(tx, &spooled)) {
            Ok(()) => {
                spool::remove(&spooled);
                if let Ok(mut reported) = self.reported.try_lock() {
                    reported.remove(directory);
                }
                Vec::new()
            }
            Err(error) => {
                if self.is_first_report(directory) {
                    let (count, directory) = (spooled.len(), directory.display());
                    tracing::warn!(count, %directory, %error, "spooled ends can't be imported yet");
                }
                spooled
            }
        }
    }

    /// Whether a warning has not named this path yet.
    fn is_first_report(&self, path: &Path) -> bool {
        self.reported.try_lock().is_ok_and(|mut reported| reported.insert(path.to_owned()))
    }

    /// Runs a transaction that repairs the record. The busy timeout is short if the last one
    /// expired.
    fn repair(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<(), Fault>,
    ) -> Result<(), RegistryError> {
        let db = &self.paths.db;
        let timed_out = self.timed_out.load(Ordering::Relaxed);
        let timeout = if timed_out { REPEATED_TIMEOUT } else { COMMAND_TIMEOUT };
        let done = connection::write_own(db, timeout, work).at(db);
        let timed_out = matches!(&done, Err(RegistryError::Locked { .. }));
        self.timed_out.store(timed_out, Ordering::Relaxed);
        done
    }
}
