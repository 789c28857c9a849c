//! What has a sandbox: an unfinished run, unless its supervisor is dead.

use rusqlite::{Result, Row, Transaction};

use super::columns::{site, supervisor};
use super::site::{Here, Location, Site};
use crate::monitor::{Identity, Liveness};

/// An unfinished run.
pub(super) struct OpenRun {
    pub(super) id: i64,
    pub(super) supervisor: Identity,
    pub(super) site: Site,
}

/// What has a sandbox.
pub(super) enum Holder {
    /// A supervisor with this pid here.
    Live(u32),
    /// A run whose supervisor is elsewhere or can't be checked.
    Elsewhere(String),
}

impl OpenRun {
    /// Whether its supervisor is known to live on this machine.
    pub(super) fn lives_nearby(&self, here: &Here<'_>) -> bool {
        here.liveness(&self.supervisor, &self.site) == Liveness::Alive
            && here.location(&self.supervisor, &self.site) != Location::OtherMachine
    }

    /// `None` if the supervisor is dead.
    pub(super) fn holder(&self, here: &Here<'_>) -> Option<Holder> {
        let Self { supervisor, site, .. } = self;
        let force = "'vmon rm --force' removes it from the record";
        let reason = match (here.liveness(supervisor, site), here.location(supervisor, site)) {
            (Liveness::Dead, _) => return None,
            (Liveness::Alive, Location::Here) => return Some(Holder::Live(supervisor.pid)),
            (_, Location::OtherMachine) => {
                let host = site.host.as_deref().unwrap_or("whose name is not on record");
                format!("on another machine, {host}: stop it there; if it is gone, {force}")
            }
            (Liveness::Alive, Location::OtherNamespace) => {
                "under a supervisor in another pid namespace: stop it, or choose another name"
                    .to_owned()
            }
            (Liveness::Unknown, Location::OtherNamespace) => format!(
                "under a supervisor of another pid namespace that can't be checked from here; if it is gone, {force}"
            ),
            (Liveness::Unknown, Location::Here) => format!(
                "under a supervisor that can't be checked, since /proc is not complete here; if it is gone, {force}"
            ),
        };
        Some(Holder::Elsewhere(reason))
    }
}

pub(super) const UNFINISHED_RUNS: &str = "
SELECT id, boot_id, pid_namespace, supervisor_pid, supervisor_start, machine_id, host,
    supervisor_lock
FROM vmon_runs INDEXED BY vmon_runs_unfinished
WHERE sandbox_id = ?1 AND state <> 'STOPPED' ORDER BY id DESC";

/// The unfinished runs of a sandbox, newest first.
pub(super) fn unfinished_runs(tx: &Transaction<'_>, sandbox: i64) -> Result<Vec<OpenRun>> {
    let mut statement = tx.prepare(UNFINISHED_RUNS)?;
    let open = |row: &Row<'_>| {
        Ok(OpenRun { id: row.get("id")?, supervisor: supervisor(row)?, site: site(row)? })
    };
    statement.query_map([sandbox], open)?.collect()
}
