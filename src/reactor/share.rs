//! How much one handler may take in a call, so that it holds up no other.

use std::time::{Duration, Instant};

use super::HandlerId;

/// The size of the scratch buffer in bytes: half of what a pipe that has grown holds, so that its
/// writer fills the other half meanwhile.
///
/// Large enough that glibc maps it by itself (mallopt(3), `M_MMAP_THRESHOLD`), so that pages which
/// nothing was read into are never touched, and all go back to the system when it is let go. That
/// holds for the first such block of a process, and for all of them after
/// `process::settle_heap`.
pub(super) const WHOLE: usize = 512 * 1024;

/// How much there is beside it for what a handler makes of the bytes.
pub(super) const SPARE: usize = 192 * 1024;

/// How much of it a handler gets while others have something to do too: what one turn takes is what
/// all others wait for. 32 KiB are through to a log in some 25 microseconds.
const PART: usize = 32 * 1024;

/// How long a handler must have been the only one that is called, to get all of it.
const ALONE: Duration = Duration::from_secs(1);

/// Who has been called, and what follows for the next.
#[derive(Debug, Default)]
pub(super) struct Share {
    last: Option<HandlerId>,
    /// When that last was another one than before.
    changed: Option<Instant>,
}

impl Share {
    /// A source or a timer of this handler is served.
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

    const ONE: HandlerId = HandlerId { slot: 1, generation: 1 };
    const OTHER: HandlerId = HandlerId { slot: 2, generation: 1 };

    #[test]
    fn a_handler_that_is_alone_gets_all_and_several_a_part_each() {
        let now = Instant::now();
        let mut share = Share::default();
        assert_eq!(share.bytes(now), WHOLE);
        share.serve(ONE, now);
        share.serve(ONE, now);
        assert_eq!(share.bytes(now), WHOLE);
        share.serve(OTHER, now);
        assert_eq!(share.bytes(now), PART);
        // The other one has nothing more to do.
        share.serve(ONE, now);
        assert_eq!(share.bytes(now + ALONE - Duration::from_millis(1)), PART);
        assert_eq!(share.bytes(now + ALONE), WHOLE);
    }
}
