//! The control socket of a host: a handler on the reactor of its sandboxes.
//!
//! It reads calls and hands each to the engine, which performs it after the turn and has the reply
//! sent here. A client without a reply is not read any further.

mod context;
mod events;
mod replies;
mod requests;

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::place::SocketPath;
use super::super::{ControlError, HOST_INTERFACE_DESCRIPTION};
use super::backend::Interface;
use super::connection::Mode;
use super::connections::{Connections, FIRST_KEY};
use super::{DEFAULT_CLIENT_TIMEOUT, LISTENER};
use crate::child::Signal;
use crate::monitor::{SourceKey, TimerKey};
use crate::reactor::{Context, Handler, Interest, Ready, SourceId};
use crate::socket::Bound;
use context::HostContext;
use events::Events;

pub(crate) use super::connections::ClientId;
pub(crate) use super::fault::{Fault, reply};
pub(crate) use super::methods::{attached_as, of_attach};
pub(crate) use replies::{Named, ended, event, inspected, listed, started};
pub use requests::Start;
pub(crate) use requests::{Request, Target, no_such};

const HOST: Interface =
    Interface { name: "io.vmon.Host", description: HOST_INTERFACE_DESCRIPTION, nested: 16 * 1024 };

type Cx<'a> = Context<'a, SourceKey, TimerKey>;

/// The control socket of a host, to be served with
/// [`Engine::serve`](crate::host::Engine::serve): the varlink interface
/// [`io.vmon.Host`](crate::control::HOST_INTERFACE_DESCRIPTION).
///
/// The limits of clients and of memory, and the check of their user, are those of a
/// [`Server`](crate::control::Server).
#[derive(Debug)]
pub struct HostServer {
    address: Address,
    client_timeout: Duration,
}

#[derive(Debug)]
enum Address {
    Path(PathBuf),
    Given(UnixListener),
}

/// A call that the engine is to perform.
#[derive(Debug)]
pub(crate) struct HostCall {
    /// The client that waits for the reply; `None` for a oneway call.
    pub(crate) client: Option<ClientId>,
    pub(crate) request: Request,
}

/// What clients connect to.
enum Listener {
    /// A socket that this process has made, and removes.
    Bound(Bound),
    Given(UnixListener),
}

/// The handler that serves it.
pub(crate) struct HostSocket {
    listener: Option<(Listener, Option<SourceId>)>,
    clients: Option<Connections>,
    client_timeout: Duration,
    calls: VecDeque<HostCall>,
    events: Events,
    /// A signal that ends the sandboxes has arrived.
    stopping: bool,
}

impl HostServer {
    /// Serves at this path, which is private to this user: the socket has mode 0600. A missing
    /// directory is made with mode 0700; it must not be writable for other users. A stale socket is
    /// replaced, and it is removed at the end.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { address: Address::Path(path.into()), client_timeout: DEFAULT_CLIENT_TIMEOUT }
    }

    /// Serves on a listening socket that the host was given, as by socket activation.
    pub fn on(listener: UnixListener) -> Self {
        Self { address: Address::Given(listener), client_timeout: DEFAULT_CLIENT_TIMEOUT }
    }

    /// How long a client may take for the rest of a message that it has begun, and to take a reply,
    /// before its connection is closed. By default [`DEFAULT_CLIENT_TIMEOUT`].
    #[must_use]
    pub fn client_timeout(mut self, timeout: Duration) -> Self {
        self.client_timeout = timeout;
        self
    }

    /// The path, if it was chosen here; empty for a socket that was given.
    pub(crate) fn path(&self) -> &Path {
        match &self.address {
            Address::Path(path) => path,
            Address::Given(_) => Path::new(""),
        }
    }

    /// Makes the socket.
    pub(crate) fn open(self) -> Result<HostSocket, ControlError> {
        let listener = match self.address {
            Address::Path(path) => Listener::Bound(SocketPath::at(&path)?.bind()?),
            Address::Given(listener) => Listener::Given(listener),
        };
        Ok(HostSocket {
            listener: Some((listener, None)),
            clients: None,
            client_timeout: self.client_timeout,
            calls: VecDeque::new(),
            events: Events::new(),
            stopping: false,
        })
    }
}

impl Listener {
    fn socket(&self) -> &UnixListener {
        match self {
            Self::Bound(bound) => &bound.listener,
            Self::Given(listener) => listener,
        }
    }
}

impl HostSocket {
    /// Accepts clients from now on.
    ///
    /// # Errors
    ///
    /// The system's, if the socket can't be watched.
    pub(crate) fn listen(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        let Some((listener, source)) = &mut self.listener else { return Ok(()) };
        listener.socket().set_nonblocking(true)?;
        let key = SourceKey::of_host(LISTENER);
        let registered = cx.sources.register(listener.socket(), Interest::READ, key)?;
        *source = Some(registered);
        self.clients = Some(Connections::new(registered, self.client_timeout));
        Ok(())
    }

