//! How a log is written, and how much of it is kept.

use std::time::Duration;

use super::format;
use super::indexing::Indexing;
use crate::values::words;

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The size in bytes at which a log is rotated; 0 never rotates. It is rotated too when its
    /// index has come to this size, or to 4 KiB where that is more: output that changes its stream
    /// with each byte has an index of 24 times its size.
    ///
    /// With a `total_size`, the log and its index together are rotated at this size. Where it is
    /// 0 then, or more than [`largest_max_size`](Self::largest_max_size), an eighth of the
    /// `total_size` counts.
    pub max_size: u64,
    /// How many older generations stay beside the current log; 0 keeps none.
    pub max_files: u32,
    /// The age beyond which a generation goes, at the next rotation or start: the time since its
    /// last byte, which is its modification time. At a rotation the 32 oldest are looked at, at a
    /// start all. `None` is without limit.
    pub max_age: Option<Duration>,
    /// How long after its first byte a log is rotated, whatever its size, also when nothing more
    /// is written. One that is there already when it is opened began when the file was made, or,
    /// where the system does not know that, when it was opened. `None` is never.
    pub rotate_every: Option<Duration>,
    /// The most bytes that all generations, the current log and their indexes may have together,
    /// at any moment: so much disk, as file sizes, not blocks. The log counts as if it were full
    /// already, and a compressed generation with the size that it has. `None` is without limit.
    pub total_size: Option<u64>,
}

impl Retention {
    /// The smallest [`total_size`](Self::total_size) that can be kept, in bytes: a log takes
    /// something, and so does its index. A smaller one counts as this.
    pub const SMALLEST_TOTAL: u64 = 4 << 10;

    /// The largest [`max_size`](Self::max_size) that goes with a `total_size`: all of it, or a
    /// fifth where a command is run with each generation that was rotated away. The one that it
    /// works on is there beside what it makes of it, the log and the generation that comes next.
    pub const fn largest_max_size(total_size: u64, command: bool) -> u64 {
        if command { total_size / 5 } else { total_size }
    }
}

/// What a [`Retention`] comes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The size at which the log is rotated, 0 for none.
    pub(super) max_size: u64,
    /// What the log and its index may have together.
    pub(super) together: Option<u64>,
    /// What the index may have alone.
    pub(super) index: u64,
    /// What all generations may have together, with their indexes.
    pub(super) generations: Option<u64>,
}

impl Limits {
    /// The size at which the log is rotated now, 0 for none: what its index takes, it can't have.
    pub(super) fn most(&self, index: &Indexing) -> u64 {
        match self.together {
            None if index.size_at_next() > self.index => 1,
            None => self.max_size,
            // At least one, so that an empty log always takes something.
            Some(most) => self.max_size.min(most.saturating_sub(index.size_at_next())).max(1),
        }
    }

    /// Whether the index of a log of this size has no room for what happens next.
    pub(super) fn are_reached(&self, log: u64, index: &Indexing) -> bool {
        let index = index.size_at_next();
        index > self.index || self.together.is_some_and(|most| log + index > most)
    }
}

impl Retention {
    /// With a `command` that works on one generation at a time, of a log in this format.
    pub(super) fn limits(&self, command: bool, format: Format, indexed: bool) -> Limits {
        /// What an index has at least: a header, and records of the first bytes.
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
        let max_size = taken(max_size, format);
        let together = if indexed { max_size.max(SMALLEST) } else { max_size };
        let made = if command { made(max_size) } else { 0 };
        let generations = total.saturating_sub(together).saturating_sub(made);
        Limits {
            max_size,
            together: Some(together),
            index: u64::MAX,
            generations: Some(generations),
        }
    }
}

/// What an index may have at least, beside a log that is not limited together with it.
const SMALLEST_INDEX: u64 = 4 << 10;

/// What a `max_size` counts as: a record of a format is never split.
fn taken(max_size: u64, format: Format) -> u64 {
    if format == Format::Raw { max_size } else { max_size.max(format::SMALLEST) }
}

/// The most that is made of a generation, with a note of who works: what can't be compressed grows
/// by a header and some bytes a block.
fn made(size: u64) -> u64 {
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
pub enum Format {
    /// As the child wrote them.
    #[default]
    Raw,
    /// Lines of the Kubernetes container runtime interface.
    Cri,
    /// Lines of Docker's json-file driver.
    Json,
}

words!(Format { Raw = "raw", Cri = "cri", Json = "json" });

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

impl LogOptions {
    /// The most bytes that the log, its generations, their indexes and what a `command` works on
    /// and makes of one take together, at any moment; `None` where nothing bounds them. File sizes
    /// are meant, not blocks, and what is removed but open to the command counts.
    ///
    /// That is [`Retention::total_size`], where there is one. Otherwise each of
    /// [`Retention::max_files`] generations and the log have [`Retention::max_size`], and as much
    /// again (4 KiB at least) for an index; with a command there is one more, and what is made of
    /// it, a little more than itself.
    ///
    /// It holds however the output looks and whether the command succeeds, fails or never ends, as
    /// long as it makes of a generation nothing but the one compressed file. What earlier runs with
    /// other limits have left counts as generations until it goes, by its size of then.
    pub fn disk_bound(&self, command: bool) -> Option<u64> {
        let Retention { max_size, max_files, total_size, .. } = self.retention;
        if let Some(total) = total_size {
            return Some(total.max(Retention::SMALLEST_TOTAL));
        }
        if max_size == 0 {
            return None;
        }
        let log = taken(max_size, self.format);
        let is_indexed = self.index && self.format == Format::Raw;
        let index = if is_indexed { log.max(SMALLEST_INDEX) } else { 0 };
        let each = log.saturating_add(index);
        let kept = each.saturating_mul(u64::from(max_files) + 1);
        let worked = if command { each.saturating_add(made(log)) } else { 0 };
        Some(kept.saturating_add(worked))
    }
}

impl Default for LogOptions {
    /// Raw, with an index, and the default [`Retention`].
    fn default() -> Self {
        Self { retention: Retention::default(), format: Format::Raw, index: true }
    }
}
