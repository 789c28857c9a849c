//! The options of a log: retention, format, index.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::format;
use crate::values::words;

/// How much of a log is kept. Each field has a method of its name that sets it.
///
/// ```
/// use std::time::Duration;
/// use vmon::logfile::{LogOptions, Retention};
/// use vmon::monitor::Sandbox;
///
/// # fn main() -> Result<(), vmon::monitor::NameError> {
/// // At most 64 MiB of a week's output, in files of 8 MiB.
/// let week = Duration::from_secs(7 * 86_400);
/// let retention = Retention::default().max_size(8 << 20).max_files(u32::MAX);
/// let retention = retention.max_age(week).total_size(64 << 20);
/// let log = LogOptions::default().retention(retention);
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?.log(log);
/// assert!(sandbox.disk_bound().is_some_and(|bound| bound < 66 << 20));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The size in bytes at which a log is rotated; 0 for never. The file size limit of the process
    /// (`RLIMIT_FSIZE`) counts instead where it is smaller. It is also rotated when its index
    /// reaches this size, or 4 KiB if that is larger: output that switches streams at each byte has
    /// an index of 24 times its size.
    ///
    /// With a `total_size`, this limits the log and its index together, and a value of 0 or above
    /// [`largest_max_size`](Self::largest_max_size) means an eighth of the `total_size`.
    pub max_size: u64,
    /// How many older generations are kept; 0 for none.
    pub max_files: u32,
    /// The age beyond which a generation is removed at the next rotation or start. The age counts
    /// from the modification time, which is that of its last byte. A rotation checks the 32 oldest
    /// generations, a start all. `None` for no limit.
    pub max_age: Option<Duration>,
    /// How long after its first byte a log is rotated, whatever its size, also while nothing is
    /// written. For an existing log the time counts from the creation of the file, or from its
    /// opening on file systems without creation times. `None` for never.
    pub rotate_every: Option<Duration>,
    /// The limit in bytes on all generations, the current log and their indexes together, at any
    /// moment. It counts file sizes, not blocks. The current log counts as full, and a compressed
    /// generation with its compressed size. `None` for no limit.
    pub total_size: Option<u64>,
}

impl Retention {
    /// The smallest effective [`total_size`](Self::total_size), in bytes. A smaller value counts as
    /// this one.
    pub const SMALLEST_TOTAL: u64 = 4 << 10;

    /// Sets the size at which a log is rotated.
    #[must_use]
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// Sets how many older generations are kept.
    #[must_use]
    pub fn max_files(mut self, count: u32) -> Self {
        self.max_files = count;
        self
    }

    /// Sets the age beyond which a generation is removed.
    #[must_use]
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// Sets the time after which a log is rotated.
    #[must_use]
    pub fn rotate_every(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.rotate_every = time.into();
        self
    }

    /// Sets the limit on all generations, the current log and their indexes together.
    #[must_use]
    pub fn total_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.total_size = bytes.into();
        self
    }

    /// The largest [`max_size`](Self::max_size) for a `total_size`: all of it, or a fifth with a
    /// post-rotate `command`. While that works, its input and its output exist beside the log and
    /// the next generation.
    pub const fn largest_max_size(total_size: u64, command: bool) -> u64 {
        if command { total_size / 5 } else { total_size }
    }
}

/// The limits that follow from a [`Retention`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The size at which the log is rotated, 0 for none.
    pub(super) max_size: u64,
    /// The limit on the log and its index together.
    pub(super) together: Option<u64>,
    /// The limit on the index alone.
    pub(super) index: u64,
    /// The limit on all generations and their indexes together.
    pub(super) generations: Option<u64>,
}

impl Limits {
    /// The size at which the log is rotated now, 0 for none: the limit less `index`, the size of the
    /// index with the next record.
    pub(super) fn most(&self, index: u64) -> u64 {
        match self.together {
            None if index > self.index => 1,
            None => self.max_size,
            // At least one byte, so that something fits into an empty log.
            Some(most) => self.max_size.min(most.saturating_sub(index)).max(1),
        }
    }

    /// How many bytes of an index marks without output may take before they go.
    pub(super) fn share_of_marks(&self) -> u64 {
        self.together.unwrap_or(self.index) / 4
    }

    /// Whether the index of a log of this size has no room for the next record.
    pub(super) fn are_reached(&self, log: u64, index: u64) -> bool {
        index > self.index || self.together.is_some_and(|most| log + index > most)
    }
}

