//! The numbers of the generations that are there.

use std::fs::read_dir;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::generations::number;

/// Numbers in their order, none twice.
///
/// Ranges instead of numbers: without gaps, a million generations are one range.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<Range<u64>>);

impl Numbers {
    /// Those of the generations of `log` in a directory; none where that is not there.
    pub(super) fn read(directory: &Path, log: &str) -> io::Result<Self> {
        let entries = match read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(number(entry?.file_name().as_bytes(), log));
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

    /// The lowest that is not below `number`.
    pub(super) fn at_or_after(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|range| range.end <= number);
        self.0.get(at).map(|range| range.start.max(number))
    }

    /// The highest that is below `number`.
    pub(super) fn before(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|range| range.start < number).checked_sub(1)?;
        self.0.get(at).map(|range| range.end.min(number) - 1)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The one with so many before it.
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
    fn numbers_are_found_from_below_and_by_their_place() {
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
