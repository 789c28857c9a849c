//! One packet client: its input, and what waits for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use tracing::debug;

use super::queue::{Packet, Queue, Tag};
use crate::monitor::attach::{EndOfInput, SessionId};
use crate::monitor::keys::{Cx, Source, Sources};
use crate::reactor::{Interest, SourceId};
use crate::relay::notice;
use crate::terminal::SEND_FLAGS;

/// Bytes of a packet of input that are read; the kernel discards the rest (recv(2)).
const INPUT: usize = 32 << 10;

/// A queue may be longer than its share by this: a line about left-out bytes may come on top of
/// what was read.
const SLACK: usize = 1 << 10;

/// What came of reading a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum PacketInput {
    /// Nothing for the child.
    Nothing,
    /// This many bytes of input are in the scratch buffer.
    Bytes(usize),
    /// The client's input is over, and so is the child's.
    Ended,
    /// The client has closed its socket.
    Closed,
}

/// How far the input of a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// It is read.
    Open,
    /// It is read again when the child takes input.
    Blocked,
    /// An empty packet, a shutdown or the close of the socket has been read.
    Ended,
}

/// Which of the output a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// All of it.
    Following,
    /// What waits for it, and then the number of bytes that were left out since.
    Skipped(u64),
    /// Nothing: it takes no more.
    Gone,
}

/// What waits for a client that has not taken all of the output.
#[derive(Debug)]
struct Waiting {
    queue: Queue,
    /// When the client last took a packet, or when the first bytes began to wait.
    since: Instant,
}

/// An attached client.
#[derive(Debug)]
pub(super) struct Client {
    id: SessionId,
    socket: OwnedFd,
    source: SourceId,
    end: EndOfInput,
    input: Input,
    output: Output,
    /// Boxed: a client that keeps up has none.
    waiting: Option<Box<Waiting>>,
    missed: u64,
}

/// What became of a packet.
enum Sent {
    /// The client's socket has all of it.
    Whole,
    /// The client's socket is full.
    Full,
    /// The client takes no more.
    Refused,
}

impl Client {
    /// A client that gets the output from now on.
    ///
    /// # Errors
    ///
    /// The poller's; the socket is returned.
    pub(super) fn new(
        id: SessionId,
        socket: OwnedFd,
        end: EndOfInput,
        sources: &mut Sources<'_>,
    ) -> Result<Self, (io::Error, OwnedFd)> {
        match sources.register(&socket, Interest::READ, Source::PacketClient(id).key()) {
            Ok(source) => Ok(Self {
                id,
                socket,
                source,
                end,
                input: Input::Open,
                output: Output::Following,
                waiting: None,
                missed: 0,
            }),
            Err(error) => Err((error, socket)),
        }
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Bytes that were left out.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether bytes wait for it.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// When it last took a packet, if bytes wait for it.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.since)
    }

    /// How many more bytes may wait for it, of its share; `None` if that does not hold the output
    /// back.
    pub(super) fn free(&self, share: usize) -> Option<usize> {
        (self.output == Output::Following).then(|| share.saturating_sub(self.queued()))
    }

    /// Whether its queue holds the output back.
    pub(super) fn is_full(&self, share: usize) -> bool {
        self.free(share).is_some_and(|free| free < super::LEAST_READ)
    }

