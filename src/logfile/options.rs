//! How a log is written, and how much of it is kept.

use std::time::Duration;

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The size in bytes at which a log is rotated; 0 never rotates.
    pub max_size: u64,
    /// How many older generations stay beside the current log; 0 keeps none.
    pub max_files: u32,
    /// The age beyond which a generation goes, at the next rotation or start: the time since its
    /// last byte. `None` is without limit.
    pub max_age: Option<Duration>,
    /// How long after its first byte a log is rotated, whatever its size. `None` is never.
    pub rotate_every: Option<Duration>,
    /// The most bytes that all generations, the current log and their indexes may have together.
    /// `None` is without limit.
    pub total_size: Option<u64>,
}

impl Default for Retention {
    /// 10 MiB, and one older generation.
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 1,
            max_age: None,
            rotate_every: None,
            total_size: None,
        }
    }
}

/// What the bytes of a log look like on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// As the child wrote them.
    #[default]
    Raw,
    /// Lines of the Kubernetes container runtime interface.
    Cri,
    /// Lines of Docker's json-file driver.
    Json,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// How much of it is kept.
    pub retention: Retention,
    /// What it looks like.
    pub format: Format,
    /// Whether a raw log has a time index beside it. The other formats have their times in them.
    pub index: bool,
}

impl Default for LogOptions {
    /// Raw, with an index, and the default [`Retention`].
    fn default() -> Self {
        Self { retention: Retention::default(), format: Format::Raw, index: true }
    }
}
