//! The clients of one server: access control, fairness and limits.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, rlim_t};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tracing::{debug, warn};

use super::super::MAX_MESSAGE;
use super::super::call::Call;
use super::backend::{Backend, Interface};
use super::connection::{Connection, Fate, Input, Mode};
use super::fault::{self, Fault};
use super::routing::{Route, route};
use crate::reactor::{Interest, Ready, SourceId, TimerId};
use crate::socket;

/// The key of the client in the first slot, for its source and its timer.
pub(super) const FIRST_KEY: u32 = 1;

/// Limit of clients, including attached ones.
const MAX_CLIENTS: usize = 1024;

/// Limit of memory for all clients.
const MAX_MEMORY: usize = 4 << 20;

/// Descriptors reserved for the log's next file, the record and the next start of the child.
const RESERVED_DESCRIPTORS: rlim_t = 24;

/// Limit of clients accepted in one turn of the loop.
const MAX_ACCEPTS: usize = 64;

/// Limit of clients served in one turn of the loop, so that the child and attached clients are
/// served in between.
const MAX_SERVED: usize = 16;

/// Limit of reads from one client in a turn, each of at most 4096 bytes.
const MAX_READS: usize = 16;

/// Limit of calls of one client that are answered at the end.
const MAX_LAST_CALLS: usize = 4;

/// Pause of accept(2) when no descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

/// The clients of one server.
pub(super) struct Connections {
    listener: SourceId,
    /// The limit for the rest of a message, and for the taking of a reply.
    timeout: Duration,
    slots: Vec<Option<Connection>>,
    open: usize,
    paused: Option<TimerId>,
    /// Whether it was reported that no client can be accepted. None has been since.
    refusing: bool,
    turn: Turn,
    /// Slots of clients that did not fit into a turn, oldest first.
    waiting: VecDeque<usize>,
}

/// A client that waits for a reply.
#[cfg(all(feature = "host", feature = "codec"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId {
    slot: usize,
    /// Unlike the slot, never reused.
    source: SourceId,
}

/// The remaining capacity of one turn of the loop.
#[derive(Debug, Default)]
struct Turn {
    number: u64,
    left: usize,
}

impl Connections {
    pub(super) fn new(listener: SourceId, timeout: Duration) -> Self {
        let (turn, waiting) = (Turn::default(), VecDeque::new());
        Self {
            listener,
            timeout,
            slots: Vec::new(),
            open: 0,
            paused: None,
            refusing: false,
            turn,
            waiting,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Accepts pending connections, up to a limit.
    pub(super) fn accept(&mut self, listener: &UnixListener, cx: &mut dyn Backend) {
        for _ in 0..MAX_ACCEPTS {
            match listener.accept() {
                Ok((stream, _)) => {
                    self.refusing = false;
                    self.admit(stream, cx);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return cx.would_block(self.listener, Interest::READ);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.pause(&error, cx),
            }
        }
    }

    /// Accepts all pending connections of this listener, for the last time.
    pub(super) fn accept_all(&mut self, listener: &UnixListener, cx: &mut dyn Backend) {
        for _ in 0..MAX_CLIENTS {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, cx),
                Err(error) if is_passing(&error) => {}
                Err(_) => break,
            }
        }
        if let Some(timer) = self.paused.take() {
            cx.cancel_timer(timer);
        }
    }

    /// Takes what waits at a listener that another one replaces.
    pub(super) fn move_to(&mut self, listener: SourceId, old: &UnixListener, cx: &mut dyn Backend) {
        self.accept_all(old, cx);
        self.listener = listener;
    }

    /// Without free descriptors the listener would be reported readable in every turn.
    fn pause(&mut self, error: &io::Error, cx: &mut dyn Backend) {
        if !std::mem::replace(&mut self.refusing, true) {
            warn!("can't accept clients for now: {error}");
        }
        let _ = cx.want(self.listener, Interest::NONE);
        self.paused = Some(cx.set_timer(PAUSE, 0));
    }

    pub(super) fn accept_again(&mut self, cx: &mut dyn Backend) {
        self.paused = None;
        if cx.want(self.listener, Interest::READ).is_err() {
            self.paused = Some(cx.set_timer(PAUSE, 0));
        }
    }

    fn admit(&mut self, stream: UnixStream, cx: &mut dyn Backend) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let us = geteuid().as_raw();
        match socket::peer_uid(&stream) {
            Ok(uid) if uid == us || uid == 0 => {}
            peer => {
                debug!("a client is refused: {peer:?}");
                return refuse(&stream, &Fault::new("PermissionDenied", json!({})), cx.interface());
            }
        }
        if self.open >= MAX_CLIENTS {
            return refuse(&stream, &too_many(), cx.interface());
        }
        if is_reserved(&stream) {
            return refuse(&stream, &no_descriptors(), cx.interface());
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        // At most [`MAX_CLIENTS`].
        let key = slot as u32 + FIRST_KEY;
        let source = match cx.register(stream.as_fd(), Interest::READ, key) {
            Ok(source) => source,
            Err(error) => {
                let fault = Fault::failed(&error.to_string());
                return refuse(&stream, &fault, cx.interface());
            }
        };
        self.open += 1;
        self.put(slot, Connection::new(stream, source, key, self.timeout));
    }

    fn put(&mut self, slot: usize, connection: Connection) {
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(connection),
            None => self.slots.push(Some(connection)),
        }
    }

