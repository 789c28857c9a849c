//! The signals that a monitor handles.

use crate::child::{self, Signal};

/// The signals that a monitor handles: requests to stop (TERM, INT, QUIT and HUP), USR1, at which
/// it closes the log and opens it again by its name, the terminal's WINCH, TSTP and CONT, and XFSZ,
/// which would end the process when the log reaches a file size limit. INT, QUIT, HUP and TSTP are
/// left out if this process ignores them, as under `nohup` and in a shell's background.
///
/// For [`Reactor::watch_signals`](crate::reactor::Reactor::watch_signals), in a program that is a command.
pub fn command_signals() -> Vec<Signal> {
    let always = [Signal::TERM, Signal::USR1, Signal::WINCH, Signal::CONT, Signal::XFSZ];
    let unless_ignored = [Signal::INT, Signal::QUIT, Signal::HUP, Signal::TSTP];
    let handled = unless_ignored.into_iter().filter(|&signal| !child::is_ignored(signal));
    always.into_iter().chain(handled).collect()
}
