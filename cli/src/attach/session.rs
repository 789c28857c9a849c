//! What goes on while we are attached: three ways for bytes, and our terminal.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, warn};
use vmon::child::Signal;
use vmon::reactor::{Context, Handler, Ready};
use vmon::terminal::{self, Direction, Handle, RawState, Terminal};

use super::Size;
use super::flow::{Flow, Got};
use super::keys::Search;
use crate::Failure;

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// We left, and the sandbox goes on.
    Left,
    /// Nothing more comes from the sandbox.
    Ended,
    /// Our stdout can't be written, which has been told.
    Unwritten,
    /// A signal has ended us.
    Signalled(Signal),
}

/// One of the two outputs.
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
type Cx<'a> = Context<'a, Session>;

/// What our terminal makes of what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typing {
    /// Nothing: the command's terminal does.
    Raw,
    /// Lines, for a command that has no terminal. This character ends one too.
    Lines(u8),
}

/// We, attached.
pub struct Session {
    /// Until they are on the loop.
    connections: Vec<(Output, UnixStream)>,
    upstream: Option<UnixStream>,
    terminal: Option<Terminal>,
    typing: Typing,
    size: Size,
    reads_stdin: bool,
    stdin_is_terminal: bool,
    read_only: bool,
    /// Where the keys are looked for: at a terminal.
    search: Option<Search>,
    up: Option<Flow<Handle, UnixStream, Source>>,
    down: Vec<(Output, Down)>,
    /// Which of our outputs are terminals.
    terminals: Vec<Output>,
    outcome: Option<io::Result<Outcome>>,
}

impl Session {
    pub fn new(
        main: UnixStream,
        stderr: Option<UnixStream>,
        terminal: Option<(Terminal, Typing)>,
        size: Size,
    ) -> Self {
        let (terminal, typing) = terminal.unzip();
        let mut connections = vec![(Output::Out, main)];
        connections.extend(stderr.map(|stderr| (Output::Err, stderr)));
        Self {
            connections,
            upstream: None,
            terminal,
            typing: typing.unwrap_or(Typing::Raw),
            size,
            reads_stdin: false,
            stdin_is_terminal: false,
            read_only: false,
            search: None,
            up: None,
            down: Vec::new(),
            terminals: Vec::new(),
            outcome: None,
        }
    }

    /// Whether stdin is read, and the keys that are looked for there.
    pub fn reading(mut self, reads: bool, search: Option<Search>) -> Self {
        self.reads_stdin = reads;
        self.search = search;
        self
    }

