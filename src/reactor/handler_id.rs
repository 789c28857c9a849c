//! The identifier of a handler.

use std::sync::atomic::{AtomicU32, Ordering};

/// Identifies a handler. Unique among the handlers of all reactors of the process, also after the
/// handler has been removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandlerId {
    pub(super) slot: u32,
    /// The number of the handler in this process.
    pub(super) number: u32,
}

impl HandlerId {
    /// This identifier as a number, which is never 0, for programs in other languages.
    pub fn to_bits(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.slot)
    }

    /// The identifier of this number. One that [`to_bits`](Self::to_bits) has not returned identifies no
    /// handler.
    pub fn from_bits(bits: u64) -> Self {
        let (number, slot) = ((bits >> 32) as u32, bits as u32);
        Self { slot, number }
    }

    /// The number of the handler in this process.
    #[cfg(all(feature = "host", feature = "control", feature = "codec"))]
    pub(crate) fn number(self) -> u32 {
        self.number
    }

    /// The identifier of the next handler, in this slot of its reactor.
    pub(super) fn next(slot: u32) -> Self {
        /// Zero is the number of a slot that no handler has used.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // Only uniqueness matters. After 2^32 handlers numbers repeat, but not in one slot at once.
        Self { slot, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}
