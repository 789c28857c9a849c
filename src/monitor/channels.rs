//! All channels of a sandbox and its attached clients: every byte of the sandbox passes through
//! here.

use std::os::unix::net::UnixStream;
#[cfg(feature = "consoles")]
use std::path::Path;
use std::time::Instant;

use super::attach::{Attach, AttachError, AttachTo, Attached, SessionId, SessionReport};
use super::attachments::{Attachments, ClientInput, LAST_OUTPUT};
use super::call_out::PanicError;
use super::channel::{Channel, ReleasedChannel};
use super::console_report::ConsoleReport;
use super::keys::{ChannelId, Cx, OutputId, Timer};
use super::name::Name;
use super::output::OutputCallback;
use super::release::{Released, ReleasedConsole};
use super::requests::RequestError;
use crate::child::ChildIo;
use crate::logfile::{LogError, LogFile, Mark, Stream};
use crate::reactor::TimerId;
use crate::relay::{LOG_RETRY, LogTarget};
use crate::terminal::{self, WindowSize};

/// The channels of one sandbox. Channel 0 exists from the start of a run to its end.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// Those of the current run, the child's own stdio first.
    list: Vec<Channel>,
    /// The channel that the host's terminal is at.
    host: Option<ChannelId>,
    attachments: Attachments,
    /// The consoles at the end of the last run.
    last: Vec<ConsoleReport>,
    /// Set while bytes wait for a log.
    log_retry: Option<TimerId>,
    /// Set while a log has a deadline.
    log_turn: Option<TimerId>,
}

impl Channels {
    /// Begins a run with the channels of its consoles; `host` is the one that the host's terminal
    /// is at, if that is not the child's own stdio.
    #[cfg(feature = "consoles")]
    pub(super) fn begin(&mut self, consoles: Vec<Channel>, host: Option<ChannelId>) {
        self.list = consoles;
        self.host = host;
        self.last = Vec::new();
    }

    /// Adds the channel of the child's own stdio.
    pub(super) fn add_stdio(&mut self, channel: Channel) {
        // Exactly as many as there are: each is about a kilobyte.
        self.list.reserve_exact(1);
        self.list.insert(0, channel);
    }

    /// Adds consoles while the child of this pid runs; `host` is as in [`begin`](Self::begin).
    #[cfg(feature = "consoles")]
    pub(super) fn add_consoles(
        &mut self,
        consoles: Vec<Channel>,
        host: Option<ChannelId>,
        child: u32,
        cx: &mut Cx<'_>,
    ) {
        self.host = host.or(self.host);
        for mut channel in consoles {
            channel.start(child, cx);
            self.list.push(channel);
        }
    }

    /// The channel of the child's own stdio.
    pub(super) fn stdio(&self) -> Option<&Channel> {
        self.list.first().filter(|channel| channel.id() == ChannelId::STDIO)
    }

    /// Whether there is a console of this name.
    pub(super) fn find(&self, name: &Name) -> Option<ChannelId> {
        self.list.iter().find(|channel| channel.name() == Some(name)).map(Channel::id)
    }

    fn get(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.list.iter_mut().find(|channel| channel.id() == id)
    }

    /// The consoles that are PTYs of this process, by name and path.
    #[cfg(feature = "consoles")]
    pub(super) fn pty_paths(&self) -> impl Iterator<Item = (&Name, &Path)> {
        self.list.iter().filter_map(|channel| Some((channel.name()?, channel.pty_path()?)))
    }

    /// The output that the host's terminal is at.
    fn host_output(&self) -> OutputId {
        OutputId { channel: self.host.unwrap_or(ChannelId::STDIO), stream: Stream::Tty }
    }

    /// The child runs.
    pub(super) fn start(&mut self, pid: u32, cx: &mut Cx<'_>) {
        for channel in &mut self.list {
            channel.start(pid, cx);
            self.attachments.resume_input(channel.id(), &mut cx.sources);
        }
        if let Some(packets) = self.attachments.packets() {
            packets.start();
            packets.resume_input(&mut cx.sources);
        }
    }

