//! Connections for one transaction, or for the few that make a start, and the files they need.
//!
//! Only SQLite opens the database file: closing any descriptor of a file drops all POSIX locks that
//! the process holds on it (fcntl(2)), including those of a host's own connection.

mod files;

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::error::{Distrust, Fault};
use super::schema::{self, Schema};
use super::sqlite;
use super::trust::{self, existing};
use crate::access::{is_shared, make_directories, make_private};
pub(super) use files::exists;
use files::{Files, REGULAR, Stamp, companion, kind};

/// A command checkpoints a write-ahead log that is larger than this.
const COMMAND_CHECKPOINT: u64 = 128 << 10;
/// A transaction that takes the log past a multiple of this checkpoints it. Every connection that
/// finds itself alone reads the whole log again (wal.html, "recovery"), so the log must stay small.
const LOOP_CHECKPOINT: u64 = 256 << 10;

/// The longest path that SQLite opens: `MAX_PATHNAME` of its Unix interface, less the "-journal"
/// that it appends.
const LONGEST_PATH: usize = 512 - 8;

/// Steps of SQLite's virtual machine between two calls of the progress handler.
const STEPS: i32 = 10_000;
/// Step limit of a connection on an event loop: a fraction of a second. A view or trigger that
/// another program has put into the database could run for ever.
const LOOP_STEPS: u64 = 20_000_000;
/// Step limit of a command that writes: seconds. Pruning a million runs takes less.
const WRITE_STEPS: u64 = 200_000_000;
/// Step limit of a command that reads, which runs no trigger. Ten million runs on record take less.
const READ_STEPS: u64 = 2_000_000_000;
/// Size limit of one value, so that the database does not decide how much memory its reader takes.
/// The longest value that vmon writes is a command line, which execve(2) bounds.
const LONGEST_VALUE: i32 = 16 << 20;

/// The files of `db` as they are now; an error for any file beside it that SQLite would fail to open
/// (see [`sqlite`]).
fn check_companions(db: &Path) -> Result<Files, Fault> {
    let us = geteuid().as_raw();
    let database = fs::symlink_metadata(db).ok();
    let is_private = |found: &Metadata| found.uid() == us && !is_shared(found.mode());
    let is_private = database.as_ref().is_some_and(is_private);
    let check = |suffix| {
        let path = companion(db, suffix);
        let Some(found) = existing(fs::symlink_metadata(&path))? else { return Ok(None) };
        let (kind, owner) = (kind(&found), found.uid());
        if kind != REGULAR {
            return Err(Fault::Companion(path, kind));
        }
        if is_private && owner != us && owner != 0 {
            return Err(Fault::Planted(path, owner));
        }
        Ok(Some(Stamp::of(&found)))
    };
    let [journal, log, shared] = sqlite::COMPANIONS;
    check(journal)?;
    Ok(Files { companions: [check(log)?, check(shared)?], ..Files::new(database.as_ref()) })
}

/// Creates the directory of `db` and its parents.
pub(super) fn make_directory(db: &Path) -> Result<(), Fault> {
    check_length(db)?;
    Ok(make_directories(trust::parent(db))?)
}

fn check_length(db: &Path) -> Result<(), Fault> {
    match db.as_os_str().len() > LONGEST_PATH {
        true => Err(Fault::PathTooLong(LONGEST_PATH)),
        false => Ok(()),
    }
}

/// Creates an empty database with mode 0600, unless there is one.
///
/// SQLite would create it with the umask's mode. The file is created under a temporary name and
/// linked, because no descriptor of the database itself may be closed: another thread may have
/// locked it.
pub(super) fn make_file(db: &Path) -> Result<(), Fault> {
    let mut temporary = db.as_os_str().to_owned();
    temporary.push(format!(".{}-{:x}", std::process::id(), random()));
    let temporary = PathBuf::from(temporary);
    let create = |path: &Path| {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        make_private(&file).map_err(io::Error::from)
    };
    create(&temporary)?;
    let linked = match fs::hard_link(&temporary, db) {
        Err(error) if has_no_links(&error) => create(db),
        linked => linked,
    };
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => Ok(linked?),
    }
}

