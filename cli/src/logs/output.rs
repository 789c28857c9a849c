//! Our stdout, which may take its time, and whose reader may go away.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags};
use vmon::terminal::{self, Direction, Handle};

use super::super::pause::{Next, Pause};
use super::super::{Failure, reason};

/// Ends an unfinished sequence, and all attributes.
const RESET: &[u8] = b"\x18\x1b[m";

/// Writes to our stdout. A signal is never kept waiting by it.
pub struct Output {
    handle: Option<Handle>,
    pause: Pause,
}

/// Whether anybody wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    More,
    Enough,
}

impl Output {
    pub fn new() -> Result<Self, Failure> {
        let handle = Handle::open(terminal::stdout(), Direction::Write).map_err(Failure::SetUp)?;
        Ok(Self { handle, pause: Pause::new().map_err(Failure::SetUp)? })
    }

    pub fn is_terminal(&self) -> bool {
        self.handle.as_ref().is_some_and(Handle::is_terminal)
    }

    /// What tells that nobody wants more while nothing is written.
    pub fn pause(&self) -> &Pause {
        &self.pause
    }

    /// Writes all of it, and leaves nothing in `bytes`. A reader that has gone away has all it
    /// wanted, and a terminal may have been closed.
    pub fn write(&mut self, bytes: &mut Vec<u8>) -> Result<Wanted, Failure> {
        let Some(handle) = &mut self.handle else { return Err(Failure::Output("it is closed")) };
        let mut written = 0;
        if self.pause.is_over() {
            return Ok(Wanted::Enough);
        }
        while let Some(rest @ [_, ..]) = bytes.get(written..) {
            match handle.write(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let takes = [PollFd::new(handle.as_fd(), PollFlags::POLLOUT)];
                    if self.pause.wait_for(&takes, None) == Next::Leave {
                        // What has been written of it may have left its colours.
                        let _ = handle.is_terminal().then(|| handle.write(RESET));
                        return Ok(Wanted::Enough);
                    }
                }
                Err(error) if terminal::peer_has_gone(&error, handle.is_terminal()) => {
                    return Ok(Wanted::Enough);
                }
                Err(error) => return Err(Failure::Output(reason(&error))),
            }
        }
        bytes.clear();
        Ok(Wanted::More)
    }
}
