//! Taking sandboxes out of the record, their runs and metrics with them.

use chrono::{DateTime, Utc};
use rusqlite::{Result, Transaction, params};

use super::error::{At, RegistryError};
use super::read::{self, Run};
use super::state_dir::StateDir;
use super::store::{self, SandboxRow};
use super::{COMMAND_PATIENCE, Registry, connection, metrics};
use crate::timestamp::rfc3339;

/// The runs of a sandbox that ended before a time.
const ENDED: &str = "sandbox_id = ?1 AND state = 'STOPPED' AND coalesce(ended_at, started_at) < ?2";

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The sandbox is out of the record; these were its runs, oldest first.
    Removed(Vec<Run>),
    /// The record has no such sandbox.
    Unknown,
    /// It has not stopped, as far as the record knows: nothing was changed.
    Live {
        /// The pid of its supervisor.
        supervisor: u32,
    },
    /// What belongs to it could not be removed: nothing was changed.
    Kept,
}

/// What [`Registry::prune`] has taken out of one sandbox's record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The sandbox's name.
    pub name: String,
    /// Its namespace.
    pub config_file: String,
    /// The runs, oldest first.
    pub runs: Vec<Run>,
    /// Whether nothing is left of the sandbox in the record.
    pub whole: bool,
}

impl Registry {
    /// Removes a sandbox that has stopped, with all its runs and metrics.
    ///
    /// In one transaction: no start of that name comes between. A run whose supervisor is gone
    /// counts as live until [`reconcile`](Registry::reconcile) has closed it. For commands: takes
    /// in spooled ends first, and waits up to five seconds for the lock.
    ///
    /// # Errors
    ///
    /// The database can't be written, or the record could have been written by another user
    /// ([`RegistryError::Foreign`], [`RegistryError::Exposed`]).
    pub fn remove(&self, config_file: &str, name: &str) -> Result<Removal, RegistryError> {
        self.remove_with(config_file, name, |_| true)
    }

    /// As [`remove`](Registry::remove), and calls `also` with the runs while the name is still held:
    /// no start of that name comes before it returns. For what belongs to the sandbox beside the
    /// record: its log. Where `also` returns false, the sandbox stays on record: [`Removal::Kept`].
    ///
    /// # Errors
    ///
    /// The database can't be written. Where the last step of that fails, `also` has been called.
    pub fn remove_with(
        &self,
        config_file: &str,
        name: &str,
        also: impl FnOnce(&[Run]) -> bool,
    ) -> Result<Removal, RegistryError> {
        let db = &self.paths.db;
        self.take_in_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(Removal::Unknown);
        }
        self.check_trust()?;
        let removed = connection::write_own(db, COMMAND_PATIENCE, |tx| {
            Ok(remove(tx, config_file, name, &self.paths.state, also)?)
        });
        removed.at(db)
    }

    /// Removes the runs that ended before `before`, the metrics from before it, and the stopped
    /// sandboxes that are left without a run. The sandboxes of other programs stay as they are.
    ///
    /// For commands, as [`remove`](Registry::remove).
    ///
    /// # Errors
    ///
    /// As [`remove`](Registry::remove).
    pub fn prune(&self, before: DateTime<Utc>) -> Result<Vec<Pruned>, RegistryError> {
        self.prune_with(before, |_| true)
    }

    /// As [`prune`](Registry::prune), and calls `also` with what is to go of each sandbox while its
    /// name is still held. Where that returns false, all of it stays on record.
    ///
    /// # Errors
    ///
    /// As [`remove_with`](Registry::remove_with).
    pub fn prune_with(
        &self,
        before: DateTime<Utc>,
        mut also: impl FnMut(&Pruned) -> bool,
    ) -> Result<Vec<Pruned>, RegistryError> {
        let db = &self.paths.db;
        self.take_in_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        self.check_trust()?;
        let pruned = connection::write_own(db, COMMAND_PATIENCE, |tx| {
            Ok(prune(tx, before, &self.paths.state, &mut also)?)
        });
        pruned.at(db)
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

/// The supervisor of a sandbox that is not known to have stopped.
fn holder(tx: &Transaction<'_>, row: &SandboxRow) -> Result<Option<u32>> {
    if let Some(open) = store::unfinished_runs(tx, row.id)?.first() {
        return Ok(Some(open.supervisor.pid));
    }
    let foreign = row.status == store::RUNNING;
    Ok(foreign.then(|| store::foreign_supervisor(row.supervisor_pid)).flatten())
}

/// The runs go with it (`ON DELETE CASCADE`); the ecosystem's table has no such reference.
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

/// What is to go of a sandbox.
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
