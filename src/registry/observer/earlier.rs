//! Ends of earlier runs of a command that has been started again, as long as they are not written.

use std::time::{Duration, Instant};

use super::super::error::RegistryError;
use super::super::record::Record;
use super::super::{Paths, Registry, spool};

/// How many are kept. Each that has waited is in a file as well, so one more than these costs a
/// file that is read later, not an end.
const MOST: usize = 16;

/// They go into the transaction that brings up the present run, in their order and before it.
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

    /// Adds the end of a run that another one follows; `spooled` if a file has it already.
    pub(super) fn push(&mut self, record: Box<Record>, spooled: bool, registry: &Registry) {
        let record = Box::new(record.finished());
        self.0.push(Ended { record, since: Instant::now(), spooled });
        if self.0.len() > MOST {
            let mut oldest = self.0.remove(0);
            oldest.spool(registry);
        }
    }

    /// Spools those that have waited for this long.
    pub(super) fn spool_after(&mut self, patience: Duration, registry: &Registry) {
        let waited = self.0.iter_mut().filter(|ended| ended.since.elapsed() >= patience);
        waited.for_each(|ended| ended.spool(registry));
    }

    /// They have been written, or are to be forgotten.
    pub(super) fn clear(&mut self) {
        // Without what it has grown to.
        self.0 = Vec::new();
    }
}

impl Ended {
    fn spool(&mut self, registry: &Registry) {
        self.spooled = self.spooled || spool_record(registry, &self.record, None);
    }
}

/// Writes a record to a file of its own, and tells so; whether that could be done.
pub(super) fn spool_record(
    registry: &Registry,
    record: &Record,
    error: Option<&RegistryError>,
) -> bool {
    let Paths { db, spool, .. } = &*registry.paths;
    let error = error.map(tracing::field::display);
    match spool::write(spool, db, record) {
        Ok(path) => {
            tracing::warn!(
                path = %path.display(), sandbox = %record.name, error,
                "the end is spooled, for the next command that reads the registry",
            );
            true
        }
        Err(spooling) => {
            tracing::error!(
                directory = %spool.display(), sandbox = %record.name, error, %spooling,
                "the end of a run can be written neither to the registry nor to a file",
            );
            false
        }
    }
}
