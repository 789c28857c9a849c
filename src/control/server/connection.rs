//! One client: the message it is sending, the replies that it has yet to take.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::MAX_MESSAGE;
use super::super::stream::{self, Took};
use super::methods::Fault;
use crate::monitor::{Phase, ServiceContext};
use crate::reactor::{Interest, SourceId, TimerId};

/// How long one that has been told off has to read that.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// What may wait for one that watches.
const MOST_WAITING: usize = 64 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each call has its reply.
    Calls,
    /// Its last call is a `Watch` that has been told this.
    Watching(Phase),
    /// It is closed once it has taken its replies.
    Leaving,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It is to be closed.
    Gone,
}

/// What one look at a connection has brought.
#[derive(Debug)]
pub(super) enum Look {
    /// A message, without its NUL.
    Message(Vec<u8>),
    /// A part of one.
    Part,
    /// Nothing for now.
    Nothing,
    /// Its end, or an error.
    End,
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) source: SourceId,
    pub(super) mode: Mode,
    /// It is among those whose turn comes before that of others.
    pub(super) waits: bool,
    /// The client sends no more.
    ended: bool,
    message: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// For the rest of its message, or until it has taken a reply, or to look whether one that
    /// watches and sends no more is there still: never two of them.
    timer: Option<TimerId>,
    timer_key: u32,
    /// The limit for the rest of a message, and for the taking of a reply.
    timeout: Duration,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        source: SourceId,
        timer_key: u32,
        timeout: Duration,
    ) -> Self {
        Self {
            stream,
            source,
            mode: Mode::Calls,
            waits: false,
            ended: false,
            message: Vec::new(),
            output: Vec::new(),
            written: 0,
            timer: None,
            timer_key,
            timeout,
        }
    }

    /// Bytes of memory that it makes us hold.
    pub(super) fn held(&self) -> usize {
        self.message.capacity() + self.output.capacity()
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    pub(super) fn is_watching(&self) -> bool {
        matches!(self.mode, Mode::Watching(_))
    }

    /// Whether it is sending a message.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.message.is_empty()
    }

    /// Takes the next part of what it sends.
    pub(super) fn look(&mut self, desk: &mut ServiceContext<'_, '_>) -> Look {
        match stream::take(&self.stream, &mut self.message) {
            Ok(Took::Whole) => {
                self.forget_timer(desk);
                let mut message = std::mem::take(&mut self.message);
                message.pop();
                Look::Message(message)
            }
            Ok(Took::Part) => {
                self.wait(self.timeout, desk);
                Look::Part
            }
            Ok(Took::End) => Look::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                desk.would_block(self.source, Interest::READ);
                Look::Nothing
            }
            Err(_) => Look::End,
        }
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.message.len() >= MAX_MESSAGE
    }

    /// What a client that watches sends is of no use: it is told nothing more but events.
    pub(super) fn discard(&mut self, desk: &mut ServiceContext<'_, '_>) -> Fate {
        let fate = match self.look(desk) {
            Look::End => return self.end(desk),
            Look::Message(_) | Look::Part | Look::Nothing => Fate::Stays,
        };
        self.message = Vec::new();
        self.forget_timer(desk);
        fate
    }

    /// The client sends no more; it may still read.
    pub(super) fn end(&mut self, desk: &mut ServiceContext<'_, '_>) -> Fate {
        let waits = !self.is_flushed() || matches!(self.mode, Mode::Watching(_));
        if !waits || stream::is_hung_up(&self.stream) {
            return Fate::Gone;
        }
        self.ended = true;
        if self.is_flushed() {
            self.wait(self.timeout, desk);
        }
        self.want(desk)
    }

    fn wait(&mut self, time: Duration, desk: &mut ServiceContext<'_, '_>) {
        if self.timer.is_none() {
            self.timer = Some(desk.set_timer(time, self.timer_key));
        }
    }

    /// Sends a reply, or what it does not take at once when it does.
    pub(super) fn send(&mut self, message: Vec<u8>, desk: &mut ServiceContext<'_, '_>) -> Fate {
        if self.output.is_empty() {
            self.output = message;
        } else {
            self.output.extend_from_slice(&message);
        }
        self.flush(desk)
    }

    /// Sends an event, if there is room.
    pub(super) fn send_event(
        &mut self,
        message: Vec<u8>,
        desk: &mut ServiceContext<'_, '_>,
    ) -> Fate {
        if self.output.len() + message.len() > MOST_WAITING {
            return Fate::Gone;
        }
        self.send(message, desk)
    }

    /// Tells what it has done wrong, as its last reply.
    pub(super) fn tell_off(&mut self, fault: &Fault, desk: &mut ServiceContext<'_, '_>) -> Fate {
        self.message = Vec::new();
        self.leave(desk);
        self.send(fault.message(), desk)
    }

    /// It is closed once it has taken what waits, or has had its time.
    pub(super) fn leave(&mut self, desk: &mut ServiceContext<'_, '_>) {
        self.mode = Mode::Leaving;
        self.message = Vec::new();
        self.forget_timer(desk);
        self.wait(FAREWELL, desk);
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, desk: &mut ServiceContext<'_, '_>) -> Fate {
        while let Some(rest @ [_, ..]) = self.output.get(self.written..) {
            match (&self.stream).write(rest) {
                Ok(0) => return Fate::Gone,
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    desk.would_block(self.source, Interest::WRITE);
                    self.wait(self.timeout, desk);
                    return self.want(desk);
                }
                Err(_) => return Fate::Gone,
            }
        }
        self.output = Vec::new();
        self.written = 0;
        if self.mode == Mode::Leaving || (self.ended && self.mode == Mode::Calls) {
            return Fate::Gone;
        }
        self.forget_timer(desk);
        if self.ended {
            self.wait(self.timeout, desk);
        }
        self.want(desk)
    }

    /// No further call is taken while a reply waits, so what waits is bounded.
    fn want(&self, desk: &mut ServiceContext<'_, '_>) -> Fate {
        let interest = match (self.is_flushed(), self.ended || self.mode == Mode::Leaving) {
            (false, _) => Interest::WRITE,
            (true, false) => Interest::READ,
            (true, true) => Interest::NONE,
        };
        match desk.want(self.source, interest) {
            Ok(()) => Fate::Stays,
            Err(_) => Fate::Gone,
        }
    }

    fn forget_timer(&mut self, desk: &mut ServiceContext<'_, '_>) {
        if let Some(timer) = self.timer.take() {
            desk.cancel_timer(timer);
        }
    }

    /// Lets go of the loop; the stream is closed, or another's from here on.
    pub(super) fn into_stream(mut self, desk: &mut ServiceContext<'_, '_>) -> UnixStream {
        self.forget_timer(desk);
        desk.deregister(self.source);
        self.stream
    }

    /// Its timer has expired.
    pub(super) fn timer_expired(&mut self, desk: &mut ServiceContext<'_, '_>) -> Fate {
        self.timer = None;
        if self.is_watching() && self.is_flushed() && !stream::is_hung_up(&self.stream) {
            self.wait(self.timeout, desk);
            return Fate::Stays;
        }
        if self.mode == Mode::Leaving || !self.is_unfinished() {
            return Fate::Gone;
        }
        let limit = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let fault = Fault::new("MessageTimeout", serde_json::json!({ "limit": limit }));
        self.tell_off(&fault, desk)
    }
}
