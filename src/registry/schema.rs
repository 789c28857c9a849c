//! The tables and their version.
//!
//! The ecosystem's tables are created if missing, and get an index of ours; ours are versioned. The
//! indexes, and the columns that say where a supervisor is, have no version of their own: a database
//! without them is read, and gets them with the first write. Earlier versions of vmon use a database
//! with them.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::error::Fault;

/// The version of the `vmon_` tables that this vmon reads and writes.
pub(super) const VERSION: u32 = 1;

/// Columns and types of microsandbox 0.2, so that both programs read each other's databases.
const ECOSYSTEM: &str = "
CREATE TABLE IF NOT EXISTS sandboxes (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    config_file TEXT NOT NULL,
    config_last_modified DATETIME NOT NULL,
    status TEXT NOT NULL,
    supervisor_pid INTEGER NOT NULL,
    microvm_pid INTEGER NOT NULL,
    rootfs_paths TEXT NOT NULL,
    group_id INTEGER,
    group_ip TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS groups (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    subnet TEXT NOT NULL,
    reach TEXT NOT NULL,
    full_json TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS sandbox_metrics (
    id INTEGER PRIMARY KEY,
    sandbox_id INTEGER NOT NULL,
    timestamp DATETIME DEFAULT CURRENT_TIMESTAMP,
    cpu_usage_percent REAL,
    memory_usage_bytes INTEGER,
    disk_usage_bytes INTEGER
);
";

const OURS: &str = "
CREATE TABLE vmon_meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE vmon_runs (
    id INTEGER PRIMARY KEY,
    sandbox_id INTEGER NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid_namespace INTEGER,
    supervisor_pid INTEGER NOT NULL,
    supervisor_start INTEGER NOT NULL,
    pid INTEGER,
    pid_start INTEGER,
    started_at TEXT NOT NULL,
    running_at TEXT,
    ended_at TEXT,
    exit_code INTEGER,
    signal INTEGER,
    reason TEXT,
    bytes_logged INTEGER,
    bytes_dropped INTEGER,
    spec TEXT NOT NULL,
    socket TEXT
);
";

/// Columns that earlier versions do not have.
const SITE: &str = "
ALTER TABLE vmon_runs ADD COLUMN machine_id TEXT;
ALTER TABLE vmon_runs ADD COLUMN host TEXT;
ALTER TABLE vmon_runs ADD COLUMN supervisor_lock TEXT;
";

/// The first index contains unfinished runs only: a claim looks for nothing else. With the others it
/// reads the rows of its own sandbox only, and a command those that it shows.
const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS vmon_runs_unfinished ON vmon_runs(sandbox_id) WHERE state <> 'STOPPED';
CREATE INDEX IF NOT EXISTS vmon_sandboxes_name ON sandboxes(name, config_file);
CREATE INDEX IF NOT EXISTS vmon_runs_sandbox ON vmon_runs(sandbox_id);
CREATE INDEX IF NOT EXISTS vmon_sandboxes_running ON sandboxes(id) WHERE status = 'RUNNING';
";

/// What of our schema a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    /// At most tables of other programs.
    Missing,
    /// The tables, as earlier versions of vmon have made them.
    Earlier {
        has_indexes: bool,
        /// Whether runs have the columns of the supervisor's site.
        has_site: bool,
    },
    Complete,
}

impl Schema {
    pub(super) fn has_indexes(self) -> bool {
        matches!(self, Self::Complete | Self::Earlier { has_indexes: true, .. })
    }

    pub(super) fn has_site(self) -> bool {
        matches!(self, Self::Complete | Self::Earlier { has_site: true, .. })
    }
}

/// Creates missing tables and indexes. Called in every transaction, because a database may be replaced at any
/// time; cheap if nothing is missing.
pub(super) fn ensure(transaction: &Transaction<'_>) -> Result<(), Fault> {
    let found = find(transaction)?;
    if found == Schema::Missing {
        transaction.execute_batch(ECOSYSTEM)?;
        transaction.execute_batch(OURS)?;
        let sql = "INSERT INTO vmon_meta (key, value) VALUES ('schema_version', ?1)";
        transaction.execute(sql, [VERSION.to_string()])?;
    }
    if !found.has_site() {
        transaction.execute_batch(SITE)?;
    }
    if !found.has_indexes() {
        transaction.execute_batch(INDEXES)?;
    }
    Ok(())
}

/// What of our schema, in the current version, the database has.
///
/// # Errors
///
/// As [`check_tables`]; [`Fault::Newer`] for an unknown version; no older version exists yet.
pub(super) fn find(connection: &Connection) -> Result<Schema, Fault> {
    let names = check_tables(connection)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if !has("vmon_meta") {
        return Ok(Schema::Missing);
    }
    let sql = "SELECT value FROM vmon_meta WHERE key = 'schema_version'";
    let found: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found == VERSION.to_string() => {
            let indexes = [
                "vmon_runs_unfinished",
                "vmon_sandboxes_name",
                "vmon_runs_sandbox",
                "vmon_sandboxes_running",
            ];
            let (has_indexes, has_site) = (indexes.into_iter().all(has), has(SITE_COLUMN));
            Ok(match has_indexes && has_site {
                true => Schema::Complete,
                false => Schema::Earlier { has_indexes, has_site },
            })
        }
        found => Err(Fault::Newer { found: found.unwrap_or_default(), known: VERSION }),
    }
}

