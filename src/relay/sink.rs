//! A non-blocking writer for one reader of an output: a stream of the host or an attached client.

use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;

use nix::unistd::isatty;
use tracing::{debug, warn};

use super::audience::notice;
use super::write::write_some;
use crate::reactor::{Interest, SourceId, Sources};
use crate::terminal::{self, Modes};

/// The most bytes that wait for a slow reader, unless its source waits; more are left out.
pub(crate) const QUEUE: usize = 256 * 1024;

/// Bytes that wait for a slow reader under [`Overflow::Block`] before the source is read no
/// further. Enough that the source can be read again before the reader has taken all of them.
const BLOCK: usize = 64 * 1024;

/// CAN: cancels an incomplete sequence (ECMA-48).
const CANCEL: u8 = 0x18;

/// What happens if a reader does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The source is not read while the queue is full.
    Block,
    /// Bytes beyond the queue are left out; the reader gets a line that says how many.
    Drop,
    /// The reader is a terminal: the oldest bytes in the queue are left out, but the modes that they
    /// set. What is on the screen then is not what the program has drawn.
    Latest,
}

/// The writer of a sink.
#[derive(Debug)]
enum Writer<W> {
    Open(W),
    /// The reader has closed its side, or nothing is to be forwarded any more. It misses nothing.
    Gone,
    /// Writes fail, on a full disk for example: the bytes are counted as left out.
    Failed,
}

/// Forwards bytes to a writer without blocking.
///
/// The writer is registered only while bytes wait for it.
#[derive(Debug)]
pub(crate) struct Sink<W, S> {
    writer: Writer<W>,
    is_terminal: bool,
    name: S,
    overflow: Overflow,
    /// How many bytes may wait, unless the source waits.
    room: usize,
    queue: Vec<u8>,
    /// How much of the queue has been written.
    sent: usize,
    /// The end of the line about left-out bytes, or of the modes that they set, if the queue begins
    /// with that.
    notice_end: usize,
    waiting: Option<SourceId>,
    /// Left-out bytes that have not been reported to the reader.
    missed: u64,
    dropped: u64,
}

impl<W: Write + AsFd, S: Copy> Sink<W, S> {
    pub(crate) fn new(writer: W, name: S, overflow: Overflow) -> Self {
        Self {
            is_terminal: isatty(&writer).unwrap_or(false),
            writer: Writer::Open(writer),
            name,
            overflow,
            room: QUEUE,
            queue: Vec::new(),
            sent: 0,
            notice_end: 0,
            waiting: None,
            missed: 0,
            dropped: 0,
        }
    }

    /// Sets what happens if the reader does not keep up, from now on.
    pub(crate) fn set_overflow(&mut self, overflow: Overflow) {
        self.overflow = overflow;
    }

    /// Sets how many bytes may wait, unless the source waits. Bytes that wait already stay.
    pub(crate) fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    /// Whether the writer is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Whether the reader gets the latest bytes.
    pub(crate) fn is_latest(&self) -> bool {
        self.overflow == Overflow::Latest
    }

    /// Whether the reader has closed its side, or writes fail.
    pub(crate) fn is_gone(&self) -> bool {
        !matches!(self.writer, Writer::Open(_))
    }

    /// Bytes that the reader never got.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether no bytes wait for the reader.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the source may be read.
    pub(crate) fn accepts(&self) -> bool {
        self.overflow != Overflow::Block || self.queue.len() - self.sent < BLOCK
    }

    /// Forwards `bytes`, as many as the writer takes now; the rest waits or is left out.
    pub(crate) fn offer(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>) {
        let written = if self.is_empty() { self.write(bytes) } else { 0 };
        let rest = bytes.get(written..).unwrap_or_default();
        match self.writer {
            Writer::Open(_) if !rest.is_empty() => {
                self.enqueue(rest);
                self.wait(sources);
            }
            Writer::Failed => self.dropped += rest.len() as u64,
            Writer::Open(_) | Writer::Gone => {}
        }
    }

    /// Writes bytes that wait, once the writer is ready.
    pub(crate) fn flush(&mut self, sources: &mut Sources<'_, S>) {
        loop {
            let queue = mem::take(&mut self.queue);
            let written = self.write(queue.get(self.sent..).unwrap_or_default());
            self.sent += written;
            match self.writer {
                Writer::Open(_) => {}
                Writer::Failed => {
                    self.queue = queue;
                    self.dropped += self.unsent();
                    return self.leave(sources);
                }
                Writer::Gone => return self.leave(sources),
            }
            if self.sent < queue.len() {
                self.queue = queue;
                if let Some(waiting) = self.waiting {
                    sources.would_block(waiting, Interest::WRITE);
                }
                return;
            }
            self.sent = 0;
            self.notice_end = 0;
            if self.missed == 0 {
                return self.leave(sources);
            }
            self.queue = notice(mem::take(&mut self.missed));
            self.notice_end = self.queue.len();
        }
    }