    /// Calls `act` with the connection in a slot and closes it if `act` returns [`Fate::Gone`].
    pub(super) fn with(
        &mut self,
        slot: usize,
        cx: &mut dyn Backend,
        act: impl FnOnce(&mut Connection, &mut dyn Backend) -> Fate,
    ) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(connection) = place else { return };
        if act(connection, cx) == Fate::Gone
            && let Some(connection) = place.take()
        {
            drop(connection.into_stream(cx));
            self.left();
        }
    }

    /// Calls `act` with each connection, as [`with`](Self::with).
    pub(super) fn each(
        &mut self,
        cx: &mut dyn Backend,
        mut act: impl FnMut(&mut Connection, &mut dyn Backend) -> Fate,
    ) {
        for slot in 0..self.slots.len() {
            self.with(slot, cx, &mut act);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().flatten()
    }

    /// A slot has become free. After the last one the memory is released.
    pub(super) fn left(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.slots = Vec::new();
            self.waiting = VecDeque::new();
        }
    }

    pub(super) fn timer(&mut self, key: u32, cx: &mut dyn Backend) {
        self.with(slot_of(key), cx, Connection::timer_expired);
    }

    pub(super) fn ready(&mut self, key: u32, ready: Ready, cx: &mut dyn Backend) {
        let slot = slot_of(key);
        if ready.is_writable() {
            self.with(slot, cx, Connection::flush);
            cx.flushed(self, slot);
        }
        if ready.is_readable() {
            self.serve_in_turn(slot, cx);
        }
    }

    /// Serves a client within the capacity of the turn, clients from earlier turns first. A client
    /// that must wait stays ready, so the next turn follows at once.
    fn serve_in_turn(&mut self, slot: usize, cx: &mut dyn Backend) {
        if self.turn.number != cx.turn() {
            self.turn = Turn { number: cx.turn(), left: MAX_SERVED };
            while self.turn.left > 0
                && let Some(slot) = self.waiting.pop_front()
            {
                // Another client may have the slot by now, which does no harm.
                if let Some(Some(waiting)) = self.slots.get_mut(slot) {
                    waiting.waits = false;
                    self.turn.left -= 1;
                    self.serve(slot, cx);
                }
            }
        }
        let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
        if connection.waits {
            return;
        }
        if self.turn.left == 0 {
            connection.waits = true;
            self.waiting.push_back(slot);
            return;
        }
        self.turn.left -= 1;
        self.serve(slot, cx);
    }

    /// Reads and answers the next call.
    fn serve(&mut self, slot: usize, cx: &mut dyn Backend) {
        for _ in 0..MAX_READS {
            let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
            if !connection.is_flushed() {
                return;
            }
            match connection.mode {
                Mode::Closing => return,
                Mode::Watching(_) | Mode::Following(_) => {
                    return self.with(slot, cx, Connection::discard);
                }
                Mode::Pending { .. } => return self.with(slot, cx, Connection::defer),
                Mode::Calls => {}
            }
            match connection.read(cx) {
                Input::Message(message) if message.len() < MAX_MESSAGE => {
                    return self.message(slot, &message, cx);
                }
                Input::Part if !connection.is_too_long() => {
                    if connection.held() > MAX_MEMORY / MAX_CLIENTS {
                        self.bound(cx);
                    }
                }
                Input::Message(_) | Input::Part => {
                    let fault = Fault::new("MessageTooLong", json!({ "limit": MAX_MESSAGE }));
                    self.with(slot, cx, |it, cx| it.close_with(&fault, cx));
                }
                Input::Nothing => return,
                Input::End => return self.with(slot, cx, Connection::end),
            }
        }
    }

    /// Closes the client with the most memory while all clients together exceed the limit.
    fn bound(&mut self, cx: &mut dyn Backend) {
        let held: usize = self.slots.iter().flatten().map(Connection::held).sum();
        if held <= MAX_MEMORY {
            return;
        }
        let sizes = self.slots.iter().enumerate();
        let largest = sizes.max_by_key(|(_, slot)| slot.as_ref().map_or(0, Connection::held));
        if let Some((slot, _)) = largest {
            let fault = Fault::new("TooMuchUnfinished", json!({ "limit": MAX_MEMORY }));
            self.with(slot, cx, |it, cx| match it.mode {
                Mode::Calls if it.is_unfinished() => it.close_with(&fault, cx),
                // Its unread replies alone exceed the limit.
                _ => Fate::Gone,
            });
        }
    }

    fn message(&mut self, slot: usize, message: &[u8], cx: &mut dyn Backend) {
        let call = match Call::read(message, cx.interface().nested) {
            Ok(call) => call,
            Err(reason) => {
                let fault = Fault::new("InvalidMessage", json!({ "message": reason }));
                return self.with(slot, cx, |it, cx| it.close_with(&fault, cx));
            }
        };
        match route(&call, cx.interface()) {
            Route::Own(method) => cx.call(self, slot, method, &call),
            Route::Answered(_) if call.oneway => {}
            Route::Answered(answer) => self.reply(slot, answer, cx),
        }
    }

    /// The client in this slot waits for a reply from now on.
    #[cfg(all(feature = "host", feature = "codec"))]
    pub(super) fn suspend(&mut self, slot: usize) -> Option<ClientId> {
        let connection = self.slots.get_mut(slot)?.as_mut()?;
        connection.mode = Mode::Pending { queued: false };
        Some(ClientId { slot, source: connection.source })
    }

    /// The slot of a client that still waits for its reply, which it is to get now.
    #[cfg(all(feature = "host", feature = "codec"))]
    pub(super) fn resume(&mut self, client: ClientId) -> Option<usize> {
        let connection = self.slots.get_mut(client.slot)?.as_mut()?;
        let waits =
            connection.source == client.source && matches!(connection.mode, Mode::Pending { .. });
        waits.then(|| connection.mode = Mode::Calls).map(|()| client.slot)
    }

    /// The slots of clients that watch the events of a host.
    #[cfg(all(feature = "host", feature = "codec"))]
    pub(super) fn following(&self) -> Vec<usize> {
        let follows = |slot: &Option<Connection>| {
            slot.as_ref().is_some_and(|it| matches!(it.mode, Mode::Following(_)))
        };
        (0..).zip(&self.slots).filter(|(_, slot)| follows(slot)).map(|(at, _)| at).collect()
    }

    /// Whether a client still waits for its reply.
    #[cfg(all(feature = "host", feature = "codec"))]
    pub(super) fn is_pending(&self, client: ClientId) -> bool {
        let connection = self.slots.get(client.slot).and_then(Option::as_ref);
        connection
            .is_some_and(|it| it.source == client.source && matches!(it.mode, Mode::Pending { .. }))
    }

    /// Sends the only reply to a call.
    pub(super) fn reply(
        &mut self,
        slot: usize,
        answer: Result<Value, Fault>,
        cx: &mut dyn Backend,
    ) {
        let message = match answer {
            Ok(parameters) => fault::reply(parameters, false),
            Err(fault) => fault.message(cx.interface()),
        };
        self.with(slot, cx, |it, cx| it.send(message, cx));
    }

    /// Takes the socket of a client that is to become a session, beside this number of sessions;
    /// [`left`](Self::left) or [`take_back`](Self::take_back) follows. `None` if it is refused.
    pub(super) fn hand_over(
        &mut self,
        slot: usize,
        sessions: usize,
        cx: &mut dyn Backend,
    ) -> Option<UnixStream> {
        if self.open + sessions > MAX_CLIENTS {
            let fault = too_many();
            self.with(slot, cx, |it, cx| it.close_with(&fault, cx));
            return None;
        }
        let connection = self.slots.get(slot)?.as_ref()?;
        // A session needs a second descriptor.
        if connection.stream.try_clone().map_or(true, |second| is_reserved(&second)) {
            self.reply(slot, Err(no_descriptors()), cx);
            return None;
        }
        let connection = self.slots.get_mut(slot)?.take()?;
        Some(connection.into_stream(cx))
    }

    /// The client of this slot has become no session, for this reason.
    pub(super) fn take_back(
        &mut self,
        slot: usize,
        stream: UnixStream,
        fault: Fault,
        cx: &mut dyn Backend,
    ) {
        let key = slot as u32 + FIRST_KEY;
        match cx.register(stream.as_fd(), Interest::READ, key) {
            Ok(source) => {
                self.put(slot, Connection::new(stream, source, key, self.timeout));
                self.reply(slot, Err(fault), cx);
            }
            Err(_) => self.left(),
        }
    }

    /// The server ends: answers received calls and closes clients without unread output.
    pub(super) fn finish(&mut self, cx: &mut dyn Backend) {
        for slot in 0..self.slots.len() {
            for _ in 0..MAX_LAST_CALLS {
                self.serve(slot, cx);
            }
            self.with(slot, cx, |it, cx| {
                if it.is_flushed() {
                    return Fate::Gone;
                }
                it.close(cx);
                Fate::Stays
            });
        }
    }
}

fn too_many() -> Fault {
    Fault::new("TooManyConnections", json!({ "limit": MAX_CLIENTS }))
}

fn no_descriptors() -> Fault {
    Fault::failed("no descriptors are left for more clients")
}

/// Whether this descriptor is among the last available ones. The kernel assigns the lowest free
/// number (open(2)), so all lower ones are in use.
fn is_reserved(descriptor: &impl AsRawFd) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return false };
    rlim_t::try_from(descriptor.as_raw_fd())
        .is_ok_and(|number| number + RESERVED_DESCRIPTORS >= limit)
}

/// Sends an error to a client that has not been admitted.
fn refuse(mut stream: &UnixStream, fault: &Fault, interface: Interface) {
    let _ = stream.write(&fault.message(interface));
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

fn slot_of(key: u32) -> usize {
    key.saturating_sub(FIRST_KEY) as usize
}
