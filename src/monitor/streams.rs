//! The relays of one child: its output to the log and to our stdio, our stdin to it, and the
//! terminal that both may be.

mod log;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::pty::Winsize;
use tracing::warn;

use super::attach::AttachTo;
use super::keys::{Cx, Source, SourceKey, Sources, Stream, Timer, TimerKey};
use super::sandbox::{Forward, Input as InputPolicy, LogRate, OnLogError, OverRate, Sandbox};
use super::sessions::Sessions;
use crate::child::{self, ChildIo, SpawnIo};
use crate::logfile::{self, LogFile};
use crate::relay::{Input, InputEvent, Kind, Log, Output, Over, Overflow, PaceTimers, Rate, Sink};
use crate::terminal::{self, Direction, Handle, RawState, Terminal};

/// The size of a PTY where we have no terminal of our own.
pub(super) const DEFAULT_SIZE: Winsize =
    Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// What connects us with the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Pipes,
    /// A PTY, whose input is not our terminal.
    Pty,
    /// A PTY that our terminal stands for: an interactive session.
    Session,
}

/// Everything that carries bytes for one child.
#[derive(Debug)]
pub(super) struct Streams {
    log: Log,
    outputs: Vec<(Stream, Output<Handle, SourceKey, TimerKey>)>,
    input: Option<Input<Handle, SourceKey>>,
    link: Link,
    terminal: Option<Terminal>,
}

/// What a command gets as its streams, by what the sandbox wants and what our terminal is.
pub(super) fn spawn_io(sandbox: &Sandbox, pty: bool, terminal: Option<&Terminal>) -> SpawnIo {
    let input = sandbox.stdio_input() != InputPolicy::Null;
    if !pty {
        return SpawnIo::Pipes { input };
    }
    SpawnIo::Pty {
        input,
        size: terminal.and_then(Terminal::window_size).unwrap_or(DEFAULT_SIZE),
        // In the background the modes are those of whoever is in the foreground: a shell's line
        // editor, say, without echo or lines.
        modes: terminal.filter(|it| it.is_foreground()).map(|terminal| terminal.modes().clone()),
    }
}

/// Our terminal, where this sandbox has anything to do with our stdio.
pub(super) fn open_terminal(sandbox: &Sandbox, pty: bool) -> Option<Terminal> {
    let concerned = pty || sandbox.input == InputPolicy::Forward || sandbox.forward != Forward::Off;
    concerned.then(Terminal::open).flatten()
}

impl Streams {
    /// Relays the child's streams.
    ///
    /// # Errors
    ///
    /// No descriptor or no place in the poller was to be had. Nothing is relayed then.
    pub(super) fn new(
        sandbox: &Sandbox,
        log: LogFile,
        io: ChildIo,
        terminal: Option<Terminal>,
        cx: &mut Cx<'_>,
    ) -> io::Result<Self> {
        let mut streams = Self {
            log: Log::new(log, sandbox.on_log_error == OnLogError::Drop),
            // Not the four that a vector begins with: each is a few hundred bytes, for ever.
            outputs: Vec::with_capacity(match io {
                ChildIo::Piped { .. } => 2,
                ChildIo::Tty { .. } => 1,
            }),
            input: None,
            link: match io {
                ChildIo::Piped { .. } => Link::Pipes,
                ChildIo::Tty { .. } => Link::Pty,
            },
            terminal,
        };
        let result = streams.connect(sandbox, io, &mut cx.sources);
        match result {
            Ok(()) => Ok(streams),
            Err(error) => {
                streams.close(&mut cx.sources);
                Err(error)
            }
        }
    }

    fn connect(
        &mut self,
        sandbox: &Sandbox,
        io: ChildIo,
        sources: &mut Sources<'_>,
    ) -> io::Result<()> {
        match io {
            ChildIo::Piped { stdin, stdout, stderr } => {
                self.add_output(Stream::Out, stdout, sandbox, sources)?;
                self.add_output(Stream::Err, stderr, sandbox, sources)?;
                self.add_input(stdin, sandbox.stdio_input(), sources)
            }
            ChildIo::Tty { master } => {
                // Two descriptors of one description: each can be watched for itself.
                let target = master.try_clone()?;
                self.add_output(Stream::Out, Some(master), sandbox, sources)?;
                self.add_input(Some(target), sandbox.stdio_input(), sources)
            }
        }
    }

