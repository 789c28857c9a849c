//! Removal of the generations beyond the limits on their number, their age and their total size,
//! and the generation that a post-rotate command works on.

use std::ops::Range;

use super::age::Ages;
use super::sizes::{Sizes, all_names, size};
use super::{Generations, Keep, remove};
use crate::logfile::clock::Moment;
use crate::logfile::directory::Directory;
use crate::logfile::entry::Timestamp;
use crate::logfile::names;

/// A rotation checks the age of this many generations, the oldest numbers first. More of them have a
/// time only if the clock was wrong.
const AGES_CHECKED: usize = 32;

impl Generations {
    /// Generations that are not known yet. `measured`: their total size is limited.
    pub(in crate::logfile) fn new(measured: bool) -> Self {
        Self { sizes: measured.then(Sizes::default), ..Self::default() }
    }

    /// Removes the generations beyond the limits. One that can't be removed is reported and then
    /// ignored until the directory is read again: a retry at each rotation would keep all newer
    /// ones as well.
    pub(in crate::logfile) fn prune(&mut self, directory: &Directory, log: &str, keep: &Keep) {
        self.prune_old(directory, log, keep, AGES_CHECKED, Moment::now());
        while self.count > u64::from(keep.max_files)
            && let Some(number) = self.take_oldest()
        {
            self.discard(directory, log, number);
        }
        self.prune_large(directory, log, keep);
    }

    /// As [`prune`](Self::prune), and checks the age of every generation.
    pub(in crate::logfile) fn prune_all(&mut self, directory: &Directory, log: &str, keep: &Keep) {
        self.prune_old(directory, log, keep, usize::MAX, Moment::now());
        self.prune(directory, log, keep);
    }

    /// From now on, ages count. `newest`: the name of the file with the log's newest byte.
    pub(in crate::logfile) fn count_ages(&mut self, directory: &Directory, newest: &str) {
        let newest = all_names(newest).iter().find_map(|name| written(directory, name));
        self.ages = Some(Box::new(Ages::new(newest, Moment::now())));
    }

    /// Removes the oldest generations as far as they are older than the limit. A generation is no
    /// older than the ones before it, whatever its time says; one whose time is in the future is as
    /// old as the next one at least.
    fn prune_old(
        &mut self,
        directory: &Directory,
        log: &str,
        keep: &Keep,
        most: usize,
        now: Moment,
    ) {
        let (Some(limit), Some(ages)) = (keep.max_age, &mut self.ages) else { return };
        ages.look(now);
        loop {
            let Some(ages) = &self.ages else { return };
            let (mut old, mut newest) = (0, Timestamp::default());
            for (count, number) in (1..).zip(self.numbers().take(most)) {
                let names = all_names(&names::generation(log, number));
                let written = names.iter().find_map(|name| written(directory, name));
                let Some(age) = written.and_then(|at| ages.age(newest.max(at), now)) else {
                    continue;
                };
                if age <= limit {
                    break;
                }
                newest = newest.max(written.unwrap_or_default());
                old = count;
            }
            if old == 0 {
                return;
            }
            for number in (0..old).map_while(|_| self.take_oldest()).collect::<Vec<_>>() {
                self.discard(directory, log, number);
            }
        }
    }

    fn prune_large(&mut self, directory: &Directory, log: &str, keep: &Keep) {
        let Some(most) = keep.bytes else { return };
        if self.sizes.as_ref().is_some_and(|sizes| sizes.sum > most) {
            self.measure_when_due(directory, log);
        }
        while self.sizes.as_ref().is_some_and(|sizes| sizes.sum > most)
            && let Some(number) = self.take_oldest()
        {
            self.discard(directory, log, number);
        }
    }

    /// Corrects the sum for generations that another process has compressed or removed. The cost
    /// grows with the number of generations, so this happens after a proportional number of
    /// rotations only.
    fn measure_when_due(&mut self, directory: &Directory, log: &str) {
        let Some(sizes) = &self.sizes else { return };
        let before = sizes.sum;
        if !sizes.is_due(self.count) || self.read(directory, log).is_err() {
            return;
        }
        if let Some(sizes) = &mut self.sizes {
            sizes.schedule(before);
        }
    }

    /// Removes a generation that is no longer kept.
    fn discard(&mut self, directory: &Directory, log: &str, number: u64) {
        let generation = names::generation(log, number);
        let size = self.sizes.as_ref().map_or(0, |_| size(directory, &generation));
        if remove_or_warn(directory, &generation)
            && let Some(sizes) = &mut self.sizes
        {
            sizes.removed(number, size);
        }
    }

    /// The post-rotate command starts to work on this generation.
    pub(in crate::logfile) fn work_begins(
        &mut self,
        directory: &Directory,
        log: &str,
        number: u64,
    ) {
        if let Some(sizes) = &mut self.sizes {
            sizes.work_begins(directory, log, number);
        }
    }

    /// The post-rotate command was not started after all.
    pub(in crate::logfile) fn work_is_put_off(&mut self) {
        if let Some(sizes) = &mut self.sizes {
            sizes.work_is_put_off();
        }
    }

    /// The post-rotate command has ended. If the generation was pruned meanwhile, the compressed
    /// file is removed too.
    pub(in crate::logfile) fn work_ends(&mut self, directory: &Directory, log: &str, number: u64) {
        let generation = names::generation(log, number);
        if !self.is_kept(number) {
            remove_or_warn(directory, &generation);
        }
        if let Some(sizes) = &mut self.sizes
            && !sizes.work_ends(directory, &generation)
        {
            self.forget();
        }
    }

    /// The first generation from `next` on that exists and is not compressed.
    pub(in crate::logfile) fn plain_from(
        &self,
        directory: &Directory,
        log: &str,
        next: u64,
    ) -> Option<u64> {
        let from = |range: &Range<u64>| range.start.max(next)..range.end;
        let mut waiting = self.kept.iter().flat_map(from);
        waiting.find(|number| is_there(directory, &names::generation(log, *number)))
    }

    /// Removes the partial output of a compressor, while the generation itself exists.
    pub(in crate::logfile) fn remove_compressed(
        &self,
        directory: &Directory,
        log: &str,
        number: u64,
    ) {
        let generation = names::generation(log, number);
        if !is_there(directory, &generation) {
            return;
        }
        for suffix in names::COMPRESSED {
            if let Err(error) = directory.remove(&format!("{generation}{suffix}")) {
                tracing::warn!("{error}; the partly compressed log stays");
            }
        }
    }

    /// Has the directory read again at the next [`survey`](Self::survey).
    pub(in crate::logfile) fn forget(&mut self) {
        self.surveyed = None;
    }

    /// The highest number that is kept.
    pub(in crate::logfile) fn newest(&self) -> Option<u64> {
        self.kept.back().map(|range| range.end - 1)
    }

    /// The numbers, oldest first.
    fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.kept.iter().flat_map(|range| range.clone())
    }
}

/// Removes a generation; `false`, and a warning, where that fails.
fn remove_or_warn(directory: &Directory, generation: &str) -> bool {
    match remove(directory, generation) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("{error}; an old log stays beyond its limit");
            false
        }
    }
}

/// When a file was last written, in its modification time, which compressors preserve.
fn written(directory: &Directory, name: &str) -> Option<Timestamp> {
    let stat = directory.stat(name).ok().flatten()?;
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanoseconds = u64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Some(Timestamp::from_nanoseconds(seconds.saturating_mul(1_000_000_000) + nanoseconds))
}

fn is_there(directory: &Directory, name: &str) -> bool {
    directory.is_there(name).unwrap_or(false)
}
