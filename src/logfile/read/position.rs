//! A place in a log.

/// A place in a log, between two entries. It stays the same while the log is rotated and
/// compressed; where its generation is gone, it is the beginning of the next one that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Of the generation, or the one that the current log will be.
    pub(super) number: u64,
    /// How many bytes of that file are before it.
    pub(super) offset: u64,
    /// How many bytes of what begins there are before it too.
    pub(super) skip: u64,
    /// The record of the index that is the next one there, where that has been found out.
    pub(super) record: Option<u64>,
}

impl Position {
    /// The beginning of a file.
    pub(super) fn beginning_of(number: u64) -> Self {
        Self { number, offset: 0, skip: 0, record: Some(0) }
    }
}
