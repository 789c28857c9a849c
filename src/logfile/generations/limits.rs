//! Which generations go: those too many, too old, and too large together; and what one takes while
//! somebody works on it.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;

use super::{COMPRESSED, Generations, name, remove};
use crate::logfile::current::size_of;
use crate::logfile::directory::Directory;
use crate::logfile::index;

/// At a rotation the age of so many is looked at, the oldest first. Clocks that are set and files
/// that are touched may leave an old one behind them: it is met when those before it have gone.
const LOOKED_AT: usize = 32;

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub(in crate::logfile) struct Keep {
    pub(in crate::logfile) max_files: u32,
    /// Those whose last byte is older go.
    pub(in crate::logfile) max_age: Option<Duration>,
    /// What all may have together.
    pub(in crate::logfile) bytes: Option<u64>,
}

/// All are measured again after as many rotations as this part of them, and after twice as many each
/// time that it turns out not to have been needed, up to [`MOST_PARTS`].
const PART: u64 = 32;
const MOST_PARTS: u64 = 8 * PART;

/// What all generations and their indexes have together, where that is limited.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// With what has been removed and is still somebody's work.
    sum: u64,
    /// Rotations since all were measured.
    rotations: u64,
    /// After so many parts of all they are measured again.
    parts: u64,
    /// Somebody works on this one, of which so much is in the sum.
    at_work: Option<(u64, u64)>,
}

impl Sizes {
    /// Begins to measure all of them.
    pub(super) fn begin(&mut self) {
        self.sum = 0;
        self.rotations = 0;
    }

    /// One file of a generation. What somebody works on changes from one look to the next, so that
    /// is measured in one, afterwards.
    pub(super) fn add(&mut self, number: u64, stat: Option<&FileStat>) {
        if self.at_work.is_none_or(|(at_work, _)| at_work != number) {
            self.sum = self.sum.saturating_add(stat.map_or(0, size_of));
        }
    }
}

impl Generations {
    /// Of a log whose generations are limited by their sizes, or not.
    pub(in crate::logfile) fn new(measured: bool) -> Self {
        Self { sizes: measured.then(Sizes::default), ..Self::default() }
    }

    /// Removes what must not be kept. One that can't be removed is told and forgotten until the
    /// directory is read again: to try it at each rotation would keep the ones after it.
    pub(in crate::logfile) fn prune(&mut self, directory: &Directory, log: &str, keep: &Keep) {
        self.prune_old(directory, log, keep, LOOKED_AT);
        while self.count > u64::from(keep.max_files)
            && let Some(number) = self.take_oldest()
        {
            self.discard(directory, log, number);
        }
        self.prune_large(directory, log, keep);
    }

    /// As [`prune`](Self::prune), and looks at the age of all.
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
                last_byte(directory, &name(log, *number)).is_some_and(|at| at < oldest)
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

    /// Somebody else may have compressed or removed some. To look costs as much as there are, so it
    /// is done when a part of as many rotations has gone by.
    fn measure_when_due(&mut self, directory: &Directory, log: &str) {
        let Some(sizes) = &mut self.sizes else { return };
        let known = sizes.sum;
        if sizes.rotations <= self.count / PART * sizes.parts || self.read(directory, log).is_err()
        {
            return;
        }
        if let Some(sizes) = &mut self.sizes {
            let changed = sizes.sum != known;
            sizes.parts = if changed { 1 } else { (sizes.parts * 2).clamp(1, MOST_PARTS) };
        }
    }

    /// Removes one that is not kept any more.
    fn discard(&mut self, directory: &Directory, log: &str, number: u64) {
        let generation = name(log, number);
        let size = self.sizes.as_ref().map_or(0, |_| size(directory, &generation));
        if let Err(error) = remove(directory, &generation) {
            tracing::warn!(%error, "an old log stays beyond the limit");
            return;
        }
        // Whoever works on it has it open: its bytes are free when he has ended.
        if let Some(sizes) = &mut self.sizes
            && sizes.at_work.is_none_or(|(at_work, _)| at_work != number)
        {
            sizes.sum = sizes.sum.saturating_sub(size);
        }
    }

