//! One client: its incomplete message and its unread replies.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use super::super::MAX_MESSAGE;
use super::super::stream::{self, Received};
use super::super::value::milliseconds;
use super::backend::Backend;
use super::fault::Fault;
use crate::monitor::Phase;
use crate::reactor::{Interest, SourceId, TimerId};
use crate::relay::write_some;

/// How long a client may take to read its last reply.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit of unread bytes of a client that watches.
const MAX_UNREAD: usize = 64 * 1024;

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each call has its reply.
    Calls,
    /// Its last call has no reply yet, and no further one is read. `queued`: the client has sent more.
    #[cfg_attr(not(all(feature = "host", feature = "codec")), allow(dead_code))]
    Pending { queued: bool },
    /// Its last call is the `Watch` of a host, and this is the number of the next event for it.
    #[cfg_attr(not(all(feature = "host", feature = "codec")), allow(dead_code))]
    Following(u64),
    /// Its last call is a `Watch`, and this phase was sent last.
    Watching(Phase),
    /// It is closed once the client has read its replies.
    Closing,
}

/// The result of an operation on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It is to be closed.
    Gone,
}

/// The result of one read from a connection.
#[derive(Debug)]
pub(super) enum Input {
    /// A message, without its NUL.
    Message(Vec<u8>),
    /// A part of a message.
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
    /// It is in the queue of clients that are served first in the next turn.
    pub(super) waits: bool,
    /// The client sends no more.
    ended: bool,
    message: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Runs while the rest of a message is expected, while a reply is unread, and as a liveness
    /// check of a client that watches and sends no more; only one of these at a time.
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

    /// Bytes of memory used for this client.
    pub(super) fn held(&self) -> usize {
        self.message.capacity() + self.output.capacity()
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    pub(super) fn is_watching(&self) -> bool {
        matches!(self.mode, Mode::Watching(_) | Mode::Following(_))
    }

    /// Whether the client waits for something that this server sends.
    fn is_waiting(&self) -> bool {
        self.is_watching() || matches!(self.mode, Mode::Pending { .. })
    }

    /// Whether a message is incomplete.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.message.is_empty()
    }

