//! Writes to stdout, which may block, or be closed by its reader.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags};
use vmon::terminal::{self, Direction, Handle};

use super::super::interruptible_wait::{InterruptibleWait, WaitResult};
use super::super::{Failure, reason};

/// CAN ends an incomplete escape sequence, SGR resets all attributes.
const RESET: &[u8] = b"\x18\x1b[m";

/// Writes to stdout without blocking signals.
pub struct Output {
    handle: Option<Handle>,
    interruptible: InterruptibleWait,
}

/// Whether to go on writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    More,
    Closed,
}

impl Output {
    pub fn new() -> Result<Self, Failure> {
        let handle = Handle::open(terminal::stdout(), Direction::Write).map_err(Failure::SetUp)?;
        Ok(Self { handle, interruptible: InterruptibleWait::new().map_err(Failure::SetUp)? })
    }

    pub fn is_terminal(&self) -> bool {
        self.handle.as_ref().is_some_and(Handle::is_terminal)
    }

    /// Reports signals and a closed stdout between writes.
    pub fn interruptible(&self) -> &InterruptibleWait {
        &self.interruptible
    }

    /// Writes and clears `bytes`. A reader that has closed stdout, or a hangup of the terminal, is
    /// no error.
    pub fn write(&mut self, bytes: &mut Vec<u8>) -> Result<Wanted, Failure> {
        let Some(handle) = &mut self.handle else { return Err(Failure::Output("it is closed")) };
        let mut written = 0;
        if self.interruptible.is_over() {
            return Ok(Wanted::Closed);
        }
        while let Some(rest @ [_, ..]) = bytes.get(written..) {
            match handle.write(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let takes = [PollFd::new(handle.as_fd(), PollFlags::POLLOUT)];
                    if self.interruptible.wait_for(&takes, None) == WaitResult::Quit {
                        // A partly written sequence may have left its attributes.
                        let _ = handle.is_terminal().then(|| handle.write(RESET));
                        return Ok(Wanted::Closed);
                    }
                }
                Err(error) if terminal::peer_has_gone(&error, handle.is_terminal()) => {
                    return Ok(Wanted::Closed);
                }
                Err(error) => return Err(Failure::Output(reason(&error))),
            }
        }
        bytes.clear();
        Ok(Wanted::More)
    }
}
