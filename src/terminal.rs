//! Our own stdio, borrowed: private non-blocking handles, raw mode, window size.
//!
//! Descriptors 0 to 2 are shared with the shell and its other children, flags and modes included.
//! Nothing here sets `O_NONBLOCK` on them, stops us from the background, or leaves the terminal in
//! another mode than it was.

#![allow(unsafe_code)] // ioctl and sigaction calls that no safe wrapper offers

mod handle;
mod messages;
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "terminal/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "terminal/bsd.rs")]
mod platform;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::pty::Winsize;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw,
    tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, isatty, tcgetpgrp};
use tracing::warn;

pub use handle::{Direction, Handle};
pub use messages::Messages;
#[cfg(feature = "consoles")]
pub(crate) use platform::is_pty_master;

/// The terminal's modes before we made it raw, while it is raw.
///
/// A process has one controlling terminal, and a panic hook can't reach a guard on some stack:
/// hence one place for the whole process.
static RAW: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    terminal: OwnedFd,
    modes: Termios,
}

impl Saved {
    fn restore(&self) {
        // A background process must leave the modes to whoever is in the foreground.
        if is_foreground(self.terminal.as_fd()) {
            // TCSANOW: draining would wait for a terminal that is stopped by Ctrl-S.
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.modes);
        }
    }
}

/// Our terminal: the first of stdin, stdout and stderr that is one.
///
/// While it is [raw](Self::enter_raw) its former modes are kept for the whole process, so that
/// [`install_panic_hook`] can give them back; dropping this gives them back too.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    modes: Termios,
    /// Ours is the raw mode that [`RAW`] undoes.
    raw: bool,
}

impl Terminal {
    /// `None` when none of our stdio is a terminal.
    ///
    /// Blocks `SIGTTIN` and `SIGTTOU` for the calling thread: from the background, a read or a
    /// mode change then fails or passes, and does not stop the process (termios(3)).
    pub fn open() -> Option<Self> {
        let fd =
            [stdin(), stdout(), stderr()].into_iter().find(|fd| isatty(fd).unwrap_or(false))?;
        let job_control: SigSet = [Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect();
        job_control.thread_block().ok()?;
        let fd = fd.try_clone_to_owned().ok()?;
        let modes = tcgetattr(&fd).ok()?;
        Some(Self { fd, modes, raw: false })
    }

    /// The modes as they were found.
    pub(crate) fn modes(&self) -> &Termios {
        &self.modes
    }

    /// The window's size; `None` when the terminal does not know it.
    pub(crate) fn window_size(&self) -> Option<Winsize> {
        let mut size = MaybeUninit::<Winsize>::zeroed();
        // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid for one.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
        // SAFETY: zeroed is a valid winsize, and four integers are all there is to it.
        let size = unsafe { size.assume_init() };
        (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(size)
    }

    /// The window's rows and columns; `None` when the terminal does not know them.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.window_size().map(|size| (size.ws_row, size.ws_col))
    }

    /// Makes the terminal raw if we are in its foreground and it is not raw yet.
    ///
    /// # Errors
    ///
    /// tcsetattr's.
    pub fn enter_raw(&mut self) -> io::Result<RawState> {
        self.enter(cfmakeraw)
    }

    /// The same, but that the terminal still edits lines, echoes and makes signals: only that a
    /// line is delivered at once when `last` is typed, which is then its end, and that flow control
    /// does not take the character (VEOL and IXON, termios(3)).
    ///
    /// # Errors
    ///
    /// tcsetattr's.
    pub fn enter_lines(&mut self, last: u8) -> io::Result<RawState> {
        self.enter(|modes| {
            modes.input_flags.remove(InputFlags::IXON);
            let place = modes.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize);
            if let Some(end_of_line) = place {
                *end_of_line = last;
            }
        })
    }

    /// The same, but that keys still make signals: what is typed is delivered at once and not shown,
    /// and output goes to the terminal as it is, as that of a program that has made its own raw.
    ///
    /// # Errors
    ///
    /// tcsetattr's.
    pub fn enter_quiet(&mut self) -> io::Result<RawState> {
        self.enter(|modes| {
            modes.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            modes.output_flags.remove(OutputFlags::OPOST);
        })
    }

