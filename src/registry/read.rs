//! Reading the record back: every run, with the status that is true now.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Result, Row};

use super::error::Fault;
use super::record::SUPERVISOR_LOST;
use super::schema;
use super::store::{RUNNING, foreign_supervisor, supervisor, unsigned};
use crate::monitor::Liveness;

/// One run of a sandbox, or a sandbox that another program runs or ran.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The run's row in `vmon_runs`; `None` for another program's sandbox.
    pub id: Option<i64>,
    /// The sandbox's name.
    pub name: String,
    /// The namespace of its log and record.
    pub config_file: String,
    /// What the record says: STARTING, RUNNING, STOPPING, RESTARTING or STOPPED.
    pub state: String,
    /// What is true now.
    pub status: Status,
    /// The child's pid, once it ran. Whether it still is that child's, [`Run::status`] says.
    pub pid: Option<u32>,
    /// The supervisor's pid.
    pub supervisor: Option<u32>,
    /// When the start was asked for.
    pub started_at: Option<DateTime<Utc>>,
    /// When the child ran.
    pub running_at: Option<DateTime<Utc>>,
    /// When the run was over; `None` as well where nobody could tell.
    pub ended_at: Option<DateTime<Utc>>,
    /// The child's exit code, or 125 to 127 for one that could not be started.
    pub exit_code: Option<i32>,
    /// The signal that ended the child.
    pub signal: Option<i32>,
    /// `exited`, `signalled`, `stopped`, `killed`, `start-failed` or `supervisor-lost`.
    pub reason: Option<String>,
    /// Bytes of the child's output that are in the log.
    pub bytes_logged: Option<u64>,
    /// Bytes that some sink left out.
    pub bytes_dropped: Option<u64>,
    /// `native:PATH`, `overlayfs:PATH:PATH…`, or empty. That of the sandbox's latest run.
    pub rootfs_paths: String,
}

/// Whether a run goes on, as its supervisor's life tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has not ended, and its supervisor lives (or can't be judged from here, as in another
    /// pid namespace).
    Running,
    /// It has ended, or its supervisor has.
    Stopped,
}

const OURS: &str = "
SELECT r.id, s.name, s.config_file, r.state, r.pid, r.started_at, r.running_at, r.ended_at,
    r.exit_code, r.signal, r.reason, r.bytes_logged, r.bytes_dropped, s.rootfs_paths,
    r.boot_id, r.pid_namespace, r.supervisor_pid, r.supervisor_start
FROM vmon_runs r JOIN sandboxes s ON s.id = r.sandbox_id ORDER BY r.id";

const SANDBOXES: &str = "
SELECT name, config_file, status, supervisor_pid, microvm_pid, rootfs_paths FROM sandboxes s";

/// Those that we never ran, and those that another program runs now.
const NOT_OURS: &str = "
WHERE id NOT IN (SELECT sandbox_id FROM vmon_runs)
    OR (status = 'RUNNING' AND NOT EXISTS
        (SELECT 1 FROM vmon_runs r WHERE r.sandbox_id = s.id AND r.state <> 'STOPPED'
            AND r.supervisor_pid = s.supervisor_pid))";

/// Every run, oldest first, and then the sandboxes that other programs have.
pub(super) fn runs(connection: &Connection) -> Result<Vec<Run>, Fault> {
    // Both queries are to see the same state.
    let transaction = connection.unchecked_transaction()?;
    if !schema::has_table(&transaction, "sandboxes")? {
        return Ok(Vec::new());
    }
    if !schema::is_current(&transaction)? {
        return Ok(collect(&transaction, SANDBOXES, foreign_run)?);
    }
    let mut runs = collect(&transaction, OURS, our_run)?;
    runs.extend(collect(&transaction, &format!("{SANDBOXES}{NOT_OURS}"), foreign_run)?);
    Ok(runs)
}

fn collect(
    connection: &Connection,
    sql: &str,
    run: fn(&Row<'_>) -> Result<Run>,
) -> Result<Vec<Run>> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], run)?.collect()
}

fn our_run(row: &Row<'_>) -> Result<Run> {
    let supervisor = supervisor(row)?;
    let state: String = row.get("state")?;
    let ended = state == "STOPPED";
    let lost = !ended && supervisor.liveness() == Liveness::Dead;
    let reason: Option<String> = row.get("reason")?;
    Ok(Run {
        id: Some(row.get("id")?),
        name: row.get("name")?,
        config_file: row.get("config_file")?,
        state,
        status: if ended || lost { Status::Stopped } else { Status::Running },
        pid: row.get("pid")?,
        supervisor: Some(supervisor.pid),
        started_at: time(row, "started_at")?,
        running_at: time(row, "running_at")?,
        ended_at: time(row, "ended_at")?,
        exit_code: row.get("exit_code")?,
        signal: row.get("signal")?,
        reason: if lost { Some(SUPERVISOR_LOST.to_owned()) } else { reason },
        bytes_logged: row.get::<_, Option<i64>>("bytes_logged")?.map(unsigned),
        bytes_dropped: row.get::<_, Option<i64>>("bytes_dropped")?.map(unsigned),
        rootfs_paths: row.get("rootfs_paths")?,
    })
}

fn foreign_run(row: &Row<'_>) -> Result<Run> {
    let state: String = row.get("status")?;
    let supervisor: i64 = row.get("supervisor_pid")?;
    let runs = state == RUNNING && foreign_supervisor(supervisor).is_some();
    Ok(Run {
        id: None,
        name: row.get("name")?,
        config_file: row.get("config_file")?,
        state,
        status: if runs { Status::Running } else { Status::Stopped },
        pid: pid(row.get("microvm_pid")?),
        supervisor: pid(supervisor),
        started_at: None,
        running_at: None,
        ended_at: None,
        exit_code: None,
        signal: None,
        reason: None,
        bytes_logged: None,
        bytes_dropped: None,
        rootfs_paths: row.get("rootfs_paths")?,
    })
}

/// A pid that a process could have: a sandbox that never ran has 0.
fn pid(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|&pid| pid > 0)
}

fn time(row: &Row<'_>, column: &str) -> Result<Option<DateTime<Utc>>> {
    let text: Option<String> = row.get(column)?;
    let time = text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Ok(time.map(|time| time.to_utc()))
}
