//! The end of a run whose monitor is dropped before it is done, or was removed from its reactor.

use std::sync::Arc;

use chrono::Utc;

use super::{Lifecycle, State};
use crate::child::ExitStatus;
use crate::monitor::transition::{End, Outcome, Reason, StartError, Transition};

impl Lifecycle {
    /// Ends the run without the loop and without touching the child. Returns the transition that
    /// the observers are to receive, so that no record stays open; `None` if it has stopped.
    pub(in crate::monitor) fn abandon(&mut self) -> Option<Transition> {
        let end = match &self.state {
            State::Stopped(_) => return None,
            State::Restarting(end, ..) => end.clone(),
            State::Starting(..) => {
                self.abandoned(Outcome::NotStarted(Arc::new(StartError::Stopped)))
            }
            State::Alive(process, stage) => {
                let (status, reason) = match process.child.status() {
                    Some(status) => (status, process.reason(stage, status)),
                    None => (ExitStatus::Unknown, Reason::SupervisorLost),
                };
                self.abandoned(Outcome::Ended { status, reason })
            }
            State::Draining(draining) => {
                let (status, reason) = (draining.status, draining.reason);
                self.abandoned(Outcome::Ended { status, reason })
            }
        };
        self.state = State::Stopped(end.clone());
        self.parts.backoff = None;
        self.parts.log_claim = None;
        Some(Transition::Stopped { at: Utc::now(), end })
    }

    fn abandoned(&self, outcome: Outcome) -> End {
        let channels = &self.parts.channels;
        let (bytes_logged, bytes_dropped) = channels.bytes();
        let (consoles, panic) = (channels.consoles(), self.parts.panic.clone());
        let rotated = Vec::new();
        End { outcome, bytes_logged, bytes_dropped, consoles, rotated, panic }
    }

    /// Whether this lifecycle has been in a reactor that has started it.
    pub(in crate::monitor) fn has_begun(&self) -> bool {
        !matches!(
            self.state,
            State::Starting(_, super::Step::Claiming { give_up: None }) if self.parts.run.restarts == 0
        )
    }
}
