//! Calls out of a monitor into the host's observers, services and output callback. A panic there is caught and ends
//! that monitor alone: it never unwinds through the loop.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A panic of an observer, of a service or of an [output callback](super::Builder::output). The one
/// that panicked is dropped and never called again;
/// the child is stopped, and the others receive the transitions that follow.
///
/// In a program that is built with `panic = "abort"` a panic ends the process instead.
#[derive(Debug, thiserror::Error)]
#[error("{callee} panicked: {message}")]
pub struct PanicError {
    callee: Callee,
    message: String,
}

/// The kind of what is called.
#[derive(Debug, Clone, Copy)]
pub(super) enum Callee {
    Observer,
    Service,
    Output,
}

impl std::fmt::Display for Callee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Observer => "an observer",
            Self::Service => "a service",
            Self::Output => "an output callback",
        })
    }
}

/// Calls into the host's code.
///
/// # Errors
///
/// It panicked. What it has changed may be half done, so it must not be called again.
pub(super) fn call_out<R>(callee: Callee, call: impl FnOnce() -> R) -> Result<R, PanicError> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| PanicError { callee, message: message_of(&*payload) })
}

/// Drops what has panicked, which may panic once more.
pub(super) fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// The message of a panic.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}
