//! Failures of the command and its exit codes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use nix::errno::Errno;
use vmon::child::{self, Signal};
use vmon::control::{ClientError, ControlError};
use vmon::logfile::{LogError, Retention};
use vmon::monitor::{ConsoleError, LabelError, NameError, StartError};
use vmon::registry::RegistryError;

use super::args::ValueError;

/// Exit code for a usage error, or an environment in which vmon can't work.
pub const OWN_FAILURE: u8 = 125;

/// Exit code after an operation that failed.
pub const NOT_ALL_DONE: u8 = 1;

/// Why a subcommand failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "no state directory: HOME is empty or unset; set VMON_STATE_DIR or HOME, or give --state-dir"
    )]
    NoHome,
    #[error("the argument '--forward-output' cannot be used with '--no-forward': leave one out")]
    ForwardBothWays,
    #[error("the argument '--forward-output' cannot be used with '--detach': leave one out")]
    ForwardDetached,
    #[error(
        "--log-total-size is too small for a log with its index: give at least {} bytes",
        Retention::SMALLEST_TOTAL
    )]
    TotalTooSmall,
    #[error(
        "--log-max-size 0 never rotates the log, so --log-total-size can't be kept: leave one out"
    )]
    TotalWithoutEnd,
    #[error(
        "--log-max-size {max_size} is too large for --log-total-size {total}: at most {most}{}",
        if *command { ", a fifth, since --log-rotate-command needs room for its input and output beside the log" } else { "" }
    )]
    LargerThanTotal { max_size: u64, total: u64, most: u64, command: bool },
    #[error("--log-max-files 0 keeps no generation for --log-rotate-command: leave one out")]
    NothingToRotate,
    #[error("{0} ({1})")]
    Value(#[source] ValueError, &'static str),
    #[error("{0} (--console)")]
    Console(#[from] ConsoleError),
    #[error("--log-format names two formats of the file: give one, and 'journald' if wanted")]
    LogFormats,
    #[error("{0} has no effect with --log off: leave one of them out")]
    LogOff(&'static str),
    #[error("--over-rate needs --log-rate: give both, or leave it out")]
    OverNoRate,
    #[error("--tty-size needs a PTY: give -t too, or leave it out")]
    SizeNoTty,
    #[error("no user {0:?}: give a user's name or UID (--user)")]
    NoUser(String),
    #[error("no group {0:?}: give a group's name or GID")]
    NoGroup(String),
    #[error(
        "the user {0} has no entry in passwd, so its group is not known: give {0}:GID (--user)"
    )]
    NoGroupOfUser(String),
    #[error("can't look up {what}: {reason}")]
    LookUp { what: String, reason: &'static str },
    #[error(
        "vmon was not started with descriptor {0}: open it for vmon, as a shell does with '{0}<FILE', or leave it out (--preserve-fd)"
    )]
    NoDescriptor(i32),
    #[error(
        "descriptors are not passed to a host: leave out --preserve-fd, or --via and $VMON_HOST"
    )]
    DescriptorsVia,
    #[error("can't start the supervisor: {0}")]
    Supervisor(#[source] io::Error),
    #[error("the supervisor ended before the command ran ({0})")]
    SupervisorDied(ExitStatus),
    #[error("{why}")]
    Detached { why: String, code: u8 },
    #[error("can't resolve {path}: {reason}; give an absolute path")]
    Relative { path: PathBuf, reason: &'static str },
    #[error("can't use the {what} {path}: {reason}; choose another with {option}")]
    Directory { what: &'static str, path: PathBuf, reason: &'static str, option: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0} (--label)")]
    Label(#[from] LabelError),
    #[error("{0} (--log-dir)")]
    Log(#[from] LogError),
    #[error("{0} (--runtime-dir)")]
    Control(#[from] ControlError),
    #[error("{0} (--db)")]
    Registry(#[from] RegistryError),
    #[error("--via needs --detach: give both, or leave it out")]
    ViaForeground,
    #[error("{0} (--via, $VMON_HOST)")]
    Via(#[source] ClientError),
    #[error("{0} (--socket)")]
    HostSocket(#[source] ControlError),
    #[error("can't use the socket of the service manager: {0}")]
    Activation(#[source] io::Error),
    #[error("can't keep inherited descriptors from commands: {0}")]
    Descriptors(#[source] io::Error),
    #[error("the host can't do this: {0}; leave it out, or use 'vmon run' without a host")]
    NotInHost(&'static str),
    #[error("the options are not those of 'vmon run'")]
    HostOptions,
    #[error("the host has its state elsewhere: give {option} {path}", path = .used.display())]
    OtherState { used: PathBuf, option: &'static str },
    #[error("can't set up the event loop: {0}")]
    SetUp(#[source] io::Error),
    #[error("the event loop failed: {0}")]
    Loop(#[source] io::Error),
    #[error("the monitor ended without reporting how the command ended")]
    NoEnd,
    #[error("{error}")]
    NotStarted {
        #[source]
        error: Arc<StartError>,
        code: u8,
    },
    #[error("no command '{0}': 'vmon --help' lists them")]
    NoSuchCommand(String),
    #[error("--to scriptreplay writes two files, FILE and FILE.timing: give -o FILE")]
    NoScript,
    #[error("can't write to stdout: {0}")]
    Output(&'static str),
    #[error("{name} runs, with pid {pid}, but can't write to stdout: {reason}")]
    Unreported { name: String, pid: u64, reason: &'static str },
}

impl Failure {
    /// Converts the error of a directory; `option` sets another one.
    pub fn directory(
        what: &'static str,
        path: &Path,
        option: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Directory { what, path: path.to_owned(), reason: reason(&error), option }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Output(_) | Self::Unreported { .. } => NOT_ALL_DONE,
            Self::NotStarted { code, .. } | Self::Detached { code, .. } => *code,
            _ => OWN_FAILURE,
        }
    }
}

/// Exit code of a command that was terminated by a signal.
pub fn signalled(signal: Signal) -> u8 {
    child::ExitStatus::Signal(signal).exit_code()
}

/// The system's message for an error, without the number that Rust appends.
pub fn reason(error: &io::Error) -> &'static str {
    error.raw_os_error().map_or("unknown error", |raw| Errno::from_raw(raw).desc())
}
