//! The ecosystem's `sandbox_metrics`: what a sandbox used at one moment.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::{Connection, Result, Row, params};

use super::error::{At, Fault, RegistryError};
use super::store::{signed, unsigned};
use super::{COMMAND_PATIENCE, Registry, connection, schema};

/// What a sandbox used at one moment, as a row of `sandbox_metrics` has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When. The record has it in milliseconds.
    pub at: DateTime<Utc>,
    /// Of one CPU, in percent: 250 is two and a half.
    pub cpu_usage_percent: Option<f64>,
    /// Bytes of memory.
    pub memory_usage_bytes: Option<u64>,
    /// Bytes on disk.
    pub disk_usage_bytes: Option<u64>,
}

impl Registry {
    /// Adds a sample for a sandbox; `false` when the record has no such sandbox.
    ///
    /// May be called on a loop: never waits. A sample that can't be written now is best left out,
    /// or tried again with the next one.
    ///
    /// # Errors
    ///
    /// The database can't be written now: [`RegistryError::is_passing`] tells whether that may be
    /// over by itself.
    pub fn add_metrics(
        &self,
        config_file: &str,
        name: &str,
        sample: &Sample,
    ) -> Result<bool, RegistryError> {
        let db = &self.paths.db;
        if !connection::exists(db).at(db)? {
            return Ok(false);
        }
        let added = connection::write(db, Duration::ZERO, |tx| {
            let rows = tx.execute(
                "INSERT INTO sandbox_metrics (sandbox_id, timestamp, cpu_usage_percent,
                    memory_usage_bytes, disk_usage_bytes)
                 SELECT id, ?3, ?4, ?5, ?6 FROM sandboxes
                 WHERE config_file = ?1 AND name = ?2 ORDER BY id LIMIT 1",
                params![
                    config_file,
                    name,
                    timestamp(sample.at),
                    sample.cpu_usage_percent,
                    sample.memory_usage_bytes.map(signed),
                    sample.disk_usage_bytes.map(signed),
                ],
            )?;
            Ok(rows > 0)
        });
        added.at(db)
    }

    /// The latest sample of each sandbox that has one, by its row in `sandboxes`
    /// ([`Run::sandbox_id`](super::Run::sandbox_id)).
    ///
    /// For commands: waits up to five seconds where it can't read.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub fn latest_metrics(&self) -> Result<Vec<(i64, Sample)>, RegistryError> {
        let db = &self.paths.db;
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        let (samples, _) = connection::read(db, COMMAND_PATIENCE, latest).at(db)?;
        Ok(samples)
    }
}

fn latest(connection: &Connection) -> Result<Vec<(i64, Sample)>, Fault> {
    if !schema::has_table(connection, "sandbox_metrics")? {
        return Ok(Vec::new());
    }
    // The newest row, which is not the newest time where clocks were set back.
    let sql = "SELECT sandbox_id, timestamp, cpu_usage_percent, memory_usage_bytes,
        disk_usage_bytes FROM sandbox_metrics
        WHERE id IN (SELECT max(id) FROM sandbox_metrics GROUP BY sandbox_id) ORDER BY sandbox_id";
    let mut statement = connection.prepare(sql)?;
    let samples = statement.query_map([], sample)?.collect::<Result<Vec<_>>>()?;
    Ok(samples.into_iter().flatten().collect())
}

/// `None` for a time that can't be read.
fn sample(row: &Row<'_>) -> Result<Option<(i64, Sample)>> {
    let Some(at) = row.get_ref(1)?.as_str_or_null()?.and_then(time) else { return Ok(None) };
    let bytes = |column| row.get::<_, Option<i64>>(column).map(|bytes| bytes.map(unsigned));
    let sample = Sample {
        at,
        cpu_usage_percent: row.get(2)?,
        memory_usage_bytes: bytes(3)?,
        disk_usage_bytes: bytes(4)?,
    };
    Ok(Some((row.get(0)?, sample)))
}

/// As `CURRENT_TIMESTAMP`, the column's default, with milliseconds.
pub(super) fn timestamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// Other programs write RFC 3339 there.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let plain = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    plain
        .map(|time| time.and_utc())
        .or_else(|_| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()))
        .ok()
}
