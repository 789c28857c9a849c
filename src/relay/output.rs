//! One stream of the child: read, logged, forwarded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{SFlag, fstat};
use tracing::warn;

use super::{Log, READS_A_TURN, Sink};
use crate::reactor::{Context, Handler, Interest, SourceId, Sources};

/// What a read that gives less than asked for means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is empty (pipe(7)).
    Pipe,
    /// Nothing: a PTY master gives at most 4,095 bytes at a time. On Linux it answers `EIO` while
    /// nobody has the other side open, which a live child may do again by `/dev/tty`.
    Terminal,
    /// Nothing: a socket gives one message.
    Other,
}

/// How far a stream has been read since the child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    /// Bytes that were in the pipe when the child had ended, less those read since. `None` where
    /// the kernel can't tell.
    left: Option<usize>,
    /// Whether it has been seen empty since.
    empty: bool,
}

/// A stream of the child on its way to the log and to a sink.
#[derive(Debug)]
pub(crate) struct Output<W, S> {
    /// `None` at the end of the stream.
    source: Option<(File, SourceId)>,
    kind: Kind,
    /// Bytes that were read and that the log has not taken.
    held: Vec<u8>,
    sink: Option<Sink<W, S>>,
    tail: Option<Tail>,
}

impl<W: Write + AsFd, S: Copy> Output<W, S> {
    /// Relays `source`, which must be non-blocking.
    ///
    /// # Errors
    ///
    /// The poller's.
    pub(crate) fn new(
        source: OwnedFd,
        name: S,
        sink: Option<Sink<W, S>>,
        sources: &mut Sources<'_, S>,
    ) -> io::Result<Self> {
        let mode = SFlag::from_bits_truncate(fstat(&source)?.st_mode);
        let kind = match mode & SFlag::S_IFMT {
            SFlag::S_IFIFO => Kind::Pipe,
            SFlag::S_IFCHR => Kind::Terminal,
            _ => Kind::Other,
        };
        let id = sources.register(&source, Interest::READ, name)?;
        Ok(Self { source: Some((source.into(), id)), kind, held: Vec::new(), sink, tail: None })
    }

    /// The descriptor that is read, until its end.
    pub(crate) fn source(&self) -> Option<&File> {
        self.source.as_ref().map(|(source, _)| source)
    }

