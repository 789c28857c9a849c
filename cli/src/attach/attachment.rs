//! The event handler of an attachment: relays stdin, stdout and stderr, and sets terminal modes.

use std::convert::Infallible;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, warn};
use vmon::child::Signal;
use vmon::reactor::{Context, Handler, Ready, Sources, TimerId};
use vmon::terminal::{self, Direction, Handle, Modes, RawState, Terminal};

use super::SizeReport;
use super::flow::{Flow, Got};
use super::keys::Search;
use super::tail::Tail;
use crate::Failure;

/// How long the beginning of the detach keys is withheld from the command.
const HOLD_KEYS: Duration = Duration::from_millis(300);

/// How the attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachEnd {
    /// The client detached.
    Left,
    /// The sandbox closed its streams.
    Ended,
    /// Writing to stdout failed. The error has been reported.
    Unwritten,
    /// A signal was received.
    Signalled(Signal),
}

/// One of the output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Out,
    Err,
}

#[derive(Debug, Clone, Copy)]
pub enum Source {
    Stdin,
    Upstream,
    Connection(Output),
    Sink(Output),
}

type Down = Flow<UnixStream, Handle, Source>;
type Cx<'a> = Context<'a, Source, ()>;

/// The terminal mode while attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputMode {
    /// Raw mode: the command's terminal does the line editing.
    Raw,
    /// Line mode, for a command without a terminal. This character ends a line too.
    Lines(u8),
}

/// The state of an attachment.
pub struct Attachment {
    /// The connections, until the handler has started.
    connections: Vec<(Output, UnixStream)>,
    upstream: Option<UnixStream>,
    terminal: Option<Terminal>,
    mode: InputMode,
    size: SizeReport,
    reads_stdin: bool,
    stdin_is_terminal: bool,
    read_only: bool,
    /// Set when stdin is a terminal.
    search: Option<Search>,
    /// Set while the beginning of the detach keys is withheld.
    held_keys: Option<TimerId>,
    up: Option<Flow<Handle, UnixStream, Source>>,
    down: Vec<(Output, Down)>,
    /// The outputs of this process that are terminals.
    terminals: Vec<Output>,
    /// The sequences that set the modes of the sandbox's terminal.
    first: Vec<u8>,
    /// The modes that the output has set in the terminal at stdout.
    modes: Modes,
    /// The end of the log, until a terminal has all of it.
    tail: Option<Tail>,
    end: Option<io::Result<AttachEnd>>,
}

impl Attachment {
    pub fn new(
        main: UnixStream,
        stderr: Option<UnixStream>,
        terminal: Option<(Terminal, InputMode)>,
        size: SizeReport,
    ) -> Self {
        let (terminal, mode) = terminal.unzip();
        let mut connections = vec![(Output::Out, main)];
        connections.extend(stderr.map(|stderr| (Output::Err, stderr)));
        Self {
            connections,
            upstream: None,
            terminal,
            mode: mode.unwrap_or(InputMode::Raw),
            size,
            reads_stdin: false,
            stdin_is_terminal: false,
            read_only: false,
            search: None,
            held_keys: None,
            up: None,
            down: Vec::new(),
            terminals: Vec::new(),
            first: Vec::new(),
            modes: Modes::default(),
            tail: None,
            end: None,
        }
    }

    /// Sets whether stdin is read, and the search for the detach keys.
    pub fn reading(mut self, reads: bool, search: Option<Search>) -> Self {
        self.reads_stdin = reads;
        self.search = search;
        self
    }

    /// Sets whether input is discarded.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets the sequences that put a terminal into the modes of the sandbox's terminal, and the
    /// filter for the end of the log.
    pub fn beginning(mut self, modes: String, tail: Option<Tail>) -> Self {
        self.first = modes.into_bytes();
        self.tail = tail;
        self
    }

    /// Restores the terminal and returns the end.
    pub fn into_end(mut self) -> Result<AttachEnd, Failure> {
        self.leave_terminal();
        self.end.unwrap_or(Ok(AttachEnd::Ended)).map_err(Failure::Loop)
    }

    fn begin(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        for (output, connection) in std::mem::take(&mut self.connections) {
            connection.set_nonblocking(true)?;
            if output == Output::Out {
                self.upstream = Some(connection.try_clone()?);
            }
            let ours = match output {
                Output::Out => Handle::open(io::stdout().as_fd(), Direction::Write)?,
                Output::Err => Handle::open(io::stderr().as_fd(), Direction::Write)?,
            };
            if ours.as_ref().is_some_and(Handle::is_terminal) {
                self.terminals.push(output);
            }
            let (from, to) = (Source::Connection(output), Source::Sink(output));
            self.down.push((output, Flow::new(connection, from, ours, to, &mut cx.sources)?));
        }
        if self.reads_stdin {
            let stdin = Handle::open(io::stdin().as_fd(), Direction::Read)?;
            self.stdin_is_terminal = stdin.as_ref().is_some_and(Handle::is_terminal);
            let upstream = self.upstream.take();
            self.up = stdin
                .map(|stdin| {
                    let (from, to) = (Source::Stdin, Source::Upstream);
                    Flow::new(stdin, from, upstream, to, &mut cx.sources)
                })
                .transpose()?;
        }
        self.enter_terminal();
        if self.terminals.contains(&Output::Out) {
            let first = std::mem::take(&mut self.first);
            self.show(Output::Out, &first, &mut cx.sources);
        }
        self.resize();
        Ok(())
    }

