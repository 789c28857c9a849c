//! Bytes from one source to where they go.
//!
//! [`Output`] carries one stream of the child: to the log first, then to a [`Sink`] that forwards
//! it. [`Input`] carries our stdin to the child. Both hold bytes only while somebody does not take
//! them, and stop reading meanwhile: an idle relay owns no buffer. No byte is looked at.

mod flood;
mod input;
mod kind;
mod log;
mod output;
mod pace;
mod pipe;
mod rate;
mod sink;
mod throttle;

pub(crate) use input::{Input, InputEvent};
pub(crate) use kind::Kind;
pub(crate) use log::{Log, RETRY as LOG_RETRY};
pub(crate) use output::Output;
pub(crate) use pace::PaceTimers;
pub(crate) use rate::{Over, Rate};
pub(crate) use sink::{Overflow, QUEUE, Sink};

use crate::reactor::Sources;

/// Those who read one output along with its sink. Not waited for, whatever they do.
pub(crate) trait Audience<S> {
    /// Whether nobody does.
    fn is_empty(&self) -> bool;

    /// Takes what the log has taken.
    fn offer(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>);
}

/// The line that stands where bytes were left out. It begins on a line of its own.
fn notice(bytes: u64) -> Vec<u8> {
    // CR LF: the reader may be a terminal in raw mode.
    format!("\r\n[vmon: {bytes} bytes left out]\r\n").into_bytes()
}
