//! What all states of a lifecycle share: the sandbox, its channels and observers, and the facts of
//! the current run.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tracing::error;

use super::backoff::RestartBackoff;
use super::call_out::PanicError;
use super::channels::Channels;
#[cfg(feature = "consoles")]
use super::console_channels::GivenConsoles;
use super::keys::Cx;
use super::observer::Observers;
use super::post_rotate::PostRotate;
use super::sandbox::Sandbox;
use super::transition::Transition;
use crate::child::{Identity, KillScope};
use crate::logfile::LogFile;

/// Everything of a monitored sandbox but the state of its child.
pub(super) struct Parts {
    pub(super) sandbox: Sandbox,
    /// This process.
    pub(super) supervisor: Identity,
    /// Which processes are ended with the child.
    pub(super) scope: KillScope,
    pub(super) observers: Observers,
    /// Transitions that the services have not received yet; `None` before the first one
    /// is opened.
    pub(super) for_services: Option<VecDeque<Transition>>,
    pub(super) run: Run,
    /// Set while the command may be started again.
    pub(super) backoff: Option<Box<RestartBackoff>>,
    pub(super) channels: Channels,
    #[cfg(feature = "consoles")]
    pub(super) given_consoles: GivenConsoles,
    /// Set if generations of the logs are handed to a command.
    pub(super) post_rotate: Option<Box<PostRotate>>,
    /// The first panic of an observer or a service.
    pub(super) panic: Option<Arc<PanicError>>,
}

/// The current run.
pub(super) struct Run {
    /// When it was asked for.
    pub(super) asked: DateTime<Utc>,
    /// How often the command has been started again.
    pub(super) restarts: u32,
    /// The child, once it runs, and when that was seen.
    pub(super) child: Option<(Identity, DateTime<Utc>)>,
}

impl Parts {
    /// Reports a transition to the observers, and keeps it for the services.
    pub(super) fn report(&mut self, transition: &Transition, cx: &mut Cx<'_>) {
        if let Err(panic) = self.observers.report(transition, &mut cx.timers) {
            self.note_panic(panic);
        }
        if let Some(pending) = &mut self.for_services {
            pending.push_back(transition.clone());
        }
    }

    /// Notes a panic of an observer or a service: nothing is started any more. The lifecycle follows
    /// it at the end of the call.
    pub(super) fn note_panic(&mut self, panic: PanicError) {
        error!(name = %self.sandbox.name, "the sandbox is stopped: {panic}");
        self.panic.get_or_insert_with(|| Arc::new(panic));
        self.backoff = None;
    }

    /// Starts the rotate command for the next generation, if one waits.
    pub(super) fn start_post_rotate(&mut self, cx: &mut Cx<'_>) {
        if let Some(post_rotate) = &mut self.post_rotate {
            post_rotate.start_next(&mut self.channels, cx);
        }
    }

    /// Keeps the logs of a run that is over. Rotate commands may still need them; if the command
    /// is started again, they stay locked until the next run has opened them.
    pub(super) fn keep_logs(&mut self, logs: Vec<LogFile>) {
        match (&mut self.post_rotate, &mut self.backoff) {
            (Some(post_rotate), _) => post_rotate.keep_logs(logs),
            (None, Some(backoff)) => backoff.keep_locked(logs),
            (None, None) => {}
        }
    }
}