/// link(2) on FAT and similar file systems.
fn has_no_links(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EPERM)
}

/// A random number for unique file names and delays.
pub(super) fn random() -> u64 {
    use std::hash::BuildHasher;
    std::collections::hash_map::RandomState::new().hash_one(0_u8)
}

/// A connection that stays open from one transaction of a start to the next.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Connection,
    files: Files,
    /// SQLite's number of the content (`PRAGMA data_version`) whose schema was checked last.
    checked: Option<i64>,
    /// The first file SQLite has opened that another user could have written.
    distrust: Option<Distrust>,
}

impl Kept {
    /// Opens `db` for writing; creates it again if it was removed.
    pub(super) fn open(db: &Path, timeout: Duration) -> Result<Self, Fault> {
        // Taken before the file is opened, so that a replacement in between is detected.
        let mut files = check_companions(db)?;
        let (connection, distrust) = open(db, timeout)?;
        files.follow(db);
        Ok(Self { connection, files, checked: None, distrust })
    }

    pub(super) fn schema(&mut self, db: &Path) -> Result<Schema, Fault> {
        let ((found, version), distrust) = sqlite::with(db, false, |_| {
            // Read first: a change between the two is detected by the next transaction.
            let version = data_version(&self.connection);
            (schema::find(&self.connection), version)
        })?;
        self.distrust = self.distrust.take().or(distrust);
        let found = found?;
        self.checked = version.ok().filter(|_| found == Schema::Complete);
        Ok(found)
    }

    /// Fails if another user could have written one of the open files, even if their paths name
    /// other files by now.
    pub(super) fn check_trust(&self) -> Result<(), Fault> {
        trust::check_file(self.distrust.clone())
    }

    /// Checkpoints a log that has grown, for callers outside an event loop.
    pub(super) fn checkpoint_large(&mut self, db: &Path) {
        if self.files.log_size() > COMMAND_CHECKPOINT {
            let _ = sqlite::with(db, false, |_| checkpoint(&self.connection));
            self.files.follow(db);
        }
    }

    /// Whether the paths still name the files that are open, unchanged since the last use.
    fn is_of(&self, db: &Path) -> bool {
        self.files.database.is_some() && self.files == Files::of(db)
    }
}

/// Opens `db` for writing, set up for one transaction; creates it again if it was removed.
fn open(db: &Path, timeout: Duration) -> Result<(Connection, Option<Distrust>), Fault> {
    let open = || {
        let (opened, distrust) = sqlite::with(db, waits(timeout), |owner| {
            trust::check_root(db, owner)?;
            set_up(connect(db, OpenFlags::SQLITE_OPEN_READ_WRITE, timeout)?)
        })?;
        Ok((opened?, distrust))
    };
    match open() {
        Err(Fault::Sqlite(error))
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !exists(db)? =>
        {
            make_directory(db)?;
            make_file(db)?;
            open()
        }
        opened => opened,
    }
}

fn waits(timeout: Duration) -> bool {
    !timeout.is_zero()
}

fn set_up(connection: Connection) -> Result<Connection, Fault> {
    if sqlite::is_readonly(&connection) {
        return Err(Fault::ReadOnly);
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    // An automatic checkpoint at the thousandth page would sync on the loop.
    connection.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL")?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        // On a file system without shared memory the mode stays as it is, which works too.
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    }
    Ok(connection)
}

/// Call only within [`sqlite::with`].
fn connect(db: &Path, access: OpenFlags, timeout: Duration) -> Result<Connection, Fault> {
    if !access.contains(OpenFlags::SQLITE_OPEN_URI) {
        check_length(db)?;
    }
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags_and_vfs(db, flags, sqlite::vfs())?;
    // rusqlite sets five seconds.
    connection.busy_timeout(timeout)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // rusqlite has no constant for that before 0.36.
    connection.execute_batch("PRAGMA trusted_schema=OFF")?;
    // Fails for values below zero only; before 0.34 it returns no result.
    let _ = connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE);
    limit_steps(&mut connection, access, timeout);
    Ok(connection)
}

