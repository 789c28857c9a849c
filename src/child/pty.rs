//! PTYs: creating them, their size, and the end of their input.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::pty::Winsize;
use nix::sys::stat::{Mode, fchmod};
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr, tcsetattr,
};

use super::descriptors::above_stdio;
use super::platform;

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

/// Sets the window size of a PTY; the kernel sends SIGWINCH to its foreground processes when the
/// size changes (ioctl_tty(2)).
pub(crate) fn resize(master: BorrowedFd<'_>, size: &Winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads one winsize from the pointer, which is a live reference.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, size) })?;
    Ok(())
}

/// The window size of a PTY.
pub(crate) fn window_size(master: BorrowedFd<'_>) -> io::Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is a live reference.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(size)
}

/// An upper bound on the bytes that a PTY buffers between a writer and the reader of the master.
/// Linux has 64 KiB of flip buffers and 4 KiB in the line discipline (`TTYB_DEFAULT_MEM_LIMIT`,
/// `N_TTY_BUF_SIZE`), other systems less. This is about twice that.
pub(crate) const PTY_CAPACITY: usize = 128 * 1024;

/// The bytes that signal the end of input to a child on a PTY, after the byte `last`.
///
/// In canonical mode the EOF character completes an unfinished line, and is the end of input only
/// on an empty line (termios(3)). So an unfinished line needs two.
pub(crate) fn terminal_eof(master: BorrowedFd<'_>, last: Option<u8>) -> Vec<u8> {
    /// Ctrl-D, for a terminal without an EOF character.
    const CTRL_D: u8 = 4;
    let Ok(modes) = tcgetattr(master) else { return vec![CTRL_D] };
    let character = |index: SpecialCharacterIndices| {
        modes.control_chars.get(index as usize).copied().filter(|&byte| byte != 0)
    };
    let eof = character(SpecialCharacterIndices::VEOF).unwrap_or(CTRL_D);
    let ends_line = |byte: u8| {
        byte == b'\n'
            || byte == eof
            || Some(byte) == character(SpecialCharacterIndices::VEOL)
            || (byte == b'\r' && modes.input_flags.contains(InputFlags::ICRNL))
    };
    let canonical = modes.local_flags.contains(LocalFlags::ICANON);
    let unfinished = last.is_some_and(|last| !ends_line(last));
    if canonical && unfinished { vec![eof, eof] } else { vec![eof] }
}
