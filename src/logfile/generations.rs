//! The older generations of a log: their numbers, and the rename that makes one.
//!
//! The directory is read once, at the first rotation. Each later rotation adds the next number and
//! removes the oldest by name, so its cost does not depend on the number of generations.

mod age;
mod limits;
mod sizes;

use std::collections::{BinaryHeap, VecDeque};
use std::fs::read_dir;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::LogError;
use super::current::Identity;
use super::directory::Directory;
use super::names::{self, COMPRESSED};
use age::Ages;
use sizes::Sizes;

/// How often a rotation finds its number taken before it fails.
const ATTEMPTS: usize = 3;

/// The limits on the generations of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub(super) max_files: u32,
    /// Generations whose last byte is older are removed, the oldest first.
    pub(super) max_age: Option<Duration>,
    /// The total size of all generations and their indexes.
    pub(super) bytes: Option<u64>,
}

/// The generations of a log that a run has rotated: [`End::rotated`](crate::monitor::End::rotated).
///
/// Numbers of generations only grow, so they tell which runs have no output left in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptGenerations {
    /// The path of the log.
    pub log: PathBuf,
    /// The number that the log gets when it becomes a generation.
    pub current: u64,
    /// The lowest number of a generation that is kept; `current` without any.
    pub oldest: u64,
}

/// The numbers in use, oldest first.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// The directory that was read. If another one replaces it, that one is read.
    surveyed: Option<Identity>,
    /// The highest number seen so far, 0 for none. It never decreases.
    highest: u64,
    /// Ranges instead of numbers: without gaps, a million generations are one range.
    kept: VecDeque<Range<u64>>,
    count: u64,
    /// `None` where the total size is not limited.
    sizes: Option<Sizes>,
    /// `None` where the age is not limited.
    ages: Option<Box<Ages>>,
}

impl Generations {
    /// Reads the directory, unless that was done before.
    pub(super) fn survey(&mut self, directory: &Directory, log: &str) -> Result<(), LogError> {
        let identity = directory.identity()?;
        if self.surveyed != Some(identity) {
            self.read(directory, log)?;
            self.surveyed = Some(identity);
        }
        Ok(())
    }

    /// Renames the log to the next generation, with its time index if `index` is set.
    pub(super) fn add(
        &mut self,
        directory: &Directory,
        log: &str,
        index: bool,
    ) -> Result<(), LogError> {
        for _ in 0..ATTEMPTS {
            let number = self.next();
            let generation = names::generation(log, number);
            match rename(directory, log, &generation, index) {
                Ok(()) => {
                    self.keep(number);
                    if let Some(sizes) = &mut self.sizes {
                        sizes.add_new(directory, &generation);
                    }
                    return Ok(());
                }
                // Another process has made generations since the directory was read.
                Err(Errno::EEXIST) => self.read(directory, log)?,
                Err(error) => return Err(cannot_rotate(directory, log, error)),
            }
        }
        Err(cannot_rotate(directory, log, Errno::EEXIST))
    }