    /// Reads an output; returns whether bytes came.
    pub(super) fn read(&mut self, output: OutputId, cx: &mut Cx<'_>) -> bool {
        let Self { list, attachments, .. } = self;
        let channel = list.iter_mut().find(|channel| channel.id() == output.channel);
        channel.is_some_and(|channel| channel.read(output.stream, attachments, cx))
    }

    /// Gives a pipe that has grown for a flood its size back, unless the flood goes on.
    pub(super) fn trim(&mut self, output: OutputId, cx: &mut Cx<'_>) {
        if let Some(channel) = self.get(output.channel) {
            channel.trim(output.stream, cx);
        }
    }

    /// The host's stream takes more of an output.
    pub(super) fn sink_ready(&mut self, output: OutputId, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        if let Some(channel) = list.iter_mut().find(|channel| channel.id() == output.channel) {
            channel.sink_ready(output.stream, attachments, cx);
        }
    }

    /// A channel takes more input.
    pub(super) fn input_ready(&mut self, id: ChannelId, cx: &mut Cx<'_>) {
        if let Some(channel) = self.get(id) {
            channel.input_ready(&mut cx.sources);
        }
        self.attachments.resume_input(id, &mut cx.sources);
        if let Some(packets) = self.attachments.packets().filter(|_| id == ChannelId::STDIO) {
            packets.resume_input(&mut cx.sources);
        }
    }

    /// Opens a channel whose peer may be there by now.
    #[cfg(feature = "consoles")]
    pub(super) fn connect(&mut self, id: ChannelId, cx: &mut Cx<'_>) {
        if let Some(channel) = self.get(id) {
            channel.connect(cx);
        }
    }

    /// A peer has connected to the listening socket of a console. Returns whether bytes came.
    #[cfg(feature = "consoles")]
    pub(super) fn accept(&mut self, id: ChannelId, cx: &mut Cx<'_>) -> bool {
        let Self { list, attachments, .. } = self;
        let channel = list.iter_mut().find(|channel| channel.id() == id);
        channel.is_some_and(|channel| channel.accept(attachments, cx))
    }

    /// Makes the listening sockets of consoles again that are gone.
    #[cfg(feature = "consoles")]
    pub(super) fn listen_again(&mut self, cx: &mut Cx<'_>) {
        self.list.iter_mut().for_each(|channel| channel.listen_again(cx));
    }

    /// Reads the host's stdin. Typing there makes the size of that terminal the one in effect.
    pub(super) fn read_host(&mut self, cx: &mut Cx<'_>) {
        let output = self.host_output();
        let Self { list, attachments, .. } = self;
        let Some(channel) = list.iter_mut().find(|channel| channel.id() == output.channel) else {
            return;
        };
        let answers = attachments.size(output).is_none();
        let typed = channel.read_host(answers, cx);
        if typed && channel.is_session() && attachments.host_act(output) {
            channel.resize_to_host();
        }
    }

    /// The host's terminal has a new size, which is in effect from now on.
    pub(super) fn host_resized(&mut self) {
        let output = self.host_output();
        self.attachments.host_act(output);
        if let Some(channel) = self.get(output.channel) {
            channel.resize_to_host();
        }
    }

    /// Gives the host's terminal its modes back, before this process is suspended.
    pub(super) fn leave_terminal(&mut self) {
        self.list.iter_mut().for_each(Channel::leave_terminal);
    }

    /// This process has been continued.
    pub(super) fn enter_terminal(&mut self, cx: &mut Cx<'_>) {
        self.list.iter_mut().for_each(|channel| channel.enter_terminal(cx));
    }

    /// The timer of a redraw has expired.
    pub(super) fn redraw_timer(&mut self, id: ChannelId, cx: &mut Cx<'_>) {
        if let Some(channel) = self.get(id) {
            channel.redraw_timer(cx);
        }
    }
}

