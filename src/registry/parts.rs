//! Reads a part of the runs on record: page by page, or what has changed.

use rusqlite::{Connection, Row, Transaction, params};

use super::error::{At, Fault, RegistryError};
use super::read;
use super::run::Run;
use super::schema::{self, Schema};
use super::site::Here;
use super::state_dir::StateDir;
use super::{COMMAND_TIMEOUT, Paths, REPEATED_TIMEOUT, Registry, connection, spool};

/// What a reader of changes knows already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The highest number of a run; 0 for none.
    pub last: i64,
    /// The numbers of runs that were unfinished.
    pub runs: Vec<i64>,
    /// The `sandbox_id` of sandboxes that another program was running.
    pub sandboxes: Vec<i64>,
}

/// What can have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The run with the highest number that was seen and those after it, the unfinished ones, and
    /// those that were unfinished; oldest first. Then the sandboxes that another program runs, or ran.
    pub runs: Vec<Run>,
    /// The number of sandboxes on record.
    pub sandboxes: u64,
}

impl Registry {
    /// Returns a page of runs, newest first: at most `limit` with a number below `before`, of all
    /// sandboxes or of the one whose [`Run::sandbox_id`] this is. Without those of other programs.
    ///
    /// ```
    /// use vmon::registry::Registry;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// let registry = Registry::open(directory.path().join("sandbox.db"))?;
    /// let mut before = None;
    /// loop {
    ///     let page = registry.page(None, before, 1000)?;
    ///     page.iter().for_each(|run| println!("{}: {:?}", run.name, run.exit_code));
    ///     let Some(last) = page.last() else { break };
    ///     before = last.id;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn page(
        &self,
        sandbox_id: Option<i64>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Run>, RegistryError> {
        let before = before.unwrap_or(i64::MAX);
        let (runs, ()) =
            self.read_with((), |db, state| Ok((page(db, state, sandbox_id, before, limit)?, ())))?;
        Ok(runs)
    }

    /// Returns the runs that can have changed since others were seen.
    ///
    /// # Errors
    ///
    /// As [`runs`](Registry::runs).
    pub fn changes(&self, seen: &Seen) -> Result<Changes, RegistryError> {
        let (runs, sandboxes) = self.read_with(0, |db, state| changes(db, state, seen))?;
        Ok(Changes { runs, sandboxes })
    }

    /// Reads runs, and more, after spooled ends have been imported; `missing` without a database.
    pub(super) fn read_with<T>(
        &self,
        missing: T,
        work: impl Fn(&Connection, &StateDir) -> Result<(Vec<Run>, T), Fault>,
    ) -> Result<(Vec<Run>, T), RegistryError> {
        let Paths { db, state } = &*self.paths;
        let ended = self.import_spooled();
        if !connection::exists(db).at(db)? {
            return Ok((Vec::new(), missing));
        }
        let read = || {
            let work = |db: &Connection| work(db, state);
            let import = |tx: &Transaction<'_>| spool::import(tx, &ended);
            // With runs of which the database has nothing yet.
            let changed = (!ended.is_empty())
                .then(|| connection::read_changed(db, REPEATED_TIMEOUT, import, work).ok());
            let ((mut runs, more), distrust) = match changed.flatten() {
                Some(changed) => (changed, None),
                None => connection::read(db, COMMAND_TIMEOUT, work).at(db)?,
            };
            let foreign = matches!(self.check_trust(), Err(RegistryError::Foreign { .. }));
            let trusted = distrust.is_none() && !foreign;
            for run in &mut runs {
                run.trusted = trusted;
                if let Some(end) = ended.iter().find(|end| end.is_of(run)) {
                    end.complete(run);
                }
            }
            Ok((runs, more))
        };
        let (mut runs, mut more) = read()?;
        // A supervisor may have written its end between the reading of the rows and the check that
        // it is dead. Rows that are read after the check are final.
        let mut dead = read::lost(&runs);
        while !dead.is_empty() {
            (runs, more) = read()?;
            let still = read::lost(&runs);
            if still.iter().all(|run| dead.contains(run)) {
                break;
            }
            dead = still;
        }
        connection::checkpoint_large(db);
        Ok((runs, more))
    }
}

/// The runs of one sandbox in the order of the index.
const OF_SANDBOX: &str = "WHERE r.sandbox_id = ?3 AND r.id < ?1 ORDER BY r.id DESC LIMIT ?2";

const OF_ALL: &str = "WHERE r.id < ?1 ORDER BY r.id DESC LIMIT ?2";