/// A view or virtual table under the name of a table could run another program's code at each
/// access.
///
/// SQLite stores a table's text starting with `CREATE TABLE`; the other columns of the row can be
/// changed at will (`PRAGMA writable_schema`). Columns are added one by one: with the last one, all are
/// there.
const TABLES: &str = "
SELECT name, type = 'index' OR sql LIKE 'CREATE TABLE%' FROM sqlite_master
WHERE (type IN ('table', 'view') AND lower(name) IN
    ('sandboxes', 'groups', 'sandbox_metrics', 'vmon_meta', 'vmon_runs', 'vmon_consoles',
        'vmon_logs'))
    OR (type = 'index' AND name IN
        ('vmon_runs_unfinished', 'vmon_sandboxes_name', 'vmon_runs_sandbox',
            'vmon_sandboxes_running'))
UNION ALL SELECT name, true FROM pragma_table_info('vmon_runs') WHERE name = 'supervisor_lock'";

/// The last of the added columns, as [`TABLES`] names it.
const SITE_COLUMN: &str = "supervisor_lock";

/// A generated column is computed at each access and may have any size.
const GENERATED: &str = "
SELECT t.name FROM sqlite_master t, pragma_table_xinfo(t.name) c
WHERE t.type = 'table' AND c.hidden > 1 AND lower(t.name) IN
    ('sandboxes', 'groups', 'sandbox_metrics', 'vmon_meta', 'vmon_runs', 'vmon_consoles',
        'vmon_logs')";

/// The names of the tables, of our indexes and of the added column that exist.
///
/// # Errors
///
/// [`Fault::NotATable`] if one of the names is not a table.
fn check_tables(connection: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare(TABLES)?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let table = |found: rusqlite::Result<(String, bool)>| match found? {
        (name, true) => Ok(name),
        (name, false) => Err(Fault::NotATable(name)),
    };
    found.map(table).collect()
}

/// Like [`check_tables`], and refuses generated columns: for readers of data that others have
/// written.
pub(super) fn check_columns(connection: &Connection) -> Result<(), Fault> {
    check_tables(connection)?;
    match connection.query_row(GENERATED, [], |row| row.get(0)).optional()? {
        Some(name) => Err(Fault::Generated(name)),
        None => Ok(()),
    }
}

/// Whether the database has a table of this name.
pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    // sqlite_master: SQLite before 3.33 does not know the name sqlite_schema.
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    connection.query_row(sql, [name], |row| row.get::<_, u32>(0)).map(|count| count > 0)
}

/// The steps of `EXPLAIN QUERY PLAN`.
#[cfg(test)]
pub(super) fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = plan.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_an_earlier_version_gets_its_indexes_and_columns_with_the_first_write() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(ECOSYSTEM).unwrap();
        connection.execute_batch(OURS).unwrap();
        connection.execute_batch("INSERT INTO vmon_meta VALUES ('schema_version', '1')").unwrap();
        let earlier = Schema::Earlier { has_indexes: false, has_site: false };
        assert_eq!(find(&connection).unwrap(), earlier);
        let transaction = connection.transaction().unwrap();
        ensure(&transaction).unwrap();
        transaction.commit().unwrap();
        assert_eq!(find(&connection).unwrap(), Schema::Complete);
    }
}
