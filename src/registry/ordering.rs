//! The order of runs is that of their numbers. A run whose claim comes on record after that of a
//! later run takes its place among the numbers, and the later ones move up.
//!
//! Which of two runs is the later one is read from start times in the process table, which count
//! from the boot: the wall clock may have been set back in between.

use rusqlite::{Result, Transaction, params};

use super::columns::signed;
use super::record::Record;

/// The runs of a sandbox that a supervisor which started later on the same boot has recorded, or the
/// same supervisor with a child that started later.
const LATER: &str = "
SELECT id FROM vmon_runs WHERE sandbox_id = ?1 AND id < ?2 AND boot_id = ?3 AND ?3 <> ''
    AND (supervisor_start > ?4 OR (supervisor_start = ?4 AND supervisor_pid = ?5 AND pid_start > ?6))
ORDER BY id DESC";

/// A number that no row has.
const ASIDE: i64 = -1;

/// Moves the row of a run that was added late before the rows of later runs. Returns its number.
pub(super) fn put_in_place(
    tx: &Transaction<'_>,
    record: &Record,
    sandbox: i64,
    row: i64,
) -> Result<i64> {
    let supervisor = &record.supervisor;
    let mut later = tx.prepare(LATER)?;
    let later = later.query_map(
        params![
            sandbox,
            row,
            supervisor.boot_id,
            signed(supervisor.start),
            supervisor.pid,
            record.child.as_ref().map(|child| signed(child.start)),
        ],
        |row| row.get(0),
    )?;
    let later: Vec<i64> = later.collect::<Result<_>>()?;
    if later.is_empty() {
        return Ok(row);
    }
    // The rows of consoles follow those of their runs.
    tx.execute_batch("PRAGMA defer_foreign_keys=ON")?;
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'vmon_consoles')";
    let has_consoles: bool = tx.query_row(sql, [], |row| row.get(0))?;
    let renumber = |from: i64, to: i64| -> Result<()> {
        tx.execute("UPDATE vmon_runs SET id = ?2 WHERE id = ?1", [from, to])?;
        if has_consoles {
            tx.execute("UPDATE vmon_consoles SET run_id = ?2 WHERE run_id = ?1", [from, to])?;
        }
        Ok(())
    };
    renumber(row, ASIDE)?;
    let mut free = row;
    for id in later {
        renumber(id, free)?;
        free = id;
    }
    renumber(ASIDE, free)?;
    Ok(free)
}