/// Attached clients, and the host's own reader.
impl Channels {
    /// The channels of a sandbox whose host reads every output.
    pub(super) fn read_by(callback: Option<Box<OutputCallback>>) -> Self {
        let mut channels = Self::default();
        channels.attachments.set_callback(callback);
        channels
    }

    /// A panic of the host's own reader that has not been noted yet.
    pub(super) fn take_output_panic(&mut self) -> Option<PanicError> {
        self.attachments.take_callback_panic()
    }

    /// Attaches a client; see [`Monitor::attach`](super::Monitor::attach).
    pub(super) fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        let (to, output) = match self.resolve(request.to.clone().or_else(|| self.default_attach()))
        {
            Ok(found) => found,
            Err(error) => return Err((error, client)),
        };
        let (session, room) = self.attachments.reserve(&mut cx.sources);
        let most = usize::try_from(request.tail).unwrap_or(usize::MAX).min(room);
        let (tail, modes) = match self.get(output.channel) {
            Some(channel) if most > 0 => (channel.log().tail(most), channel.modes()),
            Some(channel) => (Vec::new(), channel.modes()),
            None => (Vec::new(), Vec::new()),
        };
        let modes = String::from_utf8(modes).unwrap_or_default();
        let attached = Attached { session, to, tail: tail.len() as u64, modes };
        let first = [&preamble(&attached)[..], &tail];
        let read_only = request.read_only;
        self.attachments
            .add(client, &attached, output, read_only, first, &mut cx.sources)
            .map_err(|(error, client)| (AttachError::System(error), client))?;
        self.follow_sizes();
        Ok(attached)
    }

    /// The output that a request means.
    fn resolve(&self, to: Option<AttachTo>) -> Result<(AttachTo, OutputId), AttachError> {
        let stdio = self.stdio().ok_or(AttachError::NotRunning)?;
        let to = match to {
            Some(AttachTo::Stdout) | None if stdio.is_terminal() => AttachTo::Tty,
            Some(to) => to,
            None => AttachTo::Stdout,
        };
        let (channel, stream) = match &to {
            AttachTo::Console(name) => {
                let channel = self.find(name);
                let missing = || AttachError::NoSuchConsole(name.clone());
                (channel.ok_or_else(missing)?, Stream::Tty)
            }
            AttachTo::Stdout => (ChannelId::STDIO, Stream::Stdout),
            AttachTo::Stderr => (ChannelId::STDIO, Stream::Stderr),
            AttachTo::Tty => (ChannelId::STDIO, Stream::Tty),
        };
        if channel == ChannelId::STDIO && !stdio.has_output(stream) {
            return Err(AttachError::NoSuchStream(to));
        }
        Ok((to, OutputId { channel, stream }))
    }

    /// The stream that a client gets that asks for none.
    fn default_attach(&self) -> Option<AttachTo> {
        let host = self.list.iter().find(|channel| Some(channel.id()) == self.host)?;
        host.name().cloned().map(AttachTo::Console)
    }

    /// Gives a channel's PTY the size of a client's terminal; if it has that size, has the program
    /// draw its screen again.
    pub(super) fn resize(
        &mut self,
        session: SessionId,
        size: WindowSize,
        cx: &mut Cx<'_>,
    ) -> Result<(), RequestError> {
        let known = self.attachments.is_read_only(session);
        if known.ok_or(RequestError::NoSuchSession(session))? {
            return Err(RequestError::ReadOnly(session));
        }
        self.attachments.act(session, Some(size));
        if self.stdio().is_none() {
            return Err(RequestError::NotRunning);
        }
        let output = self.attachments.output_of(session);
        let channel = output.and_then(|output| self.get(output.channel));
        channel
            .and_then(|channel| channel.resize_or_redraw(&size.winsize(), cx))
            .ok_or(RequestError::NoTerminal)?
            .map_err(RequestError::Resize)?;
        self.attachments.keep_latest(session);
        Ok(())
    }

    /// Gives the child's terminal this size.
    pub(super) fn resize_terminal(&mut self, size: WindowSize) -> Result<(), RequestError> {
        let stdio = self.get(ChannelId::STDIO).ok_or(RequestError::NotRunning)?;
        let resized = stdio.resize(&size.winsize()).ok_or(RequestError::NoTerminal)?;
        resized.map_err(RequestError::Resize)
    }

    /// Sends input of a client to its channel; returns whether it has been passed on.
    pub(super) fn send(&mut self, session: SessionId, bytes: &[u8], cx: &mut Cx<'_>) -> bool {
        let Some(output) = self.attachments.output_of(session) else { return false };
        if self.attachments.is_read_only(session) != Some(false) {
            return false;
        }
        // Each attached terminal answers a query of the program. The one with the size in effect is
        // the one that counts.
        let host = self.get(output.channel).is_some_and(|channel| channel.is_session());
        if !self.attachments.answers(session, host) && terminal::is_answer(bytes) {
            return false;
        }
        // The size first: the client sees the answer to its keystroke at that size.
        if self.attachments.act(session, None) {
            self.apply_size(output);
        }
        if let Some(channel) = self.get(output.channel) {
            channel.send_input(bytes, &mut cx.sources);
        }
        true
    }

    /// Sends input of the host's to the child's own stdio.
    pub(super) fn send_host_input(
        &mut self,
        bytes: &[u8],
        cx: &mut Cx<'_>,
    ) -> Result<(), RequestError> {
        let stdio = self.get(ChannelId::STDIO).ok_or(RequestError::NotRunning)?;
        stdio.send_host_input(bytes, &mut cx.sources)
    }

    /// Reads a client. Returns its bytes, which are for the child.
    pub(super) fn read_client(&mut self, id: SessionId, cx: &mut Cx<'_>) -> Option<Vec<u8>> {
        let output = self.attachments.output_of(id)?;
        let accepts = self.get(output.channel).is_some_and(|channel| channel.accepts_input());
        match self.attachments.read(id, accepts, cx) {
            ClientInput::Nothing => None,
            ClientInput::Bytes(count) => cx.scratch.get(..count).map(<[u8]>::to_vec),
            ClientInput::Closed => {
                self.attachments.remove(id, &mut cx.sources);
                self.follow_sizes();
                None
            }
        }
    }

    /// A client takes more.
    pub(super) fn flush_client(&mut self, id: SessionId, cx: &mut Cx<'_>) {
        let redraw = self.attachments.flush(id, &mut cx.sources);
        if let Some(channel) = redraw.and_then(|output| self.get(output.channel)) {
            channel.redraw_when_quiet(cx);
        }
        self.follow_sizes();
    }

    /// If the client whose size was in effect has gone, the size of the one before it is in effect
    /// again.
    pub(super) fn follow_sizes(&mut self) {
        for output in self.attachments.take_size_left() {
            self.apply_size(output);
        }
    }

    /// Gives a channel's PTY the size that is in effect.
    fn apply_size(&mut self, output: OutputId) {
        let size = self.attachments.size(output);
        match (self.get(output.channel), size) {
            (Some(channel), Some(size)) => channel.try_resize(&size),
            (Some(channel), None) => channel.resize_to_host(),
            (None, _) => {}
        }
    }

    /// The sandbox has stopped: clients get what is left, within a bounded time.
    pub(super) fn finish_attachments(&mut self, cx: &mut Cx<'_>) {
        self.close_packets(cx);
        if self.attachments.finish(&mut cx.sources) {
            cx.timers.set(LAST_OUTPUT, Timer::Attachments.key());
        }
    }

    /// Removes every client.
    pub(super) fn close_attachments(&mut self, cx: &mut Cx<'_>) {
        self.attachments.close(&mut cx.sources);
    }

    /// Whether a client is attached.
    pub(super) fn has_attachments(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// The attached clients.
    pub(super) fn attachments(&self) -> Vec<SessionReport> {
        self.attachments.report()
    }
}

