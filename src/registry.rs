//! The record of sandboxes and runs in an SQLite database, kept by an [`Observer`].
//!
//! A [`Registry`] is a path, not a connection: each write opens the database, makes one
//! transaction and closes it again, so an idle sandbox holds neither memory nor locks of SQLite.
//! Only from a claim to the RUNNING (or the failure) that follows it at once, the connection is
//! kept; [`Registry::open_for_start`] is for those who want fewer of them.
//! Nothing on the loop waits: a database that is locked, full or broken delays the record, never
//! the child. Nothing here starts or stops a sandbox; the only processes that are signalled are
//! those that a [lost run](Lost) has left behind.
//!
//! # Whose word counts
//!
//! A record is data that its owner can write. On the word of a record that another user owns, or
//! could have written (the database, its directory or the spool directory is not our effective
//! user's, or is writable for others), nothing is ended, closed, taken in or removed
//! ([`RegistryError::Foreign`], [`RegistryError::Exposed`]); it is only read. Root is no exception,
//! and does not write to another user's database. What a lost run has left behind is ended only
//! where the environment of a process proves that it is that run's. Of SQLite's files each is opened
//! without waiting, queries are bounded, and no view or virtual table stands in for a table.
//!
//! # Who holds what
//!
//! - A *name* is held by the row of a run that is not STOPPED, and by nothing else, as long as the
//!   supervisor in that row lives: a claim adds the row, the end closes it. Between two runs of a
//!   command that is started again it is the row of the one that ended, in RESTARTING, until the
//!   claim of the next closes it in the transaction that adds its own. A program of the ecosystem
//!   holds a name by a RUNNING row in `sandboxes` and its supervisor's pid.
//! - The row of a run is written by its supervisor alone while that lives. Once it is dead
//!   ([`Liveness::Dead`](crate::monitor::Liveness)), whoever comes first ends what is left and
//!   closes it: [`Registry::reconcile`], or the next claim of that name. One that can't be judged,
//!   as from another pid namespace, keeps its row.
//! - The row in `sandboxes` belongs to the run, or the program, whose supervisor's pid it has.
//! - SQLite's write lock is held for the time of one transaction; by
//!   [`Registry::remove_with`] also while what belongs to the sandbox is removed.
//!
//! # Who waits, who syncs, who checkpoints
//!
//! - [`Registry::open`] and the [`RegistryObserver`] never wait for a lock (busy timeout 0). What
//!   they can't avoid is SQLite's own handful of short retries when it reads a write-ahead log
//!   that is being reset. [`Registry::runs`] is for commands, not for a loop: it waits up to five
//!   seconds.
//! - The database is in WAL mode with `synchronous=NORMAL`: a transition is written without
//!   `fsync`. After a crash of vmon nothing is lost; after a power failure the last transitions
//!   may be missing, and what is there is consistent.
//! - SQLite's automatic checkpoints, at every thousandth page and on every close, are off.
//!   [`Registry::open`] and [`Registry::runs`] checkpoint a log of more than 128 KiB, so that an
//!   ordinary supervisor never has to. An observer does it only when its own transaction takes
//!   the log past a further 256 KiB, which costs two syncs. The first transaction after anybody's
//!   checkpoint syncs the header of the log that begins anew. These are the only ones on the
//!   loop, and none of them waits for a reader or a writer.
//!   Other programs checkpoint as they are set up to.
//! - Until somebody checkpoints, `DB-wal` is a part of the database: copy or move the two
//!   together, or use `VACUUM INTO`.
//!
//! # When it can't be written
//!
//! A transition that can't be written waits in the observer, merged with those that follow, and
//! is tried again after 50 ms to 1 s. An end that can't be written within five seconds becomes a
//! file in the [spool directory](Registry::spool_dir), which the next claim and the next command
//! that reads take in. So does the end of a run that another one follows; that one's supervisor
//! goes on trying all the same. Where not even the file can be written (the same disk is full or
//! read-only) the end is lost, which is told as an error, and the run reconciles to
//! `supervisor-lost`. A database that was removed or replaced while a child runs gets
//! schema and rows anew at the next transition.
//!
//! [`Observer`]: crate::monitor::Observer

mod connection;
mod error;
mod lost;
mod metrics;
mod observer;
mod read;
mod reconcile;
mod record;
mod remove;
mod schema;
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

use connection::Kept;
pub use error::RegistryError;
use error::{At, Fault};
pub use metrics::Sample;
use nix::unistd::geteuid;
pub use observer::RegistryObserver;
use read::Which;
pub use read::{ConsoleBytes, Run, Status};
pub use reconcile::Lost;
pub use remove::{Pruned, Removal};
use rusqlite::Transaction;
use spool::{Found, PassedOver, Spooled};
use state_dir::StateDir;

/// How long a command waits for somebody else's lock.
const COMMAND_PATIENCE: Duration = Duration::from_secs(5);

/// How long for one that it has waited for in vain: as long as any transaction of ours takes.
const SECOND_PATIENCE: Duration = Duration::from_millis(250);

