//! The codes of `vmon.h`, and why a call failed.

use std::error::Error;
use std::ffi::CStr;
use std::io;

use nix::errno::Errno;
use vmon::host::HostError;
use vmon::monitor::RequestError;

/// A code of `vmon.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Invalid = -1,
    Misuse = -2,
    Busy = -3,
    Again = -4,
    NoEntry = -5,
    NotRunning = -6,
    NoTerminal = -7,
    Attach = -8,
    NoChild = -9,
    Record = -10,
    System = -11,
    Unsupported = -12,
    Ended = -13,
    Panic = -14,
    NoInput = -15,
}

impl Code {
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::Misuse,
        Self::Busy,
        Self::Again,
        Self::NoEntry,
        Self::NotRunning,
        Self::NoTerminal,
        Self::Attach,
        Self::NoChild,
        Self::Record,
        Self::System,
        Self::Unsupported,
        Self::Ended,
        Self::Panic,
        Self::NoInput,
    ];

    /// What it means, in a few words.
    pub fn text(self) -> &'static CStr {
        match self {
            Self::Invalid => c"invalid argument",
            Self::Misuse => c"not for this handle or its state",
            Self::Busy => c"in use by another thread",
            Self::Again => c"nothing yet",
            Self::NoEntry => c"no such sandbox",
            Self::NotRunning => c"the sandbox is not running",
            Self::NoTerminal => c"the sandbox has no terminal",
            Self::Attach => c"the client can't be attached",
            Self::NoChild => c"not a child of this process",
            Self::Record => c"the database can't be used",
            Self::System => c"a system call failed",
            Self::Unsupported => c"not supported here",
            Self::Ended => c"the host has ended",
            Self::Panic => c"fault of the library",
            Self::NoInput => c"the sandbox takes no input",
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    /// One line.
    pub message: String,
    /// The errno behind it, or 0.
    pub errno: i32,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), errno: 0 }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    pub fn misuse(message: impl Into<String>) -> Self {
        Self::new(Code::Misuse, message)
    }

    /// From an error with its causes.
    pub fn of(code: Code, error: &(dyn Error + 'static)) -> Self {
        Self { code, message: error.to_string(), errno: errno_of(error) }
    }

    /// The failure of a system call; `what` was to be done.
    pub fn system(what: &str, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self { code: Code::System, message: format!("can't {what}: {error}"), errno }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = match &error {
            HostError::NoSuchSandbox(_) => Code::NoEntry,
            HostError::Adopt(_) => Code::NoChild,
            HostError::Attach(_) => Code::Attach,
            HostError::Request(RequestError::NotRunning) => Code::NotRunning,
            HostError::Request(RequestError::NoTerminal) => Code::NoTerminal,
            HostError::Request(RequestError::NoInput) => Code::NoInput,
            HostError::Request(RequestError::InputFull(_)) => Code::Again,
            HostError::Ended => Code::Ended,
            HostError::Panicked(_) => Code::Panic,
            _ => Code::System,
        };
        Self::of(code, &error)
    }
}

/// The errno of the first cause that has one, or 0.
pub fn errno_of(error: &(dyn Error + 'static)) -> i32 {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<Errno>() {
            return *errno as i32;
        }
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return errno;
        }
        next = error.source();
    }
    0
}
