//! Rows of `sandboxes` and `vmon_runs`: the claim rule, and bringing them up to a [`Record`].
//!
//! Everything here happens inside one immediate transaction that somebody else opened.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use chrono::Utc;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Result, Row, Transaction, named_params, params};

use super::read::{self, ConsoleBytes, Run};
use super::record::{Record, SUPERVISOR_LOST, Stage};
use crate::monitor::{Identity, Liveness};
use crate::timestamp::rfc3339;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// The rows say what it says; its row in `vmon_runs`.
    Row(i64),
    /// Nothing was changed: the sandbox is somebody else's, who lives.
    Taken { supervisor: u32 },
    /// Nothing was changed: these runs of the sandbox have lost their supervisor, and what they
    /// may have left behind is to be ended first. With all that stand open.
    Lost { runs: Vec<Run>, open: Vec<Run> },
}

/// The status of a sandbox whose child runs, in the ecosystem's words.
pub(super) const RUNNING: &str = "RUNNING";
/// The status of any other.
const STOPPED: &str = "STOPPED";

/// Brings the rows of `record` up to it; claims the sandbox for one that has no row yet, over lost
/// runs only if nothing is left of them: those in `cleared`.
pub(super) fn store(tx: &Transaction<'_>, record: &Record, cleared: &[i64]) -> Result<Stored> {
    if let Some(row) = record.row
        && update_run(tx, record, row)?
    {
        return Ok(Stored::Row(row));
    }
    if record.follows {
        close_restarting(tx, record)?;
    }
    if record.row.is_none() && !record.follows && record.ending().is_none() {
        return claim(tx, record, cleared);
    }
    // In a database that was removed or replaced, or one that has the run already.
    match find_run(tx, record)? {
        Some(row) => {
            update_run(tx, record, row)?;
            Ok(Stored::Row(row))
        }
        None => claim(tx, record, cleared),
    }
}

/// Stores an end that was spooled, perhaps before what the rows say now.
pub(super) fn store_spooled(tx: &Transaction<'_>, record: &Record) -> Result<()> {
    let found = find_run(tx, record)?;
    if record.is_over() {
        return store(tx, &Record { row: found, ..record.clone() }, &[]).map(drop);
    }
    let ended = match found {
        Some(row) => has_ended(tx, row)?,
        None => false,
    };
    if ended {
        return Ok(());
    }
    // Where nobody is left to start it again, or that has been done, this run is simply over.
    let over = record.supervisor.liveness() == Liveness::Dead || is_followed(tx, record)?;
    let record = if over { record.clone().finished() } else { record.clone() };
    store(tx, &Record { row: found, ..record }, &[]).map(drop)
}

fn has_ended(tx: &Transaction<'_>, row: i64) -> Result<bool> {
    let sql = "SELECT ended_at IS NOT NULL FROM vmon_runs WHERE id = ?1";
    tx.query_row(sql, [row], |row| row.get(0))
}

/// Whether the rows have a later run of the same supervisor.
fn is_followed(tx: &Transaction<'_>, record: &Record) -> Result<bool> {
    let supervisor = &record.supervisor;
    tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM vmon_runs WHERE started_at > ?1 AND supervisor_pid = ?2
            AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
            (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6))",
        params![
            record.started_at,
            supervisor.pid,
            signed(supervisor.start),
            supervisor.boot_id,
            record.name,
            record.config_file,
        ],
        |row| row.get(0),
    )
}

/// The state is named twice for the sake of the index of the unfinished runs.
const CLOSE_RESTARTING: &str = "
UPDATE vmon_runs SET state = 'STOPPED'
WHERE state <> 'STOPPED' AND state = 'RESTARTING' AND started_at < ?1 AND supervisor_pid = ?2
    AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
    (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6)";

/// Closes the run that has waited for this one: it keeps the end that it has.
fn close_restarting(tx: &Transaction<'_>, record: &Record) -> Result<()> {
    let supervisor = &record.supervisor;
    tx.execute(
        CLOSE_RESTARTING,
        params![
            record.started_at,
            supervisor.pid,
            signed(supervisor.start),
            supervisor.boot_id,
            record.name,
            record.config_file,
        ],
    )?;
    Ok(())
}

