//! Connections of one transaction, or of the few that make a start, and the files they need.
//!
//! The database file is never opened here except by SQLite: closing any descriptor of a file
//! drops all of the process's POSIX locks on it (fcntl(2)), those of a connection that a host
//! holds included.

use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::error::Fault;
use super::trust::{self, Distrust};
use super::{schema, sqlite};

/// A write-ahead log of this size is checkpointed by a command.
const COMMAND_CHECKPOINT: u64 = 128 << 10;
/// A transaction that takes the log past a multiple of this checkpoints it. Each connection that
/// is alone reads the whole log again (wal.html, "recovery"), so it can't grow at will.
const LOOP_CHECKPOINT: u64 = 256 << 10;

/// How many steps of SQLite's virtual machine come between two looks at how many there have been.
const STEPS: i32 = 10_000;
/// How many a connection may take on a loop: a fraction of a second. A view or a trigger that
/// another program has put into the database could go on for ever.
const LOOP_STEPS: u64 = 20_000_000;
/// The same in a command that writes: seconds. To prune a million runs takes less.
const WRITE_STEPS: u64 = 200_000_000;
/// The same in a command that reads, which runs no trigger: ten million runs on record take less.
const READ_STEPS: u64 = 2_000_000_000;
/// The longest value that is read or written. A command line, which execve(2) bounds, is the longest
/// that vmon writes; a longer one would decide how much memory its reader takes.
const LONGEST_VALUE: i32 = 16 << 20;

/// Whether there is a regular file in the database's place; an error for anything else.
pub(super) fn exists(db: &Path) -> Result<bool, Fault> {
    match metadata(db)?.as_ref().map(kind) {
        None => Ok(false),
        Some(REGULAR) => Ok(true),
        Some(kind) => Err(Fault::NotAFile(kind)),
    }
}

const REGULAR: &str = "a regular file";

/// `None` where there is nothing under this path.
fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some),
    }
}

fn kind(found: &Metadata) -> &'static str {
    match found.file_type() {
        kind if kind.is_file() => REGULAR,
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() || kind.is_socket() => "a FIFO or socket",
        _ => "a device",
    }
}

/// SQLite opens what lies beside the database. What it would refuse there (see [`sqlite`]) is named
/// here.
fn check_companions(db: &Path) -> Result<(), Fault> {
    let us = geteuid().as_raw();
    let is_private = |found: Metadata| found.uid() == us && !trust::is_shared(found.mode());
    let is_private = fs::symlink_metadata(db).is_ok_and(is_private);
    for suffix in sqlite::COMPANIONS {
        let path = companion(db, suffix);
        let Some(found) = metadata(&path)? else { continue };
        let (kind, owner) = (kind(&found), found.uid());
        if kind != REGULAR {
            return Err(Fault::Companion(path, kind));
        }
        if is_private && owner != us && owner != 0 {
            return Err(Fault::Planted(path, owner));
        }
    }
    Ok(())
}

/// The directory of `db`, which is the working directory for a bare file name.
pub(super) fn parent(db: &Path) -> &Path {
    db.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the directory of `db`, and those above it.
pub(super) fn make_directory(db: &Path) -> Result<(), Fault> {
    Ok(DirBuilder::new().recursive(true).mode(0o700).create(parent(db))?)
}

/// Makes an empty database with mode 0600, unless there is one by now.
///
/// SQLite would make it with the umask's mode. Made under another name and linked, because a
/// descriptor of the file itself must not be closed while another thread may have locked it.
pub(super) fn make_file(db: &Path) -> Result<(), Fault> {
    let mut temporary = db.as_os_str().to_owned();
    temporary.push(format!(".{}-{:x}", std::process::id(), random()));
    let temporary = PathBuf::from(temporary);
    let create =
        |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    create(&temporary)?;
    let linked = match fs::hard_link(&temporary, db) {
        Err(error) if has_no_links(&error) => create(db).map(drop),
        linked => linked,
    };
    let _ = fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => Ok(linked?),
    }
}

/// link(2) on FAT and the like.
fn has_no_links(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EPERM)
}

/// A number that no other call gets.
pub(super) fn random() -> u64 {
    use std::hash::BuildHasher;
    std::collections::hash_map::RandomState::new().hash_one(0_u8)
}

/// A connection that is kept from one transaction to the next, while both belong to one start.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Connection,
    files: Files,
    /// Whether another user could have written one of the files that SQLite has opened.
    distrust: Option<Distrust>,
}

