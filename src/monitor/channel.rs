//! A channel: a log, its outputs, an input, the host's terminal at it, and a back end.
//!
//! The child's own stdio is channel 0, consoles are channels 1 to n. Every byte between the child
//! and its logs, the host's stdio and attached clients passes through a channel. A channel knows no
//! monitor: what it does is reported by its return values.

pub(super) mod backend;
mod host_terminal;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(feature = "consoles")]
use std::path::Path;
use std::time::Instant;

use nix::pty::Winsize;
use tracing::debug;

use super::attachments::Attachments;
use super::console_report::ConsoleReport;
use super::keys::{ChannelId, Cx, OutputId, Source, SourceKey, Sources, Timer, TimerKey};
use super::name::Name;
use super::release::Unwritten;
use super::requests::RequestError;
use super::sandbox::Sandbox;
use super::tty::Tty;
use crate::child;
use crate::logfile::{Mark, Stream};
use crate::relay::{Input, InputEvent, Log, LogTarget, Output, PaceTimers, Sink};
use crate::terminal::Handle;
use backend::{Backend, Opened, Peer};
pub(super) use host_terminal::HostTerminal;

/// The most bytes of the host's input that wait for the child.
const INPUT_QUEUE: usize = 64 * 1024;

/// Which descriptors of a channel were blocking, and are again when they are released.
#[derive(Debug, Clone, Copy, Default)]
struct Blocked {
    outputs: [bool; 2],
    input: bool,
}

/// What a channel releases.
pub(super) struct ReleasedChannel {
    /// The name of a console.
    pub(super) console: Option<Name>,
    /// The descriptor of each output, with what has not been written of it.
    pub(super) outputs: Vec<(Option<OwnedFd>, Unwritten)>,
    /// The descriptor of the input, and what it has not taken.
    pub(super) input: Option<(OwnedFd, Vec<u8>)>,
}

/// One channel of a sandbox, during one run.
#[derive(Debug)]
pub(super) struct Channel {
    id: ChannelId,
    log: Log,
    outputs: Vec<Output<Handle, SourceKey, TimerKey>>,
    input: Option<Input<Handle, SourceKey>>,
    host: HostTerminal,
    backend: Backend,
    blocked: Blocked,
    /// Whether the input of clients is over for this run.
    clients_input_over: bool,
    /// Set if the output is that of a terminal.
    tty: Option<Box<Tty>>,
}

impl Channel {
    /// A channel that is not open yet. It has one output for each of `outputs`, with the host's
    /// stream that its bytes are forwarded to.
    pub(super) fn new(
        id: ChannelId,
        backend: Backend,
        log: Log,
        host: HostTerminal,
        outputs: impl IntoIterator<Item = (Stream, Option<Sink<Handle, SourceKey>>)>,
        sandbox: &Sandbox,
    ) -> Self {
        let outputs = outputs.into_iter().map(|(stream, sink)| {
            let mut output = Output::new(stream, sink);
            if let Some(rate) = sandbox.log_rate {
                output.limit(rate, timers(id, stream));
            }
            output
        });
        // Exactly as many as there are: each is a few hundred bytes.
        let mut exact = Vec::with_capacity(outputs.size_hint().0);
        exact.extend(outputs);
        let tty = exact.iter().find(|output| output.stream() == Stream::Tty);
        let tty = tty.map(|output| Box::new(Tty::new(id, output.forwards_to_terminal())));
        Self {
            id,
            log,
            outputs: exact,
            input: None,
            host,
            backend,
            blocked: Blocked::default(),
            clients_input_over: false,
            tty,
        }
    }

