//! The output of a sandbox in process: a callback of the host's that gets each piece once the log has
//! it.

use std::fmt;

use chrono::{DateTime, Utc};

use super::call_out::{Callee, PanicError, call_out, discard};
use super::name::Name;
use crate::logfile::Stream;

/// A piece of output, as [`Builder::output`](super::Builder::output) gives it to a host.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Output<'a> {
    /// The console that it came from; `None` for the child's own stdio.
    pub console: Option<&'a Name>,
    /// The stream: `Stdout` and `Stderr` of a child on pipes, `Tty` of a child on a PTY and of a
    /// console. `Notice` is not the child's: the bytes are the line in place of those that
    /// [`OverRate::Drop`](super::OverRate::Drop) has left out.
    pub stream: Stream,
    /// When the log had it, by the wall clock: a clock that is set back makes a later piece earlier.
    pub at: DateTime<Utc>,
    /// The bytes: at least one, and at most 512 KiB. They may end within a character.
    pub bytes: &'a [u8],
}

type Call = Box<dyn FnMut(Output<'_>) + Send>;

/// The callback of a host.
pub(super) struct OutputCallback {
    /// `None` once it has panicked.
    call: Option<Call>,
    /// The panic, until it is noted.
    panic: Option<PanicError>,
}

impl OutputCallback {
    pub(super) fn new(call: impl FnMut(Output<'_>) + Send + 'static) -> Box<Self> {
        Box::new(Self { call: Some(Box::new(call)), panic: None })
    }

    /// Gives bytes to the host.
    pub(super) fn offer(&mut self, console: Option<&Name>, stream: Stream, bytes: &[u8]) {
        let Some(call) = &mut self.call else { return };
        let output = Output { console, stream, at: Utc::now(), bytes };
        if let Err(panic) = call_out(Callee::Output, || call(output)) {
            self.panic = Some(panic);
            discard(self.call.take());
        }
    }

    /// A panic that has not been noted yet.
    pub(super) fn take_panic(&mut self) -> Option<PanicError> {
        self.panic.take()
    }
}

impl fmt::Debug for OutputCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputCallback").field("panic", &self.panic).finish_non_exhaustive()
    }
}
