//! The host's terminal at a channel, or whatever else the host's stdin is.
//!
//! Borrowed: the terminal is in raw mode only while the channel takes keystrokes from it and this
//! process is in the foreground.

use std::io;

use nix::pty::Winsize;
use tracing::warn;

use crate::monitor::keys::{Cx, Source, SourceKey, Sources};
use crate::relay::{Input, InputEvent};
use crate::terminal::{self, Direction, Handle, RawState, Terminal};

/// What a channel has of the host's stdio, beside the sinks of its outputs.
#[derive(Debug)]
pub(in crate::monitor) struct HostTerminal {
    /// Boxed: most children of a host have none.
    terminal: Option<Box<Terminal>>,
    stdin: Stdin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// Not this channel's, or at its end.
    None,
    /// To be read while the channel is open.
    Waiting,
    /// Read.
    Relayed,
    /// Read, and a terminal that passes keystrokes on: an interactive session.
    Session,
}

impl HostTerminal {
    /// `takes_stdin` is whether the channel is to read the host's stdin.
    pub(in crate::monitor) fn new(terminal: Option<Terminal>, takes_stdin: bool) -> Self {
        Self {
            terminal: terminal.map(Box::new),
            stdin: if takes_stdin { Stdin::Waiting } else { Stdin::None },
        }
    }

    /// Has `input` read the host's stdin, if it is this channel's; returns whether it does.
    /// `keystrokes` is whether a terminal passes each key on as it is typed.
    ///
    /// # Errors
    ///
    /// No descriptor or no room in the poller is available.
    pub(super) fn connect(
        &mut self,
        input: &mut Input<Handle, SourceKey>,
        keystrokes: bool,
        sources: &mut Sources<'_>,
    ) -> io::Result<bool> {
        if self.stdin != Stdin::Waiting {
            return Ok(false);
        }
        let Some(stdin) = Handle::open(terminal::stdin(), Direction::Read)? else {
            self.stdin = Stdin::None;
            return Ok(false);
        };
        let session = keystrokes && stdin.is_terminal() && self.terminal.is_some();
        input.take_from(stdin, Source::HostInput.key(), sources)?;
        self.stdin = if session { Stdin::Session } else { Stdin::Relayed };
        Ok(true)
    }

    /// The channel has closed: stdin is read again when it opens, and the terminal gets its modes
    /// back.
    pub(super) fn disconnect(&mut self) {
        if self.stdin != Stdin::None {
            self.stdin = Stdin::Waiting;
        }
        self.leave();
    }

    /// The terminal's window size; `None` if that does not apply to the PTY.
    pub(super) fn window_size(&mut self) -> Option<Winsize> {
        self.terminal.as_mut().and_then(|terminal| terminal.changed_size())
    }

    /// Whether keystrokes at the host's terminal go to this channel.
    pub(super) fn is_session(&self) -> bool {
        self.stdin == Stdin::Session
    }

    /// Puts the terminal into raw mode, if this is a session in the foreground.
    pub(super) fn enter(&mut self) -> RawState {
        let Some(terminal) = self.terminal.as_mut().filter(|_| self.stdin == Stdin::Session) else {
            return RawState::Background;
        };
        terminal.enter_raw().unwrap_or_else(|error| {
            warn!("can't set the terminal's mode: {error}");
            RawState::Background
        })
    }

    /// Gives the terminal its modes back.
    pub(super) fn leave(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.leave_raw();
        }
    }

    /// Whether this process has just come to the foreground of a session. A running job gets no
    /// signal from the shell's `fg`, so this is checked whenever bytes move.
    pub(super) fn comes_to_foreground(&mut self) -> bool {
        self.is_outside() && self.enter() == RawState::Raw
    }

    /// Whether this is a session whose terminal is not in raw mode.
    pub(super) fn is_outside(&self) -> bool {
        self.is_session() && !self.is_raw()
    }

    fn is_raw(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.is_raw())
    }

    /// Whether this process is in the foreground of the terminal.
    pub(super) fn is_in_foreground(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| terminal.is_foreground())
    }

    fn is_in_background(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| !terminal.is_foreground())
    }

    /// Reads the host's stdin into `input`, with the terminal's `answers` to queries or without.
    pub(super) fn read(
        &mut self,
        answers: bool,
        input: &mut Input<Handle, SourceKey>,
        cx: &mut Cx<'_>,
    ) -> InputEvent {
        if self.is_outside() {
            input.not_ready(&mut cx.sources);
            return InputEvent::Nothing;
        }
        match input.turn(self.is_raw(), answers, cx) {
            Ok(event) => event,
            // A read from the background with SIGTTIN blocked (termios(3)).
            Err(error)
                if error.raw_os_error() == Some(libc::EIO)
                    && input.reads_terminal()
                    && self.is_in_background() =>
            {
                input.not_ready(&mut cx.sources);
                InputEvent::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => InputEvent::Nothing,
            Err(error) => {
                // A terminal that was hung up, or a socket whose peer has closed it, is at its end.
                if !terminal::peer_has_gone(&error, input.reads_terminal()) {
                    warn!("can't read our stdin any more: {error}");
                }
                input.end_source(&mut cx.sources);
                InputEvent::Ended
            }
        }
    }

    /// Stdin is at its end. Returns whether it was a session: then the terminal was hung up.
    pub(super) fn end_stdin(&mut self) -> bool {
        std::mem::replace(&mut self.stdin, Stdin::None) == Stdin::Session
    }
}