/// The record of sandboxes and runs. Cheap to clone; holds paths, and no connection unless it
/// was [opened for a start](Registry::open_for_start).
///
/// ```no_run
/// use vmon::registry::Registry;
///
/// # fn main() -> Result<(), vmon::registry::RegistryError> {
/// let registry = Registry::open("/var/lib/host/sandbox.db")?;
/// let observer = registry.observer(); // one a sandbox, for the monitor
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
    /// The connection that awaits the first claim, of a registry that keeps one.
    first: Option<Arc<Mutex<Option<Kept>>>>,
    /// Whether the last attempt to make the record true waited for the lock in vain. The next ones
    /// wait only a moment until one succeeds: a command makes several of them.
    waited: Arc<AtomicBool>,
    /// Files of the spool directory that a warning has named. No call waits for it.
    reported: Arc<Mutex<BTreeSet<PathBuf>>>,
}

#[derive(Debug, Clone)]
struct Paths {
    /// Absolute, its directory free of symbolic links.
    db: PathBuf,
    spool: PathBuf,
    /// Recorded paths are relative to it.
    state: Arc<StateDir>,
}

impl Registry {
    /// The registry in the database `db`, made when missing: its directories with mode 0700, the
    /// file with 0600 (SQLite gives `DB-wal` and `DB-shm` the mode of the database).
    ///
    /// A database of the ecosystem is used as it is: vmon adds its own tables and creates the
    /// others only where they are missing. Its mode is left alone.
    ///
    /// Never waits. A database that somebody else has locked is no error: what is left to do is
    /// done at the next access.
    ///
    /// # Errors
    ///
    /// Any other reason why the database can't be written, with its path: not a regular file (a
    /// symbolic link included), not a database, read-only, made by a newer vmon.
    pub fn open(db: impl AsRef<Path>) -> Result<Self, RegistryError> {
        Self::open_kept(db.as_ref()).map(|(registry, _)| registry)
    }

