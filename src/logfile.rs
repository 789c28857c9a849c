//! An append-only log on disk: rotation, retention.

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The size in bytes at which a log is rotated; 0 never rotates.
    pub max_size: u64,
    /// How many older generations stay beside the current log; 0 keeps none.
    pub max_files: u32,
}

impl Default for Retention {
    /// 10 MiB, and one older generation.
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 1 }
    }
}
