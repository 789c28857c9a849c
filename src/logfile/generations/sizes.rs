//! The total size of a log's generations.
//!
//! Only the sum is kept, so that a rotation costs the same with one generation as with a million.

use nix::sys::stat::FileStat;

use crate::logfile::current::size_of;
use crate::logfile::directory::Directory;
use crate::logfile::names;

/// The generations are measured again when their number, divided by this, is below the number of
/// rotations since. The divisor is halved each time that the sum turns out to have been right,
/// down to an eighth.
const PART: u64 = 32;
const MOST_PARTS: u64 = 8 * PART;

/// The size of all generations and their indexes, where that is limited.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Includes a removed generation that the post-rotate command still has open.
    pub(super) sum: u64,
    /// Rotations since all were measured.
    rotations: u64,
    /// The next measurement is due after this many parts of all generations.
    parts: u64,
    /// The generation that the post-rotate command works on, and its share of the sum.
    at_work: Option<(u64, u64)>,
}

impl Sizes {
    /// Starts a measurement of all generations.
    pub(super) fn begin(&mut self) {
        self.sum = 0;
        self.rotations = 0;
    }

    /// Adds one file of a generation. The generation at work is left out: its files change during
    /// the measurement, so [`add_work`](Self::add_work) measures it afterwards.
    pub(super) fn add(&mut self, number: u64, stat: Option<&FileStat>) {
        if !self.is_at_work(number) {
            self.sum = self.sum.saturating_add(stat.map_or(0, size_of));
        }
    }

    /// Adds a generation that a rotation has made.
    pub(super) fn add_new(&mut self, directory: &Directory, generation: &str) {
        self.sum = self.sum.saturating_add(size(directory, generation));
        self.rotations += 1;
    }

    /// Adds the generation at work, after all others were measured anew. One that is no longer
    /// kept counts with its last known size.
    pub(super) fn add_work(
        &mut self,
        directory: &Directory,
        log: &str,
        is_kept: impl FnOnce(u64) -> bool,
    ) {
        let Some((number, known)) = &mut self.at_work else { return };
        if is_kept(*number) {
            *known = size(directory, &names::generation(log, *number));
        }
        self.sum = self.sum.saturating_add(*known);
    }

    /// Whether the sum of `count` generations is to be measured again.
    pub(super) fn is_due(&self, count: u64) -> bool {
        self.rotations > count / PART * self.parts
    }

    /// Sets the time of the next measurement, from the sum before this one.
    pub(super) fn schedule(&mut self, before: u64) {
        let is_same = self.sum == before;
        self.parts = if is_same { (self.parts * 2).clamp(1, MOST_PARTS) } else { 1 };
    }

    /// Subtracts a removed generation, unless the post-rotate command has it open: its blocks are
    /// freed when that command ends.
    pub(super) fn removed(&mut self, number: u64, size: u64) {
        if !self.is_at_work(number) {
            self.sum = self.sum.saturating_sub(size);
        }
    }

    /// The post-rotate command starts to work on a generation.
    pub(super) fn work_begins(&mut self, directory: &Directory, log: &str, number: u64) {
        self.at_work = Some((number, size(directory, &names::generation(log, number))));
    }

    /// The post-rotate command was not started after all.
    pub(super) fn work_is_put_off(&mut self) {
        self.at_work = None;
    }

    /// The post-rotate command has ended; `false` if it was started before the log was opened, so
    /// that its share of the sum is not known.
    pub(super) fn work_ends(&mut self, directory: &Directory, generation: &str) -> bool {
        let Some((_, known)) = self.at_work.take() else { return false };
        self.sum = self.sum.saturating_sub(known) + size(directory, generation);
        true
    }

    fn is_at_work(&self, number: u64) -> bool {
        self.at_work.is_some_and(|(at_work, _)| at_work == number)
    }
}

/// The names that a generation and its index may have.
pub(super) fn all_names(generation: &str) -> [String; 4] {
    let [gz, zst] = names::COMPRESSED.map(|suffix| format!("{generation}{suffix}"));
    [generation.to_owned(), gz, zst, names::index(generation)]
}

/// The size of a generation with its index. A file that stat(2) fails on counts as empty.
pub(super) fn size(directory: &Directory, generation: &str) -> u64 {
    let size = |name: &String| directory.stat(name).ok().flatten().as_ref().map_or(0, size_of);
    all_names(generation).iter().map(size).sum()
}
