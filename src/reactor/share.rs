//! How many bytes one call of a handler may take, so that it does not delay other handlers.

use std::time::{Duration, Instant};

use super::handler_id::HandlerId;

/// The size of the scratch buffer in bytes: half the capacity of a pipe that has grown, so that the
/// writer fills the other half meanwhile.
///
/// Large enough that glibc maps it (mallopt(3), `M_MMAP_THRESHOLD`): pages that nothing was read
/// into are never touched, and all pages go back to the system when it is freed. That holds for the
/// first such block of a process, and for all of them after `process::fix_heap_threshold`.
pub(super) const WHOLE: usize = 512 * 1024;

/// The size in bytes of the second buffer, for data that a handler makes of the bytes.
pub(super) const SPARE: usize = 192 * 1024;

/// How much of it a handler gets while other handlers are busy too, since they wait for what one
/// call takes. Relaying 32 KiB to a log takes about 25 microseconds.
const PART: usize = 32 * 1024;

/// How long a handler must have been the only one called before it gets the whole buffer.
const ALONE: Duration = Duration::from_secs(1);

/// Which handler was called last, and so how much the next call may take.
#[derive(Debug, Default)]
pub(super) struct Share {
    last: Option<HandlerId>,
    /// When the last call was for another handler than the call before it.
    changed: Option<Instant>,
}

impl Share {
    /// Notes a call for a source or timer of this handler.
    pub(super) fn serve(&mut self, handler: HandlerId, now: Instant) {
        if self.last.replace(handler).is_some_and(|last| last != handler) {
            self.changed = Some(now);
        }
    }

    /// Bytes of the scratch buffer for each call of a turn.
    pub(super) fn bytes(&self, now: Instant) -> usize {
        let alone = self.changed.is_none_or(|at| now.saturating_duration_since(at) >= ALONE);
        if alone { WHOLE } else { PART }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: HandlerId = HandlerId { slot: 1, number: 1 };
    const OTHER: HandlerId = HandlerId { slot: 2, number: 2 };

    #[test]
    fn a_handler_alone_gets_the_whole_buffer_and_several_get_a_part_each() {
        let now = Instant::now();
        let mut share = Share::default();
        assert_eq!(share.bytes(now), WHOLE);
        share.serve(ONE, now);
        share.serve(ONE, now);
        assert_eq!(share.bytes(now), WHOLE);
        share.serve(OTHER, now);
        assert_eq!(share.bytes(now), PART);
        // The other handler is idle from here on.
        share.serve(ONE, now);
        assert_eq!(share.bytes(now + ALONE - Duration::from_millis(1)), PART);
        assert_eq!(share.bytes(now + ALONE), WHOLE);
    }
}
