//! The transitions of a monitored child, and how it ended.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::call_out::PanicError;
use super::console::ConsoleError;
use super::console_report::ConsoleReport;
use crate::child::{CgroupError, ChildIo, ExitStatus, Identity, Signal, SpawnError};
use crate::logfile::{KeptGenerations, LogError};
use crate::values::words;

/// A lifecycle transition, reported after it has happened.
///
/// ```
/// use vmon::child::Command;
/// use vmon::monitor::{Monitor, Sandbox, Transition};
/// use vmon::reactor::Reactor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let mut reactor = Reactor::new()?;
/// Monitor::builder(Sandbox::new("web", log_dir)?)
///     .observer(|transition: &Transition| match transition {
///         Transition::Running { child, .. } => println!("pid {}", child.pid),
///         Transition::Stopped { end, .. } => assert_eq!(end.exit_code(), 0),
///         _ => {}
///     })
///     .spawn(&mut reactor, Command::new("true"));
/// reactor.run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Transition {
    /// The child runs.
    Running {
        /// When it was seen to run.
        at: DateTime<Utc>,
        /// Its pid and start time.
        child: Identity,
    },
    /// A stop was asked for, and the stop signal has been sent.
    Stopping {
        /// When.
        at: DateTime<Utc>,
    },
    /// The child has been reaped; its output is being read to the end.
    Draining {
        /// When it was reaped.
        at: DateTime<Utc>,
        /// How it ended.
        status: ExitStatus,
    },
    /// This run is over, the child reaped and its output in the log. After a delay the command is
    /// started again, as a run of its own that begins with a [claim](super::Observer::claim). If a
    /// stop comes first, [`Stopped`](Self::Stopped) follows with the same end.
    Restarting {
        /// When this run was over.
        at: DateTime<Utc>,
        /// How it ended, and with how many bytes.
        end: End,
        /// The delay from `at` to the next run.
        after: Duration,
    },
    /// The sandbox has stopped: the child reaped and its output in the log, or never started.
    Stopped {
        /// When it stopped.
        at: DateTime<Utc>,
        /// How it ended, and with how many bytes.
        end: End,
    },
}

/// What a monitor yields to its host: [`Reactor::next_event`](crate::reactor::Reactor::next_event).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A transition, after the observers and services have received it.
    Transition(Transition),
    /// Observers, services and attached clients are done with the end: nothing follows, and the
    /// monitor can be removed.
    Done,
}

/// How a monitored child ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct End {
    /// Exit code, signal, or why it never ran.
    pub outcome: Outcome,
    /// Bytes of the child's output that are in the log.
    pub bytes_logged: u64,
    /// Bytes that a sink left out: a log under [`OnLogError::Drop`], or the host's stdout and
    /// stderr under [`Forward::Drop`]; those of consoles included.
    ///
    /// [`OnLogError::Drop`]: super::OnLogError::Drop
    /// [`Forward::Drop`]: super::Forward::Drop
    pub bytes_dropped: u64,
    /// The consoles beside the child's own streams, in the order in which they were given.
    pub consoles: Vec<ConsoleReport>,
    /// The logs that this run has rotated.
    pub rotated: Vec<KeptGenerations>,
    /// The first panic of an observer or a service, if there was one. It has stopped the child, if
    /// that still ran, and prevented a restart.
    pub panic: Option<Arc<PanicError>>,
}

/// The outcome of a run.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The child ran and ended.
    Ended {
        /// Its exit code or signal.
        status: ExitStatus,
        /// Why it ended.
        reason: Reason,
    },
    /// The child never ran.
    NotStarted(Arc<StartError>),
}

/// Why a run has ended; the words of the record are in [`Reason::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// By itself, with an exit code.
    Exited,
    /// By a signal that vmon did not send.
    Signalled,
    /// After a stop request, within the stop timeout.
    Stopped,
    /// By KILL, after the stop timeout or a second stop request.
    Killed,
    /// By a stop after the maximum duration.
    MaxDuration,
    /// By a stop after the idle timeout: there was neither output nor input.
    IdleTimeout,
    /// By the kernel's OOM killer, as far as is known: by SIGKILL that vmon did not send, while the
    /// count of OOM kills of its memory cgroup grew. Linux only.
    OutOfMemory,
    /// By a stop after an observer or a service of the supervisor [panicked](End::panic).
    SupervisorPanicked,
    /// Not yet: the monitor has [released](super::Monitor::release) the child, which goes on.
    Released,
    /// The child never ran: see [`End::error`].
    StartFailed,
    /// Not known: the supervisor ended, or its monitor was dropped or removed from its reactor,
    /// before the run had ended.
    SupervisorLost,
}

impl Reason {
    /// The word in the record: `exited`, `signalled`, `stopped`, `killed`, `max-duration`,
    /// `idle-timeout`, `out-of-memory`, `supervisor-panicked`, `released`,
    /// `start-failed` or `supervisor-lost`.
    pub const fn as_str(self) -> &'static str {
        self.word()
    }
}

