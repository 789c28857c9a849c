//! Determines how long a log can still grow: while its sandbox is running, or is being restarted.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use vmon::control::{ClientError, Watch};
use vmon::monitor::{Identity, Liveness, Phase};

use super::super::live;
use super::super::record::Recorded;

/// Poll interval for a supervisor that has lost its socket.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The life of one run, or of the runs of one supervisor.
pub enum Life {
    /// The supervisor reports transitions.
    Watched(Box<Watch>),
    /// The supervisor has no socket; its process is polled.
    Polled(Identity),
    Over,
}

impl Life {
    pub fn of(sandbox: Option<&Recorded>) -> Self {
        let Some(sandbox) = sandbox else { return Self::Over };
        let Some(run) = sandbox.running() else { return Self::Over };
        match live::connect(sandbox).and_then(|client| Ok(client.watch()?)) {
            Ok(watch) => Self::Watched(Box::new(watch)),
            Err(error) if error.is_over() && live::unserved(sandbox, &error).is_none() => {
                Self::Over
            }
            Err(_) => run.supervisor_identity.clone().map_or(Self::Over, Self::Polled),
        }
    }

    /// Whether it is over. With `this_run`, a restart is the end too.
    pub fn is_over(&mut self, this_run: bool) -> bool {
        let over = match self {
            Self::Watched(watch) => loop {
                match watch.next_within(Some(Duration::ZERO)) {
                    Ok(Some(event)) if event.is_final() => break true,
                    Ok(Some(event)) if this_run && event.phase == Phase::Restarting => break true,
                    Ok(Some(_)) => {}
                    Err(ClientError::Timeout(_)) => break false,
                    Ok(None) | Err(_) => break true,
                }
            },
            Self::Polled(supervisor) => supervisor.liveness() != Liveness::Alive,
            Self::Over => true,
        };
        if over {
            *self = Self::Over;
        }
        over
    }

    /// A descriptor that becomes readable at a transition.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Watched(watch) => Some(watch.as_fd()),
            Self::Polled(_) | Self::Over => None,
        }
    }

    /// The poll interval, if the supervisor has to be polled.
    pub fn poll_interval(&self) -> Option<Duration> {
        matches!(self, Self::Polled(_)).then_some(POLL_INTERVAL)
    }
}