    /// Relays these descriptors.
    ///
    /// # Errors
    ///
    /// No descriptor or no room in the poller is available.
    pub(super) fn open(&mut self, opened: Opened, sources: &mut Sources<'_>) -> io::Result<()> {
        for (stream, source, kind) in opened.outputs {
            let blocked = child::set_nonblocking(source.as_fd())?;
            let outputs = self.outputs.iter_mut().zip(&mut self.blocked.outputs);
            if let Some((output, was_blocked)) =
                outputs.into_iter().find(|it| it.0.stream() == stream)
            {
                *was_blocked = blocked;
                let key = Source::Output(OutputId { channel: self.id, stream }).key();
                output.open(source, kind, key, timers(self.id, stream), sources)?;
            }
        }
        // Dropping the target is the end of the child's input, if that is a pipe.
        let Some(target) = opened.input else { return Ok(()) };
        let mut input = self.input_to(target)?;
        let keystrokes = self.backend.takes_keystrokes();
        let forwarded = self.host.connect(&mut input, keystrokes, sources)?;
        if forwarded || self.backend.input_lasts() {
            self.input = Some(input);
        }
        Ok(())
    }

    fn input_to(&mut self, target: OwnedFd) -> io::Result<Input<Handle, SourceKey>> {
        self.blocked.input = child::set_nonblocking(target.as_fd())?;
        Ok(Input::new(target, Source::Input(self.id).key(), self.backend.input_lasts()))
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// The child runs.
    pub(super) fn start(&mut self, pid: u32, cx: &mut Cx<'_>) {
        self.log.mark(Mark::Start { pid });
        if let Some(peer) = self.backend.peer() {
            peer.start(pid);
            self.connect(cx);
        }
        let size = self.pty_master().and_then(|master| child::window_size(master.as_fd()).ok());
        if let Some(size) = size {
            self.log.note_size(size);
        }
        self.host.enter();
    }

    /// Opens a channel whose peer may be there by now.
    pub(super) fn connect(&mut self, cx: &mut Cx<'_>) {
        let Some(peer) = self.backend.peer() else { return };
        let again = peer.was_open();
        if let Some(opened) = peer.connect(cx) {
            self.serve(opened, again, cx);
        }
    }

    /// A peer has connected to the listening socket. If one is served already, the new one takes
    /// its place once all that the old one has sent is read: a process that has inherited the old
    /// connection may hold it open for ever. Returns whether bytes came.
    #[cfg(feature = "consoles")]
    pub(super) fn accept(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) -> bool {
        if !self.backend.is_open() {
            self.connect(cx);
            return false;
        }
        let read = self.read_all(attachments, cx);
        let is_read = |output: &Output<Handle, SourceKey, TimerKey>| {
            let left = output.source().map(|source| child::bytes_available(source.as_fd()));
            !output.waits_for_log() && matches!(left, None | Some(Ok(0)))
        };
        let ready = self.outputs.iter().all(is_read);
        let Some(opened) = self.backend.peer().and_then(|peer| peer.successor(ready, cx)) else {
            return read;
        };
        let accepted = self.accepts_input();
        self.close_input(&mut cx.sources);
        self.outputs.iter_mut().for_each(|output| output.end(&mut cx.sources));
        self.serve(opened, true, cx);
        self.resume_clients(accepted, attachments, cx);
        read
    }

    /// Makes the listening socket again if it is gone.
    #[cfg(feature = "consoles")]
    pub(super) fn listen_again(&mut self, cx: &mut Cx<'_>) {
        if let Some(peer) = self.backend.peer() {
            peer.listen_again(cx);
        }
    }

    /// Reads the input of clients again if it was held back, `accepted` being false, and is not now.
    fn resume_clients(&self, accepted: bool, attachments: &mut Attachments, cx: &mut Cx<'_>) {
        if !accepted && self.accepts_input() {
            attachments.resume_input(self.id, &mut cx.sources);
        }
    }

    /// Relays the descriptors of a peer.
    fn serve(&mut self, opened: Opened, again: bool, cx: &mut Cx<'_>) {
        if again {
            self.log.mark(Mark::Reopen);
        }
        let result = self.open(opened, &mut cx.sources);
        match result {
            // A terminal of a session is in raw mode before the peer's first byte.
            Ok(()) => {
                self.host.enter();
            }
            Err(_) => self.outputs.iter_mut().for_each(|output| output.end(&mut cx.sources)),
        }
        let Some(peer) = self.backend.peer() else { return };
        peer.connected(result, cx);
        if peer.is_draining() {
            self.begin_tail();
        }
    }

    /// What follows when the output of a peer is at its end and in the log: another one may come.
    fn follow_end(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) {
        if self.backend.is_stdio() || !self.backend.is_open() {
            return;
        }
        if !self.has_ended() || self.outputs.iter().any(Output::waits_for_log) {
            return;
        }
        let accepted = self.accepts_input();
        self.close_input(&mut cx.sources);
        if self.backend.peer().is_some_and(|peer| peer.closed(cx)) {
            self.connect(cx);
        }
        self.resume_clients(accepted, attachments, cx);
    }

    /// Accepts no further peer.
    pub(super) fn stop_accepting(&mut self) {
        if let Some(peer) = self.backend.peer() {
            peer.stop_accepting();
        }
    }

    /// The name of a console; the child's own stdio has none.
    pub(super) fn name(&self) -> Option<&Name> {
        self.backend.console().map(Peer::name)
    }

    /// The path of a PTY that this process has made for a console.
    #[cfg(feature = "consoles")]
    pub(super) fn pty_path(&self) -> Option<&Path> {
        self.backend.console().and_then(Peer::pty_path)
    }

    /// The state of a console.
    pub(super) fn report(&self) -> Option<ConsoleReport> {
        Some(self.backend.console()?.report(self.log.path(), self.bytes()))
    }

    /// The output of this name.
    fn output(&mut self, stream: Stream) -> Option<&mut Output<Handle, SourceKey, TimerKey>> {
        self.outputs.iter_mut().find(|output| output.stream() == stream)
    }

    /// Whether there is an output of this name.
    pub(super) fn has_output(&self, stream: Stream) -> bool {
        self.outputs.iter().any(|output| output.stream() == stream)
    }

    /// Whether the child has this channel as its terminal.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.backend, Backend::Pty)
    }