/// What tells a file from another, and from itself after somebody else has changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// Device and inode, which nothing else can get while the connection has the file open.
    id: (u64, u64),
    len: u64,
}

/// The files of a database, as a connection left them. One that is used after somebody has removed
/// or truncated them, or has copied a backup over them, writes where nobody reads, takes what it
/// remembers for what is there, or dies of SIGBUS in a mapping that has no file behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Files {
    database: Option<Stamp>,
    /// Seconds and nanoseconds. Only that of the database: the others change by their use.
    modified: Option<(i64, i64)>,
    companions: [Option<Stamp>; 2],
}

impl Files {
    fn of(db: &Path) -> Self {
        let stamp = |metadata: &Metadata| Stamp {
            id: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
        };
        let database = fs::symlink_metadata(db).ok();
        let companions = ["-wal", "-shm"].map(|suffix| {
            fs::symlink_metadata(companion(db, suffix)).ok().map(|metadata| stamp(&metadata))
        });
        Self {
            database: database.as_ref().map(stamp),
            modified: database.map(|metadata| (metadata.mtime(), metadata.mtime_nsec())),
            companions,
        }
    }

    fn log_size(&self) -> u64 {
        let [log, _] = self.companions;
        log.map_or(0, |log| log.len)
    }

    /// Learns what a use of the connection has made of them, unless the database is another one.
    fn follow(&mut self, db: &Path) {
        let now = Self::of(db);
        if now.database.map(|stamp| stamp.id) == self.database.map(|stamp| stamp.id) {
            *self = now;
        }
    }
}

impl Kept {
    /// Opens `db` for writing; makes it anew if it has gone.
    pub(super) fn open(db: &Path, patience: Duration) -> Result<Self, Fault> {
        // Before the file is opened: one that takes its place meanwhile is told from it then.
        check_companions(db)?;
        let mut files = Files::of(db);
        let (connection, distrust) = open(db, patience)?;
        files.follow(db);
        Ok(Self { connection, files, distrust })
    }

    pub(super) fn is_current(&mut self, db: &Path) -> Result<bool, Fault> {
        let (is_current, distrust) =
            sqlite::with(db, false, |_| schema::is_current(&self.connection))?;
        self.distrust = self.distrust.take().or(distrust);
        is_current
    }

    /// Fails where another user could have written what is open here, whatever is in its place by
    /// now.
    pub(super) fn check_trust(&self) -> Result<(), Fault> {
        trust::check_file(self.distrust.clone())
    }

    /// Checkpoints a log that has grown, for those who are on no loop.
    pub(super) fn checkpoint_large(&mut self, db: &Path) {
        if self.files.log_size() > COMMAND_CHECKPOINT {
            let _ = sqlite::with(db, false, |_| checkpoint(&self.connection));
            self.files.follow(db);
        }
    }

    /// Whether the files in the database's place are those that are open here, as they were left.
    fn is_of(&self, db: &Path) -> bool {
        self.files.database.is_some() && self.files == Files::of(db)
    }
}

/// The file that SQLite has beside the database.
fn companion(db: &Path, suffix: &str) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Opens `db` for writing, set up for one transaction; makes it anew if it has gone.
fn open(db: &Path, patience: Duration) -> Result<(Connection, Option<Distrust>), Fault> {
    let open = || {
        let (opened, distrust) = sqlite::with(db, waits(patience), |owner| {
            trust::check_root(db, owner)?;
            set_up(connect(db, OpenFlags::SQLITE_OPEN_READ_WRITE, patience)?)
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

fn waits(patience: Duration) -> bool {
    !patience.is_zero()
}

fn set_up(connection: Connection) -> Result<Connection, Fault> {
    if connection.is_readonly("main")? {
        return Err(Fault::ReadOnly);
    }
    // Without a checkpoint of its own at the thousandth page: that one would sync on the loop.
    connection.execute_batch(
        "PRAGMA foreign_keys=ON; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL",
    )?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        // Where the file system has no shared memory the mode stays as it is, which works too.
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    }
    Ok(connection)
}

/// Only within [`sqlite::with`].
fn connect(db: &Path, access: OpenFlags, patience: Duration) -> Result<Connection, Fault> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags_and_vfs(db, flags, sqlite::vfs())?;
    // rusqlite has set five seconds.
    connection.busy_timeout(patience)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE)?;
    let mut left = match waits(patience) {
        false => LOOP_STEPS,
        true if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) => WRITE_STEPS,
        true => READ_STEPS,
    };
    let is_enough = move || {
        left = left.saturating_sub(STEPS.unsigned_abs().into());
        left == 0
    };
    connection.progress_handler(STEPS, Some(is_enough))?;
    Ok(connection)
}

