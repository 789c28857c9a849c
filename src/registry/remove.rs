//! Removes sandboxes from the record, with their runs and metrics.

use chrono::{DateTime, Utc};
use rusqlite::{Result, Transaction, params};

use super::columns::{RUNNING, foreign_supervisor};
use super::error::{At, Fault, RegistryError};
use super::holder::unfinished_runs;
use super::read;
use super::run::Run;
use super::state_dir::StateDir;
use super::store::{self, SandboxRow};
use super::{COMMAND_TIMEOUT, Registry, connection, metrics};
use crate::timestamp::rfc3339;

/// The runs of a sandbox that ended before a time.
const ENDED: &str = "sandbox_id = ?1 AND state = 'STOPPED' AND coalesce(ended_at, started_at) < ?2";

/// The result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The sandbox was removed from the record, with these runs, oldest first.
    Removed(Vec<Run>),
    /// The record has no such sandbox.
    Unknown,
    /// The sandbox has not stopped, according to the record: nothing was changed.
    Live {
        /// The pid of its supervisor.
        supervisor: u32,
    },
    /// The callback returned false: nothing was changed.
    Kept,
}

/// The runs of one sandbox that [`Registry::prune`] has removed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The sandbox's name.
    pub name: String,
    /// Its namespace.
    pub config_file: String,
    /// The runs, oldest first.
    pub runs: Vec<Run>,
    /// Whether the whole sandbox was removed from the record.
    pub whole: bool,
}

impl Registry {
    /// Removes a sandbox that has stopped, with all its runs and metrics.
    ///
    /// One transaction: the sandbox can't be started in between. A run whose supervisor is dead
    /// counts as live until [`reconcile`](Registry::reconcile) has closed it. For commands: imports
    /// spooled ends first, and waits up to five seconds for the lock.
    ///
    /// # Errors
    ///
    /// The database can't be written, or another user could have written the record
    /// ([`RegistryError::Foreign`], [`RegistryError::Exposed`]).
    pub fn remove(&self, config_file: &str, name: &str) -> Result<Removal, RegistryError> {
        self.remove_with(config_file, name, |_| true)
    }

    /// Like [`remove`](Registry::remove), and calls `also` with the runs before they are removed,
    /// to remove files of the sandbox such as its log. The sandbox can't be started before `also`
    /// returns. If `also` returns false, the sandbox stays on record: [`Removal::Kept`].
    ///
    /// # Errors
    ///
    /// The database can't be written. `also` has been called already if only the commit fails.
    pub fn remove_with(
        &self,
        config_file: &str,
        name: &str,
        also: impl FnOnce(&[Run]) -> bool,
    ) -> Result<Removal, RegistryError> {
        self.change(Removal::Unknown, |tx| {
            Ok(remove(tx, config_file, name, &self.paths.state, also)?)
        })
    }

    /// Calls `work` if the sandbox is not on record, and while it can't be started: to remove files
    /// that it has left. Returns `None` if it is on record. For commands, like
    /// [`remove`](Registry::remove).
    ///
    /// # Errors
    ///
    /// As [`remove`](Registry::remove). `work` has been called already if only the commit fails.
    pub fn unless_recorded<T>(
        &self,
        config_file: &str,
        name: &str,
        work: impl FnOnce() -> T,
    ) -> Result<Option<T>, RegistryError> {
        self.change(None, |tx| {
            let is_recorded = !store::sandbox_rows(tx, config_file, name)?.is_empty();
            Ok((!is_recorded).then(work))
        })
    }

    /// Removes the runs that ended before `before`, older metrics, and stopped sandboxes without a
    /// remaining run. Sandboxes of other programs are not changed.
    ///
    /// For commands, like [`remove`](Registry::remove).
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use vmon::registry::{Registry, Removal};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let state = directory.path();
    /// let registry = Registry::open(state.join("sandbox.db"))?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// assert!(registry.prune((SystemTime::now() - week).into())?.is_empty());
    /// assert_eq!(registry.remove("Sandboxfile", "web")?, Removal::Unknown);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`remove`](Registry::remove).
    pub fn prune(&self, before: DateTime<Utc>) -> Result<Vec<Pruned>, RegistryError> {
        self.prune_with(before, |_| true)
    }

    /// Like [`prune`](Registry::prune), and calls `also` with the runs of each sandbox before they
    /// are removed, while the sandbox can't be started. If `also` returns false, they all stay on
    /// record.
    ///
    /// # Errors
    ///
    /// As [`remove_with`](Registry::remove_with).
    pub fn prune_with(
        &self,
        before: DateTime<Utc>,
        mut also: impl FnMut(&Pruned) -> bool,
    ) -> Result<Vec<Pruned>, RegistryError> {
        self.change(Vec::new(), |tx| Ok(prune(tx, before, &self.paths.state, &mut also)?))
    }