    fn add_output(
        &mut self,
        stream: Stream,
        source: Option<OwnedFd>,
        sandbox: &Sandbox,
        sources: &mut Sources<'_>,
    ) -> io::Result<()> {
        let Some(source) = source else { return Ok(()) };
        child::set_nonblocking(source.as_fd())?;
        let overflow = match sandbox.stdio_forward() {
            Forward::Off => None,
            Forward::Block => Some(Overflow::Block),
            Forward::Drop => Some(Overflow::Drop),
        };
        let sink = match overflow {
            Some(overflow) => open_ours(stream)?
                .map(|handle| Sink::new(handle, Source::Sink(stream).key(), overflow)),
            None => None,
        };
        let timers =
            PaceTimers { pause: Timer::Pause(stream).key(), settle: Timer::Trim(stream).key() };
        let kind = match self.link {
            Link::Pipes => Kind::of(&source)?,
            Link::Pty | Link::Session => Kind::RawTerminal,
        };
        let logged = match (self.link, stream) {
            (Link::Pty | Link::Session, _) | (_, Stream::Console(_)) => logfile::Stream::Tty,
            (Link::Pipes, Stream::Out) => logfile::Stream::Stdout,
            (Link::Pipes, Stream::Err) => logfile::Stream::Stderr,
        };
        let mut output =
            Output::new(source, kind, logged, Source::Output(stream).key(), timers, sink, sources)?;
        if let Some(rate) = sandbox.log_rate {
            output.limit(rate.into(), timers);
        }
        self.outputs.push((stream, output));
        Ok(())
    }

    fn add_input(
        &mut self,
        target: Option<OwnedFd>,
        policy: InputPolicy,
        sources: &mut Sources<'_>,
    ) -> io::Result<()> {
        // Dropping the target is the end of the child's input, where it has a pipe for one.
        let Some(target) = target else { return Ok(()) };
        let ours = match policy {
            InputPolicy::Null => None,
            InputPolicy::Attached if self.link == Link::Pty => None,
            InputPolicy::Attached => {
                self.input = Some(Self::lasting_input(target)?);
                return Ok(());
            }
            InputPolicy::Forward => Handle::open(terminal::stdin(), Direction::Read)?,
        };
        let Some(ours) = ours else { return Ok(()) };
        child::set_nonblocking(target.as_fd())?;
        if self.link == Link::Pty && ours.is_terminal() {
            self.link = Link::Session;
        }
        // A terminal takes what those who are attached type, also after our stdin has ended.
        let mut input = Input::new(target, Source::ChildInput.key(), self.link != Link::Pipes);
        input.take_from(ours, Source::Stdin.key(), sources)?;
        self.input = Some(input);
        Ok(())
    }

    fn lasting_input(target: OwnedFd) -> io::Result<Input<Handle, SourceKey>> {
        child::set_nonblocking(target.as_fd())?;
        Ok(Input::new(target, Source::ChildInput.key(), true))
    }

    /// Whether what is attached may send the child something now.
    pub(super) fn accepts_input(&self) -> bool {
        self.input.as_ref().is_none_or(Input::accepts)
    }

    /// Sends the child what somebody who is attached has typed. Where the child has no input, that
    /// is nobody's.
    pub(super) fn send_input(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        if self.input.is_none() && self.link != Link::Pipes {
            // Nobody has written to this terminal yet: a descriptor of its own for that.
            let target = self.master().and_then(|master| master.as_fd().try_clone_to_owned().ok());
            self.input = target.and_then(|target| Self::lasting_input(target).ok());
        }
        if let Some(input) = &mut self.input
            && input.send(bytes, sources) == InputEvent::Refused
        {
            self.close_input(sources);
        }
    }

    /// The stream that a client gets, where the child has it.
    pub(super) fn stream(&self, to: &AttachTo) -> Option<(AttachTo, Stream)> {
        let (to, stream) = match (to, self.link) {
            (AttachTo::Tty | AttachTo::Stdout, Link::Pty | Link::Session) => {
                (AttachTo::Tty, Stream::Out)
            }
            (AttachTo::Stdout, Link::Pipes) => (AttachTo::Stdout, Stream::Out),
            (AttachTo::Stderr, Link::Pipes) => (AttachTo::Stderr, Stream::Err),
            (AttachTo::Tty, Link::Pipes) | (AttachTo::Stderr | AttachTo::Console(_), _) => {
                return None;
            }
        };
        self.outputs.iter().any(|(name, _)| *name == stream).then_some((to, stream))
    }

