//! One direction of a byte relay: reads from a source only while the sink accepts data.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use vmon::reactor::{Interest, SourceId, Sources};

use crate::writer::Writer;

/// Largest read, in bytes.
const CHUNK: usize = 64 * 1024;

/// A relay from a source to a sink, both non-blocking.
#[derive(Debug)]
pub struct Flow<R, W, S> {
    /// `None` after end of file.
    source: Option<(R, SourceId)>,
    /// The source is not read while bytes are pending. `None` after a write error; data is discarded
    /// then.
    sink: Option<Writer<W, S>>,
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
        let sink = sink.map(|sink| Writer::new(sink, sink_name));
        Ok(Self { source: Some((source, id)), sink, failed: false })
    }

    /// Whether the source has ended and every byte has been written.
    pub fn is_over(&self) -> bool {
        self.source.is_none() && self.is_flushed()
    }

    /// Whether a write has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    pub fn sink(&self) -> Option<&W> {
        self.sink.as_ref().map(Writer::target)
    }

    fn is_flushed(&self) -> bool {
        self.sink.as_ref().is_none_or(Writer::is_empty)
    }

    /// Reads once, unless bytes are pending.
    pub fn read<'a>(
        &mut self,
        buffer: &'a mut [u8],
        sources: &mut Sources<'_, S>,
    ) -> io::Result<Got<'a>> {
        let flushed = self.is_flushed();
        let Some((source, id)) = self.source.as_mut().filter(|_| flushed) else {
            return Ok(Got::Nothing);
        };
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

    /// Writes the bytes after those that are pending, as many as the sink accepts.
    pub fn send(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>) -> io::Result<()> {
        if let Some(sink) = &mut self.sink {
            sink.pending().extend_from_slice(bytes);
        }
        self.flush(sources)
    }

    /// Writes pending bytes. After a write error the sink is dropped and the source is not read any
    /// more.
    pub fn flush(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if let Err(error) = sink.flush(sources) {
            sink.close(sources);
            self.sink = None;
            self.failed = true;
            self.end(sources);
            return Err(error);
        }
        let interest = if sink.is_empty() { Interest::READ } else { Interest::NONE };
        match &self.source {
            Some((_, id)) => sources.want(*id, interest),
            None => Ok(()),
        }
    }
}
