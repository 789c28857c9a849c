//! The child's input: the host's stdin, and input of attached clients.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::isatty;
use tracing::{debug, warn};

use super::kind::Kind;
use super::write::write_some;
use crate::process::sigpipe;
use crate::reactor::{Context, Interest, SourceId, Sources};
use crate::terminal;

/// Bytes read at a time. A pipe may take less at once, and a terminal returns less.
const CHUNK: usize = 16 * 1024;

/// What an operation on the input has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputEvent {
    /// The input is open.
    Open,
    /// The source is at its end, and all of it has been read.
    Ended,
    /// Nothing was passed on: nothing came, or an answer of a terminal that is to be dropped.
    Nothing,
    /// The target takes no more.
    Refused,
}

/// Reads a source and writes a target, and reads no further while the target does not take it.
#[derive(Debug)]
pub(crate) struct Input<R, S> {
    /// `None` if there is none, and after its end.
    source: Option<(R, SourceId)>,
    /// Whether the target stays open without a source.
    lasting: bool,
    kind: Kind,
    /// Whether a read has found the source empty and not at its end: from then on an edge reports
    /// the end too. No edge reports an end that precedes the opening of a FIFO (Linux:
    /// `fifo_open`).
    seen_open: bool,
    target: File,
    target_name: S,
    /// Whether a write to a pipe without a reader would end this process.
    sigpipe_kills: bool,
    /// Bytes that the target has not taken, and how many of them it has taken since.
    pending: Vec<u8>,
    sent: usize,
    waiting: Option<SourceId>,
    last: Option<u8>,
}

impl<R: Read + AsFd, S: Copy> Input<R, S> {
    /// Writes to `target`, which must be non-blocking. With `lasting` it stays open without a
    /// source.
    pub(crate) fn new(target: OwnedFd, target_name: S, lasting: bool) -> Self {
        Self {
            source: None,
            lasting,
            kind: Kind::Other,
            seen_open: false,
            target: target.into(),
            target_name,
            sigpipe_kills: sigpipe::kills(),
            pending: Vec::new(),
            sent: 0,
            waiting: None,
            last: None,
        }
    }

    /// Relays `source`, which must be non-blocking.
    ///
    /// # Errors
    ///
    /// The poller's.
    pub(crate) fn take_from(
        &mut self,
        source: R,
        name: S,
        sources: &mut Sources<'_, S>,
    ) -> io::Result<()> {
        self.kind = Kind::of(&source)?;
        let id = sources.register(&source, Interest::READ, name)?;
        self.source = Some((source, id));
        Ok(())
    }

    /// Whether nothing more will be written: all bytes of the source, and its end, have reached the
    /// target.
    pub(crate) fn is_finished(&self) -> bool {
        !self.lasting && self.source.is_none() && self.pending.is_empty()
    }