    fn pty_master(&self) -> Option<&File> {
        let master = self.outputs.iter().find_map(Output::source);
        master.filter(|_| self.backend.is_pty_master())
    }

    /// Reads an output; returns whether bytes came.
    pub(super) fn read(
        &mut self,
        stream: Stream,
        attachments: &mut Attachments,
        cx: &mut Cx<'_>,
    ) -> bool {
        self.follow_foreground(cx);
        let tty = self.tty.as_deref_mut();
        let console = self.backend.console().map(Peer::name);
        let id = OutputId { channel: self.id, stream };
        let audience = &mut attachments.audience(id, console, tty);
        let output = self.outputs.iter_mut().find(|output| output.stream() == stream);
        let read = output.is_some_and(|output| output.turn(&mut self.log, audience, cx));
        if read && self.tty.as_ref().is_some_and(|tty| tty.is_held()) {
            self.with_tty(|tty, master, _| {
                if let Some(master) = master {
                    tty.release(master, cx);
                }
            });
        }
        self.follow_end(attachments, cx);
        read
    }

    /// Reads every output; returns whether bytes came.
    pub(super) fn read_all(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) -> bool {
        let mut read = false;
        let console = self.backend.console().map(Peer::name);
        for output in &mut self.outputs {
            let id = OutputId { channel: self.id, stream: output.stream() };
            let tty = self.tty.as_deref_mut();
            read |= output.turn(&mut self.log, &mut attachments.audience(id, console, tty), cx);
        }
        self.follow_end(attachments, cx);
        read
    }

    /// Gives a pipe that has grown for a flood its size back, unless the flood goes on.
    pub(super) fn trim(&mut self, stream: Stream, cx: &mut Cx<'_>) {
        if let Some(output) = self.output(stream) {
            output.trim(cx);
        }
    }

