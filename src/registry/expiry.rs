//! Removes the oldest runs of a sandbox from the record, beyond the number that it keeps
//! ([`Sandbox::keep_runs`](crate::monitor::Sandbox::keep_runs)): a few with each claim. A run whose
//! output may be in a log stays.
//!
//! The numbers of runs and of a log's generations only grow, so no clock decides. A run that rotates
//! a log is the first that can have output in the new file: every earlier run has written to lower
//! generations only. The table `vmon_logs` has these pairs of numbers, and once those generations are
//! gone one row of generation 0, with the lowest run that can still have output in the log.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Result, Transaction, params};

use super::columns::signed;
use super::connection::random;
use super::record::Record;
use super::state_dir::StateDir;
use super::{schema, spec};
use crate::logfile::{KeptGenerations, names};

/// How many rows a claim reads at each of two places.
const ROWS: u32 = 8;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS vmon_logs (
    sandbox_id INTEGER NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE,
    log BLOB NOT NULL,
    generation INTEGER NOT NULL,
    run_id INTEGER NOT NULL,
    PRIMARY KEY (sandbox_id, log, generation)
) WITHOUT ROWID";

/// Stores which runs are gone from the logs that this run has rotated. The table exists only once a
/// log was rotated: earlier versions of vmon do not know it.
pub(super) fn note_rotations(
    tx: &Transaction<'_>,
    sandbox: i64,
    run: i64,
    rotated: &[KeptGenerations],
    state: &StateDir,
) -> Result<()> {
    if rotated.is_empty() {
        return Ok(());
    }
    tx.execute_batch(TABLE)?;
    for KeptGenerations { log, current, oldest } in rotated {
        let log = state.record(log);
        let log = log.as_os_str().as_bytes();
        let oldest = signed(*oldest);
        tx.execute(
            "INSERT OR REPLACE INTO vmon_logs VALUES (?1, ?2, ?3, ?4)",
            params![sandbox, log, signed(*current), run],
        )?;
        tx.execute(
            "INSERT OR REPLACE INTO vmon_logs SELECT ?1, ?2, 0, max(run_id) FROM vmon_logs
             WHERE sandbox_id = ?1 AND log = ?2 AND generation <= ?3 HAVING count(*) > 0",
            params![sandbox, log, oldest],
        )?;
        tx.execute(
            "DELETE FROM vmon_logs
             WHERE sandbox_id = ?1 AND log = ?2 AND generation BETWEEN 1 AND ?3",
            params![sandbox, log, oldest],
        )?;
    }
    Ok(())
}

/// The newest run beyond those that are kept. Reads the index only.
const NEWEST: &str = "
SELECT id FROM vmon_runs INDEXED BY vmon_runs_sandbox
WHERE sandbox_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";

const OLDEST: &str = "
SELECT min(id) FROM vmon_runs INDEXED BY vmon_runs_sandbox WHERE sandbox_id = ?1";

const CANDIDATES: &str = "
SELECT id, bytes_logged, spec FROM vmon_runs INDEXED BY vmon_runs_sandbox
WHERE sandbox_id = ?1 AND id BETWEEN ?2 AND ?3 AND +state = 'STOPPED' ORDER BY id LIMIT ?4";

const FIRST_LEFT: &str = "
SELECT run_id FROM vmon_logs WHERE sandbox_id = ?1 AND log = ?2 AND generation = 0";

const HIGHEST_LEFT: &str = "
SELECT max(run_id) FROM vmon_logs WHERE sandbox_id = ?1 AND generation = 0";

const CONSOLES: &str = "SELECT name FROM vmon_consoles WHERE run_id = ?1 AND bytes_logged > 0";

