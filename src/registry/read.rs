//! Reads runs from the record, with their current status.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Params, Result, Row, Transaction, params_from_iter};

use super::columns::{ConsoleBytes, RUNNING, foreign_supervisor, site, supervisor, unsigned};
use super::error::Fault;
use super::run::{Run, RunStatus};
use super::schema::{self, Schema};
use super::site::Here;
use super::spec;
use super::state_dir::StateDir;
use crate::monitor::codec::Spec;
use crate::monitor::{Identity, Liveness, Phase, Reason};

const COLUMNS: &str = "
r.id, r.sandbox_id, s.name, s.config_file, r.state, r.pid, r.pid_start, r.started_at,
    r.running_at, r.ended_at, r.exit_code, r.signal, r.reason, r.bytes_logged, r.bytes_dropped,
    s.rootfs_paths, r.boot_id, r.pid_namespace, r.supervisor_pid, r.supervisor_start, r.spec,
    r.socket, s.config_last_modified";

/// The start of a query for runs, in a database with this schema.
pub(super) fn select(schema: Schema) -> String {
    let site = match schema.has_site() {
        true => "r.machine_id, r.host, r.supervisor_lock",
        false => "NULL AS machine_id, NULL AS host, NULL AS supervisor_lock",
    };
    format!("SELECT {site}, {COLUMNS}")
}

pub(super) const ALL: &str = "
FROM vmon_runs r JOIN sandboxes s ON s.id = r.sandbox_id";

/// One run per sandbox: an unfinished one, or else the one with the highest number. No time decides,
/// because the clock may have been set back between two runs. CROSS JOIN: sandboxes first.
const LATEST: &str = "
FROM sandboxes s CROSS JOIN vmon_runs r ON r.id = coalesce(
    (SELECT max(id) FROM vmon_runs INDEXED BY vmon_runs_unfinished
        WHERE sandbox_id = s.id AND state <> 'STOPPED'),
    (SELECT max(id) FROM vmon_runs WHERE sandbox_id = s.id))";

/// The same without our indexes, in one pass over all runs.
const LATEST_UNINDEXED: &str = "
FROM vmon_runs r JOIN sandboxes s ON s.id = r.sandbox_id AND r.id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY sandbox_id
    ORDER BY state = 'STOPPED', id DESC) AS place FROM vmon_runs) WHERE place = 1)";

pub(super) const SANDBOXES: &str = "
SELECT id, name, config_file, status, supervisor_pid, microvm_pid, rootfs_paths FROM sandboxes s";

/// Sandboxes without a run of vmon, and those that another program runs now.
const NOT_OURS: &str = "
WHERE (id NOT IN (SELECT sandbox_id FROM vmon_runs)
    OR (status = 'RUNNING' AND NOT EXISTS
        (SELECT 1 FROM vmon_runs r INDEXED BY vmon_runs_unfinished
            WHERE r.sandbox_id = s.id AND r.state <> 'STOPPED'
            AND r.supervisor_pid = s.supervisor_pid)))";

/// Which runs to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection<'a> {
    /// Only the latest run of each sandbox.
    pub(super) latest: bool,
    /// Only those of the sandbox with this config file and name.
    pub(super) sandbox: Option<(&'a str, &'a str)>,
}

impl Selection<'_> {
    /// The query for runs of vmon, in a database with this schema.
    fn ours(&self, schema: Schema) -> String {
        let from = match (self.latest, schema) {
            (false, _) => ALL,
            (true, schema) if schema.has_indexes() => LATEST,
            (true, _) => LATEST_UNINDEXED,
        };
        format!("{}{from} WHERE {} ORDER BY r.id", select(schema), self.is_selected())
    }

    /// The query for sandboxes of other programs.
    fn foreign(&self) -> String {
        format!("{SANDBOXES}{NOT_OURS} AND {}", self.is_selected())
    }

    fn is_selected(&self) -> &'static str {
        match self.sandbox {
            Some(_) => "s.config_file = ?1 AND s.name = ?2",
            None => "true",
        }
    }

    fn parameters(&self) -> impl Params {
        let sandbox = self.sandbox.map(|(config_file, name)| [config_file, name]);
        params_from_iter(sandbox.into_iter().flatten())
    }
}