impl Retention {
    /// With a `max_size` that the file size limit of the process (`RLIMIT_FSIZE`, setrlimit(2))
    /// allows: a write beyond that fails for ever, and a rotation makes room for it.
    #[allow(clippy::unnecessary_cast)] // signed on FreeBSD
    pub(super) fn below_file_size_limit(mut self) -> Self {
        if self.max_size > 0
            && let Ok((limit, _)) = getrlimit(Resource::RLIMIT_FSIZE)
        {
            self.max_size = self.max_size.min(limit.max(1) as u64);
        }
        self
    }

    /// The limits of a log in this format. `command`: a post-rotate command works on one generation
    /// at a time.
    pub(super) fn limits(&self, command: bool, format: Format, indexed: bool) -> Limits {
        /// The smallest index: a header and the records of the first bytes.
        const SMALLEST: u64 = 1 << 10;
        let Some(total) = self.total_size.map(|total| total.max(Self::SMALLEST_TOTAL)) else {
            let index = match self.max_size {
                0 => u64::MAX,
                max_size => max_size.max(SMALLEST_INDEX),
            };
            return Limits { max_size: self.max_size, together: None, index, generations: None };
        };
        let fits = (1..=Self::largest_max_size(total, command)).contains(&self.max_size);
        let max_size = if fits { self.max_size } else { total / 8 };
        let max_size = effective(max_size, format);
        let together = if indexed { max_size.max(SMALLEST) } else { max_size };
        let output = if command { compressed(max_size) } else { 0 };
        let generations = total.saturating_sub(together).saturating_sub(output);
        Limits {
            max_size,
            together: Some(together),
            index: u64::MAX,
            generations: Some(generations),
        }
    }
}

/// The smallest limit on an index that is limited alone.
const SMALLEST_INDEX: u64 = 4 << 10;

/// The effective `max_size`: a record is never split.
fn effective(max_size: u64, format: Format) -> u64 {
    if format == Format::Raw { max_size } else { max_size.max(format::SMALLEST) }
}

/// The largest output of a compressor, and the queue file: incompressible data grows by a header
/// and a few bytes per block.
fn compressed(size: u64) -> u64 {
    size.saturating_add(size / 64).saturating_add(1024)
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

/// The format of a log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// The bytes as the child wrote them.
    #[default]
    Raw,
    /// Lines of the Kubernetes container runtime interface.
    Cri,
    /// Lines of Docker's json-file driver.
    Json,
}

words!(Format { Raw = "raw", Cri = "cri", Json = "json" });

/// The options of a log. Each field has a method of its name that sets it.
///
/// ```
/// use vmon::logfile::{Format, LogOptions, Retention};
///
/// let options = LogOptions::default().format(Format::Cri).retention(Retention::default());
/// assert!(options.index);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// How much of the log is kept.
    pub retention: Retention,
    /// The format on disk.
    pub format: Format,
    /// Whether the log gets a time index: of the bytes and marks of a raw log, and of the marks of one
    /// in another format, whose records carry their times.
    pub index: bool,
}

impl LogOptions {
    /// Sets how much of the log is kept.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the format on disk.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets whether a raw log gets a time index.
    #[must_use]
    pub fn index(mut self, index: bool) -> Self {
        self.index = index;
        self
    }

    /// The upper bound in bytes on the log, its generations and their indexes, and on the input and
    /// output of a post-rotate `command`, together and at any moment; `None` if there is no bound.
    /// It counts file sizes, not blocks, and includes a removed file that the command has open.
    ///
    /// With [`Retention::total_size`] it is that value. Otherwise it is [`Retention::max_size`] for
    /// the log and each of [`Retention::max_files`] generations, and as much again (at least 4 KiB)
    /// for each index. With a command it includes one more generation and a compressed file.
    ///
    /// It holds for any output, and whether the command succeeds, fails or hangs, provided that the
    /// command creates nothing but the compressed file. Generations of earlier runs with other
    /// limits count with their size until they are removed.
    pub fn disk_bound(&self, command: bool) -> Option<u64> {
        let Retention { max_size, max_files, total_size, .. } = self.retention;
        if let Some(total) = total_size {
            return Some(total.max(Retention::SMALLEST_TOTAL));
        }
        if max_size == 0 {
            return None;
        }
        let log = effective(max_size, self.format);
        let index = if self.index { log.max(SMALLEST_INDEX) } else { 0 };
        let each = log.saturating_add(index);
        let kept = each.saturating_mul(u64::from(max_files) + 1);
        let at_work = if command { each.saturating_add(compressed(log)) } else { 0 };
        Some(kept.saturating_add(at_work))
    }
}

impl Default for LogOptions {
    /// Raw, with an index, and the default [`Retention`].
    fn default() -> Self {
        Self { retention: Retention::default(), format: Format::Raw, index: true }
    }
}