/// Makes one immediate transaction on a database with our schema, and closes it.
pub(super) fn write<T>(
    db: &Path,
    patience: Duration,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    write_kept(db, patience, None, work).map(|(value, _)| value)
}

/// As [`write`], for what is done on the word of the record: fails where another user could have
/// written it.
pub(super) fn write_own<T>(
    db: &Path,
    patience: Duration,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut kept = Kept::open(db, patience)?;
    // The first transaction opens what opening did not.
    kept.is_current(db)?;
    kept.check_trust()?;
    write_on(db, patience, kept, work).map(|(value, _)| value)
}

/// Makes one immediate transaction on the connection that was kept, if `db` is still its file,
/// else on a new one. A connection on which it failed is closed.
pub(super) fn write_kept<T>(
    db: &Path,
    patience: Duration,
    kept: Option<Kept>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let kept = match kept.filter(|kept| kept.is_of(db)) {
        Some(kept) => kept,
        None => Kept::open(db, patience)?,
    };
    write_on(db, patience, kept, work)
}

fn write_on<T>(
    db: &Path,
    patience: Duration,
    mut kept: Kept,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let before = kept.files.log_size();
    let Kept { connection, files, .. } = &mut kept;
    let (value, distrust) = sqlite::with(db, waits(patience), |_| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::check_tables(&transaction)?;
        schema::ensure(&transaction)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        files.follow(db);
        // Only past a further multiple: a reader that keeps the log from being reset would otherwise
        // make every transaction sync in vain.
        if files.log_size() / LOOP_CHECKPOINT > before / LOOP_CHECKPOINT {
            checkpoint(connection);
            files.follow(db);
        }
        Ok::<T, Fault>(value)
    })?;
    kept.distrust = kept.distrust.take().or(distrust);
    Ok((value?, kept))
}

/// Reads `db`, also where we may not write it, and closes it; with what is read comes whether
/// another user could have written it.
pub(super) fn read<T>(
    db: &Path,
    patience: Duration,
    work: impl Fn(&Connection) -> Result<T, Fault>,
) -> Result<(T, Option<Distrust>), Fault> {
    check_companions(db)?;
    let (read, distrust) = sqlite::with(db, waits(patience), |_| {
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let work = |connection: Connection| {
            schema::check_columns(&connection)?;
            work(&connection)
        };
        match connect(db, read_only, patience).and_then(work) {
            Err(fault) if needs_shared_memory(&fault) && wal_size(db) == 0 => {
                // A WAL database needs its -shm file even to be read, and here it can't be made.
                // With no log, the file alone is the whole database (uri.html, "immutable").
                let uri = immutable_uri(db);
                let flags = read_only | OpenFlags::SQLITE_OPEN_URI;
                connect(&uri, flags, patience).and_then(work)
            }
            result => result,
        }
    })?;
    Ok((read?, distrust))
}

/// As [`read`], for what is done on the word of the record: fails where another user could have
/// written it.
pub(super) fn read_own<T>(
    db: &Path,
    patience: Duration,
    work: impl Fn(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (value, distrust) = read(db, patience, work)?;
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

/// Checkpoints a log that has grown, for those who are on no loop.
pub(super) fn checkpoint_large(db: &Path) {
    if wal_size(db) > COMMAND_CHECKPOINT
        && let Ok(mut kept) = Kept::open(db, Duration::ZERO)
    {
        kept.checkpoint_large(db);
    }
}

/// Moves the log into the database and empties it, as far as that goes without waiting.
///
/// Not `PASSIVE`, which leaves the log as it is: how much of it has been moved is known to the
/// shared memory alone, and that starts anew with the next connection that finds itself alone. The
/// log would be moved again at every write, and never end. Without a busy handler `TRUNCATE` waits
/// no more than `PASSIVE` does, and does as much where a reader or a writer is in the way.
fn checkpoint(connection: &Connection) {
    let patient = connection.busy_timeout(Duration::ZERO);
    let done = patient
        .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = done {
        tracing::debug!(%error, "the registry's log stays for a later checkpoint");
    }
}

/// The size of the write-ahead log; 0 when there is none.
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
}