/// One row of `sandboxes`.
pub(super) struct SandboxRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) config_file: String,
    pub(super) status: String,
    pub(super) supervisor_pid: i64,
}

/// One run that stands open.
pub(super) struct OpenRun {
    id: i64,
    pub(super) supervisor: Identity,
}

/// Takes the sandbox for `record` unless somebody else who lives has it, and adds the run's row.
///
/// A run that has ended claims nothing where anything stands open. It is added all the same: it
/// did happen.
fn claim(tx: &Transaction<'_>, record: &Record, cleared: &[i64]) -> Result<Stored> {
    let rows = sandbox_rows(tx, &record.config_file, &record.name)?;
    let mut lost = Vec::new();
    for row in &rows {
        let open = unfinished_runs(tx, row.id)?;
        let occupant = occupant(row, &open);
        if record.ending().is_some() && (occupant.is_some() || !open.is_empty()) {
            return Ok(Stored::Row(insert_run(tx, &record.clone().finished(), row.id)?));
        }
        if let Some(supervisor) = occupant {
            return Ok(Stored::Taken { supervisor });
        }
        if open.iter().any(|open| !cleared.contains(&open.id)) {
            let runs = read::runs_of(tx, row.id, &record.state)?;
            lost.extend(runs.into_iter().filter(Run::is_open));
        }
    }
    if !lost.is_empty() {
        return Ok(Stored::Lost { runs: lost, open: read::open_runs(tx, &record.state)? });
    }
    for row in &rows {
        close_all(tx, row)?;
    }
    // Programs that update and then insert may have left a second row; the first one stays ours.
    let sandbox = match rows.first() {
        Some(row) => take_sandbox(tx, record, row.id)?,
        None => insert_sandbox(tx, record)?,
    };
    let run = insert_run(tx, record, sandbox)?;
    settle_sandbox(tx, record, sandbox)?;
    Ok(Stored::Row(run))
}

const SANDBOX_ROW: &str = "SELECT id, name, config_file, status, supervisor_pid FROM sandboxes";

pub(super) fn sandbox_rows(
    tx: &Transaction<'_>,
    config_file: &str,
    name: &str,
) -> Result<Vec<SandboxRow>> {
    let sql = format!("{SANDBOX_ROW} WHERE name = ?1 AND config_file = ?2 ORDER BY id");
    let mut statement = tx.prepare(&sql)?;
    statement.query_map([name, config_file], read_sandbox)?.collect()
}

pub(super) fn sandbox_row(tx: &Transaction<'_>, id: i64) -> Result<SandboxRow> {
    tx.query_row(&format!("{SANDBOX_ROW} WHERE id = ?1"), [id], read_sandbox)
}

fn read_sandbox(row: &Row<'_>) -> Result<SandboxRow> {
    Ok(SandboxRow {
        id: row.get(0)?,
        name: row.get(1)?,
        config_file: row.get(2)?,
        status: row.get(3)?,
        supervisor_pid: row.get(4)?,
    })
}

/// The pid of the live supervisor that has this sandbox.
fn occupant(row: &SandboxRow, unfinished: &[OpenRun]) -> Option<u32> {
    // What can't be told, as from another pid namespace, is not judged dead.
    let lives = |open: &&OpenRun| open.supervisor.liveness() != Liveness::Dead;
    if let Some(open) = unfinished.iter().find(lives) {
        return Some(open.supervisor.pid);
    }
    // A run that was lost may stand open while another program has the sandbox since.
    let ours = unfinished.iter().any(|lost| i64::from(lost.supervisor.pid) == row.supervisor_pid);
    if row.status == RUNNING && !ours {
        return foreign_supervisor(row.supervisor_pid);
    }
    None
}

const UNFINISHED_RUNS: &str = "
SELECT id, boot_id, pid_namespace, supervisor_pid, supervisor_start FROM vmon_runs
WHERE sandbox_id = ?1 AND state <> 'STOPPED' ORDER BY id DESC";

