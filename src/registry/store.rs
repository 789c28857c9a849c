//! Rows of `sandboxes` and `vmon_runs`: claims a sandbox, and updates the rows from a [`Record`].
//!
//! All functions run within one immediate transaction that the caller has opened.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use chrono::Utc;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Result, Row, Transaction, named_params, params};

use super::columns::{ConsoleBytes, RUNNING, foreign_supervisor, signed};
use super::expiry;
use super::holder::{Holder, OpenRun, unfinished_runs};
use super::ordering;
use super::read;
use super::record::{Ending, Record, Stage};
use super::run::Run;
use super::schema::Schema;
use super::site::Here;
use crate::monitor::{Liveness, Reason};
use crate::timestamp::rfc3339;

/// The result of storing a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// The rows match the record; the id of its row in `vmon_runs`.
    Row(i64),
    /// Nothing was changed: a live supervisor has the sandbox.
    Taken { supervisor: u32 },
    /// Nothing was changed: the sandbox has a run whose supervisor is elsewhere or can't be checked.
    Held { reason: String },
    /// Nothing was changed: the supervisors of these runs of the sandbox are dead, and their
    /// remaining processes must be ended first. `open` are all unfinished runs on record.
    Lost { runs: Vec<Run>, open: Vec<Run> },
}

/// The status of any other sandbox.
const STOPPED: &str = "STOPPED";

/// Updates the rows from `record`. A record without a row claims the sandbox first. Lost runs of
/// the sandbox prevent that, except those in `cleared`, which have no remaining processes.
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
    // The database was replaced, or already contains the run, which is unfinished if the record is.
    let found = match record.ending() {
        Some(_) => find_run(tx, FIND_RUN, record)?,
        None => find_run(tx, FIND_UNFINISHED, record)?,
    };
    match found {
        Some(row) => {
            update_run(tx, record, row)?;
            Ok(Stored::Row(row))
        }
        None => claim(tx, record, cleared),
    }
}

/// Stores a spooled end, which may be older than the rows.
pub(super) fn store_spooled(tx: &Transaction<'_>, record: &Record) -> Result<()> {
    let found = find_run(tx, FIND_RUN, record)?;
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
    // If the supervisor is dead or has started the next run already, this run is over.
    let liveness = Here::new(&record.state).liveness(&record.supervisor, &record.site);
    let over = liveness == Liveness::Dead || is_followed(tx, record)?;
    let record = if over { record.clone().finished() } else { record.clone() };
    store(tx, &Record { row: found, ..record }, &[]).map(drop)
}

/// Parameters 1 to 6 of a query for runs of the record's supervisor and sandbox: the time of the start,
/// the supervisor's pid, start time and boot id, and the name and namespace of the sandbox.
fn run_key(record: &Record) -> (&str, u32, i64, &str, &str, &str) {
    let Record { started_at, supervisor, name, config_file, .. } = record;
    (started_at, supervisor.pid, signed(supervisor.start), &supervisor.boot_id, name, config_file)
}

fn has_ended(tx: &Transaction<'_>, row: i64) -> Result<bool> {
    let sql = "SELECT ended_at IS NOT NULL FROM vmon_runs WHERE id = ?1";
    tx.query_row(sql, [row], |row| row.get(0))
}

/// Whether another run of the same supervisor is going on: a supervisor has one at a time.
fn is_followed(tx: &Transaction<'_>, record: &Record) -> Result<bool> {
    tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM vmon_runs WHERE state NOT IN ('STOPPED', 'RESTARTING')
            AND started_at <> ?1 AND supervisor_pid = ?2 AND supervisor_start = ?3 AND boot_id = ?4
            AND sandbox_id IN
            (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6))",
        run_key(record),
        |row| row.get(0),
    )
}

/// The condition on the state is repeated so that SQLite uses the index of unfinished runs.
const CLOSE_RESTARTING: &str = "
UPDATE vmon_runs INDEXED BY vmon_runs_unfinished SET state = 'STOPPED'
WHERE state <> 'STOPPED' AND state = 'RESTARTING' AND started_at <> ?1 AND supervisor_pid = ?2
    AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
    (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6)";

