//! The standard streams of this process: private non-blocking handles, raw mode, window size.
//!
//! Descriptors 0 to 2, their flags and the terminal modes are shared with the shell and its other
//! children. Nothing here sets `O_NONBLOCK` on them or gets this process stopped in the background,
//! and the terminal modes are restored.

// ioctl and sigaction calls without a safe wrapper.
#![allow(unsafe_code)]

mod answers;
mod handle;
mod messages;
mod modes;
mod output_modes;
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

pub(crate) use answers::is_answer;
pub use handle::{Direction, Handle};
pub use messages::Messages;
pub use modes::Modes;
pub use output_modes::{note_modes, set_modes, undo_modes};
pub(crate) use platform::SEND_FLAGS;
#[cfg(feature = "consoles")]
pub(crate) use platform::is_pty_master;

/// The modes of the terminal to restore, while it is raw.
///
/// A process has one controlling terminal, and a panic hook can't access a guard on a stack, so
/// this is a static.
static RAW: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    terminal: OwnedFd,
    modes: Termios,
}

impl Saved {
    fn restore(&self) {
        // The modes belong to the foreground process group.
        if is_foreground(self.terminal.as_fd()) {
            // TCSANOW, because TCSADRAIN blocks on a terminal that is stopped by Ctrl-S.
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.modes);
        }
    }
}

/// The size of a terminal's window.
///
/// ```
/// use vmon::terminal::WindowSize;
///
/// let size = WindowSize::new(24, 80);
/// assert_eq!((size.rows, size.columns, size.width, size.height), (24, 80, 0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// In characters.
    pub rows: u16,
    /// In characters.
    pub columns: u16,
    /// In pixels; 0 if not known.
    pub width: u16,
    /// In pixels; 0 if not known.
    pub height: u16,
}

impl WindowSize {
    /// A window of this size in characters, and of unknown size in pixels.
    pub fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns, width: 0, height: 0 }
    }

    pub(crate) fn winsize(self) -> Winsize {
        Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: self.width,
            ws_ypixel: self.height,
        }
    }
}

/// The terminal of this process: the first of stdin, stdout and stderr that is a terminal.
///
/// ```no_run
/// use vmon::terminal::{self, RawState, Terminal};
///
/// # fn main() -> std::io::Result<()> {
/// terminal::install_panic_hook();
/// if let Some(mut terminal) = Terminal::open()? {
///     let is_raw = matches!(terminal.enter_raw()?, RawState::Raw);
///     // Relay keystrokes; dropping the terminal restores its modes.
/// }
/// # Ok(())
/// # }
/// ```
///
/// While it is [raw](Self::enter_raw), its former modes are kept in a static, from which
/// [`install_panic_hook`] restores them. Dropping this restores them too.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    modes: Termios,
    /// Whether this value has set the raw mode that [`RAW`] undoes.
    raw: bool,
    /// The size that [`Self::changed_size`] leaves out.
    ignored: Option<Winsize>,
}

impl Terminal {
    /// Opens the terminal; `None` if no standard stream is a terminal.
    ///
    /// Blocks `SIGTTIN` and `SIGTTOU` for the calling thread, so that a read or a mode change in
    /// the background does not stop the process (termios(3)).
    ///
    /// # Errors
    ///
    /// No descriptor is available, as with `EMFILE`.
    pub fn open() -> io::Result<Option<Self>> {
        let streams = [stdin(), stdout(), stderr()];
        let Some(fd) = streams.into_iter().find(|fd| isatty(fd).unwrap_or(false)) else {
            return Ok(None);
        };
        let job_control: SigSet = [Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect();
        job_control.thread_block()?;
        let fd = fd.try_clone_to_owned()?;
        // Fails if the terminal was hung up meanwhile.
        Ok(tcgetattr(&fd).ok().map(|modes| Self { fd, modes, raw: false, ignored: None }))
    }

    /// The modes before raw mode.
    pub(crate) fn modes(&self) -> &Termios {
        &self.modes
    }

    /// The window size; `None` if the terminal does not know it.
    pub(crate) fn window_size(&self) -> Option<Winsize> {
        let mut size = MaybeUninit::<Winsize>::zeroed();
        // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid for one.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
        // SAFETY: zeroed is a valid winsize, which consists of four integers.
        let size = unsafe { size.assume_init() };
        (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(size)
    }

    /// Has [`Self::changed_size`] leave the current size out, for a PTY that was given another one.
    pub(crate) fn ignore_size(&mut self) {
        self.ignored = self.window_size();
    }

    /// As [`Self::window_size`]; `None` as long as it is the ignored one.
    pub(crate) fn changed_size(&mut self) -> Option<Winsize> {
        let size = self.window_size().filter(|size| Some(*size) != self.ignored)?;
        self.ignored = None;
        Some(size)
    }

    /// The size of the window; `None` if the terminal does not know it.
    pub fn size(&self) -> Option<WindowSize> {
        self.window_size().map(|size| WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
            width: size.ws_xpixel,
            height: size.ws_ypixel,
        })
    }

    /// Sets raw mode, if this process group is in the foreground.
    ///
    /// # Errors
    ///
    /// Those of tcsetattr(3).
    pub fn enter_raw(&mut self) -> io::Result<RawState> {
        self.enter(cfmakeraw)
    }

    /// Keeps line editing, echo and signals, and adds `last` as an end-of-line character: the line
    /// is delivered when it is typed. Flow control is off, so that it does not take the character
    /// (VEOL and IXON, termios(3)). Otherwise as [`enter_raw`](Self::enter_raw).
    ///
    /// # Errors
    ///
    /// Those of tcsetattr(3).
    pub fn enter_lines(&mut self, last: u8) -> io::Result<RawState> {
        self.enter(|modes| {
            modes.input_flags.remove(InputFlags::IXON);
            let place = modes.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize);
            if let Some(end_of_line) = place {
                *end_of_line = last;
            }
        })
    }