    fn enter(&mut self, change: impl FnOnce(&mut Termios)) -> io::Result<RawState> {
        let mut saved = RAW.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_foreground(self.fd.as_fd()) {
            // What the modes are is the foreground's business now; ours are void.
            if std::mem::take(&mut self.raw) {
                *saved = None;
            }
            return Ok(RawState::Background);
        }
        if saved.is_none() {
            // The modes of this moment: a shell may have changed them while we were stopped.
            self.modes = tcgetattr(&self.fd)?;
            *saved = Some(Saved { terminal: self.fd.try_clone()?, modes: self.modes.clone() });
            self.raw = true;
        }
        let mut raw = self.modes.clone();
        change(&mut raw);
        tcsetattr(&self.fd, SetArg::TCSANOW, &raw)?;
        Ok(RawState::Raw)
    }

    /// Gives the terminal its modes back.
    pub fn leave_raw(&mut self) {
        if std::mem::take(&mut self.raw)
            && let Some(saved) = RAW.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            saved.restore();
        }
    }

    /// Whether it is raw, by our doing.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Whether our process group is the terminal's foreground one.
    pub fn is_foreground(&self) -> bool {
        is_foreground(self.fd.as_fd())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave_raw();
    }
}

/// Our stdin. Not std's, which makes a buffer of 8 KiB for good when it is first asked for.
pub fn stdin() -> BorrowedFd<'static> {
    stdio(libc::STDIN_FILENO)
}

/// Our stdout; std's makes a buffer as well.
pub fn stdout() -> BorrowedFd<'static> {
    stdio(libc::STDOUT_FILENO)
}

/// Our stderr.
pub fn stderr() -> BorrowedFd<'static> {
    stdio(libc::STDERR_FILENO)
}

/// Whether this error of read(2) or write(2) means that the other end has gone: the reader of a
/// pipe, the peer of a socket, or a terminal that was hung up. Everything else is a fault.
///
/// `EIO` is a hang-up on a terminal only (termios(3)). On a regular file or a block device it is a
/// disk that fails. `is_terminal` is to be asked before the error: a terminal that was hung up
/// answers isatty(3) with an error too.
pub fn peer_has_gone(error: &io::Error, is_terminal: bool) -> bool {
    match error.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET) => true,
        Some(libc::EIO) => is_terminal,
        _ => false,
    }
}

fn stdio(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: as in std, whose stdin, stdout and stderr are these for as long as the process runs:
    // nothing closes them, and before main they are opened where they were not.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// What [`Terminal::enter_raw`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawState {
    /// The terminal has the modes that were asked for.
    Raw,
    /// We are in the background: nothing was touched.
    Background,
}

fn is_raw() -> bool {
    RAW.try_lock().map_or(true, |saved| saved.is_some())
}

fn is_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// Has a panic give the terminal its modes back before its message is printed, also in a program
/// that aborts on panic. For a process that is a command; it chains to the hook that is set.
pub fn install_panic_hook() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut saved) = RAW.try_lock()
            && let Some(saved) = saved.take()
        {
            saved.restore();
        }
        next(panic);
    }));
}

/// Where a signal that was caught is `SIGTSTP`, does what it does where it is not caught: stops the
/// process until `SIGCONT`, unless its process group is orphaned and nobody could continue it.
/// `SIGCONT` is raised in either case, so that what it undoes is undone.
///
/// For [`Handler::after_signal`](crate::reactor::Handler::after_signal): by then every handler has
/// given its terminal back.
pub fn suspend_after(signal: i32) {
    if signal == Signal::SIGTSTP as i32
        && let Err(error) = stop_process()
    {
        warn!("can't suspend: {error}");
    }
}

fn stop_process() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL installs no handler; the former action is put back below.
    let caught = unsafe { sigaction(Signal::SIGTSTP, &default) }?;
    let stopped = raise(Signal::SIGTSTP).and_then(|()| raise(Signal::SIGCONT));
    // SAFETY: this action was in force before and its handler is still there.
    unsafe { sigaction(Signal::SIGTSTP, &caught) }?;
    stopped.map_err(Errno::into)
}
