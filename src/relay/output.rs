//! One output of the child: read, logged, forwarded.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use tracing::warn;

use super::audience::{Audience, notice};
use super::kind::Kind;
use super::log::Log;
use super::pace::{Pace, PaceTimers};
use super::rate::LogRate;
use super::sink::Sink;
use super::throttle::Throttle;
use crate::logfile::Stream;
use crate::reactor::{Context, Interest, SourceId, Sources};
use crate::terminal;

/// The most bytes relayed in one turn if they are forwarded too: the capacity of the pipe behind
/// the host's stdout (pipe(7)), so that few bytes have to be queued for it.
const FORWARDED: usize = 64 * 1024;

/// How far an output has been read since the child's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    /// Bytes that were in the pipe when the child had ended, less those read since. `None` if the
    /// kernel can't report them.
    left: Option<usize>,
    /// Whether the last read found it empty.
    empty: bool,
}

/// Why the reads of one turn ended.
#[derive(Debug)]
enum Stopped {
    /// The buffer is full; there may be more.
    Bounded,
    /// The last read was short, so the source is empty.
    Short,
    /// `WouldBlock`, or a live child has closed its terminal.
    Empty,
    /// End of file, or an error.
    Ended(Option<io::Error>),
}

/// An output of the child on its way to the log and to a sink.
#[derive(Debug)]
pub(crate) struct Output<W, S, T> {
    /// `None` at the end of the output.
    source: Option<(File, SourceId)>,
    kind: Kind,
    /// The name of the output in the log.
    stream: Stream,
    /// `None` if every byte is read as soon as it arrives.
    pace: Option<Pace<T>>,
    /// `None` if the rate is not limited.
    throttle: Option<Box<Throttle<T>>>,
    /// Bytes that were read and that the log has not taken.
    held: Vec<u8>,
    /// Boxed: most children of a host have none.
    sink: Option<Box<Sink<W, S>>>,
    /// Whether the audience has no room.
    held_back: bool,
    tail: Option<Tail>,
}

impl<W: Write + AsFd, S: Copy, T: Copy> Output<W, S, T> {
    /// An output without a source, as after its end.
    pub(crate) fn new(stream: Stream, sink: Option<Sink<W, S>>) -> Self {
        Self {
            source: None,
            kind: Kind::Other,
            stream,
            pace: None,
            throttle: None,
            held: Vec::new(),
            sink: sink.map(Box::new),
            held_back: false,
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

    /// Limits the rate until the child has ended.
    pub(crate) fn limit(&mut self, rate: LogRate, timers: PaceTimers<T>) {
        self.throttle = Some(Box::new(Throttle::new(rate, timers.pause)));
        self.pace = self.paced(timers);
        self.keep_size();
    }

    /// How reads are delayed in a flood; `None` if they never are. A terminal is never paced,
    /// because of its echoes. Nor is a socket: it holds about 270 writes of any size, since each
    /// counts for its writer with all that the kernel keeps of it (socket(7), `SO_SNDBUF`). It
    /// would be full after a pause, and a writer that does not wait for room would lose bytes. A
    /// rate limit accepts that, so with one both are paced.
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

    /// The descriptor that is read; `None` after its end.
    pub(crate) fn source(&self) -> Option<&File> {
        self.source.as_ref().map(|(source, _)| source)
    }

    /// Whether the output is at its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.source.is_none()
    }

    /// Whether the output is forwarded to a terminal.
    pub(crate) fn forwards_to_terminal(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.is_terminal())
    }

    /// Whether all bytes that were read are in the log and have been forwarded.
    pub(crate) fn is_flushed(&self) -> bool {
        self.held.is_empty() && self.sink.as_ref().is_none_or(|sink| sink.is_empty())
    }

    /// Bytes beyond the rate that were left out, and bytes that the sink has left out.
    pub(crate) fn dropped(&self) -> u64 {
        let left_out = self.throttle.as_ref().map_or(0, |throttle| throttle.left_out());
        left_out + self.sink.as_ref().map_or(0, |sink| sink.dropped())
    }