/// Returns runs, oldest first, then the sandboxes of other programs.
pub(super) fn runs(
    connection: &Connection,
    selection: Selection<'_>,
    state: &StateDir,
) -> Result<Vec<Run>, Fault> {
    // Both queries must read the same snapshot.
    let _snapshot = snapshot(connection)?;
    if !schema::has_table(connection, "sandboxes")? {
        return Ok(Vec::new());
    }
    let schema = schema::find(connection)?;
    let parameters = selection.parameters();
    if schema == Schema::Missing {
        let sql = format!("{SANDBOXES} WHERE {}", selection.is_selected());
        return Ok(collect(connection, &sql, parameters, foreign_run)?);
    }
    let here = Here::new(state);
    let ours = |row: &Row<'_>| our_run(row, &here);
    let mut runs = collect(connection, &selection.ours(schema), parameters, ours)?;
    add_consoles(connection, &mut runs)?;
    let mut foreign =
        collect(connection, &selection.foreign(), selection.parameters(), foreign_run)?;
    if selection.latest {
        // One run for each sandbox: the one in progress.
        let ours = in_progress(&runs);
        foreign.retain(|other| other.is_in_progress() || !ours.contains(&other.sandbox_id));
        let mut others = BTreeSet::new();
        others.extend(foreign.iter().map(|other| other.sandbox_id));
        runs.retain(|run| !others.contains(&run.sandbox_id));
    }
    runs.extend(foreign);
    Ok(runs)
}

/// One snapshot for several queries, unless the connection is within a transaction.
pub(super) fn snapshot(connection: &Connection) -> Result<Option<Transaction<'_>>, Fault> {
    Ok(connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose()?)
}

/// The sandboxes with a run in progress.
fn in_progress(runs: &[Run]) -> BTreeSet<i64> {
    // Filled one by one: collecting compiles in a sort for each type of element.
    let mut ids = BTreeSet::new();
    ids.extend(runs.iter().filter(|run| run.is_in_progress()).map(|run| run.sandbox_id));
    ids
}

pub(super) fn add_consoles(connection: &Connection, runs: &mut [Run]) -> Result<(), Fault> {
    let have_any = runs.iter().any(|run| run.spec.as_ref().is_some_and(has_consoles));
    if !have_any || !schema::has_table(connection, "vmon_consoles")? {
        return Ok(());
    }
    let sql = "SELECT name, bytes_logged, bytes_dropped FROM vmon_consoles WHERE run_id = ?1
        ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    for run in runs.iter_mut().filter(|run| run.ended_at.is_some()) {
        let bytes = statement.query_map([run.id], |row| {
            Ok(ConsoleBytes {
                name: row.get(0)?,
                bytes_logged: unsigned(row.get(1)?),
                bytes_dropped: unsigned(row.get(2)?),
            })
        })?;
        run.consoles = bytes.collect::<Result<_>>()?;
    }
    Ok(())
}

/// Ids of unfinished runs whose supervisors are dead.
pub(super) fn lost(runs: &[Run]) -> Vec<i64> {
    runs.iter().filter(|run| run.is_lost()).filter_map(|run| run.id).collect()
}

/// The runs of one sandbox, oldest first, from a trusted database.
pub(super) fn runs_of(connection: &Connection, sandbox: i64, state: &StateDir) -> Result<Vec<Run>> {
    trusted_runs(connection, "r.sandbox_id = ?1", sandbox, state)
}

/// The unfinished runs of one sandbox, oldest first, from a trusted database.
pub(super) fn open_runs_of(
    connection: &Connection,
    sandbox: i64,
    state: &StateDir,
) -> Result<Vec<Run>> {
    let condition = "r.sandbox_id = ?1 AND r.state <> 'STOPPED'";
    trusted_runs(connection, condition, sandbox, state)
}

fn trusted_runs(
    connection: &Connection,
    condition: &str,
    sandbox: i64,
    state: &StateDir,
) -> Result<Vec<Run>> {
    let select = select(Schema::Complete);
    let mut statement =
        connection.prepare(&format!("{select}{ALL} WHERE {condition} ORDER BY r.id"))?;
    let here = Here::new(state);
    let runs = statement.query_map([sandbox], |row| our_run(row, &here))?;
    runs.map(|run| run.map(|run| Run { trusted: true, ..run })).collect()
}

/// The unfinished runs, oldest first; none without our schema.
pub(super) fn unfinished(connection: &Connection, state: &StateDir) -> Result<Vec<Run>, Fault> {
    if !schema::has_table(connection, "sandboxes")? {
        return Ok(Vec::new());
    }
    match schema::find(connection)? {
        Schema::Missing => Ok(Vec::new()),
        schema => Ok(open_runs(connection, schema, state)?),
    }
}