/// The runs of a sandbox that have not ended, newest first.
pub(super) fn unfinished_runs(tx: &Transaction<'_>, sandbox: i64) -> Result<Vec<OpenRun>> {
    let mut statement = tx.prepare(UNFINISHED_RUNS)?;
    let open = |row: &Row<'_>| Ok(OpenRun { id: row.get("id")?, supervisor: supervisor(row)? });
    statement.query_map([sandbox], open)?.collect()
}

/// The supervisor of a run, from a row that names its columns.
pub(super) fn supervisor(row: &Row<'_>) -> Result<Identity> {
    Ok(Identity {
        pid: row.get("supervisor_pid")?,
        start: unsigned(row.get("supervisor_start")?),
        boot_id: row.get("boot_id")?,
        pid_namespace: row.get::<_, Option<i64>>("pid_namespace")?.map(unsigned),
    })
}

/// The pid of another program's supervisor, if a process has it.
///
/// Our own pid is no other program: a container starts its processes with the same few pids each
/// time, and a row of the last time would never come free.
pub(super) fn foreign_supervisor(pid: i64) -> Option<u32> {
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
    // Signal 0 is none: kill(2) only looks. EPERM is a process that we may not signal.
    let exists = kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let pid = pid.unsigned_abs();
    (exists && pid != std::process::id()).then_some(pid)
}

/// Closes what a dead supervisor left open, before its sandbox is taken.
fn close_all(tx: &Transaction<'_>, row: &SandboxRow) -> Result<()> {
    for OpenRun { id, .. } in unfinished_runs(tx, row.id)? {
        close_run(tx, id)?;
    }
    if row.status == RUNNING {
        tx.execute(
            "UPDATE sandboxes SET status = ?2, modified_at = CURRENT_TIMESTAMP WHERE id = ?1",
            params![row.id, STOPPED],
        )?;
    }
    Ok(())
}

/// Closes a run that has lost its supervisor, unless that has been done meanwhile or the number is
/// another run's now, and its sandbox's row, if that is still this run's.
pub(super) fn close_lost(tx: &Transaction<'_>, run: &Run) -> Result<()> {
    let open = unfinished_runs(tx, run.sandbox_id)?;
    let same = |open: &&OpenRun| {
        Some(open.id) == run.id && Some(&open.supervisor) == run.supervisor_identity.as_ref()
    };
    let Some(OpenRun { id, supervisor }) = open.iter().find(same) else { return Ok(()) };
    close_run(tx, *id)?;
    tx.execute(
        "UPDATE sandboxes SET status = ?2, modified_at = CURRENT_TIMESTAMP
         WHERE id = ?1 AND status = ?3 AND supervisor_pid = ?4
            AND (?5 IS NULL OR microvm_pid = ?5)
            AND NOT EXISTS (SELECT 1 FROM vmon_runs WHERE sandbox_id = ?1 AND state <> 'STOPPED')",
        params![run.sandbox_id, STOPPED, RUNNING, supervisor.pid, run.pid],
    )?;
    Ok(())
}

/// What is known of its end stays: that of a run which waited to be started again, or the exit
/// code of a child whose output was still being read.
fn close_run(tx: &Transaction<'_>, id: i64) -> Result<()> {
    tx.execute(
        "UPDATE vmon_runs SET state = 'STOPPED', reason = coalesce(reason, ?2),
            ended_at = coalesce(ended_at, ?3)
         WHERE id = ?1 AND state <> 'STOPPED'",
        params![id, SUPERVISOR_LOST, rfc3339(Utc::now())],
    )?;
    Ok(())
}

/// The sandbox has no child yet, so its status is STOPPED.
fn take_sandbox(tx: &Transaction<'_>, record: &Record, id: i64) -> Result<i64> {
    tx.execute(
        "UPDATE sandboxes SET config_last_modified = :config_last_modified, status = :status,
            supervisor_pid = :supervisor_pid, microvm_pid = 0, rootfs_paths = :rootfs_paths,
            modified_at = CURRENT_TIMESTAMP
         WHERE id = :id",
        named_params! {
            ":id": id,
            ":config_last_modified": record.config_last_modified,
            ":status": STOPPED,
            ":supervisor_pid": record.supervisor.pid,
            ":rootfs_paths": record.rootfs_paths,
        },
    )?;
    Ok(id)
}