    /// Whether a signal that ends the sandboxes has arrived.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether a client still waits for a reply.
    pub(crate) fn waits(&self, client: ClientId) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.is_pending(client))
    }

    /// Sends the only reply to a call; nothing if the client has gone.
    pub(crate) fn reply(
        &mut self,
        client: ClientId,
        answer: Result<Value, Fault>,
        cx: &mut Cx<'_>,
    ) {
        self.with_clients(cx, |clients, cx| {
            if let Some(slot) = clients.resume(client) {
                clients.reply(slot, answer, cx);
            }
        });
    }

    /// Sends the events after this cursor, or from now on, as replies of a call.
    pub(crate) fn watch(&mut self, client: ClientId, after: Option<&str>, cx: &mut Cx<'_>) {
        let from = match after {
            None => Some(self.events.next()),
            Some(cursor) => self.events.after(cursor),
        };
        let Some(from) = from else {
            let fault = Fault::new("UnknownCursor", json!({}));
            return self.reply(client, Err(fault), cx);
        };
        let first = self.events.empty(from, 0);
        self.with_clients(cx, |clients, cx| {
            let Some(slot) = clients.resume(client) else { return };
            clients.with(slot, cx, |connection, cx| {
                connection.mode = Mode::Following(from);
                connection.send(first, cx)
            });
            cx.send_events(clients, slot);
        });
    }

    /// Sends events to the clients that watch.
    pub(crate) fn publish(&mut self, events: &[Value], cx: &mut Cx<'_>) {
        for event in events {
            self.events.push(event);
        }
        self.with_clients(cx, |clients, cx| {
            for slot in clients.following() {
                cx.send_events(clients, slot);
            }
        });
    }

    /// Takes the socket of a client that is to become a session; [`attached`](Self::attached) or
    /// [`refused`](Self::refused) follows. `None` if it has gone, or is refused here.
    pub(crate) fn hand_over(
        &mut self,
        client: ClientId,
        sessions: usize,
        cx: &mut Cx<'_>,
    ) -> Option<(UnixStream, usize)> {
        self.with_clients(cx, |clients, cx| {
            let slot = clients.resume(client)?;
            Some((clients.hand_over(slot, sessions, cx)?, slot))
        })
        .flatten()
    }

    /// The client has become a session.
    pub(crate) fn attached(&mut self) {
        if let Some(clients) = &mut self.clients {
            clients.left();
        }
    }

    /// The client that was in this slot has become no session.
    pub(crate) fn refused(
        &mut self,
        slot: usize,
        stream: UnixStream,
        fault: Fault,
        cx: &mut Cx<'_>,
    ) {
        self.with_clients(cx, |clients, cx| clients.take_back(slot, stream, fault, cx));
    }

    /// Removes the socket; connected clients get what waits for them.
    pub(crate) fn finish(&mut self, cx: &mut Cx<'_>) {
        let Some((listener, source)) = self.listener.take() else { return };
        if let Some(source) = source {
            cx.sources.deregister(source);
        }
        drop(listener);
        self.with_clients(cx, |clients, cx| clients.finish(cx));
        // Their clients are closed.
        self.calls.clear();
    }

    fn with_clients<R>(
        &mut self,
        cx: &mut Cx<'_>,
        act: impl FnOnce(&mut Connections, &mut HostContext<'_, '_>) -> R,
    ) -> Option<R> {
        let Self { clients, calls, events, .. } = self;
        let clients = clients.as_mut()?;
        Some(act(clients, &mut HostContext { cx, calls, events }))
    }
}

impl Handler for HostSocket {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = HostCall;

    /// Clients are accepted from [`listen`](HostSocket::listen) on, which reports an error.
    fn start(&mut self, _: &mut Cx<'_>) {}

    fn ready(&mut self, key: SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        let Some(key) = key.host_key() else { return };
        let Self { listener, clients, calls, events, .. } = self;
        let Some(clients) = clients else { return };
        let mut cx = HostContext { cx, calls, events };
        match listener {
            Some((listener, _)) if key == LISTENER => clients.accept(listener.socket(), &mut cx),
            _ => clients.ready(key, ready, &mut cx),
        }
    }

    fn timer(&mut self, key: TimerKey, cx: &mut Cx<'_>) {
        let Some(key) = key.host_key() else { return };
        self.with_clients(cx, |clients, cx| match key {
            ..FIRST_KEY => clients.accept_again(cx),
            _ => clients.timer(key, cx),
        });
    }

    fn signal(&mut self, signal: i32, _: &mut Cx<'_>) {
        let signal = Signal::from_number(signal);
        self.stopping |=
            matches!(signal, Some(Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP));
    }

    fn take_event(&mut self) -> Option<HostCall> {
        self.calls.pop_front()
    }

    fn is_done(&self) -> bool {
        self.listener.is_none() && self.clients.as_ref().is_none_or(Connections::is_empty)
    }
}
