//! What a handler may do to the loop.

use std::fmt;

use super::budget::Budget;
use super::sources::Sources;
use super::timers::Timers;

/// Access to the loop during one call of a handler, and the buffer that all handlers share.
///
/// `S` and `T` are the handler's keys of sources and timers: a part of a handler that takes a
/// context depends on the keys and not on the handler.
pub struct Context<'a, S, T> {
    /// The watched descriptors.
    pub sources: Sources<'a, S>,
    /// The timers.
    pub timers: Timers<'a, T>,
    /// Kernel memory that all handlers together may take while they are busy.
    pub budget: Budget<'a>,
    /// A buffer that is valid within one call only; the next call overwrites it.
    ///
    /// One call must not take more from a source than fits into it, so that no handler delays the
    /// others: 512 KiB, or 32 KiB while sources of several handlers are ready.
    pub scratch: &'a mut [u8],
    /// A second one, for data made of the bytes in the first: 192 KiB.
    pub(crate) spare: &'a mut [u8],
}

impl<S, T> fmt::Debug for Context<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("scratch", &self.scratch.len()).finish_non_exhaustive()
    }
}
