//! How long there is something to follow: while a sandbox runs, and while somebody restarts it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use vmon::control::{ClientError, Watch};
use vmon::monitor::{Identity, Liveness, Phase};

use super::super::live;
use super::super::select::Recorded;

/// How often a supervisor is looked at that has lost its socket.
const LOOK: Duration = Duration::from_millis(100);

/// The life of one run, or of those that a supervisor starts after it.
pub enum Life {
    /// Its supervisor tells.
    Watched(Box<Watch>),
    /// It can't be asked.
    Looked(Identity),
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
            Err(_) => run.supervisor_identity.clone().map_or(Self::Over, Self::Looked),
        }
    }

    /// Whether it is over by now; with `this_run`, also where its supervisor starts another.
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
            Self::Looked(supervisor) => supervisor.liveness() != Liveness::Alive,
            Self::Over => true,
        };
        if over {
            *self = Self::Over;
        }
        over
    }

    /// What is readable when it may be over.
    pub fn told(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Watched(watch) => Some(watch.as_fd()),
            Self::Looked(_) | Self::Over => None,
        }
    }

    /// When to look at the latest.
    pub fn look(&self) -> Option<Duration> {
        matches!(self, Self::Looked(_)).then_some(LOOK)
    }
}
