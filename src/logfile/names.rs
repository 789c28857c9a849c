//! The names of a log's files on disk: the log, its generations, their indexes, the queue of the
//! post-rotate command. `docs/formats.md` specifies them.
//!
//! These functions work on names alone: nothing is opened, read or written.
//!
//! ```
//! use vmon::logfile::names::{self, Part};
//!
//! let log = names::log("web");
//! assert_eq!(log, "web.log");
//! assert_eq!(names::generation(&log, 7), "web.log.00000007");
//! let part = names::part_of("web.log.00000007.gz", &log);
//! assert_eq!(part, Some(Part::Generation { number: 7, compressed: true }));
//! ```

/// The suffix of a log.
pub const LOG: &str = ".log";

/// The suffix of a generation that was compressed with gzip(1).
pub const GZIP: &str = ".gz";

/// The suffix of a generation that was compressed with zstd(1).
pub const ZSTANDARD: &str = ".zst";

/// The suffixes that a compressor adds to the name of a generation.
pub const COMPRESSED: [&str; 2] = [GZIP, ZSTANDARD];

/// The suffixes of compressors whose output is not read.
#[cfg(feature = "reader")]
pub(super) const UNREADABLE: [&str; 2] = [".xz", ".bz2"];

/// The suffix of a time index, behind the name of its log or generation.
const INDEX: &str = ".idx";

/// The suffix that early versions of vmon gave a time index.
const EARLIER_INDEX: &str = ".index";

/// The suffix of the queue of the post-rotate command.
const QUEUE: &str = ".todo";

/// The fewest digits of a generation's number. Smaller numbers get leading zeros.
const FEWEST_DIGITS: usize = 8;

/// The most digits of a generation's number. A file with more is not a generation: its number
/// would bring the sequence to its end.
const MOST_DIGITS: usize = 15;

/// The longest suffix that is added to the name of a log.
pub(super) const LONGEST_SUFFIX: &str = ".00000001.zst";

/// The role of a file that belongs to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The log that is being written.
    Log,
    /// An older generation.
    Generation {
        /// Its sequence number.
        number: u64,
        /// Whether its name has the suffix of a compressor.
        compressed: bool,
    },
    /// The time index of the log or of a generation.
    Index,
    /// The queue of the post-rotate command.
    Queue,
}

/// `<name>.log`: the log of this name.
pub fn log(name: &str) -> String {
    format!("{name}{LOG}")
}

/// `<name>@<what>`: the name of a further log of a sandbox, as of a console. No sandbox's name has
/// an `@`.
pub fn further(name: &str, what: &str) -> String {
    format!("{name}@{what}")
}

/// `<log>.<number>`: the generation of this number. At least eight digits.
pub fn generation(log: &str, number: u64) -> String {
    format!("{log}.{number:0FEWEST_DIGITS$}")
}

/// `<file>.idx`: the time index of a log or of a generation.
pub fn index(file: &str) -> String {
    format!("{file}{INDEX}")
}

/// `<log>.todo`: the queue of the post-rotate command.
pub fn queue(log: &str) -> String {
    format!("{log}{QUEUE}")
}

/// The role of `file` for the log `<name>.log`; `None` for a file that is not part of this log.
pub fn part_of(file: &str, log: &str) -> Option<Part> {
    let rest = file.strip_prefix(log)?;
    if rest.is_empty() {
        return Some(Part::Log);
    }
    if rest == QUEUE {
        return Some(Part::Queue);
    }
    if let Some(owner) = rest.strip_suffix(INDEX).or_else(|| rest.strip_suffix(EARLIER_INDEX)) {
        let is_generation = owner.strip_prefix('.').is_some_and(|it| number(it).is_some());
        return (owner.is_empty() || is_generation).then_some(Part::Index);
    }
    let rest = rest.strip_prefix('.')?;
    let plain = COMPRESSED.iter().find_map(|suffix| rest.strip_suffix(suffix));
    let number = number(plain.unwrap_or(rest))?;
    Some(Part::Generation { number, compressed: plain.is_some() })
}

/// The number of a generation of `log`, compressed or not; `None` for any other file.
pub(super) fn generation_number(file: &[u8], log: &str) -> Option<u64> {
    match part_of(str::from_utf8(file).ok()?, log)? {
        Part::Generation { number, .. } => Some(number),
        _ => None,
    }
}

/// As [`generation_number`], also of a generation that is compressed in a format that is not read.
#[cfg(feature = "reader")]
pub(super) fn listed_number(file: &[u8], log: &str) -> Option<u64> {
    let plain = UNREADABLE.iter().find_map(|suffix| file.strip_suffix(suffix.as_bytes()));
    match plain {
        Some(plain) => match part_of(str::from_utf8(plain).ok()?, log)? {
            Part::Generation { number, compressed: false } => Some(number),
            _ => None,
        },
        None => generation_number(file, log),
    }
}

/// As [`generation_number`], also of the index of a generation.
pub(super) fn number_of_any(file: &[u8], log: &str) -> Option<u64> {
    generation_number(file.strip_suffix(INDEX.as_bytes()).unwrap_or(file), log)
}

fn number(digits: &str) -> Option<u64> {
    let is_canonical = digits.len() == FEWEST_DIGITS || !digits.starts_with('0');
    let is_number = (FEWEST_DIGITS..=MOST_DIGITS).contains(&digits.len())
        && is_canonical
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
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
            assert_eq!(generation_number(file.as_bytes(), "a.log"), expected, "{file}");
        }
    }

    #[test]
    fn every_file_of_a_log_has_a_role_and_no_other_file_has_one() {
        let log = log(&further("web", "serial"));
        for file in [index(&log), index(&generation(&log, 3)), format!("{log}.index")] {
            assert_eq!(part_of(&file, &log), Some(Part::Index), "{file}");
        }
        assert_eq!(part_of(&log, &log), Some(Part::Log));
        assert_eq!(part_of(&queue(&log), &log), Some(Part::Queue));
        let generation = generation(&log, 123_456_789);
        let part = Some(Part::Generation { number: 123_456_789, compressed: false });
        assert_eq!(part_of(&generation, &log), part);
        for file in [queue(&generation), index(&queue(&log)), format!("{log}x"), log.repeat(2)] {
            assert_eq!(part_of(&file, &log), None, "{file}");
        }
        assert_eq!(number_of_any(index(&generation).as_bytes(), &log), Some(123_456_789));
    }
}