/// The drain.
impl Channels {
    /// The child has ended.
    pub(super) fn begin_drain(&mut self, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        list.iter_mut().for_each(|channel| channel.begin_drain(attachments, cx));
        if let Some(packets) = attachments.packets() {
            packets.begin_drain();
            // The child's input is closed, so what they send is discarded.
            packets.resume_input(&mut cx.sources);
        }
    }

    /// Reads every output; returns whether bytes came.
    pub(super) fn read_all(&mut self, cx: &mut Cx<'_>) -> bool {
        let Self { list, attachments, .. } = self;
        let mut read = false;
        for channel in list {
            read |= channel.read_all(attachments, cx);
        }
        read
    }

    /// Whether no bytes are coming on any output that is read.
    pub(super) fn are_quiet(&self) -> bool {
        self.list.iter().all(Channel::is_quiet)
    }

    /// Whether every output is at its end.
    pub(super) fn have_ended(&self) -> bool {
        self.list.iter().all(Channel::has_ended)
    }

    /// Whether all bytes that were read have been logged and forwarded.
    pub(super) fn are_flushed(&self) -> bool {
        self.list.iter().all(Channel::is_flushed)
    }

    /// Whether an output is not read because packet clients have not taken what was read.
    pub(super) fn are_held_back(&self) -> bool {
        self.stdio().is_some_and(Channel::is_held_back)
    }