    /// The host's stream takes more of an output.
    pub(super) fn sink_ready(
        &mut self,
        stream: Stream,
        attachments: &mut Attachments,
        cx: &mut Cx<'_>,
    ) {
        if let Some(output) = self.output(stream) {
            output.flush_sink(&mut cx.sources);
        }
        self.follow_end(attachments, cx);
    }

    /// Whether clients' input is read now. A channel without an input discards it.
    pub(super) fn accepts_input(&self) -> bool {
        self.input.as_ref().is_none_or(Input::accepts)
    }

    /// Sends input of the host's, of which at most [`INPUT_QUEUE`] bytes may wait.
    pub(super) fn send_host_input(
        &mut self,
        bytes: &[u8],
        sources: &mut Sources<'_>,
    ) -> Result<(), RequestError> {
        let waiting = self.input.as_ref().map_or(0, Input::waiting);
        if waiting + bytes.len() > INPUT_QUEUE {
            return Err(RequestError::InputFull(INPUT_QUEUE));
        }
        if self.clients_input_over || (self.input.is_none() && !self.is_terminal()) {
            return Err(RequestError::NoInput);
        }
        self.send_input(bytes, sources);
        self.input.as_ref().map(|_| ()).ok_or(RequestError::NoInput)
    }

    /// Sends input of a client.
    pub(super) fn send_input(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        if self.clients_input_over {
            return;
        }
        if self.input.is_none() && self.is_terminal() {
            // The descriptor for writing is made when the first client types.
            let target = self.pty_master().and_then(|pty| pty.as_fd().try_clone_to_owned().ok());
            self.input = target.and_then(|target| self.input_to(target).ok());
        }
        if let Some(input) = &mut self.input {
            let event = input.send(bytes, sources);
            self.input_event(event, sources);
        }
    }

    /// The input of clients is over: what they send is discarded from now on, and the child's pipe is
    /// closed once it has taken what is pending. Keystrokes at the host's terminal still go to it.
    pub(super) fn end_client_input(&mut self, sources: &mut Sources<'_>) {
        self.clients_input_over = true;
        if let Some(input) = self.input.as_mut().filter(|_| !self.host.is_session()) {
            input.finish(sources);
            self.input_event(InputEvent::Open, sources);
        }
    }

    /// Reads the outputs no further, or reads them again.
    pub(super) fn hold_back(&mut self, held_back: bool, sources: &mut Sources<'_>) {
        self.outputs.iter_mut().for_each(|output| output.hold_back(held_back, sources));
    }

    /// Whether an output is not read, since its clients have no room.
    pub(super) fn is_held_back(&self) -> bool {
        self.outputs.iter().any(Output::is_held_back)
    }

    /// The child takes more of its input.
    pub(super) fn input_ready(&mut self, sources: &mut Sources<'_>) {
        if let Some(input) = &mut self.input {
            let event = input.flush(sources);
            self.input_event(event, sources);
        }
    }

    /// Reads the host's stdin, with its terminal's `answers` to queries or without. Returns whether
    /// anything was passed on.
    pub(super) fn read_host(&mut self, answers: bool, cx: &mut Cx<'_>) -> bool {
        self.follow_foreground(cx);
        let Some(input) = &mut self.input else { return false };
        let event = self.host.read(answers || !self.host.is_session(), input, cx);
        self.input_event(event, &mut cx.sources);
        event != InputEvent::Nothing
    }

    fn input_event(&mut self, event: InputEvent, sources: &mut Sources<'_>) {
        let event = if event == InputEvent::Ended { self.end_input(sources) } else { event };
        let finished = self.input.as_ref().is_some_and(Input::is_finished);
        if event == InputEvent::Refused || finished {
            self.close_input(sources);
        }
    }

