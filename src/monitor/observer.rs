//! The transitions of a monitored child, and the trait of whoever is told of them.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::sandbox::Sandbox;
use super::transition::Transition;
use crate::child::{Command, Identity};

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