    /// Reads what is there, up to a bound, and relays it. Returns whether bytes came.
    pub(crate) fn turn(
        &mut self,
        log: &mut Log,
        audience: &mut impl Audience<S>,
        cx: &mut Context<'_, S, T>,
    ) -> bool {
        self.end_gap(log, audience, cx);
        let Some(id) = self.source.as_ref().map(|(_, id)| *id) else { return false };
        self.held_back = audience.room() == 0;
        if self.waits_for_sinks() {
            // The edge is kept until it is read again.
            self.end_pace(cx);
            if let Some(throttle) = &mut self.throttle {
                throttle.wait_no_more(id, cx);
            }
            self.pause_or_resume(&mut cx.sources);
            return false;
        }
        let allowed = self.allowed(id, cx);
        if allowed == 0 {
            self.pause_or_resume(&mut cx.sources);
            return false;
        }
        let forwarded = self.sink.is_some() || !audience.is_empty();
        let room = if forwarded { FORWARDED.min(cx.scratch.len()) } else { cx.scratch.len() };
        let room = room.min(allowed).min(audience.room());
        let (count, stopped) = self.gather(cx.scratch.get_mut(..room).unwrap_or_default());
        let empty = !matches!(stopped, Stopped::Bounded);
        if count > 0 {
            let kept = self.count_rate(count, cx);
            let bytes = cx.scratch.get(..kept).unwrap_or_default();
            self.relay(bytes, cx.spare, log, audience, &mut cx.sources);
        }
        match &stopped {
            // The next turn continues, even if an earlier one has consumed the edge.
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
            // Sets the wait now, most often, instead of in one more call.
            self.allowed(id, cx);
        }
        self.pause_or_resume(&mut cx.sources);
        count > 0
    }

