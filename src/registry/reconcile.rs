//! Making the record true: runs whose supervisor is gone, and what is left of them.
//!
//! A run that has not ended and whose supervisor is dead (its pid free or another's since, or the
//! machine booted since) is *lost*. What is left of its child's session or cgroup is ended first,
//! and then the run is closed, so that a record which says STOPPED is true. What can't be judged
//! from here, as a supervisor in another pid namespace, is left alone, and so is everything on the
//! word of a record that another user could have written.
//!
//! Any number of commands may do this at once, while sandboxes start and stop: a run is closed in
//! a transaction that looks again whether it is the same and still open, and a dead supervisor
//! never comes back.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection;
use super::error::{At, RegistryError};
use super::lost::{LostRun, sweep};
use super::read::{self, Run};
use super::{COMMAND_PATIENCE, Registry, store};
use crate::child::lost::Leftovers;
use crate::monitor::Liveness;

/// How long what has been killed may take to be gone, before the run is left open.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// A run whose supervisor was gone: what [`Registry::reconcile`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The run as the record had it.
    pub run: Run,
    /// How many processes it had left that were ended.
    pub ended: usize,
    /// Why something of it is still there. Then the run stays open on record, and its name is
    /// not free.
    pub remains: Option<String>,
}

impl Registry {
    /// Makes the record true, and the processes with it: takes in spooled ends, ends what lost
    /// runs have left behind, and closes them with the reason `supervisor-lost`. What the record
    /// knows of their end it keeps.
    ///
    /// For commands, not for a loop: waits up to five seconds for the database, and as long for
    /// what it kills. Where nothing is to be done it only reads.
    ///
    /// # Errors
    ///
    /// The database can't be read, or something is to be written and it can't be.
    /// [`RegistryError::Foreign`] and [`RegistryError::Exposed`], where something is to be done and
    /// the record could have been written by another user: nothing is done then.
    pub fn reconcile(&self) -> Result<Vec<Lost>, RegistryError> {
        let db = &self.paths.db;
        self.take_in_spooled();
        if !connection::exists(db).at(db)? {
            return Ok(Vec::new());
        }
        let dead = read::lost(&self.unfinished()?);
        if !dead.is_empty() || !self.spooled().is_empty() {
            self.check_trust()?;
        }
        if dead.is_empty() {
            return Ok(Vec::new());
        }
        // A supervisor that was found dead may have written the end after the rows were read: only
        // what is read now is its last word, be it in the database or in a file.
        let ended = self.spooled();
        let unfinished = |db: &Connection| read::unfinished(db, &self.paths.state);
        let mut open = connection::read_own(db, COMMAND_PATIENCE, unfinished).at(db)?;
        open.iter_mut().for_each(|run| run.trusted = true);
        let is_lost = |run: &&Run| {
            run.id.is_some_and(|id| dead.contains(&id))
                && is_lost(run)
                && !ended.iter().any(|end| end.is_of(run))
        };
        let lost = open.iter().filter(is_lost);
        let give_up = Instant::now() + LEFTOVER_PATIENCE;
        let lost: Vec<Lost> = lost.map(|run| end_leftovers(run, &open, give_up)).collect();
        self.close(&lost)?;
        Ok(lost)
    }

    /// Closes those of which nothing is left.
    fn close(&self, lost: &[Lost]) -> Result<(), RegistryError> {
        let gone: Vec<&Run> =
            lost.iter().filter(|lost| lost.remains.is_none()).map(|lost| &lost.run).collect();
        if gone.is_empty() {
            return Ok(());
        }
        gone.iter().for_each(|run| sweep(run, &self.paths.spool));
        self.make_true(|tx| Ok(gone.iter().try_for_each(|run| store::close_lost(tx, run))?))
    }

    fn unfinished(&self) -> Result<Vec<Run>, RegistryError> {
        let db = &self.paths.db;
        let unfinished = |db: &Connection| read::unfinished(db, &self.paths.state);
        let (open, _) = connection::read(db, COMMAND_PATIENCE, unfinished).at(db)?;
        Ok(open)
    }
}

fn is_lost(run: &Run) -> bool {
    let supervisor = run.supervisor_identity.as_ref();
    supervisor.is_some_and(|supervisor| supervisor.liveness() == Liveness::Dead)
}

/// Ends what the run has left behind, and waits until it is gone.
fn end_leftovers(run: &Run, open: &[Run], give_up: Instant) -> Lost {
    let mut lost = Lost { run: run.clone(), ended: 0, remains: None };
    let Some(lost_run) = LostRun::of(run, open) else { return lost };
    loop {
        match lost_run.end() {
            Ok(Leftovers::Nothing) => return lost,
            Ok(Leftovers::Killed(count)) if Instant::now() < give_up => {
                lost.ended = lost.ended.max(count);
                thread::park_timeout(LOOK);
            }
            Ok(left) => {
                lost.remains = left.reason();
                return lost;
            }
            Err(error) => {
                lost.remains = Some(error.to_string());
                return lost;
            }
        }
    }
}