fn insert_sandbox(tx: &Transaction<'_>, record: &Record) -> Result<i64> {
    tx.execute(
        "INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths)
         VALUES (:name, :config_file, :config_last_modified, :status, :supervisor_pid, 0,
            :rootfs_paths)",
        named_params! {
            ":name": record.name,
            ":config_file": record.config_file,
            ":config_last_modified": record.config_last_modified,
            ":status": STOPPED,
            ":supervisor_pid": record.supervisor.pid,
            ":rootfs_paths": record.rootfs_paths,
        },
    )?;
    Ok(tx.last_insert_rowid())
}

fn insert_run(tx: &Transaction<'_>, record: &Record, sandbox: i64) -> Result<i64> {
    let supervisor = &record.supervisor;
    tx.execute(
        "INSERT INTO vmon_runs (sandbox_id, state, boot_id, pid_namespace, supervisor_pid,
            supervisor_start, started_at, spec, socket)
         VALUES (?1, 'STARTING', ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            sandbox,
            supervisor.boot_id,
            supervisor.pid_namespace.map(signed),
            supervisor.pid,
            signed(supervisor.start),
            record.started_at,
            record.spec,
            record.socket.as_deref().map(path),
        ],
    )?;
    let row = tx.last_insert_rowid();
    if record.stage != Stage::Starting {
        update_run(tx, record, row)?;
    }
    Ok(row)
}

/// The row of this run, whatever its number.
fn find_run(tx: &Transaction<'_>, record: &Record) -> Result<Option<i64>> {
    let supervisor = &record.supervisor;
    tx.query_row(
        "SELECT id FROM vmon_runs WHERE started_at = ?1 AND supervisor_pid = ?2
            AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
            (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6)",
        params![
            record.started_at,
            supervisor.pid,
            signed(supervisor.start),
            supervisor.boot_id,
            record.name,
            record.config_file,
        ],
        |row| row.get(0),
    )
    .optional()
}

/// Brings the run's row and its sandbox's up to the record; `false` when `row` is not this run's.
fn update_run(tx: &Transaction<'_>, record: &Record, row: i64) -> Result<bool> {
    let (supervisor, child, ending) = (&record.supervisor, &record.child, record.ending());
    // In a database that was replaced meanwhile the number may be another run's.
    let sandbox = tx
        .query_row(
            "UPDATE vmon_runs SET state = :state, pid = :pid, pid_start = :pid_start,
                running_at = :running_at, ended_at = :ended_at, exit_code = :exit_code,
                signal = :signal, reason = :reason, bytes_logged = :bytes_logged,
                bytes_dropped = :bytes_dropped
             WHERE id = :id AND boot_id = :boot_id AND supervisor_pid = :supervisor_pid
                AND supervisor_start = :supervisor_start AND started_at = :started_at
                AND EXISTS (SELECT 1 FROM sandboxes
                    WHERE id = sandbox_id AND name = :name AND config_file = :config_file)
             RETURNING sandbox_id",
            named_params! {
                ":id": row,
                ":name": record.name,
                ":config_file": record.config_file,
                ":boot_id": supervisor.boot_id,
                ":supervisor_pid": supervisor.pid,
                ":supervisor_start": signed(supervisor.start),
                ":started_at": record.started_at,
                ":state": record.stage.as_str(),
                ":pid": child.as_ref().map(|child| child.pid),
                ":pid_start": child.as_ref().map(|child| signed(child.start)),
                ":running_at": child.as_ref().map(|child| &child.running_at),
                ":ended_at": ending.map(|ending| &ending.at),
                ":exit_code": record.exit_code(),
                ":signal": record.signal(),
                ":reason": ending.map(|ending| &ending.reason),
                ":bytes_logged": ending.map(|ending| signed(ending.bytes_logged)),
                ":bytes_dropped": ending.map(|ending| signed(ending.bytes_dropped)),
            },
            |row| row.get(0),
        )
        .optional()?;
    if let Some(sandbox) = sandbox {
        settle_sandbox(tx, record, sandbox)?;
        let consoles = ending.map(|ending| ending.consoles.as_slice()).unwrap_or_default();
        if !consoles.is_empty() {
            add_consoles(tx, row, consoles)?;
        }
    }
    Ok(sandbox.is_some())
}

