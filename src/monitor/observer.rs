//! The observers of a monitor: the trait, and the set that is asked for claims and called at each
//! transition, each observer at its own pace.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::call_out::{Callee, PanicError, call_out, discard};
use super::keys::{Timer, TimerKey};
use super::sandbox::Sandbox;
use super::transition::{StartError, Transition};
use super::wait::Wait;
use crate::child::{Command, Identity};
use crate::reactor::{TimerId, Timers};

/// Receives the transitions of one sandbox, as the SQLite registry does.
///
/// An observer is called on the thread that runs the reactor and must not block: with [`Progress::Later`] it asks
/// to be called again for what it can't do now. Each transition is reported once, in order; the
/// monitor never repeats one.
///
/// A [panic](super::PanicError) of an observer ends the sandbox, not the loop: the observer is
/// dropped, and the child is stopped.
///
/// Closures receive transitions and grant every claim:
///
/// ```
/// use vmon::monitor::{Observer, Transition};
/// let mut log = |transition: &Transition| println!("{transition:?}");
/// let _observer: &mut dyn Observer = &mut log;
/// ```
pub trait Observer: Send {
    /// Called before anything is started; every observer must grant the claim.
    ///
    /// After [`Claim::Later`] it is called again, for five seconds at most. A child that a host
    /// hands over runs already: its claim is asked once, and an observer that answers
    /// [`Claim::Later`] makes up for it with the transitions that follow.
    fn claim(&mut self, starting: &Starting<'_>) -> Claim {
        let _ = starting;
        Claim::Granted
    }

    /// Called at each transition.
    fn transition(&mut self, transition: &Transition) -> Progress;

    /// Called again after a call that returned [`Progress::Later`].
    fn retry(&mut self) -> Progress {
        Progress::Done
    }

    /// What the observer is late for, if it is: for [`Report::waits`](super::Report::waits).
    fn waits_for(&self) -> Option<Wait> {
        None
    }
}

impl<F: FnMut(&Transition) + Send> Observer for F {
    fn transition(&mut self, transition: &Transition) -> Progress {
        self(transition);
        Progress::Done
    }
}

/// What is known before the child is started.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Starting<'a> {
    /// The sandbox.
    pub sandbox: &'a Sandbox,
    /// The command that will be spawned; `None` for a child that the host hands over.
    pub command: Option<&'a Command>,
    /// The monitoring process: this one.
    pub supervisor: &'a Identity,
    /// When the start was asked for.
    pub at: DateTime<Utc>,
    /// How often the command has been started again: 0 for its first run. The claim of a later run
    /// replaces that of the run that [`Transition::Restarting`] has reported, in one step. Like the
    /// claim of a child that runs already it is asked once, and a record that is late does not
    /// prevent the start.
    pub restarts: u32,
    /// The address of a [`Service`](super::Service) of the monitor, such as its control socket.
    pub socket: Option<&'a Path>,
}

impl<'a> Starting<'a> {
    /// The first start of a child that the host hands over, for the test of an observer.
    pub fn new(sandbox: &'a Sandbox, supervisor: &'a Identity, at: DateTime<Utc>) -> Self {
        Self { sandbox, command: None, supervisor, at, restarts: 0, socket: None }
    }
}

/// An observer's answer to [`Observer::claim`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Claim {
    /// Go ahead.
    Granted,
    /// Not known yet; ask again after this time. The error is the reason, for the message if it
    /// stays so.
    Later(Duration, Box<dyn Error + Send + Sync>),
    /// The name is taken by a live supervisor. Nothing is started.
    Taken {
        /// The pid of that supervisor.
        supervisor: u32,
    },
    /// The name is taken by a run whose supervisor is elsewhere, or can't be checked. Nothing is
    /// started.
    Held {
        /// Where that run is and what to do, after "is on record as running".
        reason: String,
    },
    /// Nothing may be started.
    Refused(Box<dyn Error + Send + Sync>),
}

/// Whether an observer is done with a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// Call [`Observer::retry`] after this time. The monitor's end waits for it.
    Later(Duration),
}

/// One observer of a monitor.
struct Entry {
    /// `None` once it has panicked.
    observer: Option<Box<dyn Observer>>,
    claimed: bool,
    /// Set while the observer asks to be called again.
    retry: Option<TimerId>,
}

/// The answer of all observers to a claim.
pub(super) enum Claims {
    Granted,
    Later(Duration, Box<dyn std::error::Error + Send + Sync>),
    Refused(StartError),
    Panicked(PanicError),
}

/// The observers of one monitor.
#[derive(Default)]
pub(super) struct Observers {
    list: Vec<Entry>,
}

impl Observers {
    pub(super) fn add(&mut self, observer: Box<dyn Observer>) {
        self.list.push(Entry { observer: Some(observer), claimed: false, retry: None });
    }