fn page(
    connection: &Connection,
    state: &StateDir,
    sandbox: Option<i64>,
    before: i64,
    limit: u32,
) -> Result<Vec<Run>, Fault> {
    let _snapshot = read::snapshot(connection)?;
    let schema = find_schema(connection)?;
    if schema == Schema::Missing {
        return Ok(Vec::new());
    }
    let here = Here::new(state);
    let ours = |row: &Row<'_>| read::our_run(row, &here);
    let (columns, all) = (read::select(schema), read::ALL);
    let mut runs = match sandbox {
        Some(sandbox) => {
            let sql = format!("{columns}{all} {OF_SANDBOX}");
            read::collect(connection, &sql, params![before, limit, sandbox], ours)?
        }
        None => {
            let sql = format!("{columns}{all} {OF_ALL}");
            read::collect(connection, &sql, params![before, limit], ours)?
        }
    };
    read::add_consoles(connection, &mut runs)?;
    Ok(runs)
}

fn changes(
    connection: &Connection,
    state: &StateDir,
    seen: &Seen,
) -> Result<(Vec<Run>, u64), Fault> {
    let _snapshot = read::snapshot(connection)?;
    if !schema::has_table(connection, "sandboxes")? {
        return Ok((Vec::new(), 0));
    }
    let schema = schema::find(connection)?;
    let mut runs = Vec::new();
    if schema != Schema::Missing {
        let here = Here::new(state);
        let ours = |row: &Row<'_>| read::our_run(row, &here);
        let sql = changed_runs(&seen.runs, schema);
        runs = read::collect(connection, &sql, params![seen.last], ours)?;
        read::add_consoles(connection, &mut runs)?;
    }
    let sql = changed_sandboxes(&seen.sandboxes, schema);
    runs.extend(read::collect(connection, &sql, [], read::foreign_run)?);
    let count: i64 =
        connection.query_row("SELECT count(*) FROM sandboxes", [], |row| row.get(0))?;
    Ok((runs, count.unsigned_abs()))
}

fn find_schema(connection: &Connection) -> Result<Schema, Fault> {
    match schema::has_table(connection, "sandboxes")? {
        true => schema::find(connection),
        false => Ok(Schema::Missing),
    }
}

fn changed_runs(seen: &[i64], schema: Schema) -> String {
    format!(
        "{}{} WHERE r.id IN (SELECT id FROM vmon_runs WHERE id >= ?1
            UNION ALL SELECT id FROM vmon_runs INDEXED BY vmon_runs_unfinished
                WHERE state <> 'STOPPED'
            UNION ALL SELECT id FROM vmon_runs WHERE id IN ({})) ORDER BY r.id",
        read::select(schema),
        read::ALL,
        list(seen),
    )
}

fn changed_sandboxes(seen: &[i64], schema: Schema) -> String {
    let index = match schema {
        Schema::Complete => "INDEXED BY vmon_sandboxes_running",
        _ => "",
    };
    let not_ours = match schema {
        Schema::Missing => "",
        _ => {
            "AND NOT EXISTS (SELECT 1 FROM vmon_runs r INDEXED BY vmon_runs_unfinished
                WHERE r.sandbox_id = s.id AND r.state <> 'STOPPED'
                AND r.supervisor_pid = s.supervisor_pid)"
        }
    };
    format!(
        "{} WHERE id IN (SELECT id FROM sandboxes {index} WHERE status = 'RUNNING'
            UNION ALL SELECT id FROM sandboxes WHERE id IN ({})) {not_ours}",
        read::SANDBOXES,
        list(seen),
    )
}

/// Numbers for the IN operator.
fn list(numbers: &[i64]) -> String {
    let mut list = String::new();
    for number in numbers {
        let comma = if list.is_empty() { "" } else { "," };
        list.push_str(&format!("{comma}{number}"));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_pages_are_read_without_the_other_runs() {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        schema::ensure(&transaction).unwrap();
        let schema = Schema::Complete;
        let select = read::select(schema);
        let pages = [OF_SANDBOX, OF_ALL].map(|page| format!("{select}{} {page}", read::ALL));
        let changes = [changed_runs(&[1, 2], schema), changed_sandboxes(&[1, 2], schema)];
        for sql in pages.iter().chain(&changes) {
            let steps = schema::plan(&transaction, sql);
            let is_bounded = |step: &&String| {
                !step.starts_with("SCAN")
                    || ["vmon_runs_unfinished", "vmon_sandboxes_running"]
                        .iter()
                        .any(|index| step.contains(index))
            };
            let others: Vec<_> = steps.iter().filter(|step| !is_bounded(step)).collect();
            assert!(others.is_empty(), "{sql}: {steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
        }
    }
}
