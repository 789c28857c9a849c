//! The transitions of a monitored child, and the trait of whoever is told of them.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::console::ConsoleError;
use super::report::ConsoleReport;
use super::sandbox::Sandbox;
use crate::child::{Command, ExitStatus, Identity, Signal, SpawnError};
use crate::logfile::LogError;

/// Takes the transitions of one sandbox: the SQLite registry is one, a host's own another.
///
/// An observer is called on the reactor's thread and must not wait: what can't be done now is
/// asked for again with [`Progress::Later`]. Each transition is told once, in order; a call that
/// is late is never repeated by the monitor.
///
/// Closures take transitions and grant every claim:
///
/// ```
/// use vmon::monitor::{Observer, Transition};
/// let mut log = |transition: &Transition| println!("{transition:?}");
/// let _observer: &mut dyn Observer = &mut log;
/// ```
pub trait Observer {
    /// Asked before anything is started; every observer must grant it.
    ///
    /// [`Claim::Later`] is asked again after that time, for five seconds at most. A child that a
    /// host hands over runs already: its claim is asked once, and an observer that answers
    /// [`Claim::Later`] remembers it and makes it good with the transitions that follow.
    fn claim(&mut self, starting: &Starting<'_>) -> Claim {
        let _ = starting;
        Claim::Granted
    }

    /// Told of one transition.
    fn transition(&mut self, transition: &Transition) -> Progress;

    /// Called again when the last call said [`Progress::Later`].
    fn retry(&mut self) -> Progress {
        Progress::Done
    }
}

impl<F: FnMut(&Transition)> Observer for F {
    fn transition(&mut self, transition: &Transition) -> Progress {
        self(transition);
        Progress::Done
    }
}

/// What is known before the child is started.
#[derive(Debug, Clone, Copy)]
pub struct Starting<'a> {
    /// The sandbox.
    pub sandbox: &'a Sandbox,
    /// The command that will be spawned; `None` for a child that the host hands over.
    pub command: Option<&'a Command>,
    /// The process that monitors: this one.
    pub supervisor: &'a Identity,
    /// When the start was asked for.
    pub at: DateTime<Utc>,
    /// How often the command has been started again: 0 for its first run. A claim of a later run
    /// takes over from the one that [`Transition::Restarting`] has told of, in one step; like
    /// that of a child that runs already it is asked once, and a record that is late is no reason
    /// not to start.
    pub restarts: u32,
    /// Where a [`Service`](super::Service) of the monitor can be found: its control socket.
    pub socket: Option<&'a Path>,
}

/// An observer's answer to [`Observer::claim`].
#[derive(Debug)]
pub enum Claim {
    /// Go ahead.
    Granted,
    /// Not known yet; ask again after this time. The error is why, for the message if it stays so.
    Later(Duration, Box<dyn Error + Send + Sync>),
    /// The name is taken by a live supervisor. Nothing is started.
    Taken {
        /// The pid of that supervisor.
        supervisor: u32,
    },
    /// Nothing may be started.
    Refused(Box<dyn Error + Send + Sync>),
}

/// Whether an observer is done with what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// Call [`Observer::retry`] after this time. The monitor's end waits for it.
    Later(Duration),
}

/// A lifecycle transition, told after it has happened.
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
    /// A stop was asked for, and the stop signal sent.
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
    /// This run is over, the child reaped and its output in the log; after a while the command is
    /// started again, as a run of its own, which begins with a [claim](Observer::claim). If a stop
    /// comes first, [`Stopped`](Self::Stopped) follows with the same end.
    Restarting {
        /// When this run was over.
        at: DateTime<Utc>,
        /// How, and with how many bytes.
        end: End,
        /// How long after `at` the next run begins.
        after: Duration,
    },
    /// Everything is over: the child reaped and its output in the log, or never started.
    Stopped {
        /// When.
        at: DateTime<Utc>,
        /// How, and with how many bytes.
        end: End,
    },
}