    /// Reads the next part of a message.
    pub(super) fn read(&mut self, cx: &mut dyn Backend) -> Input {
        match stream::take(&self.stream, &mut self.message) {
            Ok(Received::Whole) => {
                self.forget_timer(cx);
                let mut message = std::mem::take(&mut self.message);
                message.pop();
                Input::Message(message)
            }
            Ok(Received::Part) => {
                self.wait(self.timeout, cx);
                Input::Part
            }
            Ok(Received::End) => Input::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.would_block(self.source, Interest::READ);
                Input::Nothing
            }
            Err(_) => Input::End,
        }
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.message.len() >= MAX_MESSAGE
    }

    /// Discards input of a client that watches.
    pub(super) fn discard(&mut self, cx: &mut dyn Backend) -> Fate {
        let fate = match self.read(cx) {
            Input::End => return self.end(cx),
            Input::Message(_) | Input::Part | Input::Nothing => Fate::Stays,
        };
        self.message = Vec::new();
        self.forget_timer(cx);
        fate
    }

    /// Handles input of a client whose last call is pending. It is not read before the reply.
    pub(super) fn defer(&mut self, cx: &mut dyn Backend) -> Fate {
        match stream::has_input(&self.stream) {
            Ok(true) => {
                self.mode = Mode::Pending { queued: true };
                // The end of the connection is behind the input.
                self.wait(self.timeout, cx);
                self.want(cx)
            }
            Ok(false) => self.end(cx),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.would_block(self.source, Interest::READ);
                Fate::Stays
            }
            Err(_) => Fate::Gone,
        }
    }

    /// The client has shut down its sending side; it may still read.
    pub(super) fn end(&mut self, cx: &mut dyn Backend) -> Fate {
        let waits = !self.is_flushed() || self.is_waiting();
        if !waits || stream::is_hung_up(&self.stream) {
            return Fate::Gone;
        }
        self.ended = true;
        if self.is_flushed() {
            self.wait(self.timeout, cx);
        }
        self.want(cx)
    }

    fn wait(&mut self, time: Duration, cx: &mut dyn Backend) {
        if self.timer.is_none() {
            self.timer = Some(cx.set_timer(time, self.timer_key));
        }
    }

    /// Sends a reply; the rest is sent when the socket is writable.
    pub(super) fn send(&mut self, message: Vec<u8>, cx: &mut dyn Backend) -> Fate {
        if self.output.is_empty() {
            self.output = message;
        } else {
            self.output.extend_from_slice(&message);
        }
        self.flush(cx)
    }

    /// Sends an event; closes the connection if the limit of unread bytes is exceeded.
    pub(super) fn send_event(&mut self, message: Vec<u8>, cx: &mut dyn Backend) -> Fate {
        if self.output.len() + message.len() > MAX_UNREAD {
            return Fate::Gone;
        }
        self.send(message, cx)
    }

    /// Sends an error as the last reply.
    pub(super) fn close_with(&mut self, fault: &Fault, cx: &mut dyn Backend) -> Fate {
        self.message = Vec::new();
        self.close(cx);
        self.send(fault.message(cx.interface()), cx)
    }

    /// Closes the connection once its output is read, or after [`CLOSE_TIMEOUT`].
    pub(super) fn close(&mut self, cx: &mut dyn Backend) {
        self.mode = Mode::Closing;
        self.message = Vec::new();
        self.forget_timer(cx);
        self.wait(CLOSE_TIMEOUT, cx);
    }

    /// Writes pending output.
    pub(super) fn flush(&mut self, cx: &mut dyn Backend) -> Fate {
        let rest = self.output.get(self.written..).unwrap_or_default();
        let (written, error) = write_some(&mut &self.stream, rest);
        self.written += written;
        if error.is_some() {
            return Fate::Gone;
        }
        if written < rest.len() {
            cx.would_block(self.source, Interest::WRITE);
            self.wait(self.timeout, cx);
            return self.want(cx);
        }
        self.output = Vec::new();
        self.written = 0;
        if self.mode == Mode::Closing || (self.ended && self.mode == Mode::Calls) {
            return Fate::Gone;
        }
        self.forget_timer(cx);
        if self.ended {
            self.wait(self.timeout, cx);
        }
        self.want(cx)
    }

    /// No further call is read while a reply is unread, which bounds the output.
    fn want(&self, cx: &mut dyn Backend) -> Fate {
        let unread =
            self.ended || matches!(self.mode, Mode::Closing | Mode::Pending { queued: true });
        let interest = match (self.is_flushed(), unread) {
            (false, _) => Interest::WRITE,
            (true, false) => Interest::READ,
            (true, true) => Interest::NONE,
        };
        match cx.want(self.source, interest) {
            Ok(()) => Fate::Stays,
            Err(_) => Fate::Gone,
        }
    }

    fn forget_timer(&mut self, cx: &mut dyn Backend) {
        if let Some(timer) = self.timer.take() {
            cx.cancel_timer(timer);
        }
    }

    /// Removes the connection from the loop and returns its socket.
    pub(super) fn into_stream(mut self, cx: &mut dyn Backend) -> UnixStream {
        self.forget_timer(cx);
        cx.deregister(self.source);
        self.stream
    }

    /// Its timer has expired.
    pub(super) fn timer_expired(&mut self, cx: &mut dyn Backend) -> Fate {
        self.timer = None;
        if self.is_waiting() && self.is_flushed() && !stream::is_hung_up(&self.stream) {
            self.wait(self.timeout, cx);
            return Fate::Stays;
        }
        if self.mode == Mode::Closing || !self.is_unfinished() {
            return Fate::Gone;
        }
        let limit = json!({ "limit": milliseconds(self.timeout) });
        let fault = Fault::new("MessageTimeout", limit);
        self.close_with(&fault, cx)
    }
}
