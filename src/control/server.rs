//! The server of a control socket: a service of one monitor.
//!
//! Without a client it has one descriptor, no buffer and no timer. A client has a buffer only for
//! an incomplete message and for a reply that it has not read.

mod backend;
mod connection;
mod connections;
mod fault;
#[cfg(all(feature = "host", feature = "codec"))]
pub(crate) mod host;
mod methods;
mod routing;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use super::ControlError;
use super::place::SocketPath;
use crate::monitor::{Builder, Sandbox, Service, ServiceContext, Transition};
use crate::reactor::{Interest, Ready, SourceId};
use crate::socket::Bound;
use connections::{Connections, FIRST_KEY};

/// Key of the listener's source and timer.
const LISTENER: u32 = 0;

/// How long a client may take for a message or a reply, unless
/// [`Server::client_timeout`] says otherwise.
pub const DEFAULT_CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The control socket of a monitor, `<runtime dir>/<config file>/<name>.sock`, to be served with
/// [`Builder::control_socket`].
///
/// The socket exists from before the start of the child until its end has been reported. The socket
/// and its directory have modes 0600 and 0700. A stale socket is replaced; if another server
/// listens on it, the start fails.
#[derive(Debug, Clone)]
pub struct Server {
    runtime_dir: PathBuf,
    client_timeout: Duration,
}

/// The service that serves it.
struct ControlSocket {
    place: SocketPath,
    client_timeout: Duration,
    stage: Stage,
}

enum Stage {
    New,
    Open {
        bound: Bound,
        source: SourceId,
        clients: Connections,
        /// Whether it has been reported that the socket can't be made again.
        reported: bool,
    },
    /// The monitor has ended; some clients have yet to read their last reply.
    Closing(Connections),
    Done,
}

impl Server {
    /// A server in this runtime directory. Changes nothing on disk.
    pub fn new(runtime_dir: impl Into<PathBuf>) -> Self {
        Self { runtime_dir: runtime_dir.into(), client_timeout: DEFAULT_CLIENT_TIMEOUT }
    }

    /// How long a client may take for the rest of a message that it has begun, and to take a reply,
    /// before its connection is closed. By default [`DEFAULT_CLIENT_TIMEOUT`].
    #[must_use]
    pub fn client_timeout(mut self, timeout: Duration) -> Self {
        self.client_timeout = timeout;
        self
    }

    /// The path of the socket of this sandbox.
    ///
    /// # Errors
    ///
    /// [`ControlError::PathTooLong`] if the path exceeds the system's limit.
    pub fn path(&self, sandbox: &Sandbox) -> Result<PathBuf, ControlError> {
        self.place(sandbox).map(|place| place.path().to_owned())
    }

    fn place(&self, sandbox: &Sandbox) -> Result<SocketPath, ControlError> {
        SocketPath::new(&self.runtime_dir, sandbox.config_file.as_str(), sandbox.name.as_str())
    }
}

impl Builder {
    /// Serves the control socket of the sandbox.
    ///
    /// # Errors
    ///
    /// [`ControlError::PathTooLong`] if its path exceeds the system's limit.
    #[cfg_attr(docsrs, doc(cfg(feature = "control")))]
    pub fn control_socket(self, server: Server) -> Result<Self, ControlError> {
        let place = server.place(self.sandbox())?;
        let client_timeout = server.client_timeout;
        Ok(self.service(ControlSocket { place, client_timeout, stage: Stage::New }))
    }
}

impl ControlSocket {
    fn clients(&mut self) -> Option<&mut Connections> {
        match &mut self.stage {
            Stage::Open { clients, .. } | Stage::Closing(clients) => Some(clients),
            Stage::New | Stage::Done => None,
        }
    }

    fn listen(&self, cx: &mut ServiceContext<'_, '_>) -> Result<(Bound, SourceId), ControlError> {
        let bound = self.place.bind()?;
        let cannot = |error| ControlError::io("serve", self.place.path(), error);
        bound.listener.set_nonblocking(true).map_err(cannot)?;
        let source = cx.register(&bound.listener, Interest::READ, LISTENER).map_err(cannot)?;
        Ok((bound, source))
    }

    fn finish_if_empty(&mut self) {
        if let Stage::Closing(clients) = &self.stage
            && clients.is_empty()
        {
            self.stage = Stage::Done;
        }
    }

    /// Removes the socket first, so that no further client connects; connected clients get their
    /// replies.
    fn finish(&mut self, cx: &mut ServiceContext<'_, '_>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        let Stage::Open { bound, source, mut clients, .. } = stage else { return };
        bound.leave();
        clients.accept_all(&bound.listener, cx);
        cx.deregister(source);
        drop(bound);
        clients.finish(cx);
        self.stage = Stage::Closing(clients);
        self.finish_if_empty();
    }
}

impl Service for ControlSocket {
    fn address(&self) -> Option<&Path> {
        Some(self.place.path())
    }

    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (bound, source) = self.listen(cx)?;
        let clients = Connections::new(source, self.client_timeout);
        self.stage = Stage::Open { bound, source, clients, reported: false };
        Ok(())
    }

    fn ready(&mut self, key: u32, ready: Ready, cx: &mut ServiceContext<'_, '_>) {
        match &mut self.stage {
            Stage::Open { bound, clients, .. } if key == LISTENER => {
                clients.accept(&bound.listener, cx);
            }
            _ => {
                if let Some(clients) = self.clients() {
                    clients.ready(key, ready, cx);
                }
            }
        }
        self.finish_if_empty();
    }

    fn timer(&mut self, key: u32, cx: &mut ServiceContext<'_, '_>) {
        match &mut self.stage {
            Stage::Open { clients, .. } if key < FIRST_KEY => clients.accept_again(cx),
            _ => {
                if let Some(clients) = self.clients() {
                    clients.timer(key, cx);
                }
            }
        }
        self.finish_if_empty();
    }

    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        if let Some(clients) = self.clients() {
            methods::send_transition(clients, transition, cx);
        }
        match transition {
            Transition::Stopped { .. } => self.finish(cx),
            // A client that has come too late for it finds the next run.
            Transition::Running { .. } => self.reopen(cx),
            _ => {}
        }
    }

    /// Clients that are connected stay.
    fn reopen(&mut self, cx: &mut ServiceContext<'_, '_>) {
        if !matches!(&self.stage, Stage::Open { bound, .. } if bound.is_gone()) {
            return;
        }
        let made = self.listen(cx);
        let Stage::Open { bound, source, clients, reported } = &mut self.stage else { return };
        match made {
            Ok((new, listener)) => {
                info!("the control socket was removed: made again");
                clients.move_to(listener, &bound.listener, cx);
                cx.deregister(*source);
                (*bound, *source, *reported) = (new, listener, false);
            }
            Err(error) if !*reported => {
                warn!("the control socket was removed, and can't be made again: {error}");
                *reported = true;
            }
            Err(_) => {}
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::New | Stage::Done)
    }
}
