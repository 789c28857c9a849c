//! The log of a child's streams: its marks, among them each size of the child's terminal, its turns
//! and its failures.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::pty::Winsize;
use tracing::debug;

use super::super::keys::Sources;
use super::super::sessions::Sessions;
use super::Streams;
use crate::child;
use crate::logfile::{LogError, Mark};
use crate::terminal::Terminal;

impl Streams {
    /// Tells the log that a run begins.
    pub(in super::super) fn begin_log(&mut self, pid: u32) {
        self.log.mark(Mark::Start { pid });
        let size = self.master().and_then(|master| child::window_size(master.as_fd()).ok());
        if let Some(size) = size {
            self.log.note_size(size);
        }
    }

    /// Tells the log how it has ended.
    pub(in super::super) fn end_log(&mut self, mark: Option<Mark>) {
        if let Some(mark) = mark {
            self.log.mark(mark);
        }
    }

    /// Gives the child's PTY the size of our terminal.
    pub(in super::super) fn resize(&mut self) {
        let size = self.terminal.as_ref().and_then(Terminal::window_size);
        if let Some(size) = size
            && let Some(Err(error)) = self.resize_to(&size)
        {
            debug!("can't resize the child's terminal: {error}");
        }
    }

    /// Gives the child's PTY this size; `None` where it has none.
    pub(in super::super) fn resize_to(&mut self, size: &Winsize) -> Option<io::Result<()>> {
        let resized = child::resize(self.master()?.as_fd(), size);
        if resized.is_ok() {
            self.log.note_size(*size);
        }
        Some(resized)
    }

    /// The last bytes of the log, `most` at most; none where it can't be read.
    pub(in super::super) fn log_tail(&mut self, most: usize) -> Vec<u8> {
        self.log.tail(most)
    }

    /// Whether bytes wait for the log.
    pub(in super::super) fn wait_for_log(&self) -> bool {
        self.log.is_ending() || self.outputs.iter().any(|(_, output)| output.waits_for_log())
    }

    /// Whether the log is to be tried again, although no output comes.
    pub(in super::super) fn log_needs_retry(&self) -> bool {
        self.wait_for_log() || self.log.has_untold()
    }

    /// Whether the end of what has been read is in the log, or given up.
    pub(in super::super) fn finish_log(&mut self) -> bool {
        self.log.finish()
    }

    /// Offers the log again what it has not taken.
    pub(in super::super) fn retry_log(
        &mut self,
        sessions: &mut Sessions,
        sources: &mut Sources<'_>,
    ) {
        self.log.tell();
        for (stream, output) in &mut self.outputs {
            output.retry_log(&mut self.log, &mut sessions.audience(*stream), sources);
        }
    }

    /// When the log is to be called.
    pub(in super::super) fn log_deadline(&self) -> Option<Instant> {
        self.log.deadline()
    }

    /// Lets the log do what is due.
    pub(in super::super) fn log_turn(&mut self) {
        self.log.turn();
    }

    /// Opens the log anew by its name.
    pub(in super::super) fn reopen_log(&mut self) -> Result<(), LogError> {
        self.log.reopen()
    }
}