/// Gives the next statements of a connection their steps, which they share.
fn limit_steps(connection: &mut Connection, access: OpenFlags, timeout: Duration) {
    let mut steps_left = match waits(timeout) {
        false => LOOP_STEPS,
        true if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) => WRITE_STEPS,
        true => READ_STEPS,
    };
    let limit_reached = move || {
        steps_left = steps_left.saturating_sub(STEPS.unsigned_abs().into());
        steps_left == 0
    };
    // Fails only on a connection of another program, of which this is none.
    let _ = connection.progress_handler(STEPS, Some(limit_reached));
}

/// A number that changes on this connection when another one has changed the content.
fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// Runs one immediate transaction on a database with our schema, and closes the connection.
pub(super) fn write<T>(
    db: &Path,
    timeout: Duration,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    write_kept(db, timeout, None, work).map(|(value, _)| value)
}

/// Like [`write`], but fails if another user could have written the record.
pub(super) fn write_own<T>(
    db: &Path,
    timeout: Duration,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut kept = Kept::open(db, timeout)?;
    // Opens the files that opening the connection did not.
    kept.schema(db)?;
    kept.check_trust()?;
    write_on(db, timeout, kept, work).map(|(value, _)| value)
}

/// Runs one immediate transaction on the kept connection if `db` still names its files, else on a
/// new one. After a failure the connection is closed.
pub(super) fn write_kept<T>(
    db: &Path,
    timeout: Duration,
    kept: Option<Kept>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let kept = match kept.filter(|kept| kept.is_of(db)) {
        Some(kept) => kept,
        None => Kept::open(db, timeout)?,
    };
    write_on(db, timeout, kept, work)
}

fn write_on<T>(
    db: &Path,
    timeout: Duration,
    mut kept: Kept,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let before = kept.files.log_size();
    let Kept { connection, files, checked, .. } = &mut kept;
    let (value, distrust) = sqlite::with(db, waits(timeout), |_| {
        limit_steps(connection, OpenFlags::SQLITE_OPEN_READ_WRITE, timeout);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Our own transactions leave the number as it is.
        let version = data_version(&transaction)?;
        if *checked != Some(version) {
            schema::ensure(&transaction)?;
            *checked = Some(version);
        }
        let value = work(&transaction)?;
        transaction.commit()?;
        files.follow(db);
        // Only past a further multiple: while a reader keeps the log from being reset, every
        // transaction would sync without effect.
        if files.log_size() / LOOP_CHECKPOINT > before / LOOP_CHECKPOINT {
            checkpoint(connection);
            files.follow(db);
        }
        Ok::<T, Fault>(value)
    })?;
    kept.distrust = kept.distrust.take().or(distrust);
    Ok((value?, kept))
}

/// Reads `db`, even if it is not writable, and closes the connection. Returns also whether another
/// user could have written one of the files.
pub(super) fn read<T>(
    db: &Path,
    timeout: Duration,
    work: impl Fn(&Connection) -> Result<T, Fault>,
) -> Result<(T, Option<Distrust>), Fault> {
    check_companions(db)?;
    let (read, distrust) = sqlite::with(db, waits(timeout), |_| {
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let work = |connection: Connection| {
            schema::check_columns(&connection)?;
            work(&connection)
        };
        match connect(db, read_only, timeout).and_then(work) {
            Err(fault) if needs_shared_memory(&fault) && wal_size(db) == 0 => {
                // A WAL database needs its -shm file even for reading, and it can't be created
                // here. Without a log, the database file alone is complete (uri.html, "immutable").
                let uri = immutable_uri(db);
                let flags = read_only | OpenFlags::SQLITE_OPEN_URI;
                connect(&uri, flags, timeout).and_then(work)
            }
            Err(fault) if fault.is_index_full() => read_alone(db, timeout, work).map_err(|_| fault),
            result => result,
        }
    })?;
    Ok((read?, distrust))
}

