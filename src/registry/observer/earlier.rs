//! Ends of earlier runs of a restarted command that are not in the database yet.

use std::time::{Duration, Instant};

use super::super::error::RegistryError;
use super::super::record::Record;
use super::super::spool::{self, Reserve};
use super::super::{Paths, Registry};

/// Limit of ends in memory. Each end that has waited is in a file as well, so an end beyond this
/// limit costs a file that is read later, but is not lost.
const MAX_ENDS: usize = 16;

/// Written in order, in the transaction that updates the current run, before that run.
#[derive(Debug, Default)]
pub(super) struct Earlier(Vec<Ended>);

#[derive(Debug)]
struct Ended {
    record: Box<Record>,
    since: Instant,
    spooled: bool,
}

impl Earlier {
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().map(|ended| &*ended.record)
    }

    /// Adds the end of a run that another one follows; `spooled` if it is in a file already.
    pub(super) fn push(&mut self, record: Box<Record>, spooled: bool, registry: &Registry) {
        let record = Box::new(record.finished());
        self.0.push(Ended { record, since: Instant::now(), spooled });
        if self.0.len() > MAX_ENDS {
            let mut oldest = self.0.remove(0);
            oldest.spool(registry);
        }
    }

    /// Spools the ends that have waited for `timeout`.
    pub(super) fn spool_after(&mut self, timeout: Duration, registry: &Registry) {
        let waited = self.0.iter_mut().filter(|ended| ended.since.elapsed() >= timeout);
        waited.for_each(|ended| ended.spool(registry));
    }

    /// Drops all ends, after they were written or spooled.
    pub(super) fn clear(&mut self) {
        // Also releases the memory.
        self.0 = Vec::new();
    }
}

impl Ended {
    fn spool(&mut self, registry: &Registry) {
        self.spooled = self.spooled || spool_record(registry, &self.record, None, None);
    }
}

/// Writes a record to a file of its own, reserved or new, and logs that. Returns whether it was written.
pub(super) fn spool_record(
    registry: &Registry,
    record: &Record,
    error: Option<&RegistryError>,
    reserve: Option<Reserve>,
) -> bool {
    let Paths { db, state } = &*registry.paths;
    let spool = &state.spool;
    let error = error.map(tracing::field::display);
    match spool::write(spool, db, record, reserve) {
        Ok(path) => {
            tracing::warn!(
                path = %path.display(), sandbox = %record.name, error,
                "the end of the run is in the spool directory until the next command reads the registry",
            );
            true
        }
        Err(write_error) => {
            tracing::error!(
                directory = %spool.display(), sandbox = %record.name, error, %write_error,
                "the end of the run is lost: it can't be written to the registry or the spool directory",
            );
            false
        }
    }
}
