//! The state of a console, as it is reported.

use std::path::PathBuf;

use super::name::Name;
use crate::values::words;

/// The state of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsoleState {
    /// It is not there, and will be tried again.
    Waiting,
    /// This process listens, and no peer is connected.
    Listening,
    /// Open: bytes can come.
    Open,
    /// No further bytes will come.
    Gone,
}

impl ConsoleState {
    /// `waiting`, `listening`, `open` or `gone`.
    pub const fn as_str(self) -> &'static str {
        self.word()
    }
}

words!(ConsoleState {
    Waiting = "waiting",
    Listening = "listening",
    Open = "open",
    Gone = "gone",
});

/// A console at one moment: [`Report::consoles`](super::Report::consoles).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsoleReport {
    /// Its name.
    pub name: Name,
    /// Its kind: `unix`, `listen`, `pty`, `fifo`, or `descriptor` for a descriptor of the host's.
    pub kind: &'static str,
    /// The path of its socket, FIFO or PTY, if it has one.
    pub path: Option<PathBuf>,
    /// Its state.
    pub state: ConsoleState,
    /// Its log; `None` if the sandbox has [no logs](super::Sandbox::log_off).
    pub log: Option<PathBuf>,
    /// Bytes of this run that are in its log.
    pub bytes_logged: u64,
    /// Bytes of this run that its log, or the host's stdout, lacks.
    pub bytes_dropped: u64,
    /// How often it has been opened in this run.
    pub opened: u32,
}
