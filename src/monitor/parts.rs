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
use super::drain::Drain;
use super::keys::Cx;
use super::log_claim::LogClaim;
use super::observer::Observers;
use super::post_rotate::PostRotate;
use super::sandbox::Sandbox;
use super::transition::Transition;
use crate::child::{Counted, Identity, KillScope};
use crate::logfile::LogFile;
use crate::relay::{Drivers, LogTarget};

/// Everything of a monitored sandbox but the state of its child.
pub(super) struct Parts {
    pub(super) sandbox: Sandbox,
    /// This process.
    pub(super) supervisor: Identity,
    /// Which processes are ended with the child.
    pub(super) scope: KillScope,
    /// This monitor, among those of the process.
    pub(super) _counted: Counted,
    /// Its log, from the start of this monitor until it has stopped.
    pub(super) log_claim: Option<LogClaim>,
    /// Whether the output of the child's own stdio goes to the log of the sandbox, and not to log
    /// drivers or nowhere.
    pub(super) own_log: bool,
    /// The log drivers, while no run uses them.
    pub(super) log_drivers: Option<Box<Drivers>>,
    /// Whether the child is reaped by the host.
    pub(super) host_reaps: bool,
    pub(super) drain: Drain,
    pub(super) observers: Observers,
    pub(super) reported: Reported,
    pub(super) run: CurrentRun,
    /// Set while the command may be started again.
    pub(super) backoff: Option<Box<RestartBackoff>>,
    pub(super) channels: Channels,
    #[cfg(feature = "consoles")]
    pub(super) given_consoles: GivenConsoles,
    /// Set if generations of the logs are handed to a command.
    pub(super) post_rotate: Option<Box<PostRotate>>,
    /// Whether sockets that are gone are to be made again after this call.
    pub(super) reopen: bool,
    /// The first panic of an observer or a service.
    pub(super) panic: Option<Arc<PanicError>>,
}

/// Transitions that the observers have received, on their way to the services and then to the host.
/// Allocated only while there are any.
#[derive(Default)]
pub(super) struct Reported(Option<Box<Queues>>);

#[derive(Default)]
struct Queues {
    for_services: VecDeque<Transition>,
    for_host: VecDeque<Transition>,
}

impl Reported {
    fn add(&mut self, transition: Transition) {
        self.0.get_or_insert_default().for_services.push_back(transition);
    }

    /// The next transition for the services, which is [passed on](Self::pass_on) afterwards.
    pub(super) fn next(&mut self) -> Option<Transition> {
        self.0.as_mut()?.for_services.pop_front()
    }

    /// The services have received it.
    pub(super) fn pass_on(&mut self, transition: Transition) {
        self.0.get_or_insert_default().for_host.push_back(transition);
    }

    /// The next transition for the host.
    pub(super) fn take(&mut self) -> Option<Transition> {
        let queues = self.0.as_mut()?;
        let next = queues.for_host.pop_front();
        if queues.for_services.is_empty() && queues.for_host.is_empty() {
            self.0 = None;
        }
        next
    }
}

/// The current run.
pub(super) struct CurrentRun {
    /// When it was asked for.
    pub(super) asked: DateTime<Utc>,
    /// How often the command has been started again.
    pub(super) restarts: u32,
    /// The child, once it runs, and when that was seen.
    pub(super) child: Option<(Identity, DateTime<Utc>)>,
}

impl Parts {
    /// Reports a transition to the observers, and keeps it for the services and the host.
    pub(super) fn report(&mut self, transition: &Transition, cx: &mut Cx<'_>) {
        if let Err(panic) = self.observers.report(transition, &mut cx.timers) {
            self.note_panic(panic);
        }
        self.reported.add(transition.clone());
    }

    /// Records the first panic of an observer or a service and cancels restarts. The lifecycle stops
    /// the sandbox after this call.
    pub(super) fn note_panic(&mut self, panic: PanicError) {
        error!("the sandbox is stopped: {panic}");
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
    /// is started again, they stay locked until the next run has opened them. Drivers go on in that
    /// run.
    pub(super) fn keep_logs(&mut self, logs: Vec<LogTarget>) {
        let mut files = Vec::with_capacity(logs.len());
        for log in logs {
            match log {
                LogTarget::File(file) => files.push(file),
                // Those of the child's own stdio come first. Consoles without a log have none.
                LogTarget::Drivers(drivers) => drop(self.log_drivers.get_or_insert(drivers)),
                LogTarget::Both(both) => files.push(both.into_file()),
            }
        }
        self.keep_files(files);
    }

    fn keep_files(&mut self, logs: Vec<LogFile>) {
        match (&mut self.post_rotate, &mut self.backoff) {
            (Some(post_rotate), _) => post_rotate.keep_logs(logs),
            (None, Some(backoff)) => backoff.keep_locked(logs),
            (None, None) => {}
        }
    }
}
