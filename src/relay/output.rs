//! One stream of the child: read, logged, forwarded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use tracing::warn;

use super::pace::Pace;
use super::throttle::Throttle;
use super::{Audience, Kind, Log, PaceTimers, Rate, Sink, notice};
use crate::logfile::Stream;
use crate::reactor::{Context, Interest, SourceId, Sources};
use crate::terminal;

/// Bytes relayed in one turn where they are forwarded too: what the pipe behind our stdout takes in
/// one go (pipe(7)), so that little has to be kept for it.
const FORWARDED: usize = 64 * 1024;

/// How far a stream has been read since the child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    /// Bytes that were in the pipe when the child had ended, less those read since. `None` where
    /// the kernel can't tell.
    left: Option<usize>,
    /// Whether it has been seen empty since.
    empty: bool,
}

/// How the reads of one turn ended.
#[derive(Debug)]
enum Stopped {
    /// There may be more.
    Bounded,
    /// The last read gave all there was.
    Short,
    /// `WouldBlock`, or a child that has closed its terminal and has not ended.
    Empty,
    /// It is over, with an error or without.
    Ended(Option<io::Error>),
}

/// A stream of the child on its way to the log and to a sink.
#[derive(Debug)]
pub(crate) struct Output<W, S, T> {
    /// `None` at the end of the stream.
    source: Option<(File, SourceId)>,
    kind: Kind,
    /// What the log calls it.
    stream: Stream,
    /// `None` for what is read as soon as something comes.
    pace: Option<Pace<T>>,
    /// `None` for what may be read as fast as it comes.
    throttle: Option<Box<Throttle<T>>>,
    /// Bytes that were read and that the log has not taken.
    held: Vec<u8>,
    sink: Option<Sink<W, S>>,
    tail: Option<Tail>,
}

impl<W: Write + AsFd, S: Copy, T: Copy> Output<W, S, T> {
    /// An output without a source, as at its end.
    pub(crate) fn new(stream: Stream, sink: Option<Sink<W, S>>) -> Self {
        Self {
            source: None,
            kind: Kind::Other,
            stream,
            pace: None,
            throttle: None,
            held: Vec::new(),
            sink,
            tail: None,
        }
    }

    /// Relays `source`, which must be non-blocking and of this `kind`.
    ///
    /// # Errors
    ///
    /// The poller's.
    pub(crate) fn open(
        &mut self,
        source: OwnedFd,
        kind: Kind,
        name: S,
        timers: PaceTimers<T>,
        sources: &mut Sources<'_, S>,
    ) -> io::Result<()> {
        let id = sources.register(&source, Interest::READ, name)?;
        let source = File::from(source);
        self.source = Some((source, id));
        self.kind = kind;
        self.pace = self.paced(timers);
        self.tail = None;
        self.keep_size();
        self.pause_or_resume(sources);
        Ok(())
    }

    /// Reads no more than this rate allows, until the child has ended.
    pub(crate) fn limit(&mut self, rate: Rate, timers: PaceTimers<T>) {
        self.throttle = Some(Box::new(Throttle::new(rate, timers.pause)));
        self.pace = self.paced(timers);
        self.keep_size();
    }

    /// How a flood of the source is read less often; `None` where it is not. A terminal is not, for
    /// its echoes, nor a socket, which holds some 270 writes, however small: each counts for its
    /// writer with all that the kernel keeps of it (socket(7), `SO_SNDBUF`). So it is full after a
    /// pause, and one who doesn't wait for room loses bytes. It takes a rate, of which that is known.
    fn paced(&self, timers: PaceTimers<T>) -> Option<Pace<T>> {
        let paced = match self.kind {
            Kind::Pipe => true,
            Kind::RawTerminal | Kind::Socket => self.throttle.is_some(),
            Kind::Terminal | Kind::Other => false,
        };
        let (source, _) = self.source.as_ref().filter(|_| paced)?;
        Some(Pace::new(source, self.kind, timers))
    }

    fn keep_size(&mut self) {
        if let (Some(pace), Some(_)) = (&mut self.pace, &self.throttle) {
            pace.keep_size();
        }
    }

