//! Writes to a non-blocking descriptor on the loop. What it does not accept yet is kept.

use std::io::{self, Write};
use std::os::fd::AsFd;

use vmon::reactor::{Interest, SourceId, Sources};

/// A writer that is registered with the poller only while bytes are pending.
#[derive(Debug)]
pub struct Writer<W, S> {
    target: W,
    name: S,
    pending: Vec<u8>,
    /// Number of pending bytes that have been written.
    written: usize,
    waiting: Option<SourceId>,
}

impl<W: Write + AsFd, S: Copy> Writer<W, S> {
    /// A writer to `target`, whose readiness is reported under `name`.
    pub fn new(target: W, name: S) -> Self {
        Self { target, name, pending: Vec::new(), written: 0, waiting: None }
    }

    pub fn target(&self) -> &W {
        &self.target
    }

    /// Whether every byte has been written.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The bytes that [`flush`](Self::flush) writes, to append to.
    pub fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Forgets pending bytes.
    pub fn clear(&mut self) {
        self.pending = Vec::new();
        self.written = 0;
    }

    /// Writes pending bytes, as many as the target accepts.
    ///
    /// # Errors
    ///
    /// The target's, or the poller's. The bytes are still pending.
    pub fn flush(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        while let Some(rest @ [_, ..]) = self.pending.get(self.written..) {
            match self.target.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.wait(sources);
                }
                Err(error) => return Err(error),
            }
        }
        self.close(sources);
        Ok(())
    }

    /// Forgets pending bytes and leaves the poller.
    pub fn close(&mut self, sources: &mut Sources<'_, S>) {
        self.clear();
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
    }

    fn wait(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        match self.waiting {
            Some(waiting) => sources.would_block(waiting, Interest::WRITE),
            None => {
                self.waiting = Some(sources.register(&self.target, Interest::WRITE, self.name)?);
            }
        }
        Ok(())
    }
}