    /// Reads the directory by its path: only names are taken from it, and every operation on them
    /// goes through the descriptor.
    fn read(&mut self, directory: &Directory, log: &str) -> Result<(), LogError> {
        let cannot = |error| LogError::io("read the log directory", directory.path(), error);
        // A heap instead of a sort, whose code is several times as large.
        let mut numbers = BinaryHeap::new();
        if let Some(sizes) = &mut self.sizes {
            sizes.begin();
        }
        for entry in read_dir(directory.path()).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            // An index without its generation counts too, so that it is removed in its turn.
            let Some(number) = names::number_of_any(name.as_bytes(), log) else { continue };
            numbers.push(number);
            if let Some(sizes) = &mut self.sizes
                && let Some(name) = name.to_str()
            {
                sizes.add(number, directory.stat(name)?.as_ref());
            }
        }
        let mut numbers = numbers.into_sorted_vec();
        numbers.dedup();
        self.kept.clear();
        self.count = 0;
        for number in numbers {
            self.keep(number);
        }
        let kept = &self.kept;
        if let Some(sizes) = &mut self.sizes {
            sizes.add_work(directory, log, |number| contains(kept, number));
        }
        Ok(())
    }

    /// Finishes a rotation that a crash interrupted after the rename of the index: the index has
    /// the next generation's name, and the log still has its own. Returns whether that was so.
    pub(super) fn recover_index(
        &mut self,
        directory: &Directory,
        log: &str,
    ) -> Result<bool, LogError> {
        self.survey(directory, log)?;
        let Some(generation) = self.newest_first(log).next() else { return Ok(false) };
        let compressed = COMPRESSED.iter().map(|suffix| format!("{generation}{suffix}"));
        for name in compressed.chain([generation.clone()]) {
            if directory.stat(&name)?.is_some() {
                return Ok(false);
            }
        }
        let renamed = directory.rename(&names::index(&generation), &names::index(log));
        // No generation has this number now.
        self.surveyed = None;
        Ok(renamed.is_ok())
    }

    /// The number of the next generation, unless another process makes one first.
    pub(super) fn next(&self) -> u64 {
        self.highest.saturating_add(1)
    }

    /// The lowest number in use, or that of the next generation.
    pub(super) fn oldest(&self) -> u64 {
        self.kept.front().map_or(self.next(), |range| range.start)
    }

    fn keep(&mut self, number: u64) {
        let after = number.saturating_add(1);
        match self.kept.back_mut() {
            Some(range) if range.end == number => range.end = after,
            _ => self.kept.push_back(number..after),
        }
        self.count += 1;
        self.highest = self.highest.max(number);
    }

    fn is_kept(&self, number: u64) -> bool {
        contains(&self.kept, number)
    }

    /// The names of the generations, newest first.
    pub(super) fn newest_first<'a>(&'a self, log: &'a str) -> impl Iterator<Item = String> + 'a {
        let numbers = self.kept.iter().rev().flat_map(|range| range.clone().rev());
        numbers.map(|number| names::generation(log, number))
    }

    fn take_oldest(&mut self) -> Option<u64> {
        let range = self.kept.front_mut()?;
        let number = range.next()?;
        if range.is_empty() {
            self.kept.pop_front();
        }
        self.count -= 1;
        Some(number)
    }
}

fn contains(kept: &VecDeque<Range<u64>>, number: u64) -> bool {
    kept.iter().any(|range| range.contains(&number))
}

/// Renames the index first. A crash between the two renames then leaves an index above all
/// generations, which can only belong to the log. An index that can't be renamed does not stop the
/// rotation of the log.
fn rename(directory: &Directory, log: &str, generation: &str, index: bool) -> Result<(), Errno> {
    if !index {
        return directory.rename(log, generation);
    }
    // This log's index must never lie beside another log's generation, not even for a moment.
    if directory.is_there(generation)? {
        return Err(Errno::EEXIST);
    }
    let (from, to) = (names::index(log), names::index(generation));
    if directory.rename(&from, &to) == Err(Errno::EEXIST) {
        return Err(Errno::EEXIST);
    }
    directory.rename(log, generation).inspect_err(|_| {
        let _ = directory.rename(&to, &from);
    })
}

/// Removes a generation, its index first: a crash in between leaves a generation, which the next
/// survey finds.
fn remove(directory: &Directory, generation: &str) -> Result<(), LogError> {
    directory.remove(&names::index(generation))?;
    directory.remove(generation)?;
    COMPRESSED.iter().try_for_each(|suffix| directory.remove(&format!("{generation}{suffix}")))
}

fn cannot_rotate(directory: &Directory, log: &str, error: Errno) -> LogError {
    LogError::io("rotate the log", directory.path().join(log), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_gaps_are_one_range_and_come_back_in_order() {
        let mut generations = Generations::default();
        for number in [1, 2, 3, 7, 8, 10] {
            generations.keep(number);
        }
        assert_eq!(generations.kept, [1..4, 7..9, 10..11]);
        let taken: Vec<_> = std::iter::from_fn(|| generations.take_oldest()).collect();
        assert_eq!(taken, [1, 2, 3, 7, 8, 10]);
        assert_eq!((generations.count, generations.highest), (0, 10));
    }
}