    /// Takes nothing more; returns the bytes that wait after all that the writer takes now.
    pub(crate) fn release(&mut self, sources: &mut Sources<'_, S>) -> Vec<u8> {
        if !self.queue.is_empty() {
            self.flush(sources);
        }
        let waiting = self.queue.split_off(self.sent.min(self.queue.len()));
        self.writer = Writer::Gone;
        self.leave(sources);
        waiting
    }

    /// Takes nothing more; bytes that wait are counted as left out.
    pub(crate) fn abandon(&mut self, sources: &mut Sources<'_, S>) {
        if let Writer::Open(_) = mem::replace(&mut self.writer, Writer::Gone) {
            self.dropped += self.unsent();
        }
        self.leave(sources);
    }

    /// Bytes of the child that wait.
    fn unsent(&self) -> u64 {
        (self.queue.len() - self.sent.max(self.notice_end)) as u64
    }

    fn leave(&mut self, sources: &mut Sources<'_, S>) {
        self.queue = Vec::new();
        self.sent = 0;
        self.notice_end = 0;
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
    }

    fn enqueue(&mut self, rest: &[u8]) {
        let unsent = self.queue.len() - self.sent;
        let room = match self.overflow {
            Overflow::Block => rest.len(),
            // Bytes that a notice has still to report were left out before the change.
            Overflow::Latest if self.missed == 0 && unsent + rest.len() > self.room => {
                return self.drop_oldest(rest);
            }
            Overflow::Latest if self.missed == 0 => rest.len(),
            Overflow::Latest => 0,
            // After the first left-out byte all are left out, up to the notice: no stray fragments.
            Overflow::Drop if self.missed > 0 => 0,
            Overflow::Drop => {
                self.room.saturating_sub(self.queue.len() - self.sent).min(rest.len())
            }
        };
        let (kept, lost) = rest.split_at(room);
        if self.sent > 0 && self.sent >= self.queue.len() / 2 {
            self.queue.drain(..self.sent);
            self.notice_end = self.notice_end.saturating_sub(self.sent);
            self.sent = 0;
        }
        self.queue.extend_from_slice(kept);
        self.missed += lost.len() as u64;
        self.dropped += lost.len() as u64;
    }

    /// Leaves out what waits, and puts the last of `rest`, from a whole sequence and character on, in
    /// its place.
    fn drop_oldest(&mut self, rest: &[u8]) {
        let mut lost = Modes::default();
        lost.scan(self.queue.get(self.sent..).unwrap_or_default());
        let mut cut = rest.len().saturating_sub(self.room);
        lost.scan(rest.get(..cut).unwrap_or_default());
        while let Some(&byte) = rest.get(cut)
            && (lost.is_in_sequence() || matches!(byte, 0x80..=0xbf))
        {
            lost.scan(&[byte]);
            cut += 1;
        }
        self.dropped += self.unsent() + cut as u64;
        self.sent = 0;
        // The reader may have got a part of a sequence.
        self.queue = vec![CANCEL];
        lost.changes(&mut self.queue);
        self.notice_end = self.queue.len();
        self.queue.extend_from_slice(rest.get(cut..).unwrap_or_default());
    }

    /// Has the loop call [`flush`](Self::flush) when the writer is ready.
    fn wait(&mut self, sources: &mut Sources<'_, S>) {
        let (Writer::Open(writer), None) = (&self.writer, self.waiting) else { return };
        match sources.register(writer, Interest::WRITE, self.name) {
            Ok(waiting) => self.waiting = Some(waiting),
            Err(error) => {
                warn!("can't wait for the reader of our output, so it gets no more: {error}");
                self.abandon(sources);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let Writer::Open(writer) = &mut self.writer else { return 0 };
        let (written, error) = write_some(writer, bytes);
        if let Some(error) = error {
            self.writer = gone(&error, self.is_terminal);
        }
        written
    }
}

/// A reader that closes its side (`| head -1`, a closed terminal) is not an error.
fn gone<W>(error: &io::Error, is_terminal: bool) -> Writer<W> {
    if terminal::peer_has_gone(error, is_terminal) {
        debug!("the reader of our output has gone away");
        return Writer::Gone;
    }
    warn!("can't forward the child's output any more: {error}");
    Writer::Failed
}
