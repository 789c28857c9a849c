//! Values that several columns of the tables share, and how rows hold them.

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rusqlite::{Result, Row};

use super::site::Site;
use crate::monitor::{ConsoleReport, Identity};

/// The ecosystem's status of a sandbox with a running child.
pub(super) const RUNNING: &str = "RUNNING";

/// Byte counts of a console in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsoleBytes {
    /// The console's name.
    pub name: String,
    /// Bytes in its log.
    pub bytes_logged: u64,
    /// Bytes that a log or another output dropped.
    pub bytes_dropped: u64,
}

impl ConsoleBytes {
    pub(super) fn of(report: &ConsoleReport) -> Self {
        let ConsoleReport { name, bytes_logged, bytes_dropped, .. } = report;
        let (bytes_logged, bytes_dropped) = (*bytes_logged, *bytes_dropped);
        Self { name: name.to_string(), bytes_logged, bytes_dropped }
    }
}

/// The supervisor's identity, from a row with named columns.
pub(super) fn supervisor(row: &Row<'_>) -> Result<Identity> {
    Ok(Identity {
        pid: row.get("supervisor_pid")?,
        start: unsigned(row.get("supervisor_start")?),
        boot_id: row.get("boot_id")?,
        pid_namespace: row.get::<_, Option<i64>>("pid_namespace")?.map(unsigned),
    })
}

/// Where the supervisor is, from a row with named columns.
pub(super) fn site(row: &Row<'_>) -> Result<Site> {
    let lock: Option<String> = row.get("supervisor_lock")?;
    Ok(Site::on_record(row.get("machine_id")?, row.get("host")?, lock.as_deref()))
}

/// The pid of another program's supervisor, if the process exists.
///
/// Our own pid does not count: a container starts its processes with the same few pids each time,
/// so a row of an earlier start would never be released.
pub(super) fn foreign_supervisor(pid: i64) -> Option<u32> {
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
    // Signal 0 only checks for existence (kill(2)). EPERM means that the process exists.
    let exists = kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let pid = pid.unsigned_abs();
    (exists && pid != std::process::id()).then_some(pid)
}

/// SQLite's integers are signed; inodes, start times and byte counts stay below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reverses [`signed`].
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