    /// Whether bytes wait for a reader, and not for a log.
    pub(super) fn wait_for_reader(&self) -> bool {
        self.list.iter().any(Channel::waits_for_reader) || self.attachments.packets_wait()
    }

    /// Whether no further bytes can come, and all have been logged and forwarded, to packet clients
    /// too.
    pub(super) fn are_finished(&self) -> bool {
        self.list.iter().all(Channel::is_finished) && !self.attachments.packets_wait()
    }

    /// Reads no more from outputs of which all that the child itself wrote has been read. At the
    /// `limit` of the drain, nor from those of which that is unknown.
    pub(super) fn end_complete(&mut self, limit: bool, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        list.iter_mut().for_each(|channel| channel.end_complete(limit, attachments, cx));
    }

    /// Accepts no further peer.
    pub(super) fn stop_accepting(&mut self) {
        self.list.iter_mut().for_each(Channel::stop_accepting);
    }

    /// Gives up bytes that wait for a reader, or for a log that can't be written.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        list.iter_mut().for_each(|channel| channel.abandon(attachments, cx));
        if let Some(packets) = attachments.packets() {
            packets.abandon(&mut cx.sources);
        }
    }

    /// Takes the descriptors of the child of this pid out of the channels, and all that waits. The
    /// channels are to be closed then.
    pub(super) fn release(&mut self, pid: u32, cx: &mut Cx<'_>) -> Released {
        let Self { list, attachments, .. } = self;
        let mut io = ChildIo::Piped { stdin: None, stdout: None, stderr: None };
        let (mut stdio_input, mut consoles, mut unwritten) = (Vec::new(), Vec::new(), Vec::new());
        for channel in list {
            let is_terminal = channel.is_terminal();
            let ReleasedChannel { console, outputs, input } = channel.release(attachments, cx);
            let (target, input) = input.map_or((None, Vec::new()), |(fd, rest)| (Some(fd), rest));
            let (mut stdout, mut stderr) = (None, None);
            for (source, rest) in outputs {
                match rest.stream {
                    Stream::Stderr => stderr = source,
                    Stream::Stdout | Stream::Tty | Stream::Notice => stdout = source,
                }
                if !rest.unlogged.is_empty() || !rest.unforwarded.is_empty() {
                    unwritten.push(rest);
                }
            }
            match (console, stdout) {
                (Some(name), Some(descriptor)) => {
                    consoles.push(ReleasedConsole { name, descriptor, input });
                }
                (Some(_), None) => {}
                (None, stdout) => {
                    stdio_input = input;
                    io = match stdout {
                        Some(master) if is_terminal => ChildIo::Tty { master },
                        stdout => ChildIo::Piped { stdin: target, stdout, stderr },
                    };
                }
            }
        }
        Released { pid, io, input: stdio_input, consoles, unwritten }
    }

    /// Ends every channel; returns the logs, the bytes in the log of the child's own stdio, and
    /// the bytes that a log or a stream of the host lacks.
    pub(super) fn close(
        &mut self,
        mark: Option<Mark>,
        cx: &mut Cx<'_>,
    ) -> (Vec<LogTarget>, (u64, u64)) {
        for timer in [self.log_retry.take(), self.log_turn.take()].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
        self.list.iter_mut().for_each(|channel| channel.close(mark, cx));
        if !self.list.is_empty() {
            self.last = self.consoles();
        }
        let bytes = self.bytes();
        let logs = std::mem::take(&mut self.list).into_iter().map(Channel::into_log);
        (logs.collect(), bytes)
    }

    /// The bytes in the log of the child's own stdio, and the bytes that a log or a stream of the
    /// host lacks, consoles included.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let logged = self.stdio().map_or(0, |channel| channel.bytes().0);
        (logged, self.list.iter().map(|channel| channel.bytes().1).sum())
    }

    /// The consoles, of the last run if there is none.
    pub(super) fn consoles(&self) -> Vec<ConsoleReport> {
        match self.list.is_empty() {
            true => self.last.clone(),
            false => self.list.iter().filter_map(Channel::report).collect(),
        }
    }
}

