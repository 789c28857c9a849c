//! The numbers of the generations that exist.

use std::fs::read_dir;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::names::listed_number;

/// Numbers in ascending order, each once.
///
/// Ranges instead of numbers: without gaps, a million generations are one range.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<Range<u64>>);

impl Numbers {
    /// The generations of `log` in a directory, also those that can't be decompressed; none if the directory does not exist.
    pub(super) fn read(directory: &Path, log: &str) -> io::Result<Self> {
        let entries = match read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            numbers.extend(listed_number(name.as_bytes(), log));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(Self::from_sorted(numbers))
    }

    fn from_sorted(numbers: Vec<u64>) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some(range) if range.end == number => range.end = number + 1,
                _ => ranges.push(number..number + 1),
            }
        }
        Self(ranges)
    }

    /// Adds generations that readdir(3) may have missed: of files that are renamed into a directory
    /// while it is read, a later one may be returned and an earlier one not. The oldest are removed
    /// first, so a number below a known one is missing only if its file `exists`.
    pub(super) fn complete<E>(&mut self, exists: impl Fn(u64) -> Result<bool, E>) -> Result<(), E> {
        let mut below = 0;
        for range in &mut self.0 {
            while range.start > below && exists(range.start - 1)? {
                range.start -= 1;
            }
            below = range.end;
        }
        Ok(())
    }

    /// The lowest number that is at least `number`.
    pub(super) fn at_or_after(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|range| range.end <= number);
        self.0.get(at).map(|range| range.start.max(number))
    }

    /// The highest number below `number`.
    pub(super) fn before(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|range| range.start < number).checked_sub(1)?;
        self.0.get(at).map(|range| range.end.min(number) - 1)
    }

    /// The count of numbers.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The number at this index, in ascending order.
    pub(super) fn nth(&self, mut place: u64) -> Option<u64> {
        for range in &self.0 {
            let length = range.end - range.start;
            if place < length {
                return Some(range.start + place);
            }
            place -= length;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_that_readdir_missed_are_added_if_they_exist() {
        let mut numbers = Numbers::from_sorted(vec![3, 7, 9, 20]);
        let there = |number: u64| Ok::<_, ()>([2, 5, 6, 8, 18].contains(&number));
        numbers.complete(there).unwrap();
        let all: Vec<_> = (0..).map_while(|place| numbers.nth(place)).collect();
        assert_eq!(all, [2, 3, 5, 6, 7, 8, 9, 20]);
        let found = [1, 4, 8, 10].map(|number| numbers.at_or_after(number));
        assert_eq!(found, [Some(2), Some(5), Some(8), Some(20)]);
        let before = [2, 5, 9, 20].map(|number| numbers.before(number));
        assert_eq!(before, [None, Some(3), Some(8), Some(9)]);
    }

    #[test]
    fn numbers_are_found_in_order_and_by_index() {
        let numbers = Numbers::from_sorted(vec![3, 4, 5, 9, 20]);
        assert_eq!(numbers.0, [3..6, 9..10, 20..21]);
        let found = [0, 4, 6, 10, 21].map(|number| numbers.at_or_after(number));
        assert_eq!(found, [Some(3), Some(4), Some(9), Some(20), None]);
        let before = [3, 4, 9, 21].map(|number| numbers.before(number));
        assert_eq!(before, [None, Some(3), Some(5), Some(20)]);
        assert_eq!(numbers.count(), 5);
        let placed: Vec<_> = (0..6).map(|place| numbers.nth(place)).collect();
        assert_eq!(placed, [Some(3), Some(4), Some(5), Some(9), Some(20), None]);
    }
}