    fn queued(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.queue.size())
    }

    /// Whether its socket is closed in both directions.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        let [fd] = fds;
        fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Sends a packet, or has it wait.
    pub(super) fn offer(&mut self, packet: &Packet, share: usize, sources: &mut Sources<'_>) {
        let bytes = packet.payload();
        match &mut self.output {
            Output::Following => {}
            Output::Skipped(since) => {
                *since += bytes.len() as u64;
                self.missed += bytes.len() as u64;
                return;
            }
            Output::Gone => return,
        }
        if self.waiting.is_none() {
            match self.send(packet) {
                Sent::Whole => return,
                Sent::Full => {}
                Sent::Refused => return self.refuse(sources),
            }
        }
        let free = (share + SLACK).saturating_sub(self.queued());
        let (kept, lost) = bytes.split_at(free.min(bytes.len()));
        let begins = self.waiting.is_none();
        let new = || Box::new(Waiting { queue: Queue::default(), since: Instant::now() });
        self.waiting.get_or_insert_with(new).queue.push(packet.tag(), kept);
        if !lost.is_empty() {
            // They were read before the client came, and have waited for a full disk since.
            self.output = Output::Skipped(lost.len() as u64);
            self.missed += lost.len() as u64;
        }
        if begins {
            self.watch(sources);
        }
    }

    /// Sends what waits, as far as the client takes it. If it then has all that was not left out,
    /// it gets a line with the number of bytes that were, in a packet of `notices`, and follows the
    /// output again.
    pub(super) fn flush(&mut self, notices: Tag, now: Instant, sources: &mut Sources<'_>) {
        let mut packet = Packet::default();
        while let Some(waiting) = &mut self.waiting {
            let Some((tag, bytes)) = waiting.queue.front() else {
                if let Output::Skipped(count) = self.output {
                    self.output = Output::Following;
                    if count > 0 {
                        waiting.queue.push(notices, &notice(count));
                        continue;
                    }
                }
                self.waiting = None;
                return self.watch(sources);
            };
            packet.fill(tag, bytes);
            match self.send(&packet) {
                Sent::Whole => {
                    if let Some(waiting) = &mut self.waiting {
                        waiting.queue.advance(packet.payload().len());
                        waiting.since = now;
                    }
                }
                Sent::Full => return sources.would_block(self.source, Interest::WRITE),
                Sent::Refused => return self.refuse(sources),
            }
        }
    }

    /// From now on the output is left out, until the client has taken what waits for it.
    pub(super) fn skip(&mut self) {
        debug!(session = self.id.0, "a packet client takes nothing, so it is skipped");
        self.output = Output::Skipped(0);
    }

    /// Begins the time anew that it has to take what waits.
    pub(super) fn restart_wait(&mut self, now: Instant) {
        if let Some(waiting) = &mut self.waiting {
            waiting.since = now;
        }
    }

    /// Reads a packet into the scratch buffer. `accepts` is whether the child takes input now.
    pub(super) fn read(&mut self, accepts: bool, cx: &mut Cx<'_>) -> PacketInput {
        match self.input {
            Input::Blocked => return PacketInput::Nothing,
            Input::Ended if self.is_hung_up() => return PacketInput::Closed,
            Input::Ended => {
                cx.sources.would_block(self.source, Interest::READ);
                return PacketInput::Nothing;
            }
            Input::Open if !accepts => {
                self.input = Input::Blocked;
                self.watch(&mut cx.sources);
                return PacketInput::Nothing;
            }
            Input::Open => {}
        }
        let size = INPUT.min(cx.scratch.len());
        let buffer = cx.scratch.get_mut(..size).unwrap_or_default();
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(count @ 1..) => PacketInput::Bytes(count),
            Err(Errno::EAGAIN) => {
                cx.sources.would_block(self.source, Interest::READ);
                PacketInput::Nothing
            }
            // It has closed its socket without reading all: what it has sent before comes next.
            Err(Errno::EINTR | Errno::ECONNRESET) => PacketInput::Nothing,
            // The next call detects whether it was a half-close or a close.
            Ok(0) | Err(_) => {
                self.input = Input::Ended;
                match self.end {
                    EndOfInput::ClosesStdin => PacketInput::Ended,
                    EndOfInput::Ignored => PacketInput::Nothing,
                }
            }
        }
    }

    /// The child takes input again.
    pub(super) fn resume_input(&mut self, sources: &mut Sources<'_>) {
        if self.input == Input::Blocked {
            self.input = Input::Open;
            self.watch(sources);
        }
    }

    /// Before it is removed: discards its input that was not read. The client's next read would
    /// fail otherwise with `ECONNRESET`, before it has the last output (Linux: `unix_release_sock`).
    pub(super) fn release(&self, sources: &mut Sources<'_>) {
        sources.deregister(self.source);
        let fd = self.socket.as_raw_fd();
        // No more can come.
        let _ = shutdown(fd, Shutdown::Read);
        while matches!(recv(fd, &mut [0], MsgFlags::MSG_DONTWAIT), Ok(1..) | Err(Errno::EINTR)) {}
    }

    /// The client takes no more output. It may still send input; its close is reported on that side.
    fn refuse(&mut self, sources: &mut Sources<'_>) {
        self.output = Output::Gone;
        self.waiting = None;
        self.watch(sources);
    }

    /// Watches for input, or for the close after its end, and while bytes wait for the client.
    fn watch(&self, sources: &mut Sources<'_>) {
        let interest = match (self.input == Input::Blocked, self.is_waiting()) {
            (false, false) => Interest::READ,
            (false, true) => Interest::BOTH,
            (true, false) => Interest::NONE,
            (true, true) => Interest::WRITE,
        };
        if let Err(error) = sources.want(self.source, interest) {
            // What waits is then sent when its queue is full, or at the end.
            debug!(session = self.id.0, "can't watch a packet client: {error}");
        }
    }

    /// Sends a packet whole, or not at all.
    fn send(&self, packet: &Packet) -> Sent {
        loop {
            match send(self.socket.as_raw_fd(), packet.as_bytes(), SEND_FLAGS) {
                Ok(_) => return Sent::Whole,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return Sent::Full,
                Err(error) => {
                    debug!(session = self.id.0, "a packet client takes no more: {error}");
                    return Sent::Refused;
                }
            }
        }
    }
}