/// The unfinished runs, oldest first, from a database with this schema of ours.
pub(super) fn open_runs(
    connection: &Connection,
    schema: Schema,
    state: &StateDir,
) -> Result<Vec<Run>> {
    let select = select(schema);
    let sql = format!("{select}{ALL} WHERE r.state <> 'STOPPED' ORDER BY r.id");
    let here = Here::new(state);
    collect(connection, &sql, [], |row| our_run(row, &here))
}

pub(super) fn collect(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    run: impl FnMut(&Row<'_>) -> Result<Run>,
) -> Result<Vec<Run>> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map(parameters, run)?.collect()
}

pub(super) fn our_run(row: &Row<'_>, here: &Here<'_>) -> Result<Run> {
    let (supervisor, site, directory) = (supervisor(row)?, site(row)?, here.state);
    let state: Option<Phase> = word(row, "state")?;
    let ended = state == Some(Phase::Stopped);
    let liveness = (!ended).then(|| here.liveness(&supervisor, &site));
    let lost = liveness == Some(Liveness::Dead);
    let (name, config_file): (String, String) = (row.get("name")?, row.get("config_file")?);
    let mut spec = row
        .get_ref("spec")?
        .as_str()
        .ok()
        .and_then(|text| spec::read(text, &name, &config_file, directory));
    if let (Some(spec), Some(modified)) = (&mut spec, time(row, "config_last_modified")?) {
        spec.sandbox.config_last_modified = modified;
    }
    let pid: Option<u32> = row.get("pid")?;
    let start: Option<i64> = row.get("pid_start")?;
    let child = pid.zip(start).map(|(pid, start)| Identity {
        pid,
        start: unsigned(start),
        ..supervisor.clone()
    });
    Ok(Run {
        id: Some(row.get("id")?),
        sandbox_id: row.get("sandbox_id")?,
        name,
        config_file,
        state,
        status: if ended || lost { RunStatus::Stopped } else { RunStatus::Running },
        pid,
        child,
        supervisor: Some(supervisor.pid),
        liveness,
        location: Some(here.location(&supervisor, &site)),
        host: site.host,
        supervisor_identity: Some(supervisor),
        socket: path(row, "socket")?.and_then(|path| socket(&path, directory)),
        started_at: time(row, "started_at")?,
        running_at: time(row, "running_at")?,
        ended_at: time(row, "ended_at")?,
        exit_code: row.get("exit_code")?,
        signal: row.get("signal")?,
        reason: word(row, "reason")?.or(lost.then_some(Reason::SupervisorLost)),
        bytes_logged: row.get::<_, Option<i64>>("bytes_logged")?.map(unsigned),
        bytes_dropped: row.get::<_, Option<i64>>("bytes_dropped")?.map(unsigned),
        consoles: Vec::new(),
        rootfs_paths: row.get("rootfs_paths")?,
        spec,
        trusted: false,
    })
}

/// The keyword of an enumeration; `None` for one that this version does not know.
fn word<T: FromStr>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|word| word.parse().ok()))
}

/// Whether there may be consoles on record. Those on descriptors of a host are not in the spec, but
/// only a host has them.
fn has_consoles(spec: &Spec) -> bool {
    !spec.sandbox.consoles.is_empty() || !spec.options.is_object()
}

pub(super) fn foreign_run(row: &Row<'_>) -> Result<Run> {
    let state: String = row.get("status")?;
    let supervisor: i64 = row.get("supervisor_pid")?;
    let runs = state == RUNNING && foreign_supervisor(supervisor).is_some();
    Ok(Run {
        id: None,
        sandbox_id: row.get("id")?,
        name: row.get("name")?,
        config_file: row.get("config_file")?,
        state: state.parse().ok(),
        status: if runs { RunStatus::Running } else { RunStatus::Stopped },
        pid: pid(row.get("microvm_pid")?),
        child: None,
        supervisor: pid(supervisor),
        supervisor_identity: None,
        liveness: None,
        location: None,
        host: None,
        socket: None,
        started_at: None,
        running_at: None,
        ended_at: None,
        exit_code: None,
        signal: None,
        reason: None,
        bytes_logged: None,
        bytes_dropped: None,
        consoles: Vec::new(),
        rootfs_paths: row.get("rootfs_paths")?,
        spec: None,
        trusted: false,
    })
}

