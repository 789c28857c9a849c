//! Signals by name and number, and the inherited signal dispositions.

use std::fmt;
use std::str::FromStr;

use super::platform;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet};

/// A signal, real-time signals included.
///
/// ```
/// use vmon::child::Signal;
/// assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
/// assert_eq!("term".parse(), Ok(Signal::TERM));
/// assert_eq!("15".parse(), Ok(Signal::TERM));
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// assert!("TREM".parse::<Signal>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// The error of parsing an unknown signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: give a name such as TERM or SIGTERM, or a number")]
pub struct SignalError(String);

impl Signal {
    /// Termination request.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// Interrupt from the terminal.
    pub const INT: Self = Self(libc::SIGINT);
    /// Hang-up of the terminal.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// Quit from the terminal.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// Kill; can't be caught.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// Continue if stopped.
    pub const CONT: Self = Self(libc::SIGCONT);
    /// Stop from the terminal.
    pub const TSTP: Self = Self(libc::SIGTSTP);
    /// A child has ended, stopped or continued.
    pub const CHLD: Self = Self(libc::SIGCHLD);
    /// User-defined signal 1.
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// Change of the window size.
    pub const WINCH: Self = Self(libc::SIGWINCH);
    /// File size limit exceeded.
    pub const XFSZ: Self = Self(libc::SIGXFSZ);

    /// The signal's number on this system.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The signal with this number; `None` if the system has no such signal.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=platform::last_signal()).contains(&number).then_some(Self(number))
    }

    /// Parses `SIGRTMIN+N` and `SIGRTMAX-N`.
    fn realtime(name: &str) -> Option<Self> {
        let (first, last) = platform::realtime_signals()?;
        let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
            Some(number) => number.parse::<i32>().ok().filter(|&number| number >= 0),
            None => rest.is_empty().then_some(0),
        };
        let number = match (name.strip_prefix("SIGRTMIN"), name.strip_prefix("SIGRTMAX")) {
            (Some(rest), _) => first.checked_add(offset(rest, '+')?)?,
            (None, Some(rest)) => last.checked_sub(offset(rest, '-')?)?,
            (None, None) => return None,
        };
        (first..=last).contains(&number).then_some(Self(number))
    }

    pub(super) fn from_nix(signal: nix::sys::signal::Signal) -> Self {
        Self(signal as i32)
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let unknown = || SignalError(text.to_owned());
        // A signal without a name is written as `signal N`.
        if let Ok(number) = text.strip_prefix("signal ").unwrap_or(text).parse::<i32>() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        let named = nix::sys::signal::Signal::from_str(&full).ok().map(Self::from_nix);
        named.or_else(|| Self::realtime(&full)).ok_or_else(unknown)
    }
}

/// Whether this process ignores `signal`, as under nohup(1) or in a background job.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
    // which is valid for one sigaction.
    let queried = unsafe { libc::sigaction(signal.0, std::ptr::null(), current.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
    queried == 0 && unsafe { current.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Restores the default action of `SIGCHLD`, for a program that is a command. With an inherited
/// `SIG_IGN` the kernel reaps the children and discards their exit status (wait(2)).
pub fn restore_sigchld() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL installs no handler, so none can run in a bad state.
    let _ = unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGCHLD, &default) };
}

/// Blocks these signals for this thread.
pub(crate) fn block_signals(signals: impl Iterator<Item = Signal>) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset initialises the set that the other calls use, and the numbers are those of
    // signals. The calls fail only for other numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.0);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Unblocks every signal for this thread, for a program that is a command. The signal mask is
/// inherited (sigprocmask(2)), so a parent that blocks `SIGTERM` would make the program
/// unstoppable.
pub fn unblock_signals() {
    // Fails only for an invalid operation.
    let _ = SigSet::all().thread_unblock();
}
