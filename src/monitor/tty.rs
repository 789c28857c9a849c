//! The state of a channel whose output is that of a terminal: the modes that the output has set,
//! and a redraw of the program's screen.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::pty::Winsize;

use super::keys::{ChannelId, Cx, Timer};
use crate::child;
use crate::reactor::TimerId;
use crate::terminal::{self, Modes};

/// How long a window is a column wider, unless output comes before. Programs that poll the size
/// every 100 ms notice it.
const HOLD: Duration = Duration::from_millis(200);

/// How long no output comes before a redraw that is to wait for a quiet moment.
const QUIET: Duration = Duration::from_millis(100);

/// What is known of the terminal that the output of a channel is for.
#[derive(Debug)]
pub(super) struct Tty {
    channel: ChannelId,
    /// The modes that the output has set.
    modes: Modes,
    /// Whether the output is forwarded to a terminal at the host's stdout.
    at_host: bool,
    redraw: Redraw,
}

/// A terminal sends SIGWINCH on a change only (ioctl_tty(2)). So a program is made to draw its
/// screen again by a wider window, which then gets its size back. The log notes neither.
#[derive(Debug)]
enum Redraw {
    None,
    /// Begins when the timer expires and the log has not grown.
    Quiet {
        /// The size of the run's output in the log when the timer was set, in bytes.
        logged: u64,
        timer: TimerId,
    },
    /// The window is wider, until the timer or the next output.
    Held {
        size: Winsize,
        timer: TimerId,
    },
}

impl Tty {
    pub(super) fn new(channel: ChannelId, at_host: bool) -> Self {
        Self { channel, modes: Modes::default(), at_host, redraw: Redraw::None }
    }

    /// Notes output that has been forwarded.
    pub(super) fn scan(&mut self, bytes: &[u8]) {
        if self.modes.scan(bytes) && self.at_host {
            terminal::note_modes(&self.modes);
        }
    }

    /// The sequences that set the modes in another terminal.
    pub(super) fn modes(&self) -> Vec<u8> {
        let mut sequences = Vec::new();
        self.modes.set(&mut sequences);
        sequences
    }

    /// Sets the modes again in the host's terminal, where they have been undone. Returns whether the
    /// contents of its screen, or its scrolling region, are lost.
    pub(super) fn set_host_modes(&self) -> bool {
        if self.at_host {
            terminal::set_modes(&self.modes);
        }
        self.at_host && (self.modes.alternate_screen() || self.modes.scrolling_region())
    }

    /// Has the program draw its screen again.
    pub(super) fn redraw(&mut self, master: BorrowedFd<'_>, cx: &mut Cx<'_>) {
        match self.redraw {
            Redraw::None => {}
            Redraw::Quiet { timer, .. } => cx.timers.cancel(timer),
            Redraw::Held { .. } => return,
        }
        let Ok(size) = child::window_size(master) else { return };
        let columns = size.ws_col.checked_add(1).unwrap_or(size.ws_col - 1);
        if child::resize(master, &Winsize { ws_col: columns, ..size }).is_ok() {
            let timer = cx.timers.set(HOLD, Timer::Redraw(self.channel).key());
            self.redraw = Redraw::Held { size, timer };
        }
    }

    /// The same, once no output comes. `logged` is the number of bytes in the log.
    pub(super) fn redraw_when_quiet(&mut self, logged: u64, cx: &mut Cx<'_>) {
        if let Redraw::None = self.redraw {
            let timer = cx.timers.set(QUIET, Timer::Redraw(self.channel).key());
            self.redraw = Redraw::Quiet { logged, timer };
        }
    }

    /// The timer of a redraw has expired.
    pub(super) fn redraw_timer(
        &mut self,
        master: Option<BorrowedFd<'_>>,
        logged: u64,
        cx: &mut Cx<'_>,
    ) {
        match (std::mem::replace(&mut self.redraw, Redraw::None), master) {
            (Redraw::Quiet { logged: before, .. }, Some(_)) if before != logged => {
                self.redraw_when_quiet(logged, cx);
            }
            (Redraw::Quiet { .. }, Some(master)) => self.redraw(master, cx),
            (Redraw::Held { size, .. }, Some(master)) => {
                let _ = child::resize(master, &size);
            }
            (_, None) | (Redraw::None, _) => {}
        }
    }

    /// Whether the window is wider now.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.redraw, Redraw::Held { .. })
    }

    /// Output has come: the window gets its size back.
    pub(super) fn release(&mut self, master: BorrowedFd<'_>, cx: &mut Cx<'_>) {
        if let Redraw::Held { size, timer } = std::mem::replace(&mut self.redraw, Redraw::None) {
            cx.timers.cancel(timer);
            let _ = child::resize(master, &size);
        }
    }

    /// If the window is wider now, has it get this size afterwards. Returns whether it does.
    pub(super) fn defer(&mut self, new: &Winsize) -> bool {
        match &mut self.redraw {
            Redraw::Held { size, .. } => {
                *size = *new;
                true
            }
            Redraw::None | Redraw::Quiet { .. } => false,
        }
    }
}