    /// Makes our terminal the child's, if it is to be and we are in the foreground.
    pub(super) fn enter_terminal(&mut self) -> RawState {
        let Some(terminal) = self.terminal.as_mut().filter(|_| self.link == Link::Session) else {
            return RawState::Background;
        };
        terminal.enter_raw().unwrap_or_else(|error| {
            warn!("can't set the terminal's mode: {error}");
            RawState::Background
        })
    }

    /// Gives our terminal back to whoever had it.
    pub(super) fn leave_terminal(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.leave_raw();
        }
    }

    /// The child's terminal, where it has one.
    fn master(&self) -> Option<&File> {
        let master = self.outputs.iter().find_map(|(_, output)| output.source());
        master.filter(|_| self.link != Link::Pipes)
    }

    /// Reads one of the child's streams; says whether anything came.
    pub(super) fn output_ready(
        &mut self,
        stream: Stream,
        sessions: &mut Sessions,
        cx: &mut Cx<'_>,
    ) -> bool {
        // A shell's `fg` tells a job that runs already nothing: any output is a time to look.
        self.waits_in_background();
        let Self { outputs, log, .. } = self;
        match outputs.iter_mut().find(|(name, _)| *name == stream) {
            Some((_, output)) => output.turn(log, &mut sessions.audience(stream), cx),
            None => false,
        }
    }

    /// Gives a pipe of the child's its own size back, unless it is flooded.
    pub(super) fn settle(&mut self, stream: Stream, cx: &mut Cx<'_>) {
        if let Some((_, output)) = self.outputs.iter_mut().find(|(name, _)| *name == stream) {
            output.settle(cx);
        }
    }

    /// Goes on forwarding.
    pub(super) fn sink_ready(&mut self, stream: Stream, sources: &mut Sources<'_>) {
        if let Some((_, output)) = self.outputs.iter_mut().find(|(name, _)| *name == stream) {
            output.flush_sink(sources);
        }
    }

    /// Our readers get no more: the log alone does.
    pub(super) fn abandon_sinks(&mut self, sources: &mut Sources<'_>) {
        for (_, output) in &mut self.outputs {
            output.abandon_sink(sources);
        }
    }

    /// Reads our stdin.
    pub(super) fn input_ready(&mut self, cx: &mut Cx<'_>) {
        if self.waits_in_background() {
            if let Some(input) = &self.input {
                input.not_ready(&mut cx.sources);
            }
            return;
        }
        let raw = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        let Some(input) = &mut self.input else { return };
        match input.turn(raw, cx) {
            Ok(event) => self.input_event(event, &mut cx.sources),
            // Reading a terminal from the background, with SIGTTIN blocked (termios(3)).
            Err(error)
                if error.raw_os_error() == Some(libc::EIO)
                    && input.reads_terminal()
                    && in_background(self.terminal.as_ref()) =>
            {
                input.not_ready(&mut cx.sources);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // A terminal that was hung up, and a socket whose peer has left.
                if !terminal::peer_has_gone(&error, input.reads_terminal()) {
                    warn!("can't read our stdin any more: {error}");
                }
                self.end_input(&mut cx.sources);
            }
        }
    }

    /// Goes on writing the child's input.
    pub(super) fn child_input_ready(&mut self, sources: &mut Sources<'_>) {
        if let Some(input) = &mut self.input {
            let event = input.flush(sources);
            self.input_event(event, sources);
        }
    }

    /// Whether an interactive session waits for our process to come to the foreground.
    fn waits_in_background(&mut self) -> bool {
        let raw = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        if self.link != Link::Session || raw {
            return false;
        }
        let waits = self.enter_terminal() == RawState::Background;
        if !waits {
            self.resize();
        }
        waits
    }

    fn input_event(&mut self, event: InputEvent, sources: &mut Sources<'_>) {
        match event {
            InputEvent::Open => {}
            InputEvent::Ended => self.end_input(sources),
            InputEvent::Refused => self.close_input(sources),
        }
        if self.input.as_ref().is_some_and(Input::is_finished) {
            self.close_input(sources);
        }
    }

    /// Our stdin has ended; so does the child's, after what is on its way.
    fn end_input(&mut self, sources: &mut Sources<'_>) {
        let Some(input) = &mut self.input else { return };
        input.end_source(sources);
        // A terminal of ours that ends has been hung up, which is not for the child to read.
        let tell = self.link == Link::Pty;
        let end = if tell {
            child::terminal_eof(input.target().as_fd(), input.last())
        } else {
            Vec::new()
        };
        if input.send(&end, sources) == InputEvent::Refused || input.is_finished() {
            self.close_input(sources);
        }
    }

    /// Passes no more input on.
    pub(super) fn close_input(&mut self, sources: &mut Sources<'_>) {
        if let Some(mut input) = self.input.take() {
            input.close(sources);
        }
    }

    /// The child has ended: notes what of its output is still to be read, and reads.
    pub(super) fn begin_drain(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        self.close_input(&mut cx.sources);
        let pty = self.link != Link::Pipes;
        let Self { outputs, log, .. } = self;
        for (stream, output) in outputs {
            let left = match output.source() {
                // FIONREAD tells of a part of what a PTY holds only.
                Some(_) if pty => Some(child::PTY_CAPACITY),
                Some(source) => child::bytes_available(source.as_fd()).ok(),
                None => None,
            };
            output.begin_tail(left);
            output.turn(log, &mut sessions.audience(*stream), cx);
        }
    }

    /// Reads what is there on every stream; says whether anything came.
    pub(super) fn read_again(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) -> bool {
        let Self { outputs, log, .. } = self;
        outputs.iter_mut().fold(false, |any, (stream, output)| {
            output.turn(log, &mut sessions.audience(*stream), cx) || any
        })
    }

    /// Whether nothing comes any more on streams that are being read.
    pub(super) fn are_quiet(&self) -> bool {
        self.outputs.iter().all(|(_, output)| output.is_quiet())
    }

    /// Whether all has been read, logged and forwarded.
    pub(super) fn are_finished(&self) -> bool {
        self.outputs.iter().all(|(_, output)| output.has_ended() && output.is_flushed())
    }

    /// Whether nothing that was read waits for the log or a reader.
    pub(super) fn are_flushed(&self) -> bool {
        self.outputs.iter().all(|(_, output)| output.is_flushed())
    }

    /// Reads no more from those streams that have given all that the child itself wrote.
    pub(super) fn end_complete(&mut self, sources: &mut Sources<'_>) {
        for (_, output) in self.outputs.iter_mut().filter(|(_, output)| output.has_tail()) {
            output.end(sources);
        }
    }

    /// Ends everything, and counts what still waits as left out.
    pub(super) fn close(&mut self, sources: &mut Sources<'_>) {
        self.close_input(sources);
        for (_, output) in &mut self.outputs {
            output.abandon(&mut self.log, sources);
        }
        self.log.close();
        self.leave_terminal();
    }

    /// Whether our terminal is the child's.
    pub(super) fn is_session(&self) -> bool {
        self.link == Link::Session
    }

    /// Whether the child has a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.link != Link::Pipes
    }

    /// The log itself.
    pub(super) fn log_file(&mut self) -> &mut LogFile {
        self.log.file()
    }

    /// The log, when nothing is relayed any more.
    pub(super) fn into_log(self) -> LogFile {
        self.log.into_file()
    }

    /// Bytes in the log, and bytes that the log or a reader of ours lacks.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let missed: u64 = self.outputs.iter().map(|(_, output)| output.dropped()).sum();
        (self.log.logged(), self.log.dropped() + missed)
    }
}

impl From<LogRate> for Rate {
    fn from(LogRate { per_second, burst, over }: LogRate) -> Self {
        let over = match over {
            OverRate::Block => Over::Block,
            OverRate::Drop => Over::Drop,
        };
        Self { per_second, burst, over }
    }
}

fn in_background(terminal: Option<&Terminal>) -> bool {
    terminal.is_some_and(|terminal| !terminal.is_foreground())
}

/// A private handle on our own stream of that name; `None` where it is closed.
fn open_ours(stream: Stream) -> io::Result<Option<Handle>> {
    match stream {
        Stream::Out | Stream::Console(_) => Handle::open(terminal::stdout(), Direction::Write),
        Stream::Err => Handle::open(terminal::stderr(), Direction::Write),
    }
}
