//! The state of a channel whose output is that of a terminal.

use crate::terminal::{self, Modes};

/// What is known of the terminal that the output of a channel is for.
#[derive(Debug)]
pub(super) struct Tty {
    /// The modes that the output has set.
    modes: Modes,
    /// Whether the output is forwarded to a terminal at the host's stdout.
    at_host: bool,
}

impl Tty {
    pub(super) fn new(at_host: bool) -> Self {
        Self { modes: Modes::default(), at_host }
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

    /// Sets the modes again in the host's terminal, where they have been undone.
    pub(super) fn set_host_modes(&self) {
        if self.at_host {
            terminal::set_modes(&self.modes);
        }
    }
}