/// The absolute path of a control socket.
fn socket(recorded: &Path, state: &StateDir) -> Option<PathBuf> {
    let socket = state.resolve(recorded);
    if socket.is_none() {
        tracing::warn!(
            socket = %recorded.display(),
            "a control socket on record is ignored: it is not in the state directory",
        );
    }
    socket
}

/// A path, which is stored as a BLOB if it is not UTF-8.
fn path(row: &Row<'_>, column: &str) -> Result<Option<PathBuf>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| OsString::from_vec(bytes.to_vec()).into()))
}

/// A possible pid: a sandbox that never ran has 0.
fn pid(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|&pid| pid > 0)
}

fn time(row: &Row<'_>, column: &str) -> Result<Option<DateTime<Utc>>> {
    let text: Option<String> = row.get(column)?;
    let time = text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Ok(time.map(|time| time.to_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selections() -> impl Iterator<Item = Selection<'static>> {
        let sandboxes = [None, Some(("Sandboxfile", "web"))];
        sandboxes
            .into_iter()
            .flat_map(|sandbox| [false, true].map(|latest| Selection { latest, sandbox }))
    }

    fn connection() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        schema::ensure(&transaction).unwrap();
        transaction.commit().unwrap();
        connection
    }

    #[test]
    fn a_command_reads_no_run_that_it_does_not_show() {
        let connection = connection();
        for selection in selections() {
            for sql in [selection.ours(Schema::Complete), selection.foreign()] {
                let steps = schema::plan(&connection, &sql);
                let scans = steps.iter().filter(|step| step.starts_with("SCAN"));
                // The table that all of the rows come from.
                let all = match (selection.sandbox, selection.latest) {
                    (None, _) if sql.contains(NOT_OURS) => "SCAN s",
                    (None, true) => "SCAN s",
                    (None, false) => "SCAN r",
                    (Some(_), _) => "",
                };
                let others: Vec<_> = scans.filter(|step| step.as_str() != all).collect();
                assert!(others.is_empty(), "{selection:?}: {steps:?}");
            }
        }
    }

    #[test]
    fn a_selection_is_the_same_with_and_without_our_indexes_and_added_columns() {
        let connection = connection();
        let rows = "
            INSERT INTO sandboxes (id, name, config_file, config_last_modified, status,
                supervisor_pid, microvm_pid, rootfs_paths)
            VALUES (1, 'web', 'Sandboxfile', '', 'RUNNING', 7, 8, ''),
                (2, 'web', 'other', '', 'STOPPED', 7, 8, ''),
                (3, 'foreign', 'Sandboxfile', '', 'STOPPED', 7, 8, '');
            INSERT INTO vmon_runs (id, sandbox_id, state, boot_id, supervisor_pid,
                supervisor_start, started_at, spec)
            VALUES (1, 1, 'STOPPED', 'b', 7, 1, 't', ''), (2, 1, 'RUNNING', 'b', 7, 1, 't', ''),
                (3, 1, 'STOPPED', 'b', 7, 1, 't', ''), (4, 2, 'STOPPED', 'b', 7, 1, 't', ''),
                (5, 2, 'STOPPED', 'b', 7, 1, 't', '')";
        connection.execute_batch(rows).unwrap();
        let directory = StateDir::new("/state".into(), "/state/run".into());
        let read = || -> Vec<Vec<_>> {
            let ids = |selection| {
                let runs = runs(&connection, selection, &directory).unwrap();
                runs.into_iter().map(|run| (run.sandbox_id, run.id)).collect()
            };
            selections().map(ids).collect()
        };
        let (web, other) =
            ([(1, Some(1)), (1, Some(2)), (1, Some(3))], [(2, Some(4)), (2, Some(5))]);
        let foreign = (3, None);
        let all: Vec<_> = web.into_iter().chain(other).chain([foreign]).collect();
        let latest = vec![(1, Some(2)), (2, Some(5)), foreign];
        let expected = [all, latest, web.to_vec(), vec![(1, Some(2))]];
        assert_eq!(read(), expected);
        connection
            .execute_batch("DROP INDEX vmon_sandboxes_name; DROP INDEX vmon_runs_sandbox")
            .unwrap();
        assert_eq!(read(), expected);
        let columns = ["machine_id", "host", "supervisor_lock"];
        let drop = columns.map(|column| format!("ALTER TABLE vmon_runs DROP COLUMN {column}"));
        connection.execute_batch(&drop.join(";")).unwrap();
        assert_eq!(read(), expected);
    }
}
