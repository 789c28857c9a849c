//! Pseudo-terminals, as the harness and the bare loop need them.

#![allow(unsafe_code)] // TIOCSCTTY and the window size: no safe wrapper

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::Result;
use crate::process::{Running, wait_readable};

/// A PTY of 80 columns and 24 lines, with the modes of a new one.
pub fn open() -> Result<OpenptyResult> {
    private(openpty(&Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }, None)?)
}

/// A PTY with the modes of this terminal.
pub fn open_like(terminal: BorrowedFd<'_>) -> Result<OpenptyResult> {
    let modes = tcgetattr(terminal)?;
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    private(openpty(&size, &modes)?)
}

/// No child inherits either end but by its standard streams.
fn private(pty: OpenptyResult) -> Result<OpenptyResult> {
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(pty)
}

/// Starts a command as the leader of a session with this terminal.
pub fn spawn(command: &mut Command, terminal: &OwnedFd) -> Result<Running> {
    command
        .stdin(Stdio::from(terminal.try_clone()?))
        .stdout(Stdio::from(terminal.try_clone()?))
        .stderr(Stdio::from(terminal.try_clone()?));
    // SAFETY: setsid(2) and ioctl(2) are plain system calls: no lock, no allocation.
    unsafe { command.pre_exec(lead_session_on_stdin) };
    Running::spawn_in_its_group(command)
}

fn lead_session_on_stdin() -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: no pointers; descriptor 0 is the terminal.
    match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Reads available output, at least one byte; 0 at the end, when no process has the terminal open.
pub fn read(master: &mut File, buffer: &mut [u8], limit: Duration) -> Result<usize> {
    loop {
        wait_readable(master.as_fd(), limit)?;
        match master.read(buffer) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return Ok(result?),
        }
    }
}

/// A terminal in raw mode, until this is dropped.
pub struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Makes it raw.
    pub fn enter(terminal: BorrowedFd<'a>) -> Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSANOW, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}