    /// The host's stdin is at its end. The end of the child's follows, after what is pending.
    fn end_input(&mut self, sources: &mut Sources<'_>) -> InputEvent {
        let session = self.host.end_stdin();
        let Some(input) = &mut self.input else { return InputEvent::Open };
        input.end_source(sources);
        // The end of a session is a hang-up of the host's terminal, which is not passed on.
        if !self.backend.is_stdio() || !self.backend.is_pty_master() || session {
            return InputEvent::Open;
        }
        let eof = child::terminal_eof(input.target().as_fd(), input.last());
        input.send(&eof, sources)
    }

    fn close_input(&mut self, sources: &mut Sources<'_>) {
        if let Some(mut input) = self.input.take() {
            input.close(sources);
        }
        // The child's own terminal stays in raw mode until its output has been forwarded.
        if !self.backend.is_stdio() {
            self.host.disconnect();
        }
    }

    /// Whether keystrokes at the host's terminal go to this channel.
    pub(super) fn is_session(&self) -> bool {
        self.host.is_session()
    }

    /// Puts the host's terminal into raw mode again, and sets the modes of the output again, after a
    /// SIGCONT.
    pub(super) fn enter_terminal(&mut self, cx: &mut Cx<'_>) {
        self.host.enter();
        self.restore_host(cx);
    }

    /// The sequences that set the modes of the output in another terminal.
    pub(super) fn modes(&self) -> Vec<u8> {
        self.tty.as_ref().map(|tty| tty.modes()).unwrap_or_default()
    }

    /// Sets the modes of the output again in the host's terminal, and gives the PTY its size. What
    /// was on the alternate screen is drawn again.
    fn restore_host(&mut self, cx: &mut Cx<'_>) {
        let lost = self.host.is_in_foreground()
            && self.tty.as_ref().is_some_and(|tty| tty.set_host_modes());
        match self.host.window_size() {
            Some(size) if lost => {
                let _ = self.resize_or_redraw(&size, cx);
            }
            _ => self.resize_to_host(),
        }
    }

