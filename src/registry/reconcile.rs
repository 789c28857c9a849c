//! Repairs the record: closes runs whose supervisor is dead, and ends their remaining processes.
//!
//! An unfinished run whose supervisor is dead (its pid is free or reused, its lock is released, or the
//! machine was rebooted) is *lost*. The remaining processes of its child's session or cgroup are ended
//! first, then the run is closed, so that a record of STOPPED is true. A supervisor that can't be
//! checked, for example on another machine, is left alone. Nothing is done because of a record that
//! another user could have written.
//!
//! Any number of commands may do this at once, while sandboxes start and stop: the transaction that
//! closes a run checks again that it is the same run and unfinished, and a dead supervisor never
//! returns.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction};

use super::connection;
use super::error::{At, RegistryError};
use super::lost::{LostRun, sweep};
use super::read;
use super::run::Run;
use super::site::Here;
use super::{COMMAND_TIMEOUT, Paths, Registry, store};
use crate::child::lost::Leftovers;

/// How long killed processes may take to end before the run is left open.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Poll interval while they end.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A run whose supervisor was dead, as [`Registry::reconcile`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The run as it was on record.
    pub run: Run,
    /// Number of remaining processes that were killed.
    pub ended: usize,
    /// Why processes of it still exist. Then the run stays open on record and holds its name.
    pub leftovers: Option<String>,
}

impl Registry {
    /// Repairs the record: imports spooled ends, ends the remaining processes of lost runs, and
    /// closes these runs with the reason `supervisor-lost`. Facts of their end that are on record
    /// are kept.
    ///
    /// For commands, not for an event loop: waits up to five seconds for the database, and as long
    /// for killed processes to end. If there is nothing to do, it only reads.
    ///
    /// # Errors
    ///
    /// The database can't be read, or can't be written although a change is needed.
    /// [`RegistryError::Foreign`] and [`RegistryError::Exposed`] if a change is needed and another
    /// user could have written the record: then nothing is done.
    pub fn reconcile(&self) -> Result<Vec<Lost>, RegistryError> {
        let db = &self.paths.db;
        self.import_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        let dead = read::lost(&self.unfinished()?);
        if dead.is_empty() {
            return Ok(Vec::new());
        }
        self.check_trust()?;
        // A supervisor that was found dead may have written the end after the rows were read. What
        // is read now, from the database or a file, is final.
        let ended = self.spooled();
        let unfinished = |db: &Connection| read::unfinished(db, &self.paths.state);
        let mut open = connection::read_own(db, COMMAND_TIMEOUT, unfinished).at(db)?;
        open.iter_mut().for_each(|run| run.trusted = true);
        let is_lost = |run: &&Run| {
            run.id.is_some_and(|id| dead.contains(&id))
                && run.is_lost()
                && !ended.iter().any(|end| end.is_of(run))
        };
        let lost = open.iter().filter(is_lost);
        let deadline = Instant::now() + LEFTOVER_TIMEOUT;
        let lost: Vec<Lost> = lost.map(|run| end_leftovers(run, &open, deadline)).collect();
        self.close(&lost)?;
        Ok(lost)
    }

    /// Closes an unfinished run whose supervisor can't be checked, or is on another machine, with the
    /// reason `supervisor-lost`: for a user who knows that the supervisor is gone. No process is
    /// ended. Returns false, and changes nothing, if the supervisor is known to live on this machine.
    ///
    /// For commands, like [`reconcile`](Self::reconcile).
    ///
    /// # Errors
    ///
    /// The database can't be written, or another user could have written the record.
    pub fn close_unproven(&self, run: &Run) -> Result<bool, RegistryError> {
        let Paths { db, state } = &*self.paths;
        self.check_trust()?;
        let close = |tx: &Transaction<'_>| Ok(store::close_unproven(tx, run, &Here::new(state))?);
        connection::write_own(db, COMMAND_TIMEOUT, close).at(db)
    }

    /// Closes the runs without remaining processes.
    fn close(&self, lost: &[Lost]) -> Result<(), RegistryError> {
        let gone: Vec<&Run> =
            lost.iter().filter(|lost| lost.leftovers.is_none()).map(|lost| &lost.run).collect();
        if gone.is_empty() {
            return Ok(());
        }
        gone.iter().for_each(|run| sweep(run, &self.paths.state.spool));
        self.repair(|tx| Ok(gone.iter().try_for_each(|run| store::close_lost(tx, run))?))
    }

    fn unfinished(&self) -> Result<Vec<Run>, RegistryError> {
        let db = &self.paths.db;
        let unfinished = |db: &Connection| read::unfinished(db, &self.paths.state);
        let (open, _) = connection::read(db, COMMAND_TIMEOUT, unfinished).at(db)?;
        Ok(open)
    }
}

/// Kills the remaining processes of a run and waits until they have ended.
fn end_leftovers(run: &Run, open: &[Run], deadline: Instant) -> Lost {
    let mut lost = Lost { run: run.clone(), ended: 0, leftovers: None };
    let Some(lost_run) = LostRun::of(run, open) else { return lost };
    loop {
        match lost_run.end() {
            Ok(Leftovers::Nothing) => return lost,
            Ok(Leftovers::Killed(count)) if Instant::now() < deadline => {
                lost.ended = lost.ended.max(count);
                thread::park_timeout(POLL_INTERVAL);
            }
            Ok(left) => {
                lost.leftovers = left.reason();
                return lost;
            }
            Err(error) => {
                lost.leftovers = Some(error.to_string());
                return lost;
            }
        }
    }
}