    /// This one has come, by a rotation.
    pub(super) fn measure_new(&mut self, directory: &Directory, log: &str, number: u64) {
        if let Some(sizes) = &mut self.sizes {
            sizes.sum = sizes.sum.saturating_add(size(directory, &name(log, number)));
            sizes.rotations += 1;
        }
    }

    /// All others have been measured anew.
    pub(super) fn measure_work(&mut self, directory: &Directory, log: &str) {
        let Some(Sizes { at_work: Some((number, _)), .. }) = self.sizes else { return };
        let is_kept = self.is_kept(number);
        let Some(Sizes { sum, at_work: Some((_, known)), .. }) = &mut self.sizes else { return };
        // Of one that is to go it is what it had.
        if is_kept {
            *known = size(directory, &name(log, number));
        }
        *sum = sum.saturating_add(*known);
    }

    /// Somebody works on this one.
    pub(in crate::logfile) fn work_begins(
        &mut self,
        directory: &Directory,
        log: &str,
        number: u64,
    ) {
        if let Some(sizes) = &mut self.sizes {
            sizes.at_work = Some((number, size(directory, &name(log, number))));
        }
    }

    /// Nobody works on it after all.
    pub(in crate::logfile) fn work_is_put_off(&mut self) {
        if let Some(sizes) = &mut self.sizes {
            sizes.at_work = None;
        }
    }

    /// Nobody works on this one any more. If it was to go meanwhile, so does what was made of it.
    pub(in crate::logfile) fn work_ends(&mut self, directory: &Directory, log: &str, number: u64) {
        let generation = name(log, number);
        if !self.is_kept(number)
            && let Err(error) = remove(directory, &generation)
        {
            tracing::warn!(%error, "an old log stays beyond the limit");
        }
        let Some(sizes) = &mut self.sizes else { return };
        match sizes.at_work.take() {
            Some((_, known)) => {
                sizes.sum = sizes.sum.saturating_sub(known) + size(directory, &generation);
            }
            // It was begun before the log was opened.
            None => self.forget(),
        }
    }

    /// The first of this number or above that is there and not compressed.
    pub(in crate::logfile) fn plain_from(
        &self,
        directory: &Directory,
        log: &str,
        next: u64,
    ) -> Option<u64> {
        let from = |range: &Range<u64>| range.start.max(next)..range.end;
        let mut waiting = self.kept.iter().flat_map(from);
        waiting.find(|number| is_there(directory, &name(log, *number)))
    }

    /// Removes what somebody has begun to make of a generation, while that is there.
    pub(in crate::logfile) fn remove_compressed(
        &self,
        directory: &Directory,
        log: &str,
        number: u64,
    ) {
        let generation = name(log, number);
        if !is_there(directory, &generation) {
            return;
        }
        for suffix in COMPRESSED {
            if let Err(error) = directory.remove(&format!("{generation}{suffix}")) {
                tracing::warn!(%error, "a part of a compressed log stays");
            }
        }
    }

    /// Has the directory read again when it matters.
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

    fn is_kept(&self, number: u64) -> bool {
        self.kept.iter().any(|range| range.contains(&number))
    }

    /// Takes one out, wherever it is.
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

/// The names that a generation may have, and its index.
fn names(generation: &str) -> [String; 4] {
    let [gz, zst] = COMPRESSED.map(|suffix| format!("{generation}{suffix}"));
    [generation.to_owned(), gz, zst, index::name(generation)]
}

/// What a generation has with its index; what can't be looked at has nothing.
fn size(directory: &Directory, generation: &str) -> u64 {
    let size = |name: &String| directory.stat(name).ok().flatten().as_ref().map_or(0, size_of);
    names(generation).iter().map(size).sum()
}

/// When its last byte came, since the epoch: its modification time, which compressors take over.
fn last_byte(directory: &Directory, generation: &str) -> Option<Duration> {
    let found = names(generation).into_iter().find_map(|name| directory.stat(&name).ok().flatten());
    let stat = found?;
    let (seconds, nanoseconds) = (stat.st_mtime, stat.st_mtime_nsec);
    Some(Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0)))
}

fn is_there(directory: &Directory, name: &str) -> bool {
    directory.is_there(name).unwrap_or(false)
}