    /// Whether the stream has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.source.is_none()
    }

    /// Whether all that was read is in the log and has been forwarded.
    pub(crate) fn is_flushed(&self) -> bool {
        self.held.is_empty() && self.sink.as_ref().is_none_or(Sink::is_empty)
    }

    /// Bytes that the sink's reader never got.
    pub(crate) fn dropped(&self) -> u64 {
        self.sink.as_ref().map_or(0, Sink::dropped)
    }

    /// Reads what is there, up to a bound, and relays it. Says whether anything came.
    pub(crate) fn turn<H>(&mut self, log: &mut Log, cx: &mut Context<'_, H>) -> bool
    where
        H: Handler<Source = S>,
    {
        let mut any = false;
        let mut drained = false;
        for _ in 0..READS_A_TURN {
            if self.is_paused() {
                break;
            }
            let Some((source, id)) = &mut self.source else { break };
            let id = *id;
            match source.read(cx.scratch) {
                Ok(count @ 1..) => {
                    any = true;
                    // Not trusted for the tail: a child may have its pipe give one packet at a
                    // time (pipe(2): `O_DIRECT`).
                    let short =
                        count < cx.scratch.len() && self.kind == Kind::Pipe && self.tail.is_none();
                    self.count_tail(count, false);
                    self.relay(cx.scratch.get(..count).unwrap_or_default(), log, &mut cx.sources);
                    if short {
                        cx.sources.short_read(id);
                        drained = true;
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.count_tail(0, true);
                    cx.sources.would_block(id, Interest::READ);
                    drained = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                end if self.is_let_go(&end) => {
                    cx.sources.would_block(id, Interest::READ);
                    drained = true;
                    break;
                }
                end => {
                    if let Err(error) = end {
                        told(&error);
                    }
                    self.end(&mut cx.sources);
                }
            }
        }
        if let (Some((_, id)), false) = (&self.source, drained) {
            // The next turn goes on, also where an earlier one took the edge for used up.
            cx.sources.not_drained(*id, Interest::READ);
        }
        self.pause_or_resume(&mut cx.sources);
        any
    }

    /// Offers the log again what it has not taken.
    pub(crate) fn retry_log(&mut self, log: &mut Log, sources: &mut Sources<'_, S>) {
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.relay(&held, log, sources);
        self.pause_or_resume(sources);
    }

    /// Goes on forwarding once the sink's writer is ready.
    pub(crate) fn flush_sink(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(sink) = &mut self.sink {
            sink.flush(sources);
        }
        self.pause_or_resume(sources);
    }

    /// From here on the end of the child's own bytes is looked for: there are `left` in the pipe.
    pub(crate) fn begin_tail(&mut self, left: Option<usize>) {
        self.tail = Some(Tail { left, empty: false });
    }

    /// Whether every byte that the child itself wrote has been read.
    pub(crate) fn has_tail(&self) -> bool {
        let read = |tail: Tail| tail.empty || tail.left == Some(0);
        self.has_ended() || self.tail.is_some_and(read)
    }

    /// Whether the stream was empty when it was last read, and is being read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.has_ended() || (!self.is_paused() && self.tail.is_some_and(|tail| tail.empty))
    }

    /// Reads no more. What has been read goes on its way.
    pub(crate) fn end(&mut self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source.take() {
            sources.deregister(id);
        }
    }

    /// Whether bytes wait for the log.
    pub(crate) fn waits_for_log(&self) -> bool {
        !self.held.is_empty()
    }

    /// Forwards no more; what waits for the reader is counted as left out.
    pub(crate) fn abandon_sink(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(sink) = &mut self.sink {
            sink.abandon(sources);
        }
        self.pause_or_resume(sources);
    }

    /// Gives up on whatever still waits; it is counted as left out.
    pub(crate) fn abandon(&mut self, log: &mut Log, sources: &mut Sources<'_, S>) {
        // What is in a pipe is known; of a PTY, only what it may hold at most.
        let unread = match (self.kind, self.has_tail()) {
            (Kind::Pipe | Kind::Other, false) => self.tail.and_then(|tail| tail.left),
            _ => None,
        };
        self.end(sources);
        log.give_up(self.held.len() + unread.unwrap_or(0));
        self.held = Vec::new();
        if let Some(sink) = &mut self.sink {
            sink.abandon(sources);
        }
    }

    /// To the log first; what is there goes on to the sink, and the rest is held.
    fn relay(&mut self, bytes: &[u8], log: &mut Log, sources: &mut Sources<'_, S>) {
        let taken = log.write(bytes);
        let (done, rest) = bytes.split_at(taken);
        self.held = rest.to_vec();
        if let Some(sink) = self.sink.as_mut().filter(|_| !done.is_empty()) {
            sink.offer(done, sources);
        }
    }

    /// Whether this is no end: the child has closed its terminal and has not ended.
    ///
    /// To close the master now would hang up on it: SIGHUP instead of its own exit code, for a
    /// child that closes its streams on the way out. And it may open `/dev/tty` again.
    fn is_let_go(&self, end: &io::Result<usize>) -> bool {
        let nobody_has_it = match end {
            Ok(count) => *count == 0,
            Err(error) => error.raw_os_error() == Some(libc::EIO),
        };
        nobody_has_it && self.kind == Kind::Terminal && self.tail.is_none()
    }

    fn is_paused(&self) -> bool {
        !self.held.is_empty() || self.sink.as_ref().is_some_and(|sink| !sink.accepts())
    }

    fn pause_or_resume(&mut self, sources: &mut Sources<'_, S>) {
        let interest = if self.is_paused() { Interest::NONE } else { Interest::READ };
        if let Some((_, id)) = self.source {
            // Reading alone never asks the kernel, so this can't fail.
            let _ = sources.want(id, interest);
        }
    }

    fn count_tail(&mut self, count: usize, empty: bool) {
        if let Some(tail) = &mut self.tail {
            tail.left = tail.left.map(|left| left.saturating_sub(count));
            tail.empty = empty;
        }
    }
}

/// On Linux a PTY master answers `EIO` when nobody has the other side open: that is its end.
fn told(error: &io::Error) {
    if error.raw_os_error() != Some(libc::EIO) {
        warn!("can't read the child's output any more: {error}");
    }
}