/// Closes the run that this one follows, and keeps its end.
fn close_restarting(tx: &Transaction<'_>, record: &Record) -> Result<()> {
    tx.execute(CLOSE_RESTARTING, run_key(record))?;
    Ok(())
}

/// A row of `sandboxes`.
pub(super) struct SandboxRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) config_file: String,
    pub(super) status: String,
    pub(super) supervisor_pid: i64,
}

/// Takes the sandbox for `record`, unless another live supervisor has it, and adds the row of the
/// run.
///
/// A run that has ended does not claim a sandbox with an unfinished run, but its row is added
/// anyway.
fn claim(tx: &Transaction<'_>, record: &Record, cleared: &[i64]) -> Result<Stored> {
    let rows = sandbox_rows(tx, &record.config_file, &record.name)?;
    let (mut lost, mut to_close) = (Vec::new(), Vec::new());
    let here = Here::new(&record.state);
    for row in &rows {
        let open = unfinished_runs(tx, row.id)?;
        let holder = holder(row, &open, &here);
        if record.ending().is_some() && (holder.is_some() || !open.is_empty()) {
            return Ok(Stored::Row(insert_run(tx, &record.clone().finished(), row.id)?));
        }
        match holder {
            Some(Holder::Live(supervisor)) => return Ok(Stored::Taken { supervisor }),
            Some(Holder::Elsewhere(reason)) => return Ok(Stored::Held { reason }),
            None => {}
        }
        if open.iter().any(|open| !cleared.contains(&open.id)) {
            lost.extend(read::open_runs_of(tx, row.id, &record.state)?);
        }
        to_close.push((row, open));
    }
    if !lost.is_empty() {
        return Ok(Stored::Lost {
            runs: lost,
            open: read::open_runs(tx, Schema::Complete, &record.state)?,
        });
    }
    for (row, open) in to_close {
        close_all(tx, row, open)?;
    }
    // A program that updates and then inserts may have left a second row; we use the first.
    let sandbox = match rows.first() {
        Some(row) => take_sandbox(tx, record, row.id)?,
        None => insert_sandbox(tx, record)?,
    };
    let run = insert_run(tx, record, sandbox)?;
    update_sandbox(tx, record, sandbox)?;
    expiry::remove_old(tx, record, sandbox)?;
    Ok(Stored::Row(run))
}

const SANDBOX_ROWS: &str = "
SELECT id, name, config_file, status, supervisor_pid FROM sandboxes
WHERE name = ?1 AND config_file = ?2 ORDER BY id";

const SANDBOX_ROW: &str = "
SELECT id, name, config_file, status, supervisor_pid FROM sandboxes WHERE id = ?1";

pub(super) fn sandbox_rows(
    tx: &Transaction<'_>,
    config_file: &str,
    name: &str,
) -> Result<Vec<SandboxRow>> {
    let mut statement = tx.prepare(SANDBOX_ROWS)?;
    statement.query_map([name, config_file], read_sandbox)?.collect()
}

