//! One direction of a byte relay: reads from a source only while the sink accepts data.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use vmon::reactor::{Interest, SourceId, Sources};

/// Largest read, in bytes.
const CHUNK: usize = 64 * 1024;

/// A relay from a source to a sink, both non-blocking.
#[derive(Debug)]
pub struct Flow<R, W, S> {
    /// `None` after end of file.
    source: Option<(R, SourceId)>,
    /// `None` after a write error. Data is discarded then.
    sink: Option<W>,
    sink_name: S,
    /// Bytes not written yet. The source is not read while there are any.
    pending: Vec<u8>,
    /// Registration of the sink while bytes are pending.
    waiting: Option<SourceId>,
    failed: bool,
}

/// Result of a read.
#[derive(Debug)]
pub enum Got<'a> {
    Bytes(&'a [u8]),
    Nothing,
    End,
}

impl<R: Read + AsFd, W: Write + AsFd, S: Copy> Flow<R, W, S> {
    pub fn new(
        source: R,
        source_name: S,
        sink: Option<W>,
        sink_name: S,
        sources: &mut Sources<'_, S>,
    ) -> io::Result<Self> {
        let id = sources.register(&source, Interest::READ, source_name)?;
        let source = Some((source, id));
        Ok(Self { source, sink, sink_name, pending: Vec::new(), waiting: None, failed: false })
    }

    /// Whether the source has ended and every byte has been written.
    pub fn is_over(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Whether a write has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    pub fn sink(&self) -> Option<&W> {
        self.sink.as_ref()
    }

    /// Reads once, unless bytes are pending.
    pub fn read<'a>(
        &mut self,
        buffer: &'a mut [u8],
        sources: &mut Sources<'_, S>,
    ) -> io::Result<Got<'a>> {
        let Some((source, id)) = &mut self.source else { return Ok(Got::Nothing) };
        if !self.pending.is_empty() {
            return Ok(Got::Nothing);
        }
        let size = CHUNK.min(buffer.len());
        match source.read(buffer.get_mut(..size).unwrap_or_default()) {
            Ok(0) => {
                self.end(sources);
                Ok(Got::End)
            }
            Ok(count) => Ok(Got::Bytes(buffer.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sources.would_block(*id, Interest::READ);
                Ok(Got::Nothing)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Waits for the next readiness of the source although it has been reported as readable.
    pub fn not_ready(&self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = &self.source {
            sources.would_block(*id, Interest::READ);
        }
    }

    /// Stops reading.
    pub fn end(&mut self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source.take() {
            sources.deregister(id);
        }
    }

    /// Queues the bytes and writes as much as the sink accepts.
    pub fn send(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        self.flush(sources)
    }

    /// Writes pending bytes.
    pub fn flush(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        let Some(sink) = &mut self.sink else {
            self.pending.clear();
            return Ok(());
        };
        let mut written = 0;
        let result = loop {
            match self.pending.get(written..) {
                None | Some([]) => break Ok(()),
                Some(rest) => match sink.write(rest) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.pending.drain(..written);
        match result {
            Ok(()) => self.resume(sources),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(sources),
            Err(error) => {
                self.fail(sources);
                Err(error)
            }
        }
    }

    fn resume(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        self.pending = Vec::new();
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
        match &self.source {
            Some((_, id)) => sources.want(*id, Interest::READ),
            None => Ok(()),
        }
    }

    fn wait(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        match (self.waiting, &self.sink) {
            (Some(waiting), _) => sources.would_block(waiting, Interest::WRITE),
            (None, Some(sink)) => {
                self.waiting = Some(sources.register(sink, Interest::WRITE, self.sink_name)?);
            }
            (None, None) => {}
        }
        match &self.source {
            Some((_, id)) => sources.want(*id, Interest::NONE),
            None => Ok(()),
        }
    }

    /// Drops the sink and stops reading, after a write error.
    fn fail(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
        self.sink = None;
        self.failed = true;
        self.pending = Vec::new();
        self.end(sources);
    }
}