/// The logs.
impl Channels {
    /// Sets the timers that the logs need now.
    pub(super) fn follow_logs(&mut self, cx: &mut Cx<'_>) {
        self.list.iter_mut().for_each(|channel| channel.follow_log(&mut cx.sources));
        if self.log_retry.is_none() && self.list.iter().any(Channel::needs_log_retry) {
            self.log_retry = Some(cx.timers.set(LOG_RETRY, Timer::LogRetry.key()));
        }
    }

    /// Sets the timer for the next deadline of a log. A call that comes too early does nothing, so
    /// the timer is only set again if it would expire too late.
    pub(super) fn follow_deadline(&mut self, cx: &mut Cx<'_>) {
        let Some(at) = self.log_files().filter_map(|log| log.deadline()).min() else { return };
        match self.log_turn {
            Some(timer) if timer.at() <= at => return,
            Some(timer) => cx.timers.cancel(timer),
            None => {}
        }
        self.log_turn = Some(cx.timers.set_at(at, Timer::LogTurn.key()));
    }

    /// Offers the logs again the bytes that they have not taken.
    pub(super) fn retry_logs(&mut self, cx: &mut Cx<'_>) {
        self.log_retry = None;
        let Self { list, attachments, .. } = self;
        list.iter_mut().for_each(|channel| channel.retry_log(attachments, cx));
    }

    /// The log of a channel takes more.
    pub(super) fn log_ready(&mut self, id: ChannelId, cx: &mut Cx<'_>) {
        let Self { list, attachments, .. } = self;
        if let Some(channel) = list.iter_mut().find(|channel| channel.id() == id) {
            channel.retry_log(attachments, cx);
        }
    }

    /// Lets the logs do what is due.
    pub(super) fn log_turn(&mut self) {
        self.log_turn = None;
        self.log_files().for_each(LogFile::turn);
    }

    /// Writes what the logs hold back; returns whether that is done, or given up.
    pub(super) fn finish_logs(&mut self) -> bool {
        let mut finished = true;
        for channel in &mut self.list {
            finished &= channel.log().finish();
        }
        finished
    }

    /// The errors of logs that can't be written, and since when.
    pub(super) fn log_failures(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.list.iter().filter_map(Channel::log_failure)
    }

    /// Opens every log again by its name; returns the first failure.
    pub(super) fn reopen_logs(&mut self) -> Result<(), LogError> {
        let mut outcome = Ok(());
        for channel in &mut self.list {
            outcome = outcome.and(channel.log().reopen());
        }
        outcome
    }

    /// The logs that vmon keeps.
    pub(super) fn log_files(&mut self) -> impl Iterator<Item = &mut LogFile> {
        self.list.iter_mut().filter_map(|channel| channel.log().file())
    }
}

mod packets;
#[cfg(test)]
mod tests;