pub(super) fn sandbox_row(tx: &Transaction<'_>, id: i64) -> Result<SandboxRow> {
    tx.query_row(SANDBOX_ROW, [id], read_sandbox)
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

/// What has this sandbox. A supervisor that can't be checked, for example on another machine, counts
/// as live.
fn holder(row: &SandboxRow, unfinished: &[OpenRun], here: &Here<'_>) -> Option<Holder> {
    if let Some(holder) = unfinished.iter().find_map(|open| open.holder(here)) {
        return Some(holder);
    }
    // A lost run may still be unfinished although another program has taken the sandbox since.
    let ours = unfinished.iter().any(|lost| i64::from(lost.supervisor.pid) == row.supervisor_pid);
    if row.status == RUNNING && !ours {
        return foreign_supervisor(row.supervisor_pid).map(Holder::Live);
    }
    None
}

/// Closes the unfinished runs of a dead supervisor before the sandbox is taken.
fn close_all(tx: &Transaction<'_>, row: &SandboxRow, open: Vec<OpenRun>) -> Result<()> {
    for OpenRun { id, .. } in open {
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

/// Closes a lost run, unless that was done meanwhile or the id belongs to another run now.
pub(super) fn close_lost(tx: &Transaction<'_>, run: &Run) -> Result<()> {
    find_open(tx, run)?.map_or(Ok(()), |open| close_open(tx, run, &open))
}

/// Closes a run whose supervisor is not known to live on this machine. Returns whether it is closed.
pub(super) fn close_unproven(tx: &Transaction<'_>, run: &Run, here: &Here<'_>) -> Result<bool> {
    let Some(open) = find_open(tx, run)? else { return Ok(true) };
    if open.lives_nearby(here) {
        return Ok(false);
    }
    close_open(tx, run, &open)?;
    Ok(true)
}

/// The row of an unfinished run, if its id does not belong to another run now.
fn find_open(tx: &Transaction<'_>, run: &Run) -> Result<Option<OpenRun>> {
    let same = |open: &OpenRun| {
        Some(open.id) == run.id && Some(&open.supervisor) == run.supervisor_identity.as_ref()
    };
    Ok(unfinished_runs(tx, run.sandbox_id)?.into_iter().find(same))
}

/// Also updates the row of the sandbox if it still belongs to this run.
fn close_open(tx: &Transaction<'_>, run: &Run, open: &OpenRun) -> Result<()> {
    close_run(tx, open.id)?;
    tx.execute(
        "UPDATE sandboxes SET status = ?2, modified_at = CURRENT_TIMESTAMP
         WHERE id = ?1 AND status = ?3 AND supervisor_pid = ?4
            AND (?5 IS NULL OR microvm_pid = ?5)
            AND NOT EXISTS (SELECT 1 FROM vmon_runs INDEXED BY vmon_runs_unfinished
                WHERE sandbox_id = ?1 AND state <> 'STOPPED')",
        params![run.sandbox_id, STOPPED, RUNNING, open.supervisor.pid, run.pid],
    )?;
    Ok(())
}

/// Facts of the end that are on record are kept: those of a run that was to be restarted, or the
/// exit code of a child whose output was still being read.
fn close_run(tx: &Transaction<'_>, id: i64) -> Result<()> {
    tx.execute(
        "UPDATE vmon_runs SET state = 'STOPPED', reason = coalesce(reason, ?2),
            ended_at = coalesce(ended_at, ?3)
         WHERE id = ?1 AND state <> 'STOPPED'",
        params![id, Reason::SupervisorLost.as_str(), rfc3339(Utc::now())],
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
    let (supervisor, site) = (&record.supervisor, &record.site);
    tx.execute(
        "INSERT INTO vmon_runs (sandbox_id, state, boot_id, pid_namespace, supervisor_pid,
            supervisor_start, started_at, spec, socket, machine_id, host, supervisor_lock)
         VALUES (?1, 'STARTING', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            sandbox,
            supervisor.boot_id,
            supervisor.pid_namespace.map(signed),
            supervisor.pid,
            signed(supervisor.start),
            record.started_at,
            record.spec,
            record.socket.as_deref().map(path),
            site.machine_id,
            site.host,
            site.locked.map(|byte| byte.to_string()),
        ],
    )?;
    let row = tx.last_insert_rowid();
    if record.stage == Stage::Starting {
        return Ok(row);
    }
    update_run(tx, record, row)?;
    ordering::put_in_place(tx, record, sandbox, row)
}

/// The row of a run, found by its supervisor and start time.
const FIND_RUN: &str = "
SELECT id FROM vmon_runs WHERE started_at = ?1 AND supervisor_pid = ?2
    AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
    (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6)";

/// The same among the unfinished runs.
const FIND_UNFINISHED: &str = "
SELECT id FROM vmon_runs INDEXED BY vmon_runs_unfinished
WHERE state <> 'STOPPED' AND started_at = ?1 AND supervisor_pid = ?2
    AND supervisor_start = ?3 AND boot_id = ?4 AND sandbox_id IN
    (SELECT id FROM sandboxes WHERE name = ?5 AND config_file = ?6)";

fn find_run(tx: &Transaction<'_>, sql: &str, record: &Record) -> Result<Option<i64>> {
    tx.query_row(sql, run_key(record), |row| row.get(0)).optional()
}

/// Updates the rows of the run and its sandbox; `false` if `row` is not this run's.
fn update_run(tx: &Transaction<'_>, record: &Record, row: i64) -> Result<bool> {
    let (supervisor, child, ending) = (&record.supervisor, &record.child, record.ending());
    // After a replacement of the database the id may belong to another run.
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
        update_sandbox(tx, record, sandbox)?;
        if let Some(Ending { consoles, rotated, .. }) = ending {
            if !consoles.is_empty() {
                add_consoles(tx, row, consoles)?;
            }
            expiry::note_rotations(tx, sandbox, row, rotated, &record.state)?;
        }
    }
    Ok(sandbox.is_some())
}

/// The table exists only once a run had consoles: earlier versions of vmon do not know it.
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

/// SQLite can use the index of unfinished runs only for a condition that repeats the index's own.
const UPDATE_ENDED: &str = "
UPDATE sandboxes SET status = ?2, modified_at = CURRENT_TIMESTAMP
WHERE id = ?1 AND supervisor_pid = ?3 AND NOT EXISTS (
    SELECT 1 FROM vmon_runs INDEXED BY vmon_runs_unfinished
    WHERE sandbox_id = ?1 AND state <> 'STOPPED' AND state <> 'RESTARTING')";

/// Updates the status of the sandbox from the record, if the sandbox still belongs to it.
fn update_sandbox(tx: &Transaction<'_>, record: &Record, sandbox: i64) -> Result<()> {
    match (&record.stage, &record.child) {
        (Stage::Running | Stage::Stopping, Some(child)) => tx.execute(
            "UPDATE sandboxes SET status = ?2, supervisor_pid = ?3, microvm_pid = ?4,
                modified_at = CURRENT_TIMESTAMP
             WHERE id = ?1 AND (status <> ?2 OR supervisor_pid <> ?3 OR microvm_pid <> ?4)",
            params![sandbox, RUNNING, record.supervisor.pid, child.pid],
        ),
        // A late end may come after another run or another program has taken the sandbox.
        (Stage::Restarting(_) | Stage::Stopped(_), _) => {
            tx.execute(UPDATE_ENDED, params![sandbox, STOPPED, record.supervisor.pid])
        }
        (Stage::Starting | Stage::Running | Stage::Stopping, _) => Ok(0),
    }?;
    Ok(())
}

/// A path as text, or as a BLOB if it is not UTF-8.
fn path(path: &Path) -> ToSqlOutput<'_> {
    let bytes = path.as_os_str().as_bytes();
    ToSqlOutput::Borrowed(match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => ValueRef::Blob(bytes),
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::registry::holder::UNFINISHED_RUNS;
    use crate::registry::schema;

    /// The record grows with every run; the time of a transition must not.
    #[test]
    fn a_transition_reads_no_row_of_a_run_that_has_ended() {
        let mut connection = Connection::open_in_memory().unwrap();
        let tx = connection.transaction().unwrap();
        schema::ensure(&tx).unwrap();
        for sql in [UNFINISHED_RUNS, UPDATE_ENDED, CLOSE_RESTARTING, FIND_UNFINISHED] {
            let steps = schema::plan(&tx, sql);
            let runs: Vec<_> = steps.iter().filter(|step| step.contains("vmon_runs")).collect();
            assert!(!runs.is_empty(), "{steps:?}");
            assert!(runs.iter().all(|step| step.contains("vmon_runs_unfinished")), "{steps:?}");
        }
    }

    #[test]
    fn a_claim_reads_no_row_of_another_sandbox() {
        let mut connection = Connection::open_in_memory().unwrap();
        let tx = connection.transaction().unwrap();
        schema::ensure(&tx).unwrap();
        for sql in [SANDBOX_ROWS, SANDBOX_ROW, UNFINISHED_RUNS, FIND_RUN, CLOSE_RESTARTING] {
            let steps = schema::plan(&tx, sql);
            assert!(steps.iter().all(|step| !step.starts_with("SCAN")), "{steps:?}");
        }
    }
}
