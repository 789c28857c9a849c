//! Readers of an output beside its sink, and the notice about bytes that a reader does not get.

use crate::reactor::Sources;

/// Readers of an output beside its sink.
pub(crate) trait Audience<S> {
    /// Whether there is none.
    fn is_empty(&self) -> bool;

    /// How many bytes of the output may be read now. With none it is read no further, until
    /// [`Output::hold_back`](super::Output::hold_back).
    fn room(&self) -> usize;

    /// Takes bytes that the log has taken.
    fn offer(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>);

    /// Takes the line in the place of bytes that were left out.
    fn offer_notice(&mut self, line: &[u8], sources: &mut Sources<'_, S>);
}

/// The line in the place of bytes that were left out. It begins on a line of its own.
pub(crate) fn notice(bytes: u64) -> Vec<u8> {
    // CR LF: the reader may be a terminal in raw mode.
    format!("\r\n[vmon: {bytes} bytes left out]\r\n").into_bytes()
}