    /// Sets the terminal mode. Called at the start and whenever the process may have come to the
    /// foreground.
    fn enter_terminal(&mut self) -> Option<RawState> {
        let terminal =
            self.terminal.as_mut().filter(|_| self.up.is_some() && self.search.is_some())?;
        let entered = match self.mode {
            InputMode::Raw => terminal.enter_raw(),
            InputMode::Lines(last) => terminal.enter_lines(last),
        };
        entered.inspect_err(|error| warn!("can't set the terminal's modes: {error}")).ok()
    }

    /// Restores the terminal: the modes that the output has set, and raw mode.
    fn leave_terminal(&mut self) {
        match &mut self.terminal {
            Some(terminal) => terminal.leave_raw(),
            None => terminal::undo_modes(),
        }
    }

    /// Sets the terminal mode, the modes of the output, and the window size again.
    fn resume(&mut self) {
        self.enter_terminal();
        let foreground = self.terminal.as_ref().is_none_or(Terminal::is_foreground);
        if foreground && self.terminals.contains(&Output::Out) {
            terminal::set_modes(&self.modes);
        }
        self.resize();
    }

    fn resize(&self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| terminal.is_foreground()) {
            self.size.send(terminal);
        }
    }

    fn finish(&mut self, end: AttachEnd) {
        self.end.get_or_insert(Ok(end));
        self.leave_terminal();
    }

    fn fail(&mut self, error: io::Error) {
        self.end.get_or_insert(Err(error));
    }

    fn read_stdin(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        // In the background, terminal input belongs to another process group. This process may have
        // come to the foreground since the last check.
        let background = self.search.is_some()
            && match self.terminal.as_ref().map(Terminal::is_raw) {
                Some(false) => self.enter_terminal() == Some(RawState::Background),
                _ => false,
            };
        let not_foreground = self.in_background();
        let Some(up) = &mut self.up else { return Ok(()) };
        if background && !is_hung_up() {
            up.not_ready(&mut cx.sources);
            return Ok(());
        }
        match up.read(cx.scratch, &mut cx.sources) {
            Ok(Got::Bytes(bytes)) => {
                let typed = bytes.to_vec();
                self.typed(&typed, cx);
            }
            Ok(Got::Nothing) => {}
            // Under nohup(1) SIGHUP is ignored, and POLLHUP is the only indication.
            Ok(Got::End) | Err(_) if self.search.is_some() && is_hung_up() => {
                self.finish(AttachEnd::Left);
            }
            Ok(Got::End) => {
                self.release_keys(cx);
                self.end_input();
            }
            // A read from the background with SIGTTIN blocked (termios(3)).
            Err(error)
                if error.raw_os_error() == Some(Errno::EIO as i32)
                    && self.stdin_is_terminal
                    && not_foreground =>
            {
                up.not_ready(&mut cx.sources);
            }
            Err(error) => {
                if !terminal::peer_has_gone(&error, self.stdin_is_terminal) {
                    warn!("can't read stdin: {error}");
                }
                up.end(&mut cx.sources);
                self.end_input();
            }
        }
        Ok(())
    }

    /// Sends input to the command, without the detach keys.
    fn typed(&mut self, bytes: &[u8], cx: &mut Cx<'_>) {
        let Some(search) = &mut self.search else { return self.send(bytes, cx) };
        let scan = search.scan(bytes);
        // Input is discarded with --read-only, so Ctrl-C can detach.
        let detach = scan.detach || (self.read_only && scan.interrupt);
        let waits = search.is_waiting();
        self.send(&scan.passed, cx);
        if detach {
            self.finish(AttachEnd::Left);
        }
        if let Some(timer) = self.held_keys.take() {
            cx.timers.cancel(timer);
        }
        self.held_keys = waits.then(|| cx.timers.set(HOLD_KEYS, ()));
    }

    /// Sends the keys that have been withheld.
    fn release_keys(&mut self, cx: &mut Cx<'_>) {
        let keys = self.search.as_mut().map(Search::release).unwrap_or_default();
        self.send(&keys, cx);
    }

    fn in_background(&self) -> bool {
        self.terminal.as_ref().is_none_or(|terminal| !terminal.is_foreground())
    }

    fn send(&mut self, bytes: &[u8], cx: &mut Cx<'_>) {
        if self.read_only || bytes.is_empty() {
            return;
        }
        if let Some(up) = &mut self.up {
            let sent = up.send(bytes, &mut cx.sources);
            self.sent(sent);
        }
    }

    /// Logs a failed write. The sandbox may still produce output.
    fn sent(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            debug!("the sandbox accepts no more input: {error}");
        }
    }

    /// Shuts down the sending side once all input has been sent.
    fn end_input(&mut self) {
        if let Some(up) = self.up.as_ref().filter(|up| up.is_over())
            && let Some(upstream) = up.sink()
        {
            // Fails only if the supervisor has closed the connection.
            let _ = upstream.shutdown(Shutdown::Write);
        }
    }

    /// Enters raw mode if the process has come to the foreground. A shell's `fg` does not signal a
    /// job that was not stopped, so this is checked at each output.
    fn check_foreground(&mut self) {
        let waits = self.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        if waits && self.enter_terminal() == Some(RawState::Raw) {
            self.resume();
        }
    }

    fn read_output(&mut self, output: Output, cx: &mut Cx<'_>) -> io::Result<()> {
        self.check_foreground();
        let Some((_, flow)) = self.down.iter_mut().find(|(own, _)| *own == output) else {
            return Ok(());
        };
        match flow.read(cx.scratch, &mut cx.sources) {
            Ok(Got::Bytes(bytes)) => match self.tail.as_mut().filter(|_| output == Output::Out) {
                Some(tail) => {
                    let mut shown = Vec::new();
                    if let Some(rest) = tail.filter(bytes, &mut shown) {
                        self.tail = None;
                        shown.extend_from_slice(rest);
                    }
                    self.show(output, &shown, &mut cx.sources);
                }
                None => self.show(output, bytes, &mut cx.sources),
            },
            Ok(Got::Nothing | Got::End) => {}
            Err(error) => {
                debug!("the connection failed: {error}");
                flow.end(&mut cx.sources);
            }
        }
        self.check_end();
        Ok(())
    }

    /// Writes output to stdout or stderr, and notes the modes that it sets in a terminal.
    fn show(&mut self, output: Output, bytes: &[u8], sources: &mut Sources<'_, Source>) {
        if output == Output::Out && self.terminals.contains(&output) && self.modes.scan(bytes) {
            terminal::note_modes(&self.modes);
        }
        let flow = self.down.iter_mut().find(|(own, _)| *own == output);
        if let Some((_, flow)) = flow
            && let Err(error) = flow.send(bytes, sources)
        {
            self.refused(output, &error);
        }
    }

    fn flush_output(&mut self, output: Output, cx: &mut Cx<'_>) {
        let flow = self.down.iter_mut().find(|(own, _)| *own == output);
        if let Some((_, flow)) = flow
            && let Err(error) = flow.flush(&mut cx.sources)
        {
            self.refused(output, &error);
        }
        self.check_end();
    }

    /// Handles a failed write to stdout or stderr. A closed pipe is no error; a full disk is one.
    fn refused(&mut self, output: Output, error: &io::Error) {
        if terminal::peer_has_gone(error, self.terminals.contains(&output)) {
            debug!("can't write to {output:?}: {error}");
            return;
        }
        warn!("can't write the output of the sandbox: {error}");
        if output == Output::Out {
            self.finish(AttachEnd::Unwritten);
        }
    }

    fn check_end(&mut self) {
        // The reader of stdout has closed it.
        let left = |(output, flow): &(Output, Down)| *output == Output::Out && flow.has_failed();
        if self.down.iter().any(left) {
            self.finish(AttachEnd::Left);
        } else if self.down.iter().all(|(_, flow)| flow.is_over()) {
            self.finish(AttachEnd::Ended);
        }
    }
}