/// Removes a few of the runs that the sandbox of this record does not keep.
pub(super) fn remove_old(tx: &Transaction<'_>, record: &Record, sandbox: i64) -> Result<()> {
    if record.keep_runs == 0 {
        return Ok(());
    }
    let newest = tx.query_row(NEWEST, params![sandbox, record.keep_runs], |row| row.get(0));
    let Some(newest): Option<i64> = newest.optional()? else { return Ok(()) };
    let oldest: i64 = tx.query_row(OLDEST, [sandbox], |row| row.get(0))?;
    // The oldest ones may all have to stay, as those with a log in another directory do. So others
    // are read as well, somewhere.
    let width = newest.abs_diff(oldest).saturating_add(1);
    let somewhere = oldest.saturating_add(signed(random() % width));
    let tables = Tables::find(tx, sandbox)?;
    let mut gone = Vec::new();
    for from in [oldest, somewhere] {
        let mut candidates = tx.prepare(CANDIDATES)?;
        let candidates = candidates.query_map(params![sandbox, from, newest, ROWS], |row| {
            Ok(Candidate { id: row.get(0)?, bytes_logged: row.get(1)?, spec: row.get(2)? })
        })?;
        for candidate in candidates {
            let candidate = candidate?;
            if !gone.contains(&candidate.id)
                && candidate.has_no_output(tx, record, sandbox, &tables)?
            {
                gone.push(candidate.id);
            }
        }
    }
    let mut remove = tx.prepare("DELETE FROM vmon_runs WHERE id = ?1")?;
    gone.iter().try_for_each(|id| remove.execute([id]).map(drop))
}

/// What there is in the tables that not every database has.
struct Tables {
    has_consoles: bool,
    /// The first run that can have output in a log, of the log where it is highest.
    first_left: Option<i64>,
}

impl Tables {
    fn find(tx: &Transaction<'_>, sandbox: i64) -> Result<Self> {
        let has_consoles = schema::has_table(tx, "vmon_consoles")?;
        let first_left = match schema::has_table(tx, "vmon_logs")? {
            true => tx.query_row(HIGHEST_LEFT, [sandbox], |row| row.get(0))?,
            false => None,
        };
        Ok(Self { has_consoles, first_left })
    }
}

/// A run that may be removed.
struct Candidate {
    id: i64,
    /// Unknown for a run that was lost.
    bytes_logged: Option<i64>,
    spec: String,
}

impl Candidate {
    /// Whether no log has output of this run: it made none, or all generations with it are gone.
    fn has_no_output(
        &self,
        tx: &Transaction<'_>,
        record: &Record,
        sandbox: i64,
        tables: &Tables,
    ) -> Result<bool> {
        let is_silent = self.bytes_logged == Some(0);
        let is_gone = tables.first_left.is_some_and(|first| self.id < first);
        if !is_silent && !is_gone {
            return Ok(false);
        }
        let mut consoles: Vec<String> = Vec::new();
        if tables.has_consoles {
            let mut names = tx.prepare(CONSOLES)?;
            let names = names.query_map([self.id], |row| row.get(0))?;
            consoles = names.collect::<Result<_>>()?;
        }
        if consoles.is_empty() && is_silent {
            return Ok(true);
        }
        if !is_gone {
            return Ok(false);
        }
        let spec = spec::read(&self.spec, &record.name, &record.config_file, &record.state);
        let Some(spec) = spec else { return Ok(false) };
        if spec.sandbox.log_off {
            return Ok(true);
        }
        if self.bytes_logged.is_none() {
            // The consoles of a host's run may be on descriptors, which are not in its spec.
            if !spec.options.is_object() {
                return Ok(false);
            }
            consoles.extend(spec.sandbox.consoles.iter().map(|it| it.name().to_string()));
        }
        let own = spec.sandbox.log_path();
        let beside = |console: &String| {
            own.with_file_name(names::log(&names::further(&record.name, console)))
        };
        let mut logs: Vec<PathBuf> = consoles.iter().map(beside).collect();
        if !is_silent {
            logs.push(own);
        }
        for log in &logs {
            if !self.is_gone(tx, &record.state.record(log), sandbox)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the output of this run is gone from a log.
    fn is_gone(&self, tx: &Transaction<'_>, log: &Path, sandbox: i64) -> Result<bool> {
        let log = log.as_os_str().as_bytes();
        let mut first = tx.prepare(FIRST_LEFT)?;
        let first = first.query_row(params![sandbox, log], |row| row.get(0)).optional()?;
        Ok(first.is_some_and(|first: i64| self.id < first))
    }
}

#[cfg(test)]
mod tests;