/// How a monitored child ended.
#[derive(Debug, Clone)]
pub struct End {
    /// Exit code, signal, or why it never ran.
    pub outcome: Outcome,
    /// Bytes of the child's output that are in the log.
    pub bytes_logged: u64,
    /// Bytes that some sink left out: a log under [`OnLogError::Drop`], or our own stdout and
    /// stderr under [`Forward::Drop`]; those of consoles included.
    ///
    /// [`OnLogError::Drop`]: super::OnLogError::Drop
    /// [`Forward::Drop`]: super::Forward::Drop
    pub bytes_dropped: u64,
    /// The consoles beside the child's own streams, in the order in which they were given.
    pub consoles: Vec<ConsoleReport>,
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
    NotStarted(StartError),
}

/// Why a child that ran has ended; the words of the record are in [`Reason::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// By itself, with an exit code.
    Exited,
    /// By a signal that was not ours.
    Signalled,
    /// After a stop request, within the stop timeout.
    Stopped,
    /// By our KILL, after the stop timeout or a second stop request.
    Killed,
    /// By a stop, because it has run for as long as it may.
    MaxDuration,
    /// By a stop, because there was neither output nor input for as long as that may be.
    IdleTimeout,
    /// By the kernel, for want of memory in its cgroup.
    OutOfMemory,
}

impl Reason {
    /// The word in the record: `exited`, `signalled`, `stopped`, `killed`, `max-duration`,
    /// `idle-timeout` or `out-of-memory`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::MaxDuration => "max-duration",
            Self::IdleTimeout => "idle-timeout",
            Self::OutOfMemory => "out-of-memory",
        }
    }
}

/// Why a child was not started, or one that was handed over is not monitored. Of a command
/// nothing is left running; a child that was handed over is the host's again, its streams closed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// A live supervisor has the name.
    #[error(
        "{config_file}/{name} is already running under the supervisor with pid {supervisor}: stop that one, or choose another --name"
    )]
    Taken {
        /// The namespace.
        config_file: String,
        /// The sandbox.
        name: String,
        /// The pid of that supervisor.
        supervisor: u32,
    },
    /// An observer refused, or could not answer in time.
    #[error("can't record the start: {0}")]
    Claim(String),
    /// The log's directory or file is unusable; the text names it and the reason.
    #[error("{0}")]
    Log(String),
    /// What is to be served beside it can't be: the control socket, say.
    #[error("{0}")]
    Service(String),
    /// There can't be such a console; the text names it and the way out.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The cgroup can't be the child's; the text names it and the way out.
    #[error("{0}")]
    Cgroup(String),
    /// The command could not be executed.
    #[error(transparent)]
    Spawn(SpawnError),
    /// A stop was asked for before the child ran.
    #[error("stopped before it was started")]
    Stopped,
    /// The monitor's own resources (descriptors, pollers) could not be had.
    #[error("can't monitor the child: {0}")]
    Monitor(String),
}

impl StartError {
    pub(super) fn log(error: LogError) -> Self {
        Self::Log(error.to_string())
    }
}

impl End {
    /// The exit code of a command that stands for the child's end: the child's own, 128+n for
    /// signal n, 127 when the command was not found, 126 when it could not be executed, 125 for
    /// anything else that kept it from running, or an exit status that nobody knows.
    pub fn exit_code(&self) -> u8 {
        match &self.outcome {
            Outcome::Ended { status, .. } => status.exit_code(),
            Outcome::NotStarted(StartError::Spawn(error)) => error.exit_code(),
            Outcome::NotStarted(_) => 125,
        }
    }

    /// The word for the reason in the record: that of [`Reason`], or `start-failed`.
    pub fn reason(&self) -> &'static str {
        match &self.outcome {
            Outcome::Ended { reason, .. } => reason.as_str(),
            Outcome::NotStarted(_) => "start-failed",
        }
    }

    /// The child's exit status, where it ran.
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
