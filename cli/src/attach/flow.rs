//! Bytes one way: from a source to a sink, and no more of them than the sink takes.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use vmon::reactor::{Interest, SourceId, Sources};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// One way. Both ends are non-blocking.
#[derive(Debug)]
pub struct Flow<R, W, S> {
    /// `None` after its end.
    source: Option<(R, SourceId)>,
    /// `None` when nobody takes anything any more.
    sink: Option<W>,
    sink_name: S,
    /// What the sink has not taken yet. Meanwhile the source is not read.
    pending: Vec<u8>,
    /// Set while something is pending.
    waiting: Option<SourceId>,
    gave_up: bool,
}

/// What a source has given.
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
        Ok(Self { source, sink, sink_name, pending: Vec::new(), waiting: None, gave_up: false })
    }

    /// Whether nothing more comes, and all that came has gone.
    pub fn is_over(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Whether the sink has refused more.
    pub fn gave_up(&self) -> bool {
        self.gave_up
    }

    pub fn sink(&self) -> Option<&W> {
        self.sink.as_ref()
    }

    /// Reads what is there.
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

    /// The source has nothing for us now, although the poller says so.
    pub fn not_ready(&self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = &self.source {
            sources.would_block(*id, Interest::READ);
        }
    }

    /// Reads no more.
    pub fn end(&mut self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source.take() {
            sources.deregister(id);
        }
    }

    /// Writes these bytes, after all that wait; those that do not fit wait too.
    pub fn send(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        self.flush(sources)
    }

    /// Goes on with what waits.
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
            Ok(()) => self.go_on(sources),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(sources),
            Err(error) => {
                self.give_up(sources);
                Err(error)
            }
        }
    }

    fn go_on(&mut self, sources: &mut Sources<'_, S>) -> io::Result<()> {
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

    /// Nobody takes anything any more, so nothing is read.
    fn give_up(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
        self.sink = None;
        self.gave_up = true;
        self.pending = Vec::new();
        self.end(sources);
    }
}
