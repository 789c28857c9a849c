//! Removal of the generations beyond the limits on their number, their age and their total size,
//! and the generation that a post-rotate command works on.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sizes::{Sizes, all_names, size};
use super::{Generations, Keep, remove};
use crate::logfile::directory::Directory;
use crate::logfile::names;

/// A rotation checks the age of this many generations, the oldest numbers first. A clock step or a
/// touch(1) may hide an old one behind them; it is found when those before it are gone.
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
        self.prune_old(directory, log, keep, AGES_CHECKED);
        while self.count > u64::from(keep.max_files)
            && let Some(number) = self.take_oldest()
        {
            self.discard(directory, log, number);
        }
        self.prune_large(directory, log, keep);
    }

    /// As [`prune`](Self::prune), and checks the age of every generation.
    pub(in crate::logfile) fn prune_all(&mut self, directory: &Directory, log: &str, keep: &Keep) {
        self.prune_old(directory, log, keep, usize::MAX);
        self.prune(directory, log, keep);
    }

    fn prune_old(&mut self, directory: &Directory, log: &str, keep: &Keep, most: usize) {
        let Some(age) = keep.max_age else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(oldest) = now.checked_sub(age) else { return };
        loop {
            let is_old = |number: &u64| {
                let generation = names::generation(log, *number);
                last_byte(directory, &generation).is_some_and(|at| at < oldest)
            };
            let old: Vec<u64> = self.numbers().take(most).filter(is_old).collect();
            if old.is_empty() {
                return;
            }
            for number in old {
                self.take(number);
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

    /// Takes a number out of the kept ranges.
    fn take(&mut self, number: u64) {
        let Some(at) = self.kept.iter().position(|range| range.contains(&number)) else { return };
        let Some(range) = self.kept.remove(at) else { return };
        for part in [number + 1..range.end, range.start..number] {
            if !part.is_empty() {
                self.kept.insert(at, part);
            }
        }
        self.count -= 1;
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

/// The time of a generation's last byte since the epoch: its modification time, which compressors
/// preserve.
fn last_byte(directory: &Directory, generation: &str) -> Option<Duration> {
    let stat =
        all_names(generation).into_iter().find_map(|name| directory.stat(&name).ok().flatten())?;
    let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec);
    Some(Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0)))
}

fn is_there(directory: &Directory, name: &str) -> bool {
    directory.is_there(name).unwrap_or(false)
}
