//! Determines how long a log can still grow: while its sandbox is running, or is being restarted.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use vmon::control::{Client, ClientError, Watch};
use vmon::monitor::{Identity, Liveness, Phase};

use super::super::live;
use super::super::places::Places;
use super::super::run_log::LogSource;

/// Poll interval for a supervisor that has lost its socket.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The life of one run, or of the runs of one supervisor.
pub enum Life {
    /// The supervisor reports transitions. It is polled if it refuses to.
    Watched(Box<Watch>, Option<Identity>),
    /// The supervisor has no socket, or is not asked; its process is polled.
    Polled(Identity),
    Over,
}

impl Life {
    /// The life of a run whose supervisor need not be asked: it may be suspended.
    pub fn unasked(source: &LogSource) -> Self {
        let run = source.sandbox.as_ref().and_then(|sandbox| sandbox.running());
        run.and_then(|run| run.supervisor_identity.clone()).map_or(Self::Over, Self::Polled)
    }

    /// Asks the supervisor, without waiting for it. That of a sandbox that is not on record, as when
    /// the record can't be used, may have its socket at the default place.
    pub fn asked(source: &LogSource, places: &Places) -> Self {
        let Some(sandbox) = &source.sandbox else {
            let socket = places.runtime_dir().join(&source.config_file);
            let client = Client::connect(socket.join(format!("{}.sock", source.name)));
            let watch = client.and_then(Client::begin_watch);
            return watch.map_or(Self::Over, |watch| Self::Watched(Box::new(watch), None));
        };
        let Some(run) = sandbox.running() else { return Self::Over };
        let supervisor = run.supervisor_identity.clone();
        match live::connect(sandbox).and_then(|client| Ok(client.begin_watch()?)) {
            Ok(watch) => Self::Watched(Box::new(watch), supervisor),
            Err(error) if error.is_over() && live::unserved(sandbox, &error).is_none() => {
                Self::Over
            }
            Err(_) => supervisor.map_or(Self::Over, Self::Polled),
        }
    }

    /// Whether it is over. With `this_run`, a restart is the end too.
    pub fn is_over(&mut self, this_run: bool) -> bool {
        let over = match self {
            Self::Watched(watch, supervisor) => loop {
                match watch.next_within(Some(Duration::ZERO)) {
                    Ok(Some(event)) if event.is_final() => break true,
                    Ok(Some(event)) if this_run && event.phase == Phase::Restarting => break true,
                    Ok(Some(_)) => {}
                    Err(ClientError::Timeout(_)) => break false,
                    Ok(None) => break true,
                    Err(error) if error.is_gone() || error.name() == Some("NotRunning") => {
                        break true;
                    }
                    Err(_) => {
                        *self = supervisor.take().map_or(Self::Over, Self::Polled);
                        return self.is_over(this_run);
                    }
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
            Self::Watched(watch, _) => Some(watch.as_fd()),
            Self::Polled(_) | Self::Over => None,
        }
    }

    /// The poll interval, if the supervisor has to be polled.
    pub fn poll_interval(&self) -> Option<Duration> {
        matches!(self, Self::Polled(_)).then_some(POLL_INTERVAL)
    }
}
