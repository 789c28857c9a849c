//! The clients of one server: who may be one, whose turn it is, who has gone too far.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, rlim_t};
use nix::unistd::geteuid;
use serde_json::json;
use tracing::{debug, warn};

use super::super::call::Call;
use super::super::value::int;
use super::super::{MAX_MESSAGE, view};
use super::connection::{Connection, Fate, Look, Mode};
use super::methods::{self, Answer, Fault};
use crate::monitor::{Attach, Phase, ServiceContext, Transition};
use crate::reactor::{Interest, Ready, SourceId, TimerId};
use crate::socket;

/// The key of the client in the first slot, for its source and its timer.
pub(super) const FIRST_KEY: u32 = 1;

/// Clients at a time, those who are attached included.
const MOST: usize = 1024;

/// What all of them may make us hold.
const MOST_HELD: usize = 4 << 20;

/// Descriptors that are not for clients: the log needs some for its next file, the record for its
/// next entry, and the child for its next run.
const SPARE: rlim_t = 24;

/// Clients accepted in a turn.
const ACCEPTS: usize = 64;

/// Clients that are served in a turn of the loop. The child and those who are attached have theirs
/// in between, however many calls have come.
const SERVED: usize = 16;

/// Looks at one client in a turn, each at no more than a page, and at one message at most.
const LOOKS: usize = 16;

/// Calls of one client that are answered when all is over.
const LAST_CALLS: usize = 4;

/// How long nobody is accepted when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The clients of one server.
pub(super) struct Connections {
    listener: SourceId,
    /// The limit for the rest of a message, and for the taking of a reply.
    timeout: Duration,
    slots: Vec<Option<Connection>>,
    open: usize,
    paused: Option<TimerId>,
    turn: Turn,
    /// The slots of those for whom a turn had no room, the one that has waited longest first.
    waiting: VecDeque<usize>,
}

/// What is left of one turn of the loop.
#[derive(Debug, Default)]
struct Turn {
    number: u64,
    left: usize,
}