/// Whether stdin is a terminal that has hung up.
fn is_hung_up() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

impl Handler for Attachment {
    type Source = Source;
    type Timer = ();
    type Event = Infallible;

    fn start(&mut self, cx: &mut Cx<'_>) {
        if let Err(error) = self.begin(cx) {
            self.fail(error);
        }
    }

    fn ready(&mut self, source: Source, _: Ready, cx: &mut Cx<'_>) {
        let done = match source {
            Source::Stdin => self.read_stdin(cx),
            Source::Connection(output) => self.read_output(output, cx),
            Source::Upstream => {
                if let Some(up) = &mut self.up {
                    let sent = up.flush(&mut cx.sources);
                    self.sent(sent);
                }
                self.end_input();
                Ok(())
            }
            Source::Sink(output) => {
                self.flush_output(output, cx);
                Ok(())
            }
        };
        if let Err(error) = done {
            self.fail(error);
        }
    }

    fn timer(&mut self, (): (), cx: &mut Cx<'_>) {
        self.held_keys = None;
        self.release_keys(cx);
    }

    fn signal(&mut self, signal: i32, _: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(signal @ (Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP)) => {
                self.finish(AttachEnd::Signalled(signal));
            }
            Some(Signal::WINCH) => self.resize(),
            Some(Signal::TSTP) => self.leave_terminal(),
            Some(Signal::CONT) => self.resume(),
            _ => {}
        }
    }

    fn after_signal(signal: i32) {
        terminal::suspend_after(signal);
    }

    fn is_done(&self) -> bool {
        self.end.is_some()
    }
}
