//! The modes that output has set in the terminal at our stdout, and how they are undone.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Direction, Handle, Modes, stdout};

/// How long a terminal that takes nothing, as after Ctrl-S, is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// The modes in force. Their default if there is no terminal, or if they have been undone.
///
/// A process has one stdout, and a panic hook can't access a guard on a stack, so this is a static.
static IN_FORCE: Mutex<Option<Modes>> = Mutex::new(None);

/// Notes the modes that output has set in the terminal at stdout: [`undo_modes`] undoes them, and
/// so do [`Terminal::leave_raw`](super::Terminal::leave_raw) and the
/// [panic hook](super::install_panic_hook). For output that is written to a terminal only.
pub fn note_modes(modes: &Modes) {
    *IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(modes.clone());
}

/// Undoes the noted modes in the terminal at stdout. Waits for a terminal that takes no output for
/// 300 ms at most.
pub fn undo_modes() {
    let modes = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner).take();
    undo(modes);
}

/// The same in a panic hook, where the lock may be held.
pub(super) fn undo_modes_now() {
    if let Ok(mut modes) = IN_FORCE.try_lock() {
        undo(modes.take());
    }
}

/// Sets modes again in the terminal at stdout, and notes them. Undoes those in force first, if any.
pub fn set_modes(modes: &Modes) {
    let mut sequences = Vec::new();
    let in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(in_force) = in_force {
        in_force.undo(&mut sequences);
    }
    modes.set(&mut sequences);
    write(&sequences);
    note_modes(modes);
}

fn undo(modes: Option<Modes>) {
    let mut sequences = Vec::new();
    if let Some(modes) = modes {
        modes.undo(&mut sequences);
    }
    write(&sequences);
}

/// Errors are ignored: a terminal that is gone has no modes.
fn write(sequences: &[u8]) {
    let give_up = Instant::now() + PATIENCE;
    let mut rest = sequences;
    let handle = || Handle::open(stdout(), Direction::Write).ok().flatten();
    let Some(mut terminal) = (!rest.is_empty()).then(handle).flatten() else { return };
    while !rest.is_empty() {
        match terminal.write(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < give_up => {
                let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::from(20_u8));
            }
            Err(_) => return,
        }
    }
}