    /// As [`open`](Registry::open), for a program that starts one sandbox, and that at once: the
    /// connection is kept, with its memory, descriptors and lock (others can't change the journal
    /// mode), and the next claim uses it. Its
    /// observers close theirs only when nothing has come for 50 ms, so that a run which is
    /// shorter costs one connection.
    ///
    /// # Errors
    ///
    /// As [`open`](Registry::open).
    pub fn open_for_start(db: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let (registry, kept) = Self::open_kept(db.as_ref())?;
        Ok(Self { first: Some(Arc::new(Mutex::new(kept))), ..registry })
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

    /// The registry in the database `db`, for readers: `None` when there is no such file, and
    /// nothing is created.
    ///
    /// # Errors
    ///
    /// The path is not a regular file, or can't be looked at.
    pub fn open_existing(db: impl AsRef<Path>) -> Result<Option<Self>, RegistryError> {
        let given = db.as_ref();
        let registry = match Self::at(given) {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            registry => registry.at(given)?,
        };
        let exists = connection::exists(&registry.paths.db).at(given)?;
        Ok(exists.then_some(registry))
    }

    /// Where ends go that can't be written, instead of `run` beside the database. The directory is
    /// made when it is needed, with mode 0700. All who use one database should agree on it.
    ///
    /// An end in `run` belongs to the database beside it, also after both were moved. In a
    /// directory of its own an end belongs to the database whose path it has. What is there and
    /// can't be taken in is a warning.
    #[must_use]
    pub fn spool_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.paths).spool = dir.into();
        self
    }

    /// The state directory, instead of the directory of the database: for a database that lies
    /// elsewhere.
    ///
    /// Where a log directory ([`Sandbox::log_dir`](crate::monitor::Sandbox::log_dir)) or a control
    /// socket lies in the state directory, its path is recorded relative to that, and
    /// [`Run::spec`] and [`Run::socket`] have it resolved against the state directory of the
    /// registry that reads it. So one that was moved or copied leads to its own files. Other paths
    /// are recorded as they are.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.paths).state = Arc::new(StateDir::new(dir.into()));
        self
    }

    /// The path of the database: absolute, its directory free of symbolic links.
    pub fn path(&self) -> &Path {
        &self.paths.db
    }

    /// An observer that records one sandbox.
    pub fn observer(&self) -> RegistryObserver {
        RegistryObserver::new(self.clone())
    }

    /// Every run of every sandbox, oldest first, and after them the sandboxes of other programs.
    ///
    /// For commands, not for a loop: takes in spooled ends first, and waits up to five seconds for
    /// the lock where that or the reading needs one. A writer's lock on a database in WAL mode
    /// does not keep this from reading. Spooled ends that can't be taken in are a warning.
    ///
    /// # Errors
    ///
    /// The database can't be read. One that we may not write can be, as long as `DB-wal` and
    /// `DB-shm` are readable or `DB-wal` does not exist.
    pub fn runs(&self) -> Result<Vec<Run>, RegistryError> {
        self.read_runs(Which::All)
    }

    /// As [`runs`](Registry::runs), and of each sandbox only the latest: the one that goes on, or
    /// the last that began. The sandbox of another program that took it over is that program's.
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn latest(&self) -> Result<Vec<Run>, RegistryError> {
        self.read_runs(Which::Latest)
    }

    fn read_runs(&self, which: Which) -> Result<Vec<Run>, RegistryError> {
        let Paths { db, state, .. } = &*self.paths;
        self.take_in_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        let read = || {
            let read = connection::read(db, COMMAND_PATIENCE, |db| read::runs(db, which, state));
            let (mut runs, distrust) = read.at(db)?;
            let theirs = matches!(self.check_trust(), Err(RegistryError::Foreign { .. }));
            let trusted = distrust.is_none() && !theirs;
            runs.iter_mut().for_each(|run| run.trusted = trusted);
            Ok(runs)
        };
        let mut runs = read()?;
        // A supervisor may have written the end after the rows were read and before it was found
        // dead. What is read after that is its last word.
        let mut dead = read::lost(&runs);
        while !dead.is_empty() {
            runs = read()?;
            let still = read::lost(&runs);
            if still.iter().all(|run| dead.contains(run)) {
                break;
            }
            dead = still;
        }
        connection::checkpoint_large(db);
        Ok(runs)
    }

    /// The registry's paths for `db` as it was given. Its directory must exist.
    fn at(db: &Path) -> Result<Self, Fault> {
        let name = db.file_name().ok_or(Fault::NotAFile("a directory"))?;
        // SQLITE_OPEN_NOFOLLOW refuses a link anywhere in the path. Those that lead to the
        // directory are the user's own choice; one in the place of the file is not.
        let directory = fs::canonicalize(connection::parent(db))?;
        let spool = directory.join("run");
        let db = directory.join(name);
        let state = Arc::new(StateDir::new(directory));
        Ok(Self {
            paths: Arc::new(Paths { db, spool, state }),
            first: None,
            waited: Arc::default(),
            reported: Arc::default(),
        })
    }

    /// Sets up the schema where it is missing; takes no write lock where it is there.
    fn prepare(&self) -> Result<Kept, RegistryError> {
        let db = &self.paths.db;
        let mut kept = Kept::open(db, Duration::ZERO).at(db)?;
        if !kept.is_current(db).at(db)? {
            let made = connection::write_kept(db, Duration::ZERO, Some(kept), |_| Ok(()));
            ((), kept) = made.at(db)?;
        }
        kept.checkpoint_large(db);
        Ok(kept)
    }

    /// Whether a connection is kept for a moment after each transition.
    fn lingers(&self) -> bool {
        self.first.is_some()
    }

    /// The connection for a claim, where one awaits it. Never waits: nobody holds the lock longer
    /// than it takes to look, and a claim can do without.
    fn take_first(&self) -> Option<Kept> {
        self.first.as_ref()?.try_lock().ok()?.take()
    }

    /// Puts back the connection of a claim that was not granted, for the next one.
    fn give_back_first(&self, kept: Kept) {
        if let Some(first) = &self.first
            && let Ok(mut first) = first.try_lock()
        {
            *first = Some(kept);
        }
    }

    /// Whether this process may act on what the record says: only our effective user could have
    /// written it. Ask this before a command from the record is executed.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Foreign`] and [`RegistryError::Exposed`] where another user could have
    /// written it; the places can't be looked at.
    pub fn check_trust(&self) -> Result<(), RegistryError> {
        let Paths { db, spool, .. } = &*self.paths;
        trust::check(db, spool).at(db)
    }

    /// The ends in the spool directory. Each file there that is passed over is reported once.
    fn spooled(&self) -> Vec<Spooled> {
        let Found { ends, passed_over } = spool::read(&self.paths);
        if let Ok(mut reported) = self.reported.try_lock() {
            for PassedOver { path, reason } in passed_over {
                if reported.insert(path.clone()) {
                    tracing::warn!("can't take in the spooled end {}: {reason}", path.display());
                }
            }
        }
        ends
    }

    /// Of a record that is not to be acted on nothing is taken in: [`reconcile`](Self::reconcile)
    /// says so.
    fn take_in_spooled(&self) {
        let spooled = self.spooled();
        if spooled.is_empty() || self.check_trust().is_err() {
            return;
        }
        let told = self.waited.load(Ordering::Relaxed);
        match self.make_true(|tx| spool::take_in(tx, &spooled)) {
            Ok(()) => spool::remove(&spooled),
            Err(_) if told => {}
            Err(error) => tracing::warn!(
                count = spooled.len(), directory = %self.paths.spool.display(), %error,
                "spooled ends can't be taken in yet",
            ),
        }
    }

    /// Makes a transaction that brings the record up to what is true, and waits for the lock unless
    /// that was in vain before.
    fn make_true(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<(), Fault>,
    ) -> Result<(), RegistryError> {
        let db = &self.paths.db;
        let waited = self.waited.load(Ordering::Relaxed);
        let patience = if waited { SECOND_PATIENCE } else { COMMAND_PATIENCE };
        let done = connection::write_own(db, patience, work).at(db);
        let in_vain = matches!(&done, Err(RegistryError::Locked { .. }));
        self.waited.store(in_vain, Ordering::Relaxed);
        done
    }
}