    /// Delivers input at once and without echo, and output unprocessed. Keys still raise signals.
    /// Otherwise as [`enter_raw`](Self::enter_raw).
    ///
    /// # Errors
    ///
    /// Those of tcsetattr(3).
    pub fn enter_quiet(&mut self) -> io::Result<RawState> {
        self.enter(|modes| {
            modes.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            modes.output_flags.remove(OutputFlags::OPOST);
        })
    }

    fn enter(&mut self, change: impl FnOnce(&mut Termios)) -> io::Result<RawState> {
        let mut saved = RAW.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_foreground(self.fd.as_fd()) {
            // The saved modes are obsolete: the foreground process group sets the modes now.
            if std::mem::take(&mut self.raw) {
                *saved = None;
            }
            return Ok(RawState::Background);
        }
        if saved.is_none() {
            // Read again: a shell may have changed the modes while this process was stopped.
            self.modes = tcgetattr(&self.fd)?;
            *saved = Some(Saved { terminal: self.fd.try_clone()?, modes: self.modes.clone() });
            self.raw = true;
        }
        let mut raw = self.modes.clone();
        change(&mut raw);
        tcsetattr(&self.fd, SetArg::TCSANOW, &raw)?;
        Ok(RawState::Raw)
    }

    /// Restores the terminal: undoes the [noted modes](note_modes) of output, then raw mode.
    pub fn leave_raw(&mut self) {
        undo_modes();
        if std::mem::take(&mut self.raw)
            && let Some(saved) = RAW.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            saved.restore();
        }
    }

    /// Whether this value has set raw mode.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Whether the process group of this process is the foreground one of the terminal.
    pub fn is_foreground(&self) -> bool {
        is_foreground(self.fd.as_fd())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave_raw();
    }
}

/// The standard input of this process, without the 8 KiB buffer that std allocates for its own.
pub fn stdin() -> BorrowedFd<'static> {
    stdio(libc::STDIN_FILENO)
}

/// The standard output of this process, without the buffer of std.
pub fn stdout() -> BorrowedFd<'static> {
    stdio(libc::STDOUT_FILENO)
}

/// The standard error of this process.
pub fn stderr() -> BorrowedFd<'static> {
    stdio(libc::STDERR_FILENO)
}

/// Whether this error of read(2) or write(2) means that the other end was closed: the reader of a
/// pipe, the peer of a socket, or a terminal that was hung up.
///
/// `EIO` means a hang-up on a terminal only (termios(3)); on a file or a block device it is a disk
/// error. Determine `is_terminal` before the error occurs: isatty(3) fails for a terminal that was
/// hung up.
pub fn peer_has_gone(error: &io::Error, is_terminal: bool) -> bool {
    match error.raw_os_error() {
        Some(libc::EPIPE | libc::ECONNRESET) => true,
        Some(libc::EIO) => is_terminal,
        _ => false,
    }
}

fn stdio(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: as in std, these descriptors are open while the process runs: nothing closes them,
    // and std opens missing ones before main.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The outcome of [`Terminal::enter_raw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawState {
    /// The requested modes are set.
    Raw,
    /// This process group is in the background, and nothing was changed.
    Background,
}

fn is_raw() -> bool {
    RAW.try_lock().map_or(true, |saved| saved.is_some())
}

fn is_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// Installs a panic hook that restores the terminal before the panic message is printed, also in a
/// program that aborts on panic: the [noted modes](note_modes) of output, and raw mode. It then calls the previous hook. For a process that is a
/// command.
pub fn install_panic_hook() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        output_modes::undo_modes_now();
        if let Ok(mut saved) = RAW.try_lock()
            && let Some(saved) = saved.take()
        {
            saved.restore();
        }
        next(panic);
    }));
}

/// Performs the default action of a caught `SIGTSTP`: stops the process until `SIGCONT`. The kernel
/// ignores the stop in an orphaned process group, which no shell could continue. `SIGCONT` is
/// raised in either case, so that handlers set up the terminal again. Other signals are ignored.
///
/// For [`Handler::after_signal`](crate::reactor::Handler::after_signal), when every handler has
/// restored its terminal.
pub fn suspend_after(signal: i32) {
    if signal == Signal::SIGTSTP as i32
        && let Err(error) = stop_process()
    {
        warn!("cannot suspend: {error}");
    }
}

fn stop_process() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL installs no handler; the former action is restored below.
    let caught = unsafe { sigaction(Signal::SIGTSTP, &default) }?;
    let stopped = raise(Signal::SIGTSTP).and_then(|()| raise(Signal::SIGCONT));
    // SAFETY: this is the former action, and its handler still exists.
    unsafe { sigaction(Signal::SIGTSTP, &caught) }?;
    stopped.map_err(Errno::into)
}