    /// Whether what is typed goes nowhere.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    pub fn into_outcome(self) -> Result<Outcome, Failure> {
        self.outcome.unwrap_or(Ok(Outcome::Ended)).map_err(Failure::Loop)
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
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| terminal.is_foreground()) {
            self.size.tell_anew(terminal);
        }
        Ok(())
    }

    /// Makes our terminal raw, where what is typed is the command's to understand, or have it
    /// deliver the keys that leave.
    fn enter_terminal(&mut self) -> Option<RawState> {
        let terminal =
            self.terminal.as_mut().filter(|_| self.up.is_some() && self.search.is_some())?;
        let entered = match self.typing {
            Typing::Raw => terminal.enter_raw(),
            Typing::Lines(last) => terminal.enter_lines(last),
        };
        entered.inspect_err(|error| warn!("can't set the terminal's modes: {error}")).ok()
    }

    fn resize(&self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| terminal.is_foreground()) {
            self.size.tell(terminal);
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(Ok(outcome));
        if let Some(terminal) = &mut self.terminal {
            terminal.leave_raw();
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.outcome.get_or_insert(Err(error));
    }

    fn read_stdin(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        // In the background what is typed is another's; the terminal may be ours again by now.
        let waits = self.search.is_some()
            && match self.terminal.as_ref().map(Terminal::is_raw) {
                Some(false) => self.enter_terminal() == Some(RawState::Background),
                _ => false,
            };
        let in_background = self.in_background();
        let Some(up) = &mut self.up else { return Ok(()) };
        if waits && !is_hung_up() {
            up.not_ready(&mut cx.sources);
            return Ok(());
        }
        match up.read(cx.scratch, &mut cx.sources) {
            Ok(Got::Bytes(bytes)) => {
                let typed = bytes.to_vec();
                self.typed(&typed, cx);
            }
            Ok(Got::Nothing) => {}
            // Where SIGHUP is ignored, as under nohup(1), nothing else tells.
            Ok(Got::End) | Err(_) if self.search.is_some() && is_hung_up() => {
                self.finish(Outcome::Left);
            }
            Ok(Got::End) => {
                let rest = self.search.as_mut().map(Search::rest).unwrap_or_default();
                self.send(&rest, cx);
                self.end_input();
            }
            // From the background, with SIGTTIN blocked (termios(3)).
            Err(error)
                if error.raw_os_error() == Some(Errno::EIO as i32)
                    && self.stdin_is_terminal
                    && in_background =>
            {
                up.not_ready(&mut cx.sources);
            }
            Err(error) => {
                if !terminal::peer_has_gone(&error, self.stdin_is_terminal) {
                    warn!("can't read our stdin any more: {error}");
                }
                up.end(&mut cx.sources);
                self.end_input();
            }
        }
        Ok(())
    }

    /// Passes on what was typed, or came through a pipe, but for the keys that leave.
    fn typed(&mut self, bytes: &[u8], cx: &mut Cx<'_>) {
        let Some(search) = &mut self.search else { return self.send(bytes, cx) };
        let found = search.look(bytes);
        // What is typed is nobody's, so Ctrl-C may as well mean what it usually does.
        let leave = found.leave || (self.read_only && bytes.contains(&INTERRUPT));
        self.send(&found.passed, cx);
        if leave {
            self.finish(Outcome::Left);
        }
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

    /// A sandbox that takes no input any more may have output still.
    fn sent(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            debug!("the sandbox takes no more input: {error}");
        }
    }

    /// Once all that we read has gone: tells the supervisor that no more will come.
    fn end_input(&mut self) {
        if let Some(up) = self.up.as_ref().filter(|up| up.is_over())
            && let Some(upstream) = up.sink()
        {
            // Fails only where the supervisor has closed it.
            let _ = upstream.shutdown(Shutdown::Write);
        }
    }

    /// A shell's `fg` tells a job that runs already nothing: any output is a time to look.
    fn come_forward(&mut self) {
        let waits = self.terminal.as_ref().is_some_and(|terminal| !terminal.is_raw());
        if waits && self.enter_terminal() == Some(RawState::Raw) {
            self.resize();
        }
    }

    fn read_output(&mut self, output: Output, cx: &mut Cx<'_>) -> io::Result<()> {
        self.come_forward();
        let Some((_, flow)) = self.down.iter_mut().find(|(own, _)| *own == output) else {
            return Ok(());
        };
        match flow.read(cx.scratch, &mut cx.sources) {
            Ok(Got::Bytes(bytes)) => {
                if let Err(error) = flow.send(bytes, &mut cx.sources) {
                    self.refused(output, &error);
                }
            }
            Ok(Got::Nothing | Got::End) => {}
            Err(error) => {
                debug!("the connection has broken: {error}");
                flow.end(&mut cx.sources);
            }
        }
        self.look_for_end();
        Ok(())
    }

    fn flush_output(&mut self, output: Output, cx: &mut Cx<'_>) {
        let flow = self.down.iter_mut().find(|(own, _)| *own == output);
        if let Some((_, flow)) = flow
            && let Err(error) = flow.flush(&mut cx.sources)
        {
            self.refused(output, &error);
        }
        self.look_for_end();
    }

    /// One of our outputs takes no more. A reader that goes away is no fault; a full disk is one.
    fn refused(&mut self, output: Output, error: &io::Error) {
        if terminal::peer_has_gone(error, self.terminals.contains(&output)) {
            debug!("{output:?} of ours takes no more: {error}");
            return;
        }
        warn!("can't write what comes from the sandbox: {error}");
        if output == Output::Out {
            self.finish(Outcome::Unwritten);
        }
    }

    fn look_for_end(&mut self) {
        // Whoever read our stdout and has gone has all it wanted.
        let left = |(output, flow): &(Output, Down)| *output == Output::Out && flow.gave_up();
        if self.down.iter().any(left) {
            self.finish(Outcome::Left);
        } else if self.down.iter().all(|(_, flow)| flow.is_over()) {
            self.finish(Outcome::Ended);
        }
    }
}

/// Whether our stdin is a terminal that was closed.
fn is_hung_up() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

impl Handler for Session {
    type Source = Source;
    type Timer = ();

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

    fn timer(&mut self, (): (), _: &mut Cx<'_>) {}

    fn signal(&mut self, signal: i32, _: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(signal @ (Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP)) => {
                self.finish(Outcome::Signalled(signal));
            }
            Some(Signal::WINCH) => self.resize(),
            Some(Signal::TSTP) => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.leave_raw();
                }
            }
            Some(Signal::CONT) => {
                self.enter_terminal();
                self.resize();
            }
            _ => {}
        }
    }

    fn after_signal(signal: i32) {
        terminal::suspend_after(signal);
    }

    fn is_done(&self) -> bool {
        self.outcome.is_some()
    }
}
