//! The older generations of a log: their numbers, and the removal of those beyond the limit.
//!
//! What is there is learnt by reading the directory once, at the first rotation. From then on a
//! rotation adds the next number and takes away the oldest, by name: its cost does not depend on
//! how many there are. Of what they take together only the sum is kept.

mod limits;

use std::collections::{BinaryHeap, VecDeque};
use std::fs::read_dir;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use super::LogError;
use super::current::Identity;
use super::directory::Directory;
use super::index;
pub(super) use limits::Keep;
use limits::Sizes;

/// What a compressor may have added to a generation's name.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

/// The most that is added to a log's name.
pub(super) const LONGEST_SUFFIX: &str = ".00000001.zst";

/// More digits than that are somebody else's file, and would bring the sequence to its end.
const MOST_DIGITS: usize = 15;

/// How often a number may turn out to be taken before a rotation gives up.
const ATTEMPTS: usize = 3;

/// The numbers in use, oldest first.
#[derive(Debug, Default)]
pub(super) struct Generations {
    /// The directory that was read. Another one in its place is read again.
    surveyed: Option<Identity>,
    /// The highest number ever seen, 0 for none. It never goes back.
    highest: u64,
    /// Ranges instead of numbers: without gaps, a million generations are one range.
    kept: VecDeque<Range<u64>>,
    count: u64,
    /// `None` where their sizes do not matter.
    sizes: Option<Sizes>,
}

impl Generations {
    /// Learns what is there, unless that is known.
    pub(super) fn survey(&mut self, directory: &Directory, log: &str) -> Result<(), LogError> {
        let identity = directory.identity()?;
        if self.surveyed != Some(identity) {
            self.read(directory, log)?;
            self.surveyed = Some(identity);
        }
        Ok(())
    }

    /// Makes the log a generation, and its time index that one's where it has one.
    pub(super) fn add(
        &mut self,
        directory: &Directory,
        log: &str,
        index: bool,
    ) -> Result<(), LogError> {
        for _ in 0..ATTEMPTS {
            let number = self.next();
            match rename(directory, log, &name(log, number), index) {
                Ok(()) => {
                    self.keep(number);
                    self.measure_new(directory, log, number);
                    return Ok(());
                }
                // Somebody else has made generations since the directory was read.
                Err(Errno::EEXIST) => self.read(directory, log)?,
                Err(error) => return Err(cannot_rotate(directory, log, error)),
            }
        }
        Err(cannot_rotate(directory, log, Errno::EEXIST))
    }

    /// By path, for want of a call that reads a descriptor's directory: only names are taken from
    /// it, and what is done to them is done through the descriptor.
    fn read(&mut self, directory: &Directory, log: &str) -> Result<(), LogError> {
        let cannot = |error| LogError::io("read the log directory", directory.path(), error);
        // A heap: the code of a sort is several times as large.
        let mut numbers = BinaryHeap::new();
        if let Some(sizes) = &mut self.sizes {
            sizes.begin();
        }
        for entry in read_dir(directory.path()).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            // An index whose generation somebody has taken away goes in its turn.
            let generation = name.as_bytes();
            let generation =
                generation.strip_suffix(index::SUFFIX.as_bytes()).unwrap_or(generation);
            let Some(number) = number(generation, log) else { continue };
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
        self.measure_work(directory, log);
        Ok(())
    }

    /// Gives the log an index back that a crash has left behind in a rotation: under the next
    /// generation's name, while the log has its own. Says whether there was one.
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
        let renamed = directory.rename(&index::name(&generation), &index::name(log));
        // The number is nobody's.
        self.surveyed = None;
        Ok(renamed.is_ok())
    }

    /// The number that the next one gets, or a lower one where somebody else makes some as well.
    pub(super) fn next(&self) -> u64 {
        self.highest.saturating_add(1)
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

    /// The names of those that are there, the newest first.
    pub(super) fn newest_first<'a>(&'a self, log: &'a str) -> impl Iterator<Item = String> + 'a {
        self.kept.iter().rev().flat_map(|range| range.clone().rev()).map(|number| name(log, number))
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

pub(super) fn name(log: &str, number: u64) -> String {
    format!("{log}.{number:08}")
}

/// The number of a generation of `log`, as it is or compressed; none for any other file.
pub(super) fn number(file: &[u8], log: &str) -> Option<u64> {
    let rest = str::from_utf8(file).ok()?.strip_prefix(log)?.strip_prefix('.')?;
    let digits = COMPRESSED.iter().find_map(|suffix| rest.strip_suffix(suffix)).unwrap_or(rest);
    let plain = digits.len() == 8 || !digits.starts_with('0');
    let number = (8..=MOST_DIGITS).contains(&digits.len())
        && plain
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    if number { digits.parse().ok() } else { None }
}

/// Renames the index first: what a crash leaves then is an index beyond all generations, which
/// can be nobody's but the log's. The log does not wait for an index that can't be renamed.
fn rename(directory: &Directory, log: &str, generation: &str, index: bool) -> Result<(), Errno> {
    if !index {
        return directory.rename(log, generation);
    }
    // Our index must not lie beside another's generation, not even for a moment.
    if directory.is_there(generation)? {
        return Err(Errno::EEXIST);
    }
    let (from, to) = (index::name(log), index::name(generation));
    if directory.rename(&from, &to) == Err(Errno::EEXIST) {
        return Err(Errno::EEXIST);
    }
    directory.rename(log, generation).inspect_err(|_| {
        let _ = directory.rename(&to, &from);
    })
}

/// The index first: a crash leaves a generation too many, which the next survey finds.
fn remove(directory: &Directory, generation: &str) -> Result<(), LogError> {
    directory.remove(&index::name(generation))?;
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
    fn only_names_of_generations_have_a_number() {
        for (file, expected) in [
            ("a.log.00000001", Some(1)),
            ("a.log.00000042.gz", Some(42)),
            ("a.log.99999999.zst", Some(99_999_999)),
            ("a.log.100000000", Some(100_000_000)),
            ("a.log.000000001", None),
            ("a.log.0000001", None),
            ("a.log.00000007.idx", None),
            ("a.log.idx", None),
            ("a.log.00000001.gz.idx", None),
            ("a.log.00000001.gz.zst", None),
            ("a.log.00000001.bz2", None),
            ("a.log.+0000001", None),
            ("a.log.9999999999999999", None),
            ("a.log", None),
            ("b.log.00000001", None),
            ("a.log@x.00000001", None),
        ] {
            assert_eq!(number(file.as_bytes(), "a.log"), expected, "{file}");
        }
    }

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