    /// Reads into `scratch`; returns how many bytes, and why no more.
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
                    // A short read does not count in the tail: a child may have put its pipe into
                    // packet mode (pipe(2): `O_DIRECT`), in which each read returns one packet.
                    if self.tail.is_none() && self.kind.is_emptied_by(read, asked) {
                        return (count, Stopped::Short);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.count_tail(0, true);
                    return (count, Stopped::Empty);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                end if self.is_closed_for_now(&end) => return (count, Stopped::Empty),
                end => return (count, Stopped::Ended(end.err())),
            }
        }
        (count, Stopped::Bounded)
    }

    /// How many bytes may be read now, by the rate; for none, a wait begins. No rate applies to the
    /// tail.
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

    /// Counts bytes that were read; returns how many of them are kept.
    fn count_rate(&mut self, count: usize, cx: &mut Context<'_, S, T>) -> usize {
        match self.throttle.as_mut().filter(|_| self.tail.is_none()) {
            Some(throttle) => throttle.read(count, cx),
            None => count,
        }
    }

    /// Reports bytes that were left out, once no more are to be left out for a while.
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
        // Bytes that were read before them come first.
        if self.held.is_empty() {
            let bytes = throttle.end_gap(over, cx);
            self.report_gap(bytes, log, audience, &mut cx.sources);
        }
    }

    fn report_gap(
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
        audience.offer_notice(&line, sources);
    }

    /// Delays the reads of a flooded source. The tail is read as fast as it comes.
    fn keep_pace(&mut self, count: usize, empty: bool, cx: &mut Context<'_, S, T>) {
        if self.tail.is_some() {
            self.end_pace(cx);
        } else if let (Some(pace), Some((source, id))) = (&mut self.pace, &self.source) {
            pace.note_read(source, *id, count, empty, cx);
        }
    }

    fn end_pace(&mut self, cx: &mut Context<'_, S, T>) {
        if let (Some(pace), Some((_, id))) = (&mut self.pace, &self.source) {
            pace.end_flood(*id, cx);
        }
    }

    /// Gives a pipe that has grown its size back, unless it is still flooded.
    pub(crate) fn trim(&mut self, cx: &mut Context<'_, S, T>) {
        let blocked = self.is_paused();
        if let Some(pace) = &mut self.pace {
            pace.trim(self.source.as_ref().map(|(source, _)| source), blocked, cx);
        }
    }

    /// Offers the log again the bytes that it has not taken.
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
        // The drain waits for that, and its timer may have expired too early.
        if self.held.is_empty()
            && let Some(throttle) = &mut self.throttle
            && (self.tail.is_some() || throttle.gap_is_over())
        {
            let bytes = throttle.take_gap();
            self.report_gap(bytes, log, audience, sources);
        }
        self.pause_or_resume(sources);
    }

    /// Continues to forward once the sink's writer is ready.
    pub(crate) fn flush_sink(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(sink) = &mut self.sink {
            sink.flush(sources);
        }
        self.pause_or_resume(sources);
    }

    /// Reads no further, or reads again, as the audience has room.
    pub(crate) fn hold_back(&mut self, held_back: bool, sources: &mut Sources<'_, S>) {
        if self.held_back != held_back {
            self.held_back = held_back;
            self.pause_or_resume(sources);
        }
    }

    /// Whether the audience has no room.
    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// The child has ended, with `left` of its bytes in the pipe: notes when all of them have been
    /// read.
    pub(crate) fn begin_tail(&mut self, left: Option<usize>) {
        self.tail = Some(Tail { left, empty: false });
    }

    /// Whether every byte that the child itself has written has been read.
    pub(crate) fn has_tail(&self) -> bool {
        let read = |tail: Tail| tail.empty || tail.left == Some(0);
        self.has_ended() || self.tail.is_some_and(read)
    }

    /// Whether the kernel can't report how much of the tail the child itself has written, as for a
    /// device such as `/dev/zero`, which never ends.
    pub(crate) fn has_unknown_tail(&self) -> bool {
        self.tail.is_some_and(|tail| tail.left.is_none())
    }

    /// Whether the last read found the output empty, and it is being read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.has_ended() || (!self.is_paused() && self.tail.is_some_and(|tail| tail.empty))
    }

    /// Reads no more. Bytes that have been read continue on their way.
    pub(crate) fn end(&mut self, sources: &mut Sources<'_, S>) {
        if let Some((_, id)) = self.source.take() {
            sources.deregister(id);
        }
    }

    /// Whether bytes wait for the log.
    pub(crate) fn waits_for_log(&self) -> bool {
        !self.held.is_empty()
    }

    /// Forwards no more; bytes that wait for the sink are counted as left out.
    pub(crate) fn abandon_sink(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(sink) = &mut self.sink {
            sink.abandon(sources);
        }
        self.pause_or_resume(sources);
    }

    /// Reads no more: returns the source, at the size that its pipe had, the bytes that the log has not
    /// taken, and those that the sink has not.
    pub(crate) fn release(
        &mut self,
        cx: &mut Context<'_, S, T>,
    ) -> (Option<OwnedFd>, Vec<u8>, Vec<u8>) {
        self.end_pace(cx);
        if let (Some(pace), Some((source, _))) = (&mut self.pace, &self.source) {
            pace.end(source, cx);
        }
        let source = self.source.take().map(|(source, id)| {
            cx.sources.deregister(id);
            source.into()
        });
        let unforwarded = self.sink.as_mut().map(|sink| sink.release(&mut cx.sources));
        (source, std::mem::take(&mut self.held), unforwarded.unwrap_or_default())
    }

    /// Gives up all bytes that wait; they are counted as left out.
    pub(crate) fn abandon(&mut self, log: &mut Log, sources: &mut Sources<'_, S>) {
        // The number of bytes in a pipe is known, that in a PTY is not.
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

    /// Writes to the log first. What it has taken goes on to the sink and the audience; the rest is
    /// held.
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
        self.held_back = audience.room() == 0;
    }

    /// Whether this is not the end of the output: a live child has closed its terminal.
    ///
    /// Closing the master now would hang it up: a child that closes its streams on exit would get
    /// SIGHUP, and lose its exit code. It may also open `/dev/tty` again.
    fn is_closed_for_now(&self, end: &io::Result<usize>) -> bool {
        let no_process = match end {
            Ok(count) => *count == 0,
            Err(error) => error.raw_os_error() == Some(libc::EIO),
        };
        no_process && self.kind == Kind::RawTerminal && self.tail.is_none()
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
        self.held_back
            || !self.held.is_empty()
            || self.sink.as_ref().is_some_and(|sink| !sink.accepts())
    }

    fn pause_or_resume(&mut self, sources: &mut Sources<'_, S>) {
        let interest = if self.is_paused() { Interest::NONE } else { Interest::READ };
        if let Some((_, id)) = self.source {
            // A change of the wish to read needs no system call, so this can't fail.
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