/// Reads `db` while no other process has it open: then SQLite needs no -shm file (wal.html, "Use of
/// WAL Without Shared-Memory"). Others wait, or retry, for as long as this reads.
///
/// SQLite's busy handler would keep the shared lock while it waits for the exclusive one, and two
/// processes would wait for each other. So each attempt has a connection of its own.
fn read_alone<T>(
    db: &Path,
    timeout: Duration,
    work: impl Fn(Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let give_up = Instant::now() + timeout;
    loop {
        let alone = connect(db, OpenFlags::SQLITE_OPEN_READ_WRITE, Duration::ZERO)?;
        alone.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
        match work(alone) {
            Err(fault)
                if fault.code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < give_up =>
            {
                thread::park_timeout(Duration::from_millis(1 + random() % 8));
            }
            read => return read,
        }
    }
}

/// Reads `db` as `change` makes it, which is not committed: for what the disk has no room for.
pub(super) fn read_changed<T>(
    db: &Path,
    timeout: Duration,
    change: impl FnOnce(&Transaction<'_>) -> Result<(), Fault>,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut kept = Kept::open(db, timeout)?;
    // Opens the files that opening the connection did not.
    kept.schema(db)?;
    kept.check_trust()?;
    let (read, _) = sqlite::with(db, waits(timeout), |_| {
        let begun = kept.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::ensure(&begun)?;
        change(&begun)?;
        work(&begun)
    })?;
    read
}

/// Like [`read`], but fails if another user could have written the record.
pub(super) fn read_own<T>(
    db: &Path,
    timeout: Duration,
    work: impl Fn(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (value, distrust) = read(db, timeout, work)?;
    trust::check_file(distrust)?;
    Ok(value)
}

fn needs_shared_memory(fault: &Fault) -> bool {
    matches!(fault.code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn immutable_uri(db: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    for &byte in db.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}

/// Checkpoints a log that has grown, for callers outside an event loop.
pub(super) fn checkpoint_large(db: &Path) {
    if wal_size(db) > COMMAND_CHECKPOINT
        && let Ok(mut kept) = Kept::open(db, Duration::ZERO)
    {
        kept.checkpoint_large(db);
    }
}

/// Moves the log into the database and truncates it, as far as possible without waiting.
///
/// Not `PASSIVE`, which does not truncate: only the shared memory records how much of the log was
/// moved, and the next connection that finds itself alone resets that, so the log would be moved
/// again at every write and grow without end. Without a busy handler `TRUNCATE` waits no longer
/// than `PASSIVE`, and does as much when a reader or writer is active.
fn checkpoint(connection: &Connection) {
    let done = connection
        .busy_timeout(Duration::ZERO)
        .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = done {
        tracing::debug!(%error, "the write-ahead log of the registry was not checkpointed");
    }
}

/// The size of the write-ahead log; 0 if there is none.
fn wal_size(db: &Path) -> u64 {
    fs::metadata(companion(db, "-wal")).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_connection_is_kept_over_its_own_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().canonicalize().unwrap().join("sandbox.db");
        make_file(&db).unwrap();
        let grow = "CREATE TABLE filler (bytes); INSERT INTO filler VALUES (zeroblob(200000))";
        let grown = write_kept(&db, Duration::ZERO, None, |tx| Ok(tx.execute_batch(grow)?));
        let ((), mut kept) = grown.unwrap();
        assert!(wal_size(&db) > COMMAND_CHECKPOINT && kept.is_of(&db));
        kept.checkpoint_large(&db);
        assert_eq!(wal_size(&db), 0);
        assert!(kept.is_of(&db));
    }

    #[test]
    fn each_transaction_of_a_kept_connection_has_steps_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().canonicalize().unwrap().join("sandbox.db");
        make_file(&db).unwrap();
        let work = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000)
            SELECT count(*) FROM n";
        let mut kept = None;
        for _ in 0..4 {
            let worked = write_kept(&db, Duration::ZERO, kept, |tx| {
                Ok(tx.query_row(work, [], |row| row.get::<_, i64>(0))?)
            });
            let (count, connection) = worked.unwrap();
            assert_eq!(count, 1_000_000);
            kept = Some(connection);
        }
    }
}
