//! The packet clients of a sandbox: sockets of type `SOCK_SEQPACKET` with the framing of conmon.
//!
//! Each gets both outputs of the child's own stdio, and what it sends is the child's input. They
//! stay attached over all runs of the sandbox. A full queue of a client that takes packets holds
//! the reading of the outputs back; one that takes none is skipped after a second, so no client
//! holds up the child for longer.

mod client;
mod queue;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::attach::{AttachError, AttachTo, EndOfInput, SessionId, SessionReport};
use super::attachments::share;
use super::keys::{Cx, Sources, Timer};
use crate::logfile::Stream;
use crate::reactor::{Ready, TimerId};
use client::Client;
pub(super) use client::PacketInput;
use queue::{PAYLOAD, Packet, Tag};

/// How long a client may take nothing while its queue is full, or at the end of the output.
const STALLED: Duration = Duration::from_secs(1);

/// The most clients: each has a descriptor.
pub(super) const MOST: usize = 1024;

/// An output is read while every queue has room for this many bytes. At most one client's share of
/// the memory, or nothing would ever be read for [`MOST`] clients.
const LEAST_READ: usize = 4 << 10;

/// The packet clients of one sandbox.
#[derive(Debug)]
pub(super) struct PacketClients {
    list: Vec<Client>,
    /// The stream of the line about left-out bytes.
    notices: Tag,
    /// Whether the child has ended: a client that takes nothing is let go.
    ending: bool,
    /// Set while a queue holds the outputs back, and while the last bytes wait.
    timer: Option<TimerId>,
}

impl PacketClients {
    /// No clients yet. `terminal` is whether the child has one, and `ending` whether it has ended.
    pub(super) fn new(terminal: bool, ending: bool) -> Self {
        let notices = if terminal { Tag::Stdout } else { Tag::Stderr };
        Self { list: Vec::new(), notices, ending, timer: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Makes room for one more client: returns whether there is.
    pub(super) fn reserve(&mut self, sources: &mut Sources<'_>) -> bool {
        if self.list.len() >= MOST {
            // While the child takes no input, no client is read that has sent some.
            self.remove_if(sources, Client::is_hung_up);
        }
        self.list.len() < MOST
    }

    /// Adds a client, which must be a non-blocking packet socket.
    ///
    /// # Errors
    ///
    /// The socket can't be registered; it is returned.
    pub(super) fn add(
        &mut self,
        id: SessionId,
        socket: OwnedFd,
        end: EndOfInput,
        sources: &mut Sources<'_>,
    ) -> Result<(), (AttachError, OwnedFd)> {
        let client = Client::new(id, socket, end, sources);
        self.list.push(client.map_err(|(error, socket)| (AttachError::System(error), socket))?);
        Ok(())
    }

    /// Every client, in the order in which they were attached.
    pub(super) fn report(&self) -> impl Iterator<Item = SessionReport> {
        self.list.iter().map(|client| SessionReport {
            session: client.id(),
            to: if self.notices == Tag::Stdout { AttachTo::Tty } else { AttachTo::Stdout },
            read_only: false,
            missed: client.missed(),
        })
    }

    /// How many bytes the outputs may be read now. None while a client that takes packets has a
    /// full queue.
    pub(super) fn room(&self) -> usize {
        let share = share(self.list.len());
        let free = self.list.iter().filter_map(|client| client.free(share)).min();
        free.filter(|free| *free < LEAST_READ).map_or(free.unwrap_or(usize::MAX), |_| 0)
    }

    /// Sends bytes that the log has taken to every client, as far as each takes them now.
    pub(super) fn offer(&mut self, stream: Stream, bytes: &[u8], sources: &mut Sources<'_>) {
        let share = share(self.list.len());
        let mut packet = Packet::default();
        for part in bytes.chunks(PAYLOAD) {
            packet.fill(Tag::of(stream), part);
            self.list.iter_mut().for_each(|client| client.offer(&packet, share, sources));
        }
    }

    /// A client is ready: sends what waits for it, reads one packet of it into the scratch buffer,
    /// if the child `accepts` input now, and removes a client that has closed its socket.
    pub(super) fn serve(
        &mut self,
        id: SessionId,
        ready: Ready,
        accepts: bool,
        cx: &mut Cx<'_>,
    ) -> PacketInput {
        let notices = self.notices;
        let Some(client) = self.list.iter_mut().find(|client| client.id() == id) else {
            return PacketInput::Nothing;
        };
        if ready.is_writable() {
            client.flush(notices, Instant::now(), &mut cx.sources);
        }
        if !ready.is_readable() {
            return PacketInput::Nothing;
        }
        let input = client.read(accepts, cx);
        if input == PacketInput::Closed {
            self.remove_if(&mut cx.sources, |client| client.id() == id);
        }
        input
    }

    /// The child takes input again.
    pub(super) fn resume_input(&mut self, sources: &mut Sources<'_>) {
        self.list.iter_mut().for_each(|client| client.resume_input(sources));
    }

    /// Whether bytes wait for a client.
    pub(super) fn has_waiting(&self) -> bool {
        self.list.iter().any(Client::is_waiting)
    }

    /// A child runs.
    pub(super) fn start(&mut self) {
        self.ending = false;
    }

    /// The child has ended: each client has a second, and one more after each packet that it takes,
    /// to take what waits for it.
    pub(super) fn begin_drain(&mut self) {
        self.ending = true;
        let now = Instant::now();
        self.list.iter_mut().for_each(|client| client.restart_wait(now));
    }

    /// The time of a client may be over that has taken nothing.
    pub(super) fn timer_expired(&mut self, sources: &mut Sources<'_>) {
        self.timer = None;
        let (now, ending) = (Instant::now(), self.ending);
        let share = share(self.list.len());
        let limit = now.checked_sub(STALLED);
        let stalled = |client: &Client| client.waiting_since().is_some_and(|at| Some(at) <= limit);
        for client in &mut self.list {
            // The poller reports a socket only once three quarters of its buffer are free.
            client.flush(self.notices, now, sources);
            if !ending && stalled(client) && client.is_full(share) {
                client.skip();
            }
        }
        if ending {
            self.remove_if(sources, stalled);
        }
    }

    /// Sets the timer if it is needed now, and cancels it if it is not.
    pub(super) fn follow(&mut self, cx: &mut Cx<'_>) {
        let share = share(self.list.len());
        let awaited = self.list.iter().filter(|client| self.ending || client.is_full(share));
        let first = awaited.filter_map(Client::waiting_since).min();
        match (first, self.timer) {
            (Some(since), None) => {
                self.timer = Some(cx.timers.set_at(since + STALLED, Timer::PacketClients.key()));
            }
            (None, Some(timer)) => {
                cx.timers.cancel(timer);
                self.timer = None;
            }
            // One that is early is set again when it has expired.
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Removes the clients that bytes wait for.
    pub(super) fn abandon(&mut self, sources: &mut Sources<'_>) {
        self.remove_if(sources, Client::is_waiting);
    }

    /// Removes every client, and cancels the timer.
    pub(super) fn close(&mut self, cx: &mut Cx<'_>) {
        self.remove_if(&mut cx.sources, |_| true);
        self.follow(cx);
    }

    fn remove_if(&mut self, sources: &mut Sources<'_>, which: impl Fn(&Client) -> bool) {
        self.list.retain(|client| {
            let goes = which(client);
            if goes {
                client.release(sources);
            }
            !goes
        });
        if self.list.capacity() > 2 * self.list.len() {
            self.list.shrink_to_fit();
        }
    }
}
