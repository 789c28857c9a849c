//! The server's end: a service of one monitor.
//!
//! While nobody is connected it has one descriptor, no buffer and no timer. A client has a buffer
//! only for a message that it has not sent to its end, and for a reply that it has not taken.

mod connection;
mod connections;
mod methods;

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::ControlError;
use super::place::Place;
use crate::monitor::{Sandbox, Service, ServiceContext, Transition};
use crate::reactor::{Interest, Ready, SourceId};
use crate::socket::Bound;
use connections::{Connections, FIRST_KEY};

/// The listener's source and timer.
const LISTENER: u32 = 0;

/// How long a client may take for a message or a reply, unless
/// [`Server::client_timeout`] says otherwise.
pub const DEFAULT_CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the control socket of one sandbox, `<runtime dir>/<config file>/<name>.sock`.
///
/// The socket is there from before the child is started until its end has been told; both it and
/// its directories admit nobody but their owner. A stale one is replaced, a live one is not: then
/// nothing is started.
pub struct Server {
    place: Place,
    client_timeout: Duration,
    stage: Stage,
}

enum Stage {
    New,
    Open {
        bound: Bound,
        source: SourceId,
        clients: Connections,
    },
    /// All is over; some have yet to take their last reply.
    Leaving(Connections),
    Done,
}

impl Server {
    /// A server for this sandbox, to be given to its monitor. Touches nothing.
    ///
    /// # Errors
    ///
    /// [`ControlError::PathTooLong`], where the system has such a limit.
    pub fn new(runtime_dir: &Path, sandbox: &Sandbox) -> Result<Self, ControlError> {
        let config_file = sandbox.config_file().as_str();
        let place = Place::new(runtime_dir, config_file, sandbox.name().as_str())?;
        Ok(Self { place, client_timeout: DEFAULT_CLIENT_TIMEOUT, stage: Stage::New })
    }

    /// How long a client may take for the rest of a message that it has begun, and to take a reply,
    /// before its connection is closed. By default [`DEFAULT_CLIENT_TIMEOUT`].
    #[must_use]
    pub fn client_timeout(mut self, timeout: Duration) -> Self {
        self.client_timeout = timeout;
        self
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn clients(&mut self) -> Option<&mut Connections> {
        match &mut self.stage {
            Stage::Open { clients, .. } | Stage::Leaving(clients) => Some(clients),
            Stage::New | Stage::Done => None,
        }
    }

    fn settle(&mut self) {
        if let Stage::Leaving(clients) = &self.stage
            && clients.is_empty()
        {
            self.stage = Stage::Done;
        }
    }

    /// The socket goes first, so that nobody comes any more; those who have come are answered.
    fn finish(&mut self, desk: &mut ServiceContext<'_, '_>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        let Stage::Open { bound, source, mut clients } = stage else { return };
        bound.leave();
        clients.accept_all(&bound.listener, desk);
        desk.deregister(source);
        drop(bound);
        clients.finish(desk);
        self.stage = Stage::Leaving(clients);
        self.settle();
    }
}

impl Service for Server {
    fn address(&self) -> Option<&Path> {
        Some(self.place.path())
    }

    fn open(
        &mut self,
        desk: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let bound = self.place.bind()?;
        let cannot = |error| ControlError::io("serve", self.place.path(), error);
        bound.listener.set_nonblocking(true).map_err(cannot)?;
        let source = desk.register(&bound.listener, Interest::READ, LISTENER).map_err(cannot)?;
        self.stage =
            Stage::Open { bound, source, clients: Connections::new(source, self.client_timeout) };
        Ok(())
    }

    fn ready(&mut self, key: u32, ready: Ready, desk: &mut ServiceContext<'_, '_>) {
        match &mut self.stage {
            Stage::Open { bound, clients, .. } if key == LISTENER => {
                clients.accept(&bound.listener, desk);
            }
            _ => {
                if let Some(clients) = self.clients() {
                    clients.ready(key, ready, desk);
                }
            }
        }
        self.settle();
    }

    fn timer(&mut self, key: u32, desk: &mut ServiceContext<'_, '_>) {
        match &mut self.stage {
            Stage::Open { clients, .. } if key < FIRST_KEY => clients.accept_again(desk),
            _ => {
                if let Some(clients) = self.clients() {
                    clients.timer(key, desk);
                }
            }
        }
        self.settle();
    }

    fn transition(&mut self, transition: &Transition, desk: &mut ServiceContext<'_, '_>) {
        if let Some(clients) = self.clients() {
            clients.transition(transition, desk);
        }
        if let Transition::Stopped { .. } = transition {
            self.finish(desk);
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Done)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("path", &self.place.path()).finish_non_exhaustive()
    }
}