/// Their table is there only where a run had any: an earlier vmon knows nothing of it.
fn add_consoles(tx: &Transaction<'_>, run: i64, consoles: &[ConsoleBytes]) -> Result<()> {
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS vmon_consoles (
            run_id INTEGER NOT NULL REFERENCES vmon_runs(id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            bytes_logged INTEGER NOT NULL,
            bytes_dropped INTEGER NOT NULL,
            PRIMARY KEY (run_id, name)
        )",
    )?;
    for console in consoles {
        let (logged, dropped) = (signed(console.bytes_logged), signed(console.bytes_dropped));
        tx.execute(
            "INSERT OR REPLACE INTO vmon_consoles (run_id, name, bytes_logged, bytes_dropped)
             VALUES (?1, ?2, ?3, ?4)",
            params![run, console.name, logged, dropped],
        )?;
    }
    Ok(())
}

/// SQLite takes the index of the unfinished runs only for a condition that repeats the index's own.
const SETTLE_ENDED: &str = "
UPDATE sandboxes SET status = ?2, modified_at = CURRENT_TIMESTAMP
WHERE id = ?1 AND supervisor_pid = ?3 AND NOT EXISTS (SELECT 1 FROM vmon_runs
    WHERE sandbox_id = ?1 AND state <> 'STOPPED' AND state <> 'RESTARTING')";

/// Gives the sandbox the status that follows from the record, as long as the sandbox is its own.
fn settle_sandbox(tx: &Transaction<'_>, record: &Record, sandbox: i64) -> Result<()> {
    match (&record.stage, &record.child) {
        (Stage::Running | Stage::Stopping, Some(child)) => tx.execute(
            "UPDATE sandboxes SET status = ?2, supervisor_pid = ?3, microvm_pid = ?4,
                modified_at = CURRENT_TIMESTAMP
             WHERE id = ?1 AND (status <> ?2 OR supervisor_pid <> ?3 OR microvm_pid <> ?4)",
            params![sandbox, RUNNING, record.supervisor.pid, child.pid],
        ),
        // An end may come late, when another run or another program has the sandbox.
        (Stage::Restarting(_) | Stage::Stopped(_), _) => {
            tx.execute(SETTLE_ENDED, params![sandbox, STOPPED, record.supervisor.pid])
        }
        (Stage::Starting | Stage::Running | Stage::Stopping, _) => Ok(0),
    }?;
    Ok(())
}

/// A path as text, or as a BLOB where it is not UTF-8.
fn path(path: &Path) -> ToSqlOutput<'_> {
    let bytes = path.as_os_str().as_bytes();
    ToSqlOutput::Borrowed(match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => ValueRef::Blob(bytes),
    })
}

/// SQLite's integers are signed; inodes, start times and byte counts stay below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count that [`signed`] wrote.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::registry::schema;

    /// The record grows with every run, and a transition may not take longer for it.
    #[test]
    fn a_transition_looks_through_no_run_that_has_ended() {
        let mut connection = Connection::open_in_memory().unwrap();
        let tx = connection.transaction().unwrap();
        schema::ensure(&tx).unwrap();
        for sql in [UNFINISHED_RUNS, SETTLE_ENDED, CLOSE_RESTARTING] {
            let mut plan = tx.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut rows = plan.raw_query();
            let mut steps = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                steps.push(row.get::<_, String>("detail").unwrap());
            }
            let runs: Vec<_> = steps.iter().filter(|step| step.contains("vmon_runs")).collect();
            assert!(!runs.is_empty(), "{steps:?}");
            assert!(runs.iter().all(|step| step.contains("vmon_runs_unfinished")), "{steps:?}");
        }
    }
}
