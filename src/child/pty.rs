//! Creating PTYs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open as open_file};
use nix::pty::Winsize;
use nix::sys::stat::{Mode, fchmod};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::{above_stdio, platform, resize};

/// Both sides of a new PTY.
#[derive(Debug)]
pub(crate) struct Pty {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
    /// The path of the slave.
    pub(crate) path: PathBuf,
}

/// A new PTY that is not a controlling terminal.
pub(super) fn open() -> io::Result<Pty> {
    let (master, path) = platform::open_pty()?;
    let master = above_stdio(master)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let slave = above_stdio(open_file(path.as_path(), flags, Mode::empty())?)?;
    Ok(Pty { master, slave, path })
}

/// A new PTY of this size for another program to open: in raw mode, with access for its owner only.
pub(crate) fn open_raw_pty(size: &Winsize) -> io::Result<Pty> {
    let pty = open()?;
    make_raw(pty.slave.as_fd())?;
    fchmod(&pty.slave, Mode::S_IRUSR | Mode::S_IWUSR)?;
    resize(pty.master.as_fd(), size)?;
    Ok(pty)
}

/// Sets `IUTF8` (termios(3)), so the line discipline erases whole UTF-8 characters. The kernel's
/// default is bytes; a terminal emulator sets this for its shell.
pub(super) fn set_iutf8(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.input_flags.insert(platform::UTF8_INPUT);
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &modes)?)
}

/// Sets a terminal to raw mode.
pub(crate) fn make_raw(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    cfmakeraw(&mut modes);
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &modes)?)
}
