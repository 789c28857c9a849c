//! Tells the observers of one monitor, each at its own pace.

use std::time::Duration;

use tracing::warn;

use super::observer::{Claim, Observer, Progress, Starting};
use super::transition::{StartError, Transition};
use crate::reactor::{TimerId, Timers};

struct Watcher {
    observer: Box<dyn Observer>,
    claimed: bool,
    /// Set while the observer has something left to do.
    retry: Option<TimerId>,
}

/// What all observers together answer to a claim.
pub(super) enum Claims {
    Granted,
    Later(Duration, Box<dyn std::error::Error + Send + Sync>),
    Refused(StartError),
}

#[derive(Default)]
pub(super) struct Reports {
    watchers: Vec<Watcher>,
}

impl Reports {
    pub(super) fn add(&mut self, observer: Box<dyn Observer>) {
        self.watchers.push(Watcher { observer, claimed: false, retry: None });
    }

    /// Asks each observer that has not granted the claim yet.
    pub(super) fn claim(&mut self, starting: &Starting<'_>) -> Claims {
        for watcher in self.watchers.iter_mut().filter(|watcher| !watcher.claimed) {
            match watcher.observer.claim(starting) {
                Claim::Granted => watcher.claimed = true,
                Claim::Later(after, reason) => return Claims::Later(after, reason),
                Claim::Taken { supervisor } => {
                    return Claims::Refused(taken(starting, supervisor));
                }
                Claim::Refused(error) => {
                    return Claims::Refused(StartError::Claim(error.to_string()));
                }
            }
        }
        Claims::Granted
    }

    /// Asks each observer once, for a child that runs already: only a name that is taken is a
    /// reason not to monitor it.
    pub(super) fn claim_running(&mut self, starting: &Starting<'_>) -> Result<(), StartError> {
        for watcher in &mut self.watchers {
            watcher.claimed = match watcher.observer.claim(starting) {
                Claim::Granted | Claim::Later(..) => true,
                Claim::Taken { supervisor } => return Err(taken(starting, supervisor)),
                Claim::Refused(error) => {
                    warn!(name = %starting.sandbox.name(), "this run will not be recorded: {error}");
                    false
                }
            };
        }
        Ok(())
    }

    /// Tells those that have granted the claim.
    pub(super) fn tell<T: Copy>(
        &mut self,
        transition: &Transition,
        timers: &mut Timers<'_, T>,
        timer: fn(usize) -> T,
    ) {
        for (index, watcher) in self.watchers.iter_mut().enumerate() {
            if watcher.claimed {
                let progress = watcher.observer.transition(transition);
                watcher.wait(progress, timers, timer(index));
            }
        }
    }

    /// Lets an observer go on with what it could not do.
    pub(super) fn retry<T: Copy>(
        &mut self,
        index: usize,
        timers: &mut Timers<'_, T>,
        timer: fn(usize) -> T,
    ) {
        if let Some(watcher) = self.watchers.get_mut(index) {
            let progress = watcher.observer.retry();
            watcher.wait(progress, timers, timer(index));
        }
    }

    /// Whether no observer has anything left to do.
    pub(super) fn are_done(&self) -> bool {
        self.watchers.iter().all(|watcher| watcher.retry.is_none())
    }
}

impl Watcher {
    fn wait<T: Copy>(&mut self, progress: Progress, timers: &mut Timers<'_, T>, timer: T) {
        if let Some(retry) = self.retry.take() {
            timers.cancel(retry);
        }
        if let Progress::Later(after) = progress {
            self.retry = Some(timers.set(after, timer));
        }
    }
}

fn taken(starting: &Starting<'_>, supervisor: u32) -> StartError {
    StartError::Taken {
        config_file: starting.sandbox.config_file().to_string(),
        name: starting.sandbox.name().to_string(),
        supervisor,
    }
}