    /// The name of the output in the log.
    pub(crate) fn stream(&self) -> Stream {
        self.stream
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

    /// Bytes beyond the rate that were left out, and bytes that the sink's reader never got.
    pub(crate) fn dropped(&self) -> u64 {
        let left_out = self.throttle.as_ref().map_or(0, |throttle| throttle.left_out());
        left_out + self.sink.as_ref().map_or(0, Sink::dropped)
    }

    /// Reads what is there, up to a bound, and relays it. Says whether anything came.
    pub(crate) fn turn(
        &mut self,
        log: &mut Log,
        audience: &mut impl Audience<S>,
        cx: &mut Context<'_, S, T>,
    ) -> bool {
        self.end_gap(log, audience, cx);
        let Some(id) = self.source.as_ref().map(|(_, id)| *id) else { return false };
        if self.waits_for_sinks() {
            // The edge is kept for when it is read again.
            self.end_pace(cx);
            if let Some(throttle) = &mut self.throttle {
                throttle.wait_no_more(id, cx);
            }
            return false;
        }
        let allowed = self.allowed(id, cx);
        if allowed == 0 {
            self.pause_or_resume(&mut cx.sources);
            return false;
        }
        let forwarded = self.sink.is_some() || !audience.is_empty();
        let room = if forwarded { FORWARDED.min(cx.scratch.len()) } else { cx.scratch.len() };
        let room = room.min(allowed);
        let (count, stopped) = self.gather(cx.scratch.get_mut(..room).unwrap_or_default());
        let empty = !matches!(stopped, Stopped::Bounded);
        if count > 0 {
            let kept = self.count_rate(count, cx);
            let bytes = cx.scratch.get(..kept).unwrap_or_default();
            self.relay(bytes, cx.spare, log, audience, &mut cx.sources);
        }
        match &stopped {
            // The next turn goes on, also where an earlier one took the edge for used up.
            Stopped::Bounded => cx.sources.not_drained(id, Interest::READ),
            Stopped::Short => cx.sources.short_read(id),
            Stopped::Empty => cx.sources.would_block(id, Interest::READ),
            Stopped::Ended(error) => {
                self.report_end(error.as_ref());
                self.end(&mut cx.sources);
            }
        }
        self.keep_pace(count, empty, cx);
        if !empty {
            if let Some(throttle) = &mut self.throttle {
                throttle.left_more();
            }
            // Known already, most often: not to be called again for that.
            self.allowed(id, cx);
        }
        self.pause_or_resume(&mut cx.sources);
        count > 0
    }

    /// Reads into `scratch`, and says how much and why no more.
    fn gather(&mut self, scratch: &mut [u8]) -> (usize, Stopped) {
        let mut count = 0;
        while let (Some(free), Some((source, _))) =
            (scratch.get_mut(count..).filter(|free| !free.is_empty()), &mut self.source)
        {
            let asked = free.len();
            match source.read(free) {
                Ok(read @ 1..) => {
                    self.count_tail(read, false);
                    count += read;
                    // Not trusted for the tail: a child may have its pipe give one packet at a
                    // time (pipe(2): `O_DIRECT`).
                    if self.tail.is_none() && self.kind.is_emptied_by(read, asked) {
                        return (count, Stopped::Short);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.count_tail(0, true);
                    return (count, Stopped::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                end if self.is_let_go(&end) => return (count, Stopped::Empty),
                end => return (count, Stopped::Ended(end.err())),
            }
        }
        (count, Stopped::Bounded)
    }

    /// How much may be read now, by the rate; for nothing, it waits until that is over. No rate
    /// applies to the tail.
    fn allowed(&mut self, id: SourceId, cx: &mut Context<'_, S, T>) -> usize {
        let Some(throttle) = self.throttle.as_mut().filter(|_| self.tail.is_none()) else {
            return usize::MAX;
        };
        let room = throttle.room(id, cx);
        if room == 0 {
            if !throttle.is_waiting() {
                self.end_pace(cx);
            }
            if let Some(throttle) = &mut self.throttle {
                throttle.wait(id, cx);
            }
        }
        room
    }

    /// Counts what was read; says how much of it is kept.
    fn count_rate(&mut self, count: usize, cx: &mut Context<'_, S, T>) -> usize {
        match self.throttle.as_mut().filter(|_| self.tail.is_none()) {
            Some(throttle) => throttle.read(count, cx),
            None => count,
        }
    }

    /// Tells of bytes that were left out, once there are no more of them to be for a while.
    fn end_gap(
        &mut self,
        log: &mut Log,
        audience: &mut impl Audience<S>,
        cx: &mut Context<'_, S, T>,
    ) {
        let Some(throttle) = &mut self.throttle else { return };
        let over = self.tail.is_some() || self.source.is_none();
        if over {
            throttle.lift(self.source.as_ref().map(|(_, id)| *id), cx);
        }
        // What was read before them comes first.
        if self.held.is_empty() {
            let bytes = throttle.end_gap(over, cx);
            self.tell_of(bytes, log, audience, &mut cx.sources);
        }
    }

    fn tell_of(
        &mut self,
        bytes: u64,
        log: &mut Log,
        audience: &mut impl Audience<S>,
        sources: &mut Sources<'_, S>,
    ) {
        if bytes == 0 {
            return;
        }
        log.report_dropped(bytes);
        let line = notice(bytes);
        if let Some(sink) = &mut self.sink {
            sink.offer(&line, sources);
        }
        audience.offer(&line, sources);
    }

    /// Has a flooded source read less often. The tail is read as fast as it comes.
    fn keep_pace(&mut self, count: usize, empty: bool, cx: &mut Context<'_, S, T>) {
        if self.tail.is_some() {
            self.end_pace(cx);
        } else if let (Some(pace), Some((source, id))) = (&mut self.pace, &self.source) {
            pace.read(source, *id, count, empty, cx);
        }
    }

    fn end_pace(&mut self, cx: &mut Context<'_, S, T>) {
        if let (Some(pace), Some((_, id))) = (&mut self.pace, &self.source) {
            pace.over(*id, cx);
        }
    }

    /// Gives a pipe its own size back, once no flood fills it any more.
    pub(crate) fn trim(&mut self, cx: &mut Context<'_, S, T>) {
        let blocked = self.is_paused();
        if let Some(pace) = &mut self.pace {
            pace.trim(self.source.as_ref().map(|(source, _)| source), blocked, cx);
        }
    }

    /// Offers the log again what it has not taken.
    pub(crate) fn retry_log(
        &mut self,
        log: &mut Log,
        audience: &mut impl Audience<S>,
        sources: &mut Sources<'_, S>,
    ) {
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        self.relay(&held, &mut [], log, audience, sources);
        // The drain waits for it, and its timer may have come too early.
        if self.held.is_empty()
            && let Some(throttle) = &mut self.throttle
            && (self.tail.is_some() || throttle.gap_is_over())
        {
            let bytes = throttle.take_gap();
            self.tell_of(bytes, log, audience, sources);
        }
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
            (Kind::Pipe | Kind::Socket | Kind::Other, false) => {
                self.tail.and_then(|tail| tail.left)
            }
            _ => None,
        };
        self.end(sources);
        if let Some(throttle) = &mut self.throttle {
            log.report_dropped(throttle.take_gap());
        }
        log.give_up(self.held.len() + unread.unwrap_or(0));
        self.held = Vec::new();
        if let Some(sink) = &mut self.sink {
            sink.abandon(sources);
        }
    }

    /// To the log first; what is there goes on to the sink and the audience, and the rest is held.
    fn relay(
        &mut self,
        bytes: &[u8],
        spare: &mut [u8],
        log: &mut Log,
        audience: &mut impl Audience<S>,
        sources: &mut Sources<'_, S>,
    ) {
        let taken = log.write(spare, self.stream, bytes);
        let (done, rest) = bytes.split_at(taken);
        self.held = rest.to_vec();
        if done.is_empty() {
            return;
        }
        if let Some(sink) = &mut self.sink {
            sink.offer(done, sources);
        }
        audience.offer(done, sources);
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
        nobody_has_it && self.kind == Kind::RawTerminal && self.tail.is_none()
    }

    /// Warns of an end that is a fault. On Linux a PTY master answers `EIO` when no process has the
    /// slave open, and a socket `ECONNRESET` when its peer has closed it without reading all: those
    /// are the end of the stream.
    fn report_end(&self, error: Option<&io::Error>) {
        let is_terminal = matches!(self.kind, Kind::RawTerminal | Kind::Terminal);
        if let Some(error) = error.filter(|error| !terminal::peer_has_gone(error, is_terminal)) {
            warn!("can't read the child's output any more: {error}");
        }
    }

    fn is_paused(&self) -> bool {
        let limited = self.throttle.as_ref().is_some_and(|throttle| throttle.is_waiting());
        limited || self.waits_for_sinks()
    }

    fn waits_for_sinks(&self) -> bool {
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
