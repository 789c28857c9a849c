//! Signals by name and number, and the dispositions that a supervisor inherits.

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

/// Not a signal of this system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: give a name such as TERM or SIGTERM, or a number")]
pub struct SignalError(String);

impl Signal {
    /// Ask to end.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// The terminal's interrupt.
    pub const INT: Self = Self(libc::SIGINT);
    /// The terminal is gone.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// The terminal's quit.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// End at once; can't be caught.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// Go on after a stop.
    pub const CONT: Self = Self(libc::SIGCONT);
    /// The terminal's stop.
    pub const TSTP: Self = Self(libc::SIGTSTP);
    /// A child has ended, was stopped, or goes on.
    pub const CHLD: Self = Self(libc::SIGCHLD);
    /// The first of the two that programs may give a meaning.
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// The window's size has changed.
    pub const WINCH: Self = Self(libc::SIGWINCH);
    /// A write beyond the file size limit.
    pub const XFSZ: Self = Self(libc::SIGXFSZ);

    /// The signal's number on this system.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The signal with this number; `None` where the system has none.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=platform::last_signal()).contains(&number).then_some(Self(number))
    }

    /// `SIGRTMIN+N` and `SIGRTMAX-N`.
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

/// Whether this process ignores `signal`: as inherited by `nohup` and background jobs.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
    // which is valid for one sigaction.
    let queried = unsafe { libc::sigaction(signal.0, std::ptr::null(), current.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and on success the kernel has filled it.
    queried == 0 && unsafe { current.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Gives `SIGCHLD` its default action back, for a program that is a command: with an inherited
/// `SIG_IGN` the kernel would reap the children itself and throw their exit status away (wait(2)).
pub fn restore_sigchld() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL installs no handler, so none can run in a bad state.
    let _ = unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGCHLD, &default) };
}

/// Lets every signal through to this thread again, for a program that is a command: a mask is
/// inherited (sigprocmask(2)), and a `SIGTERM` that some parent has blocked would never stop it.
pub fn unblock_signals() {
    // Fails only for an unknown way of changing the mask.
    let _ = SigSet::all().thread_unblock();
}