    /// Asks each observer that has not granted the claim yet.
    pub(super) fn claim(&mut self, starting: &Starting<'_>) -> Claims {
        for entry in self.list.iter_mut().filter(|entry| !entry.claimed) {
            match entry.call(|observer| observer.claim(starting)) {
                Ok(Some(Claim::Granted)) => entry.claimed = true,
                Ok(Some(Claim::Later(after, reason))) => return Claims::Later(after, reason),
                Ok(Some(Claim::Taken { supervisor })) => {
                    return Claims::Refused(taken(starting, supervisor));
                }
                Ok(Some(Claim::Held { reason })) => {
                    return Claims::Refused(held(starting, reason));
                }
                Ok(Some(Claim::Refused(error))) => {
                    return Claims::Refused(StartError::Claim(error));
                }
                Ok(None) => {}
                Err(panic) => return Claims::Panicked(panic),
            }
        }
        Claims::Granted
    }

    /// Asks each observer once, for a child that runs already or has run before: only a name that
    /// is taken prevents it from being monitored. A panic keeps no other observer from taking note of
    /// this run, whose end they receive.
    pub(super) fn claim_once(&mut self, starting: &Starting<'_>) -> Claims {
        let mut claims = Claims::Granted;
        for entry in &mut self.list {
            entry.claimed = match entry.call(|observer| observer.claim(starting)) {
                Ok(Some(Claim::Granted | Claim::Later(..))) => true,
                Ok(Some(Claim::Taken { supervisor })) => {
                    return Claims::Refused(taken(starting, supervisor));
                }
                Ok(Some(Claim::Held { reason })) => {
                    return Claims::Refused(held(starting, reason));
                }
                Ok(Some(Claim::Refused(error))) => {
                    warn!("this run will not be recorded: {error}");
                    false
                }
                Ok(None) => false,
                Err(panic) => {
                    claims = Claims::Panicked(panic);
                    false
                }
            };
        }
        claims
    }

    /// Calls the observers that have granted the claim, each of them whatever the others do.
    ///
    /// # Errors
    ///
    /// The first panic.
    pub(super) fn report(
        &mut self,
        transition: &Transition,
        timers: &mut Timers<'_, TimerKey>,
    ) -> Result<(), PanicError> {
        let mut reported = Ok(());
        for (index, entry) in self.list.iter_mut().enumerate().filter(|(_, it)| it.claimed) {
            let called = entry.call(|observer| observer.transition(transition));
            reported = reported.and(entry.wait(called, index, timers));
        }
        reported
    }

    /// As [`report`](Self::report), the last time, without a loop: none is called again.
    pub(super) fn report_last(&mut self, transition: &Transition) {
        for entry in self.list.iter_mut().filter(|entry| entry.claimed) {
            let _ = entry.call(|observer| observer.transition(transition));
        }
    }

    /// Forgets which observers ask to be called again: their timers are gone.
    pub(super) fn forget_timers(&mut self) {
        self.list.iter_mut().for_each(|entry| entry.retry = None);
    }

    /// Calls an observer again.
    ///
    /// # Errors
    ///
    /// It panicked.
    pub(super) fn retry(
        &mut self,
        index: usize,
        timers: &mut Timers<'_, TimerKey>,
    ) -> Result<(), PanicError> {
        let Some(entry) = self.list.get_mut(index) else { return Ok(()) };
        let called = entry.call(|observer| observer.retry());
        entry.wait(called, index, timers)
    }

    /// What the observers are late for. One that panics here is late for nothing.
    pub(super) fn waits(&self) -> impl Iterator<Item = Wait> {
        let observers = self.list.iter().filter_map(|entry| entry.observer.as_deref());
        observers.filter_map(|observer| {
            call_out(Callee::Observer, || observer.waits_for()).ok().flatten()
        })
    }

    /// Whether no observer asks to be called again.
    pub(super) fn are_done(&self) -> bool {
        self.list.iter().all(|entry| entry.retry.is_none())
    }
}

impl Entry {
    /// Calls the observer; `None` if it has panicked before. One that panics is dropped.
    fn call<R>(
        &mut self,
        call: impl FnOnce(&mut dyn Observer) -> R,
    ) -> Result<Option<R>, PanicError> {
        let Some(observer) = &mut self.observer else { return Ok(None) };
        let called = call_out(Callee::Observer, || call(&mut **observer));
        if called.is_err() {
            self.claimed = false;
            discard(self.observer.take());
        }
        called.map(Some)
    }

    fn wait(
        &mut self,
        called: Result<Option<Progress>, PanicError>,
        index: usize,
        timers: &mut Timers<'_, TimerKey>,
    ) -> Result<(), PanicError> {
        if let Some(retry) = self.retry.take() {
            timers.cancel(retry);
        }
        if let Some(Progress::Later(after)) = called? {
            self.retry = Some(timers.set(after, Timer::Observer(index).key()));
        }
        Ok(())
    }
}

fn held(starting: &Starting<'_>, reason: String) -> StartError {
    StartError::Held {
        config_file: starting.sandbox.config_file.to_string(),
        name: starting.sandbox.name.to_string(),
        reason,
    }
}

fn taken(starting: &Starting<'_>, supervisor: u32) -> StartError {
    StartError::Taken {
        config_file: starting.sandbox.config_file.to_string(),
        name: starting.sandbox.name.to_string(),
        supervisor,
    }
}