    /// Whether the source is a terminal.
    pub(crate) fn reads_terminal(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Whether the target has taken all bytes.
    pub(crate) fn accepts(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of bytes that the target has not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// The last byte that was sent to the target.
    pub(crate) fn last(&self) -> Option<u8> {
        self.last
    }

    /// The target.
    pub(crate) fn target(&self) -> &File {
        &self.target
    }

    /// The source can't be read now, although the poller reports it as ready.
    pub(crate) fn not_ready(&self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source {
            sources.would_block(id, Interest::READ);
        }
    }

    /// Reads the source and passes the bytes on. `raw` is whether it is a terminal in raw mode, and
    /// `answers` whether what that sends in answer to queries is passed on.
    pub(crate) fn turn<T>(
        &mut self,
        raw: bool,
        answers: bool,
        cx: &mut Context<'_, S, T>,
    ) -> io::Result<InputEvent> {
        let Some((source, id)) = &mut self.source else { return Ok(InputEvent::Nothing) };
        if !self.pending.is_empty() {
            return Ok(InputEvent::Nothing);
        }
        let id = *id;
        let size = CHUNK.min(cx.scratch.len());
        let buffer = cx.scratch.get_mut(..size).unwrap_or_default();
        match source.read(buffer) {
            Ok(0) => {
                self.end_source(&mut cx.sources);
                Ok(InputEvent::Ended)
            }
            Ok(count) => {
                let bytes = cx.scratch.get(..count).unwrap_or_default();
                let kind = if raw { Kind::RawTerminal } else { self.kind };
                if self.seen_open && kind.is_emptied_by(count, size) {
                    cx.sources.short_read(id);
                }
                if !answers && terminal::is_answer(bytes) {
                    return Ok(InputEvent::Nothing);
                }
                Ok(self.send(bytes, &mut cx.sources))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.seen_open = true;
                cx.sources.would_block(id, Interest::READ);
                Ok(InputEvent::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends bytes to the target, after those that are pending.
    pub(crate) fn send(&mut self, bytes: &[u8], sources: &mut Sources<'_, S>) -> InputEvent {
        self.last = bytes.last().copied().or(self.last);
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return InputEvent::Open;
        }
        match write_to_child(&mut self.target, self.sigpipe_kills, bytes) {
            Ok(written) if written == bytes.len() => InputEvent::Open,
            Ok(written) => {
                self.pending = bytes.get(written..).unwrap_or_default().to_vec();
                self.wait(sources)
            }
            Err(error) => refused(&error),
        }
    }

    /// Sends pending bytes, once the target takes more.
    pub(crate) fn flush(&mut self, sources: &mut Sources<'_, S>) -> InputEvent {
        let rest = self.pending.get(self.sent..).unwrap_or_default();
        match write_to_child(&mut self.target, self.sigpipe_kills, rest) {
            Ok(written) if written < rest.len() => {
                self.sent += written;
                if let Some(waiting) = self.waiting {
                    sources.would_block(waiting, Interest::WRITE);
                }
                InputEvent::Open
            }
            Ok(_) => {
                self.pending = Vec::new();
                self.sent = 0;
                if let Some(waiting) = self.waiting.take() {
                    sources.deregister(waiting);
                }
                self.read_again(sources, Interest::READ);
                InputEvent::Open
            }
            Err(error) => refused(&error),
        }
    }

    /// Ends the input once the target has taken what is pending: no source follows.
    pub(crate) fn finish(&mut self, sources: &mut Sources<'_, S>) {
        self.lasting = false;
        self.end_source(sources);
    }

    /// Stops reading the source.
    pub(crate) fn end_source(&mut self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source.take() {
            sources.deregister(id);
        }
    }

    /// Returns the target, which is written no more, and the bytes that it has not taken.
    pub(crate) fn release(mut self, sources: &mut Sources<'_, S>) -> (OwnedFd, Vec<u8>) {
        self.close(sources);
        let pending = self.pending.split_off(self.sent.min(self.pending.len()));
        (self.target.into(), pending)
    }

    /// Deregisters both sides. Dropping the input afterwards closes the target.
    pub(crate) fn close(&mut self, sources: &mut Sources<'_, S>) {
        self.end_source(sources);
        if let Some(waiting) = self.waiting.take() {
            sources.deregister(waiting);
        }
    }

    fn wait(&mut self, sources: &mut Sources<'_, S>) -> InputEvent {
        match sources.register(&self.target, Interest::WRITE, self.target_name) {
            Ok(waiting) => {
                self.waiting = Some(waiting);
                self.read_again(sources, Interest::NONE);
                InputEvent::Open
            }
            Err(error) => refused(&error),
        }
    }

    fn read_again(&mut self, sources: &mut Sources<'_, S>, interest: Interest) {
        if let Some((_, id)) = self.source {
            // A change of the wish to read needs no system call, so this can't fail.
            let _ = sources.want(id, interest);
        }
    }
}

fn write_to_child(target: &mut File, sigpipe_kills: bool, bytes: &[u8]) -> io::Result<usize> {
    let written = match sigpipe_kills {
        true => sigpipe::without(|| write_some(target, bytes)),
        false => write_some(target, bytes),
    };
    match written {
        (written, None) => Ok(written),
        // Linux: no process has the slave of the PTY open. The bytes are lost, but the child may
        // open it again. For anything but a terminal, EIO is an error.
        (_, Some(error)) if error.raw_os_error() == Some(libc::EIO) && is_terminal(target) => {
            Ok(bytes.len())
        }
        (_, Some(error)) => Err(error),
    }
}

/// Whether this is a terminal, also one that was hung up, for which isatty(3) fails with `EIO`.
fn is_terminal(target: &File) -> bool {
    matches!(isatty(target), Ok(true) | Err(Errno::EIO))
}

/// A child that closes its input early is not an error.
fn refused(error: &io::Error) -> InputEvent {
    // A terminal that takes nothing for now has not refused.
    if terminal::peer_has_gone(error, false) {
        debug!("the child reads no more");
    } else {
        warn!("can't write the child's input any more: {error}");
    }
    InputEvent::Refused
}