    /// Calls `f` with the state of the terminal, the master of the PTY if it is ours, and the number
    /// of bytes that the log has taken.
    fn with_tty(&mut self, f: impl FnOnce(&mut Tty, Option<BorrowedFd<'_>>, u64)) {
        let master = self.outputs.iter().find_map(Output::source);
        let master = master.filter(|_| self.backend.is_pty_master()).map(AsFd::as_fd);
        if let Some(tty) = &mut self.tty {
            f(tty, master, self.log.taken());
        }
    }

    /// Has the program draw its screen again, once no output comes.
    pub(super) fn redraw_when_quiet(&mut self, cx: &mut Cx<'_>) {
        self.with_tty(|tty, master, logged| {
            if master.is_some() {
                tty.redraw_when_quiet(logged, cx);
            }
        });
    }

    /// The timer of a redraw has expired.
    pub(super) fn redraw_timer(&mut self, cx: &mut Cx<'_>) {
        self.with_tty(|tty, master, logged| tty.redraw_timer(master, logged, cx));
    }

    /// Gives the host's terminal its modes back, before this process is suspended.
    pub(super) fn leave_terminal(&mut self) {
        self.host.leave();
    }

    fn follow_foreground(&mut self, cx: &mut Cx<'_>) {
        if self.host.comes_to_foreground() {
            self.restore_host(cx);
        }
    }

    /// Gives the PTY the size of the host's terminal.
    pub(super) fn resize_to_host(&mut self) {
        if let Some(size) = self.host.window_size() {
            self.try_resize(&size);
        }
    }

    /// Gives the PTY this size; a failure is logged.
    pub(super) fn try_resize(&mut self, size: &Winsize) {
        if let Some(Err(error)) = self.resize(size) {
            debug!("can't resize the child's terminal: {error}");
        }
    }

    /// Gives the PTY this size; `None` if the channel is not a PTY of ours.
    pub(super) fn resize(&mut self, size: &Winsize) -> Option<io::Result<()>> {
        self.pty_master()?;
        let deferred = self.tty.as_mut().is_some_and(|tty| tty.defer(size));
        let resized = match self.pty_master()? {
            _ if deferred => Ok(()),
            master => child::resize(master.as_fd(), size),
        };
        if resized.is_ok() {
            self.log.note_size(*size);
        }
        Some(resized)
    }

    /// The same. If the PTY has this size, has the program draw its screen again.
    pub(super) fn resize_or_redraw(
        &mut self,
        size: &Winsize,
        cx: &mut Cx<'_>,
    ) -> Option<io::Result<()>> {
        if child::window_size(self.pty_master()?.as_fd()).ok().as_ref() != Some(size) {
            return self.resize(size);
        }
        self.with_tty(|tty, master, _| {
            if let Some(master) = master {
                tty.redraw(master, cx);
            }
        });
        Some(Ok(()))
    }

    /// The child has ended: notes how many bytes are still to be read, and reads.
    pub(super) fn begin_drain(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) {
        if let Some(peer) = self.backend.peer() {
            peer.begin_drain();
        }
        self.close_input(&mut cx.sources);
        if self.backend.is_open() {
            self.begin_tail();
            self.read_all(attachments, cx);
        } else {
            self.connect(cx);
        }
    }

    fn begin_tail(&mut self) {
        let is_pty = self.backend.is_pty_master();
        for output in &mut self.outputs {
            let left = match output.source() {
                Some(_) if is_pty => Some(child::PTY_CAPACITY),
                Some(source) => child::bytes_available(source.as_fd()).ok(),
                None => None,
            };
            output.begin_tail(left);
        }
    }

    /// Whether no bytes are coming on the outputs that are read.
    pub(super) fn is_quiet(&self) -> bool {
        self.outputs.iter().all(Output::is_quiet)
    }

    /// Whether all outputs are at their end.
    pub(super) fn has_ended(&self) -> bool {
        self.outputs.iter().all(Output::has_ended)
    }

    /// Whether all bytes that were read have been logged and forwarded.
    pub(super) fn is_flushed(&self) -> bool {
        self.outputs.iter().all(Output::is_flushed)
    }

    /// Whether no further bytes can come, and all have been logged and forwarded.
    pub(super) fn is_finished(&self) -> bool {
        self.backend.is_over() && self.has_ended() && self.is_flushed()
    }

    /// Reads no more from the outputs of which all that the child itself wrote has been read. At
    /// the `limit` of the drain, nor from those of which that is unknown.
    pub(super) fn end_complete(
        &mut self,
        limit: bool,
        attachments: &mut Attachments,
        cx: &mut Cx<'_>,
    ) {
        let last = limit && !self.backend.is_stdio();
        loop {
            let mut moved = false;
            for output in self.outputs.iter_mut().filter(|output| !output.has_ended()) {
                if output.has_tail() || limit && output.has_unknown_tail() {
                    output.end(&mut cx.sources);
                    moved = true;
                }
            }
            self.follow_end(attachments, cx);
            // At the limit, peers in the listen queue take turns at once.
            moved |= last && self.read_all(attachments, cx);
            if !last || !moved {
                return;
            }
        }
    }

    /// Gives up bytes that wait for the log if it can't be written, else bytes that wait for the
    /// host's streams.
    pub(super) fn abandon(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) {
        if self.waits_for_log() {
            self.abandon_outputs(&mut cx.sources);
            self.host.leave();
        } else {
            self.outputs.iter_mut().for_each(|output| output.abandon_sink(&mut cx.sources));
        }
        self.follow_end(attachments, cx);
    }

    /// Ends a channel that could not be opened.
    pub(super) fn discard(&mut self, sources: &mut Sources<'_>) {
        self.close_input(sources);
        self.abandon_outputs(sources);
    }

    fn abandon_outputs(&mut self, sources: &mut Sources<'_>) {
        for output in &mut self.outputs {
            output.abandon(&mut self.log, sources);
        }
        self.log.close(sources);
    }

    /// Takes the descriptors out of the channel, in the mode in which they came, and all that waits,
    /// once the log has got what it takes now. The channel is to be closed then.
    pub(super) fn release(
        &mut self,
        attachments: &mut Attachments,
        cx: &mut Cx<'_>,
    ) -> ReleasedChannel {
        self.retry_log(attachments, cx);
        // What it can't write is counted.
        self.log.finish();
        self.with_tty(|tty, master, _| {
            if let Some(master) = master {
                tty.release(master, cx);
            }
        });
        let console = self.backend.console().map(Peer::name).cloned();
        let input = self.input.take().map(|input| {
            let (target, pending) = input.release(&mut cx.sources);
            if self.blocked.input {
                block_again(&target);
            }
            (target, pending)
        });
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (output, blocked) in self.outputs.iter_mut().zip(self.blocked.outputs) {
            let stream = output.stream();
            let (source, unlogged, unforwarded) = output.release(cx);
            if let Some(source) = source.as_ref().filter(|_| blocked) {
                block_again(source);
            }
            let console = console.clone();
            outputs.push((source, Unwritten { console, stream, unlogged, unforwarded }));
        }
        ReleasedChannel { console, outputs, input }
    }

    /// Ends the channel; bytes that still wait are counted as left out.
    pub(super) fn close(&mut self, mark: Option<Mark>, cx: &mut Cx<'_>) {
        self.close_input(&mut cx.sources);
        self.abandon_outputs(&mut cx.sources);
        if let Some(peer) = self.backend.peer() {
            peer.close(cx);
        }
        self.host.leave();
        if let Some(mark) = mark {
            self.log.mark(mark);
        }
    }

    fn waits_for_log(&self) -> bool {
        self.log.is_ending() || self.outputs.iter().any(Output::waits_for_log)
    }

    /// The error of a log that can't be written, and since when.
    pub(super) fn log_failure(&self) -> Option<(&str, Instant)> {
        self.log.failure()
    }

    /// Whether bytes wait for a reader, and not for the log.
    pub(super) fn waits_for_reader(&self) -> bool {
        self.outputs.iter().any(|output| !output.is_flushed() && !output.waits_for_log())
    }

    /// Whether the log is to be tried again without new output.
    pub(super) fn needs_log_retry(&self) -> bool {
        self.waits_for_log() || self.log.has_unreported() || self.log.needs_retry()
    }

    /// Watches what the log waits for.
    pub(super) fn follow_log(&mut self, sources: &mut Sources<'_>) {
        self.log.follow(Source::Log(self.id).key(), sources);
    }

    /// Offers the log again the bytes that it has not taken.
    pub(super) fn retry_log(&mut self, attachments: &mut Attachments, cx: &mut Cx<'_>) {
        self.log.flush(&mut cx.sources);
        self.log.report();
        let console = self.backend.console().map(Peer::name);
        for output in &mut self.outputs {
            let id = OutputId { channel: self.id, stream: output.stream() };
            let tty = self.tty.as_deref_mut();
            let audience = &mut attachments.audience(id, console, tty);
            output.retry_log(&mut self.log, audience, &mut cx.sources);
        }
        self.follow_end(attachments, cx);
    }

    pub(super) fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    /// The log of a channel that is closed.
    pub(super) fn into_log(self) -> LogTarget {
        self.log.into_target()
    }

    /// Bytes in the log, and bytes that the log or a stream of the host lacks.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let dropped: u64 = self.outputs.iter().map(Output::dropped).sum();
        (self.log.logged(), self.log.dropped() + dropped)
    }
}

fn block_again(descriptor: &OwnedFd) {
    if let Err(error) = child::set_blocking(descriptor.as_fd()) {
        debug!("can't make a descriptor blocking again: {error}");
    }
}

/// The timers of one output.
fn timers(channel: ChannelId, stream: Stream) -> PaceTimers<TimerKey> {
    let id = OutputId { channel, stream };
    PaceTimers { pause: Timer::ReadOutput(id).key(), trim: Timer::TrimPipe(id).key() }
}