    /// Changes a record that only our user could have written; `missing` if there is none.
    fn change<T>(
        &self,
        missing: T,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, RegistryError> {
        let db = &self.paths.db;
        self.import_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(missing);
        }
        self.check_trust()?;
        connection::write_own(db, COMMAND_TIMEOUT, work).at(db)
    }
}

fn remove(
    tx: &Transaction<'_>,
    config_file: &str,
    name: &str,
    state: &StateDir,
    also: impl FnOnce(&[Run]) -> bool,
) -> Result<Removal> {
    let rows = store::sandbox_rows(tx, config_file, name)?;
    if rows.is_empty() {
        return Ok(Removal::Unknown);
    }
    let mut runs = Vec::new();
    for row in &rows {
        if let Some(supervisor) = holder(tx, row)? {
            return Ok(Removal::Live { supervisor });
        }
        runs.extend(read::runs_of(tx, row.id, state)?);
    }
    if !also(&runs) {
        return Ok(Removal::Kept);
    }
    for row in &rows {
        delete_sandbox(tx, row.id)?;
    }
    Ok(Removal::Removed(runs))
}

/// The supervisor of a sandbox that has not stopped.
fn holder(tx: &Transaction<'_>, row: &SandboxRow) -> Result<Option<u32>> {
    if let Some(open) = unfinished_runs(tx, row.id)?.first() {
        return Ok(Some(open.supervisor.pid));
    }
    let foreign = row.status == RUNNING;
    Ok(foreign.then(|| foreign_supervisor(row.supervisor_pid)).flatten())
}

/// Runs would also be deleted by `ON DELETE CASCADE`; the ecosystem's table has no such reference.
fn delete_sandbox(tx: &Transaction<'_>, sandbox: i64) -> Result<()> {
    tx.execute("DELETE FROM sandbox_metrics WHERE sandbox_id = ?1", [sandbox])?;
    tx.execute("DELETE FROM vmon_runs WHERE sandbox_id = ?1", [sandbox])?;
    tx.execute("DELETE FROM sandboxes WHERE id = ?1", [sandbox])?;
    Ok(())
}

fn prune(
    tx: &Transaction<'_>,
    before: DateTime<Utc>,
    state: &StateDir,
    also: &mut impl FnMut(&Pruned) -> bool,
) -> Result<Vec<Pruned>> {
    tx.execute(
        "DELETE FROM sandbox_metrics WHERE timestamp < ?1
            AND sandbox_id IN (SELECT sandbox_id FROM vmon_runs)",
        [metrics::timestamp(before)],
    )?;
    let before = rfc3339(before);
    let mut sandboxes = tx.prepare(
        "SELECT DISTINCT sandbox_id FROM vmon_runs WHERE state = 'STOPPED'
            AND coalesce(ended_at, started_at) < ?1 ORDER BY sandbox_id",
    )?;
    let sandboxes: Vec<i64> =
        sandboxes.query_map([&before], |row| row.get(0))?.collect::<Result<_>>()?;
    let mut pruned = Vec::new();
    for sandbox in sandboxes {
        let ended = ended_runs(tx, sandbox, &before, state)?;
        if also(&ended) {
            delete_runs(tx, sandbox, &ended, &before)?;
            pruned.push(ended);
        }
    }
    Ok(pruned)
}

/// The runs of a sandbox that ended before a time.
fn ended_runs(
    tx: &Transaction<'_>,
    sandbox: i64,
    before: &str,
    state: &StateDir,
) -> Result<Pruned> {
    let mut ended = tx.prepare(&format!("SELECT id FROM vmon_runs WHERE {ENDED}"))?;
    let ended: Vec<i64> =
        ended.query_map(params![sandbox, before], |row| row.get(0))?.collect::<Result<_>>()?;
    let mut runs = read::runs_of(tx, sandbox, state)?;
    let all = runs.len();
    runs.retain(|run| run.id.is_some_and(|id| ended.contains(&id)));
    let row = store::sandbox_row(tx, sandbox)?;
    let whole = runs.len() == all && holder(tx, &row)?.is_none();
    Ok(Pruned { name: row.name, config_file: row.config_file, runs, whole })
}

fn delete_runs(tx: &Transaction<'_>, sandbox: i64, ended: &Pruned, before: &str) -> Result<()> {
    if ended.whole {
        return delete_sandbox(tx, sandbox);
    }
    tx.execute(&format!("DELETE FROM vmon_runs WHERE {ENDED}"), params![sandbox, before])?;
    Ok(())
}
