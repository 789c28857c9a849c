//! The ecosystem's table `sandbox_metrics`: resource usage of a sandbox at one moment.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::{Connection, Result, Row, params};

use super::columns::{signed, unsigned};
use super::error::{At, Fault, RegistryError};
use super::{COMMAND_TIMEOUT, Registry, connection, schema};

/// Resource usage of a sandbox at one moment: a row of `sandbox_metrics`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Time of the sample, recorded in milliseconds.
    pub at: DateTime<Utc>,
    /// CPU usage in percent of one CPU: 250 is two and a half CPUs.
    pub cpu_usage_percent: Option<f64>,
    /// Bytes of memory.
    pub memory_usage_bytes: Option<u64>,
    /// Bytes on disk.
    pub disk_usage_bytes: Option<u64>,
}

impl Sample {
    /// A sample without any value.
    pub fn new(at: DateTime<Utc>) -> Self {
        Self { at, cpu_usage_percent: None, memory_usage_bytes: None, disk_usage_bytes: None }
    }
}

impl Registry {
    /// Adds a sample for a sandbox; `false` if the record has no such sandbox.
    ///
    /// Never waits, so it may be called on an event loop. A sample that can't be written now can be
    /// dropped, or retried with the next one.
    ///
    /// # Errors
    ///
    /// The database can't be written now; [`RegistryError::is_passing`] returns whether a retry may
    /// succeed.
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

    /// Returns the latest sample of each sandbox that has one, with its row in `sandboxes`
    /// ([`Run::sandbox_id`](super::Run::sandbox_id)).
    ///
    /// For commands: waits up to five seconds for the lock.
    ///
    /// # Errors
    ///
    /// The database can't be read.
    pub fn latest_metrics(&self) -> Result<Vec<(i64, Sample)>, RegistryError> {
        let db = &self.paths.db;
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        let (samples, _) = connection::read(db, COMMAND_TIMEOUT, latest).at(db)?;
        Ok(samples)
    }
}

fn latest(connection: &Connection) -> Result<Vec<(i64, Sample)>, Fault> {
    if !schema::has_table(connection, "sandbox_metrics")? {
        return Ok(Vec::new());
    }
    // The newest row, which after a clock step is not the newest time.
    let sql = "SELECT sandbox_id, timestamp, cpu_usage_percent, memory_usage_bytes,
        disk_usage_bytes FROM sandbox_metrics
        WHERE id IN (SELECT max(id) FROM sandbox_metrics GROUP BY sandbox_id) ORDER BY sandbox_id";
    let mut statement = connection.prepare(sql)?;
    let samples = statement.query_map([], sample)?.collect::<Result<Vec<_>>>()?;
    Ok(samples.into_iter().flatten().collect())
}

/// `None` if the time can't be parsed.
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

/// The format of `CURRENT_TIMESTAMP`, the column's default, with milliseconds.
pub(super) fn timestamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// Other programs write RFC 3339.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let plain = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    plain
        .map(|time| time.and_utc())
        .or_else(|_| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()))
        .ok()
}
