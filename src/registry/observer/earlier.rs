//! Ends of earlier runs of a restarted command that are not in the database yet.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::error::RegistryError;
use super::super::record::Record;
use super::super::spool::{self, Reserve};
use super::super::{Paths, Registry};

/// Limit of ends in memory. Each end that has waited is in a file as well, unless the disk is full:
/// then the last ones go into what is reserved when the last run has ended.
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
    /// Those that are in no file, in order.
    pub(super) fn unspooled(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().filter(|ended| !ended.spooled).map(|ended| &*ended.record)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().map(|ended| &*ended.record)
    }

    /// Adds the end of a run that another one follows; `spooled` if it is in a file already.
    pub(super) fn push(&mut self, record: Box<Record>, spooled: bool, registry: &Registry) {
        let record = Box::new(record.finished());
        self.0.push(Ended { record, since: Instant::now(), spooled });
        if self.0.len() > MAX_ENDS {
            let mut oldest = self.0.remove(0);
            if !oldest.spool(registry) {
                report_lost(registry, 1, &oldest.record, None, None);
            }
        }
    }

    /// Spools the ends that have waited for `timeout`.
    pub(super) fn spool_after(&mut self, timeout: Duration, registry: &Registry) {
        let waited = self.0.iter_mut().filter(|ended| ended.since.elapsed() >= timeout);
        for ended in waited {
            ended.spool(registry);
        }
    }

    /// Drops all ends, after they were written or spooled.
    pub(super) fn clear(&mut self) {
        // Also releases the memory.
        self.0 = Vec::new();
    }
}

impl Ended {
    /// Returns whether it is in a file.
    fn spool(&mut self, registry: &Registry) -> bool {
        self.spooled = self.spooled || spool_record(registry, &self.record, None);
        self.spooled
    }
}

/// Writes a record that is retried to a file of its own, and logs that. Returns whether it was
/// written.
pub(super) fn spool_record(
    registry: &Registry,
    record: &Record,
    error: Option<&RegistryError>,
) -> bool {
    let Paths { db, state } = &*registry.paths;
    let written = spool::write(&state.spool, db, &[record], None);
    let failed = |error: &io::Error| tracing::debug!(%error, "the end of the run is not spooled");
    let written = written.inspect_err(failed);
    written.map(|(path, _)| report_spooled(&path, record, error)).is_ok()
}

/// Writes records that are not retried, oldest first, to one file, reserved or new, and logs that.
pub(super) fn spool_last(
    registry: &Registry,
    records: &[&Record],
    error: Option<&RegistryError>,
    reserve: Option<Reserve>,
) {
    let Some(last) = records.last() else { return };
    let Paths { db, state } = &*registry.paths;
    match spool::write(&state.spool, db, records, reserve) {
        Ok((path, left_out)) => {
            report_spooled(&path, last, error);
            if left_out > 0 {
                report_lost(registry, left_out, last, error, None);
            }
        }
        Err(failed) => report_lost(registry, records.len(), last, error, Some(&failed)),
    }
}

fn report_spooled(path: &Path, record: &Record, error: Option<&RegistryError>) {
    let error = error.map(tracing::field::display);
    tracing::warn!(
        path = %path.display(), sandbox = %record.name, error,
        "the end of the run is in the spool directory until the next command reads the registry",
    );
}

fn report_lost(
    registry: &Registry,
    count: usize,
    record: &Record,
    error: Option<&RegistryError>,
    write_error: Option<&io::Error>,
) {
    let directory = registry.paths.state.spool.display();
    let (error, write_error) =
        (error.map(tracing::field::display), write_error.map(tracing::field::display));
    tracing::error!(
        count, %directory, sandbox = %record.name, error, write_error,
        "the end of the run is lost: it can't be written to the registry or the spool directory",
    );
}