words!(Reason {
    Exited = "exited",
    Signalled = "signalled",
    Stopped = "stopped",
    Killed = "killed",
    MaxDuration = "max-duration",
    IdleTimeout = "idle-timeout",
    OutOfMemory = "out-of-memory",
    SupervisorPanicked = "supervisor-panicked",
    Released = "released",
    StartFailed = "start-failed",
    SupervisorLost = "supervisor-lost",
});

/// Why a child was not started, or a child of the host's is not monitored. No process of a command
/// is left running; a child of the host's is left to the host, its streams closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A live supervisor has the name, or another monitor of this process writes the log.
    #[error(
        "{config_file}/{name} is already running under the supervisor with pid {supervisor}: stop that one, or choose another name"
    )]
    Taken {
        /// The namespace.
        config_file: String,
        /// The sandbox.
        name: String,
        /// The pid of that supervisor.
        supervisor: u32,
    },
    /// A run whose supervisor is elsewhere, or can't be checked, has the name.
    #[error("{config_file}/{name} is on record as running {reason}")]
    Held {
        /// The namespace.
        config_file: String,
        /// The sandbox.
        name: String,
        /// Where that run is, and what to do.
        reason: String,
    },
    /// An observer refused the claim, or did not grant it in time.
    #[error("can't record the start: {0}")]
    Claim(#[source] Box<dyn Error + Send + Sync>),
    /// The log's directory or file is unusable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A service can't be opened: the control socket, for example.
    #[error("{0}")]
    Service(#[source] Box<dyn Error + Send + Sync>),
    /// A console can't be described or made; the text names it and what to do.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The sandbox logs to the journal of systemd, and this build can't.
    #[error(
        "can't log to the journal: this program was built without journald, or for another system than Linux; log to a file alone"
    )]
    NoJournal,
    /// The cgroup can't be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The command could not be executed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A stop was asked for before the child ran.
    #[error("stopped before it was started")]
    Stopped,
    /// The monitor could not get descriptors or room in the poller.
    #[error("can't monitor the child: {0}")]
    Monitor(#[source] io::Error),
    /// An observer or a service panicked before the child ran.
    #[error(transparent)]
    Panic(Arc<PanicError>),
}

/// Why a child of the host's is not taken over. It is left as it was, with its streams.
#[derive(Debug, thiserror::Error)]
#[error("can't monitor the child: pid {pid}: {source}")]
#[non_exhaustive]
pub struct AdoptError {
    /// The pid as it was given.
    pub pid: u32,
    /// The streams as they were given.
    pub io: ChildIo,
    /// The error of waitid(2): `ECHILD` for a process that is not a child of this one.
    pub source: io::Error,
}

impl StartError {
    /// Whether a later start may succeed: the cause is not the name, the record or a stop.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Spawn(_)
            | Self::Log(_)
            | Self::Monitor(_)
            | Self::Cgroup(_)
            | Self::Console(_) => true,
            Self::Taken { .. }
            | Self::Held { .. }
            | Self::Claim(_)
            | Self::Service(_)
            | Self::NoJournal
            | Self::Stopped
            | Self::Panic(_) => false,
        }
    }
}

impl End {
    /// An end without output, for the test of an observer.
    pub fn new(outcome: Outcome) -> Self {
        let (consoles, rotated) = (Vec::new(), Vec::new());
        Self { outcome, bytes_logged: 0, bytes_dropped: 0, consoles, rotated, panic: None }
    }

    /// The exit code of a command that represents the child's end: the child's own, 128+n for
    /// signal n, 127 if the command was not found, 126 if it could not be executed, 125 for
    /// anything else that kept it from running, and for an unknown exit status.
    pub fn exit_code(&self) -> u8 {
        match &self.outcome {
            Outcome::Ended { status, .. } => status.exit_code(),
            Outcome::NotStarted(error) => match &**error {
                StartError::Spawn(error) => error.exit_code(),
                _ => 125,
            },
        }
    }

    /// Why the run ended; [`Reason::StartFailed`] if the child never ran.
    pub fn reason(&self) -> Reason {
        match self.outcome {
            Outcome::Ended { reason, .. } => reason,
            Outcome::NotStarted(_) => Reason::StartFailed,
        }
    }

    /// Why the child was not started.
    pub fn error(&self) -> Option<&StartError> {
        match &self.outcome {
            Outcome::NotStarted(error) => Some(error),
            Outcome::Ended { .. } => None,
        }
    }

    /// The child's exit status, if it ran.
    pub fn status(&self) -> Option<ExitStatus> {
        match self.outcome {
            Outcome::Ended { status, .. } => Some(status),
            Outcome::NotStarted(_) => None,
        }
    }

    /// The child's exit code for the record: its own, or that of a command that could not be
    /// started (125 to 127). `None` for a child that a signal ended.
    pub fn recorded_code(&self) -> Option<i32> {
        match &self.outcome {
            Outcome::Ended { status, .. } => status.code(),
            Outcome::NotStarted(_) => Some(self.exit_code().into()),
        }
    }

    /// The signal that ended the child.
    pub fn signal(&self) -> Option<Signal> {
        self.status().and_then(ExitStatus::signal)
    }
}
