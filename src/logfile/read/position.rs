//! A position in a log.

/// A position in a log, between two entries. It remains valid when the log is rotated or
/// compressed. If its generation was removed, it means the beginning of the oldest later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The number of the generation. For the current log, the number it will get.
    pub(super) number: u64,
    /// The offset in that file.
    pub(super) offset: u64,
    /// How many of the bytes of the entry at that offset are before the position.
    pub(super) skip: u64,
    /// The number of the next record of the index, if it is known.
    pub(super) record: Option<u64>,
}

impl Position {
    /// The beginning of a file.
    pub(super) fn beginning_of(number: u64) -> Self {
        Self { number, offset: 0, skip: 0, record: Some(0) }
    }
}