impl Connections {
    pub(super) fn new(listener: SourceId, timeout: Duration) -> Self {
        let (turn, waiting) = (Turn::default(), VecDeque::new());
        Self { listener, timeout, slots: Vec::new(), open: 0, paused: None, turn, waiting }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Accepts some of those who wait.
    pub(super) fn accept(&mut self, listener: &UnixListener, desk: &mut ServiceContext<'_, '_>) {
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, desk),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return desk.would_block(self.listener, Interest::READ);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.pause(&error, desk),
            }
        }
    }

    /// Accepts all who wait, for the last time.
    pub(super) fn accept_all(
        &mut self,
        listener: &UnixListener,
        desk: &mut ServiceContext<'_, '_>,
    ) {
        for _ in 0..MOST {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream, desk),
                Err(error) if is_passing(&error) => {}
                Err(_) => break,
            }
        }
        if let Some(timer) = self.paused.take() {
            desk.cancel_timer(timer);
        }
    }

    /// Without descriptors those who wait would be reported again and again.
    fn pause(&mut self, error: &io::Error, desk: &mut ServiceContext<'_, '_>) {
        warn!("no client is accepted for a while: {error}");
        let _ = desk.want(self.listener, Interest::NONE);
        self.paused = Some(desk.set_timer(PAUSE, 0));
    }

    pub(super) fn accept_again(&mut self, desk: &mut ServiceContext<'_, '_>) {
        self.paused = None;
        if desk.want(self.listener, Interest::READ).is_err() {
            self.paused = Some(desk.set_timer(PAUSE, 0));
        }
    }

    fn admit(&mut self, stream: UnixStream, desk: &mut ServiceContext<'_, '_>) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let us = geteuid().as_raw();
        match socket::peer_uid(&stream) {
            Ok(uid) if uid == us || uid == 0 => {}
            peer => {
                debug!("a client is refused: {peer:?}");
                return turn_away(&stream, &Fault::new("PermissionDenied", json!({})));
            }
        }
        if self.open >= MOST {
            return turn_away(&stream, &too_many());
        }
        if is_of_the_last(&stream) {
            return turn_away(&stream, &no_descriptors());
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        // Far fewer than 2^32.
        let key = slot as u32 + FIRST_KEY;
        let source = match desk.register(&stream, Interest::READ, key) {
            Ok(source) => source,
            Err(error) => {
                let fault = Fault::new("Failed", json!({ "message": error.to_string() }));
                return turn_away(&stream, &fault);
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

    /// Calls `act` with the connection in a slot, and closes it if that is its fate.
    fn with(
        &mut self,
        slot: usize,
        desk: &mut ServiceContext<'_, '_>,
        act: impl FnOnce(&mut Connection, &mut ServiceContext<'_, '_>) -> Fate,
    ) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(connection) = place else { return };
        if act(connection, desk) == Fate::Gone
            && let Some(connection) = place.take()
        {
            drop(connection.into_stream(desk));
            self.left();
        }
    }

    /// A connection has left its slot. With the last one the memory goes.
    fn left(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.slots = Vec::new();
            self.waiting = VecDeque::new();
        }
    }

    pub(super) fn timer(&mut self, key: u32, desk: &mut ServiceContext<'_, '_>) {
        self.with(slot_of(key), desk, Connection::timer_expired);
    }

    pub(super) fn ready(&mut self, key: u32, ready: Ready, desk: &mut ServiceContext<'_, '_>) {
        let slot = slot_of(key);
        if ready.is_writable() {
            self.with(slot, desk, Connection::flush);
        }
        if ready.is_readable() {
            self.serve_in_turn(slot, desk);
        }
    }

    /// Serves a client while the turn of the loop has room, those first who have waited. Who has to
    /// wait stays ready, so the next turn comes at once.
    fn serve_in_turn(&mut self, slot: usize, desk: &mut ServiceContext<'_, '_>) {
        if self.turn.number != desk.turn() {
            self.turn = Turn { number: desk.turn(), left: SERVED };
            while self.turn.left > 0
                && let Some(slot) = self.waiting.pop_front()
            {
                // Another may have the slot by now, which is as well.
                if let Some(Some(waiting)) = self.slots.get_mut(slot) {
                    waiting.waits = false;
                    self.turn.left -= 1;
                    self.serve(slot, desk);
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
        self.serve(slot, desk);
    }

    /// Answers the next call that has come, or takes a part of it.
    fn serve(&mut self, slot: usize, desk: &mut ServiceContext<'_, '_>) {
        for _ in 0..LOOKS {
            let Some(Some(connection)) = self.slots.get_mut(slot) else { return };
            if !connection.is_flushed() {
                return;
            }
            match connection.mode {
                Mode::Leaving => return,
                Mode::Watching(_) => return self.with(slot, desk, Connection::discard),
                Mode::Calls => {}
            }
            match connection.look(desk) {
                Look::Message(message) if message.len() < MAX_MESSAGE => {
                    return self.message(slot, &message, desk);
                }
                Look::Part if !connection.is_too_long() => {
                    if connection.held() > MOST_HELD / MOST {
                        self.bound(desk);
                    }
                }
                Look::Message(_) | Look::Part => {
                    let fault = Fault::new("MessageTooLong", json!({ "limit": MAX_MESSAGE }));
                    self.with(slot, desk, |it, desk| it.tell_off(&fault, desk));
                }
                Look::Nothing => return,
                Look::End => return self.with(slot, desk, Connection::end),
            }
        }
    }

    /// Drops whoever makes us hold most while all of them make us hold too much.
    fn bound(&mut self, desk: &mut ServiceContext<'_, '_>) {
        let held: usize = self.slots.iter().flatten().map(Connection::held).sum();
        if held <= MOST_HELD {
            return;
        }
        let sizes = self.slots.iter().enumerate();
        let largest = sizes.max_by_key(|(_, slot)| slot.as_ref().map_or(0, Connection::held));
        if let Some((slot, _)) = largest {
            let fault = Fault::new("TooMuchUnfinished", json!({ "limit": MOST_HELD }));
            self.with(slot, desk, |it, desk| match it.mode {
                Mode::Calls if it.is_unfinished() => it.tell_off(&fault, desk),
                // What it does not take of our replies is too much already.
                _ => Fate::Gone,
            });
        }
    }

    fn message(&mut self, slot: usize, message: &[u8], desk: &mut ServiceContext<'_, '_>) {
        let call = match Call::read(message) {
            Ok(call) => call,
            Err(reason) => {
                let fault = Fault::new("InvalidMessage", json!({ "message": reason }));
                return self.with(slot, desk, |it, desk| it.tell_off(&fault, desk));
            }
        };
        let answer = methods::answer(&call, desk);
        if call.oneway {
            // Nothing can follow where nothing may be said, so Watch and Attach are nothing.
            return;
        }
        match answer {
            Ok(Answer::Reply(parameters)) => {
                self.with(slot, desk, |it, desk| it.send(methods::reply(parameters, false), desk))
            }
            Ok(Answer::Watch) => self.with(slot, desk, watch),
            Ok(Answer::Attach(request)) => self.attach(slot, &request, desk),
            Err(fault) => self.with(slot, desk, |it, desk| it.send(fault.message(), desk)),
        }
    }

    /// Hands a connection over to the monitor; the reply goes first.
    fn attach(&mut self, slot: usize, request: &Attach, desk: &mut ServiceContext<'_, '_>) {
        let attached = desk.report().sessions.len();
        if self.open + attached > MOST {
            let fault = too_many();
            return self.with(slot, desk, |it, desk| it.tell_off(&fault, desk));
        }
        let Some(connection) = self.slots.get(slot).and_then(Option::as_ref) else { return };
        // A session takes a second one.
        if connection.stream.try_clone().map_or(true, |second| is_of_the_last(&second)) {
            let message = no_descriptors().message();
            return self.with(slot, desk, |it, desk| it.send(message, desk));
        }
        let Some(connection) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        let stream = connection.into_stream(desk);
        let attached = desk.attach(stream, request, |attached| {
            let reply = json!({
                "session": int(attached.session.0),
                "stream": attached.to.as_str(),
                "console": view::console_of(&attached.to),
                "tail": int(attached.tail),
            });
            methods::reply(reply, false)
        });
        let (error, stream) = match attached {
            Ok(_) => return self.left(),
            Err(refused) => refused,
        };
        let key = slot as u32 + FIRST_KEY;
        match desk.register(&stream, Interest::READ, key) {
            Ok(source) => {
                self.put(slot, Connection::new(stream, source, key, self.timeout));
                let message = Fault::of_attach(error).message();
                self.with(slot, desk, |it, desk| it.send(message, desk));
            }
            Err(_) => self.left(),
        }
    }

    /// Tells those who watch.
    pub(super) fn transition(
        &mut self,
        transition: &Transition,
        desk: &mut ServiceContext<'_, '_>,
    ) {
        let is_watching =
            |slot: &Option<Connection>| slot.as_ref().is_some_and(|it| it.is_watching());
        if !self.slots.iter().any(is_watching) {
            return;
        }
        let (event, phase) = view::transition(transition);
        let last = phase == Phase::Stopped;
        let message = methods::reply(json!({ "event": event }), !last);
        for slot in 0..self.slots.len() {
            self.with(slot, desk, |it, desk| match it.mode {
                Mode::Watching(told) if told != phase => {
                    if last {
                        it.leave(desk);
                    } else {
                        it.mode = Mode::Watching(phase);
                    }
                    it.send_event(message.clone(), desk)
                }
                _ => Fate::Stays,
            });
        }
    }

    /// All is over: calls that have come are answered, and who has taken all is gone.
    pub(super) fn finish(&mut self, desk: &mut ServiceContext<'_, '_>) {
        for slot in 0..self.slots.len() {
            for _ in 0..LAST_CALLS {
                self.serve(slot, desk);
            }
            self.with(slot, desk, |it, desk| {
                if it.is_flushed() {
                    return Fate::Gone;
                }
                it.leave(desk);
                Fate::Stays
            });
        }
    }
}

/// Replies with the state, and goes on with the transitions unless that was the last.
fn watch(connection: &mut Connection, desk: &mut ServiceContext<'_, '_>) -> Fate {
    let report = desk.report();
    let last = report.phase == Phase::Stopped;
    if last {
        connection.leave(desk);
    } else {
        connection.mode = Mode::Watching(report.phase);
    }
    let event = json!({ "event": view::state(&report) });
    connection.send(methods::reply(event, !last), desk)
}

fn too_many() -> Fault {
    Fault::new("TooManyConnections", json!({ "limit": MOST }))
}

fn no_descriptors() -> Fault {
    Fault::new("Failed", json!({ "message": "no descriptors are left for more clients" }))
}

/// Whether this descriptor is among the last that the process may have. The kernel gives the lowest
/// that is free (open(2)), so those below it are in use.
fn is_of_the_last(descriptor: &impl AsRawFd) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return false };
    rlim_t::try_from(descriptor.as_raw_fd()).is_ok_and(|number| number + SPARE >= limit)
}

/// Says why, to a client that has taken nothing yet, and closes.
fn turn_away(mut stream: &UnixStream, fault: &Fault) {
    let _ = stream.write(&fault.message());
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

fn slot_of(key: u32) -> usize {
    key.saturating_sub(FIRST_KEY) as usize
}
