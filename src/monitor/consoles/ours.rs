//! Our own terminal, or whatever else our stdin and stdout are, at a console.

use std::io;

use nix::pty::Winsize;
use tracing::warn;

use super::super::keys::{Cx, Source, SourceKey, Sources};
use super::super::sandbox::{Forward, Input as InputPolicy, Sandbox};
use crate::relay::{Input, InputEvent, Overflow, Sink};
use crate::terminal::{self, Direction, Handle, RawState, Terminal};

/// What a console has of ours.
#[derive(Debug)]
pub(super) struct Ours {
    terminal: Option<Terminal>,
    stdin: Stdin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// None, or at its end.
    None,
    /// To be read while the console is open.
    Waits,
    /// Read.
    Relayed,
    /// Read, and a terminal, for which the console stands.
    Session,
}

impl Ours {
    pub(super) fn new(sandbox: &Sandbox, terminal: Option<Terminal>) -> Self {
        let takes = sandbox.input == InputPolicy::Forward;
        Self { terminal, stdin: if takes { Stdin::Waits } else { Stdin::None } }
    }

    /// Where the console's output goes, beside its log.
    pub(super) fn sink(
        forward: Forward,
        key: SourceKey,
    ) -> io::Result<Option<Sink<Handle, SourceKey>>> {
        let overflow = match forward {
            Forward::Off => return Ok(None),
            Forward::Block => Overflow::Block,
            Forward::Drop => Overflow::Drop,
        };
        let stdout = Handle::open(terminal::stdout(), Direction::Write)?;
        Ok(stdout.map(|stdout| Sink::new(stdout, key, overflow)))
    }

    pub(super) fn window_size(&self) -> Option<Winsize> {
        self.terminal.as_ref().and_then(Terminal::window_size)
    }

    /// Whether our terminal stands for the console now.
    pub(super) fn is_session(&self) -> bool {
        self.stdin == Stdin::Session
    }

    /// The console is open: from here on it gets our stdin.
    pub(super) fn connect(
        &mut self,
        input: &mut Input<Handle, SourceKey>,
        sources: &mut Sources<'_>,
    ) -> io::Result<()> {
        if self.stdin != Stdin::Waits {
            return Ok(());
        }
        let Some(stdin) = Handle::open(terminal::stdin(), Direction::Read)? else {
            self.stdin = Stdin::None;
            return Ok(());
        };
        let is_terminal = stdin.is_terminal();
        input.take_from(stdin, Source::Stdin.key(), sources)?;
        self.stdin = if is_terminal { Stdin::Session } else { Stdin::Relayed };
        self.enter();
        Ok(())
    }

    /// It no longer is: what is typed waits, and the terminal is as it was.
    pub(super) fn disconnect(&mut self) {
        if self.stdin != Stdin::None {
            self.stdin = Stdin::Waits;
        }
        self.leave();
    }

    /// Makes our terminal the console's, if we are in the foreground.
    pub(super) fn enter(&mut self) -> RawState {
        let Some(terminal) = self.terminal.as_mut().filter(|_| self.stdin == Stdin::Session) else {
            return RawState::Background;
        };
        terminal.enter_raw().unwrap_or_else(|error| {
            warn!("can't set the terminal's mode: {error}");
            RawState::Background
        })
    }

    /// Gives our terminal back to whoever had it.
    pub(super) fn leave(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.leave_raw();
        }
    }

    /// Reads our stdin. Says whether the console still takes what it gets.
    pub(super) fn stdin_ready(
        &mut self,
        input: &mut Input<Handle, SourceKey>,
        cx: &mut Cx<'_>,
    ) -> bool {
        if self.waits_in_background() {
            input.not_ready(&mut cx.sources);
            return true;
        }
        let raw = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        match input.turn(raw, cx) {
            Ok(InputEvent::Open) => {}
            Ok(InputEvent::Refused) => return false,
            Ok(InputEvent::Ended) => self.ended(),
            // Reading a terminal from the background, with SIGTTIN blocked (termios(3)).
            Err(error)
                if error.raw_os_error() == Some(libc::EIO)
                    && input.reads_terminal()
                    && self.in_background() =>
            {
                input.not_ready(&mut cx.sources);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // A terminal that was hung up, and a socket whose peer has left.
                if !terminal::peer_has_gone(&error, input.reads_terminal()) {
                    warn!("can't read our stdin any more: {error}");
                }
                input.end_source(&mut cx.sources);
                self.ended();
            }
        }
        true
    }

    /// Our stdin has ended. The console goes on: it is no pipe.
    fn ended(&mut self) {
        self.stdin = Stdin::None;
    }

    /// Whether our process has come to the foreground. A shell's `fg` tells a job that runs already
    /// nothing, so this is asked whenever anything moves.
    pub(super) fn comes_forward(&mut self) -> bool {
        self.is_aside() && self.enter() == RawState::Raw
    }

    fn waits_in_background(&mut self) -> bool {
        self.is_aside() && self.enter() == RawState::Background
    }

    /// Whether our terminal is to be the console's, and is not.
    fn is_aside(&self) -> bool {
        self.is_session() && !self.terminal.as_ref().is_some_and(Terminal::is_raw)
    }

    fn in_background(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| !terminal.is_foreground())
    }
}
