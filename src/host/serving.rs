//! Serving the control socket of an engine: its clients' calls are performed after each turn.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::engine::Engine;
use super::error::HostError;
use super::task::Task;
use crate::child::Command;
use crate::control::host::{
    ClientId, Fault, HostCall, HostSocket, Named, Request, Target, attached_as, ended, event,
    inspected, listed, no_such, of_attach, reply, started,
};
use crate::control::{ControlError, HostServer, Start};
use crate::monitor::{
    Attach, Builder, End, Event, Monitor, Outcome, Phase, SandboxId, SourceKey, StartError,
    TimerKey, Transition,
};
use crate::reactor::{Context, HandlerId};

/// How many ends are kept for calls of `Wait` that come later.
const KEPT_ENDS: usize = 256;

/// Decides how a sandbox is started that a client of the host's socket asks for.
pub trait Starter: Send {
    /// Prepares the monitor and the command. Called on the loop, so it must not block.
    ///
    /// `attempt` is 1 at first. If the client leaves the number of the name to the host
    /// ([`Start::numbered`]) and the name is taken, further attempts follow with 2, 3 and so on, for
    /// which the sandbox is to get another name.
    ///
    /// # Errors
    ///
    /// Nothing is started; the client gets the refusal.
    fn prepare(&mut self, start: &Start, attempt: u32) -> Result<(Builder, Command), Refusal>;
}

/// Why a host does not start a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for the client's user.
    pub message: String,
    /// The exit code of a command that represents this: 126, 127, or 125.
    pub exit_code: u8,
}

/// The control socket of an engine.
pub(super) struct Serving {
    server: HandlerId,
    starter: Box<dyn Starter>,
    calls: VecDeque<HostCall>,
    starts: Vec<Attempt>,
    /// Clients that wait for the end of a sandbox.
    waits: Vec<(SandboxId, ClientId)>,
    ends: VecDeque<KeptEnd>,
    /// Events that clients have not been sent yet.
    events: Vec<Value>,
    /// Replies that have not been sent yet.
    replies: Vec<(ClientId, Result<Value, Fault>)>,
}

/// A start whose client waits for the child to run.
struct Attempt {
    id: SandboxId,
    client: Option<ClientId>,
    start: Box<Start>,
    number: u32,
}

/// The end of a sandbox that has been removed.
struct KeptEnd {
    target: Target,
    reply: Value,
}

type Cx<'a> = Context<'a, SourceKey, TimerKey>;

impl Engine {
    /// Serves the varlink interface [`io.vmon.Host`](crate::control::HOST_INTERFACE_DESCRIPTION)
    /// on this socket. The starts that clients ask for are prepared by `starter`; all other methods
    /// act on every sandbox of the engine.
    ///
    /// After TERM, INT, QUIT or HUP, if the reactor [watches](Self::watch_signals) them, no further
    /// sandbox is started, and the socket is removed when there is no sandbox any more.
    ///
    /// ```
    /// use std::path::PathBuf;
    /// use vmon::child::Command;
    /// use vmon::control::{HostServer, Start};
    /// use vmon::host::{Engine, Refusal, Starter};
    /// use vmon::monitor::{Builder, Monitor};
    ///
    /// /// Starts whatever a client asks for, with a log in this directory.
    /// struct Logged(PathBuf);
    ///
    /// impl Starter for Logged {
    ///     fn prepare(&mut self, start: &Start, _: u32) -> Result<(Builder, Command), Refusal> {
    ///         let none = || Refusal { message: "no command".into(), exit_code: 125 };
    ///         let command = start.spec.command.clone().ok_or_else(none)?;
    ///         let mut sandbox = start.spec.sandbox.clone();
    ///         sandbox.log_dir = self.0.clone();
    ///         Ok((Monitor::builder(sandbox), command))
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let state = directory.path().canonicalize()?;
    /// let mut engine = Engine::new()?;
    /// engine.serve(HostServer::at(state.join("run/host.sock")), Logged(state.join("log")))?;
    /// // Then `engine.turn(None)?` in a loop.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The socket can't be made or watched. An engine serves one socket: a second one is
    /// [`ControlError::InUse`].
    #[cfg_attr(docsrs, doc(cfg(all(feature = "control", feature = "codec"))))]
    pub fn serve(
        &mut self,
        server: HostServer,
        starter: impl Starter + 'static,
    ) -> Result<(), ControlError> {
        let path = server.path().to_owned();
        if self.serving.is_some() {
            return Err(ControlError::InUse(path));
        }
        let server = self.reactor.add(Task::Socket(Box::new(server.open()?)));
        let serving = Serving {
            server,
            starter: Box::new(starter),
            calls: VecDeque::new(),
            starts: Vec::new(),
            waits: Vec::new(),
            ends: VecDeque::new(),
            events: Vec::new(),
            replies: Vec::new(),
        };
        self.serving = Some(Box::new(serving));
        let listening = self.with_socket(|socket, cx| socket.listen(cx));
        if let Some(Err(source)) = listening {
            self.reactor.remove(server);
            self.serving = None;
            return Err(ControlError::Io { what: "serve", path, source });
        }
        Ok(())
    }

    /// Whether a signal has arrived that ends the sandboxes of an engine that
    /// [serves](Self::serve) a socket.
    #[cfg_attr(docsrs, doc(cfg(all(feature = "control", feature = "codec"))))]
    pub fn is_stopping(&self) -> bool {
        let serving = self.serving.as_ref();
        serving.is_some_and(|serving| match self.reactor.get(serving.server) {
            Some(Task::Socket(socket)) => socket.is_stopping(),
            Some(Task::Sandbox(_)) | None => false,
        })
    }

    fn with_socket<R>(&mut self, act: impl FnOnce(&mut HostSocket, &mut Cx<'_>) -> R) -> Option<R> {
        let server = self.serving.as_ref()?.server;
        let called = self.reactor.call(server, |task, cx| match task {
            Task::Socket(socket) => Some(act(socket, cx)),
            Task::Sandbox(_) => None,
        });
        called.flatten()
    }

    /// Performs what clients have asked for, and sends them what has happened.
    pub(super) fn serve_clients(&mut self) {
        while let Some(call) = self.serving.as_mut().and_then(|serving| serving.calls.pop_front()) {
            self.perform(call);
        }
        self.send_to_clients();
        if self.is_stopping() && self.is_empty() {
            self.with_socket(HostSocket::finish);
        }
    }

    /// Notes what has happened to a sandbox.
    pub(super) fn report_to_clients(&mut self, id: SandboxId, happened: &Event) {
        let Self { serving: Some(serving), reactor, .. } = self else { return };
        if let Some(Task::Sandbox(sandbox)) = reactor.get(id) {
            serving.happened(id, &sandbox.monitor, happened);
        }
    }

    /// Notes the end of a sandbox that was removed. If its name was taken, another one is tried.
    pub(super) fn client_sandbox_ended(&mut self, id: SandboxId, monitor: &Monitor) {
        let again = self.serving.as_mut().and_then(|serving| serving.ended(id, monitor));
        if let Some((client, start, number)) = again {
            self.begin(client, start, number);
        }
    }

    fn send_to_clients(&mut self) {
        let Some(serving) = &mut self.serving else { return };
        let events = std::mem::take(&mut serving.events);
        let replies = std::mem::take(&mut serving.replies);
        if events.is_empty() && replies.is_empty() {
            return;
        }
        self.with_socket(|socket, cx| {
            socket.publish(&events, cx);
            for (client, answer) in replies {
                socket.reply(client, answer, cx);
            }
        });
    }

    fn perform(&mut self, HostCall { client, request }: HostCall) {
        let answer = match request {
            Request::Start(start) => return self.begin(client, start, 1),
            Request::Wait(target) => return self.add_wait(client, &target),
            Request::Attach { target, attach } => {
                return self.attach_client(client, &target, &attach);
            }
            Request::Watch { after } => {
                let Some(client) = client else { return };
                self.with_socket(|socket, cx| socket.watch(client, after.as_deref(), cx));
                return;
            }
            Request::List(filter) => Ok(json!({
                "sandboxes": self
                    .sandboxes()
                    .filter(|(_, it)| filter.includes(it.sandbox(), it.phase()))
                    .map(|(id, it)| {
                        listed(named(id, it), &it.sandbox().labels, it.phase(), it.pid())
                    })
                    .collect::<Value>(),
            })),
            Request::Inspect(target) => self.find_target(&target).and_then(|id| {
                let report = self.report(id)?;
                Ok(inspected(id.number(), &report))
            }),
            Request::Stop { target, timeout } => self.stop_target(&target, timeout),
            Request::Kill { target, signal } => self.find_target(&target).and_then(|id| {
                self.signal(id, signal)?;
                Ok(json!({}))
            }),
            Request::Resize { target, session, size } => self.find_target(&target).and_then(|id| {
                match session {
                    Some(session) => self.resize_session(id, session, size)?,
                    None => self.resize(id, size)?,
                }
                Ok(json!({}))
            }),
        };
        self.answer(client, answer);
    }

    fn answer(&mut self, client: Option<ClientId>, answer: Result<Value, Fault>) {
        if let (Some(serving), Some(client)) = (&mut self.serving, client) {
            serving.replies.push((client, answer));
        }
    }

    /// The sandbox that a client has named: of several of one name the one that has not stopped.
    fn find_target(&self, target: &Target) -> Result<SandboxId, Fault> {
        let is_it = |(id, monitor): &(SandboxId, &Monitor)| {
            let sandbox = monitor.sandbox();
            sandbox.name == target.name
                && sandbox.config_file == target.config_file
                && target.id.is_none_or(|number| number == id.number())
        };
        let found = self.sandboxes().filter(is_it);
        // A start may still find the name taken by the other one.
        let starts = |id| self.serving.iter().flat_map(|it| &it.starts).any(|it| it.id == id);
        let found =
            found.max_by_key(|(id, monitor)| (monitor.phase() != Phase::Stopped, !starts(*id)));
        found.map(|(id, _)| id).ok_or_else(|| no_such(target.name.as_str()))
    }

    fn stop_target(&mut self, target: &Target, timeout: Option<Duration>) -> Result<Value, Fault> {
        let id = self.find_target(target)?;
        if self.get(id).is_none_or(|monitor| monitor.phase() == Phase::Stopped) {
            return Err(Fault::new("NotRunning", json!({})));
        }
        self.stop(id, timeout)?;
        Ok(json!({}))
    }

    /// Starts a sandbox. The reply follows when the child runs.
    fn begin(&mut self, client: Option<ClientId>, start: Box<Start>, number: u32) {
        if self.is_stopping() {
            return self.answer(client, Err(not_started("the host is stopping", 125)));
        }
        // The client has disconnected.
        if let Some(client) = client
            && self.with_socket(|socket, _| socket.waits(client)) != Some(true)
        {
            return;
        }
        let Some(serving) = &mut self.serving else { return };
        match serving.starter.prepare(&start, number) {
            Ok((builder, command)) => {
                let id = self.start(builder, command);
                if let Some(serving) = &mut self.serving {
                    serving.starts.push(Attempt { id, client, start, number });
                }
            }
            Err(Refusal { message, exit_code }) => {
                self.answer(client, Err(not_started(&message, exit_code)));
            }
        }
    }

    fn add_wait(&mut self, client: Option<ClientId>, target: &Target) {
        let Some(waiting) = client else { return };
        let found = self.find_target(target);
        let clients: Vec<ClientId> =
            self.serving.iter().flat_map(|it| &it.waits).map(|(_, client)| *client).collect();
        let here = self.with_socket(|socket, _| {
            clients.into_iter().filter(|client| socket.waits(*client)).collect::<Vec<_>>()
        });
        let Some(serving) = &mut self.serving else { return };
        // Those whose clients have gone.
        let here = here.unwrap_or_default();
        serving.waits.retain(|(_, client)| here.contains(client));
        match found {
            Ok(id) => serving.waits.push((id, waiting)),
            Err(fault) => {
                let kept = serving.ends.iter().rev().find(|end| end.target.is_meant_by(target));
                let answer = kept.map(|end| end.reply.clone()).ok_or(fault);
                self.answer(client, answer);
            }
        }
    }

    fn attach_client(&mut self, client: Option<ClientId>, target: &Target, attach: &Attach) {
        let Some(waiting) = client else { return };
        let id = match self.find_target(target) {
            Ok(id) => id,
            Err(fault) => return self.answer(client, Err(fault)),
        };
        let sessions = self.report(id).map_or(0, |report| report.sessions.len());
        let taken = self.with_socket(|socket, cx| socket.hand_over(waiting, sessions, cx));
        let Some((stream, slot)) = taken.flatten() else { return };
        let preamble = |attached: &_| reply(attached_as(attached), false);
        let attached = self.call(id, |monitor, cx| monitor.attach(stream, attach, preamble, cx));
        self.with_socket(|socket, cx| match attached {
            Ok(Err((error, stream))) => socket.refused(slot, stream, of_attach(error), cx),
            Ok(Ok(_)) | Err(_) => socket.attached(),
        });
    }
}

impl Serving {
    /// Whether the next turn has something to do here.
    pub(super) fn is_pending(&self) -> bool {
        !self.calls.is_empty() || !self.events.is_empty() || !self.replies.is_empty()
    }

    pub(super) fn called(&mut self, call: HostCall) {
        self.calls.push_back(call);
    }

    /// Something has happened to a sandbox.
    pub(super) fn happened(&mut self, id: SandboxId, monitor: &Monitor, happened: &Event) {
        let Event::Transition(transition) = happened else { return };
        let attempt = self.starts.iter().position(|attempt| attempt.id == id);
        // The name is that of another sandbox, to which nothing has happened.
        if let Transition::Stopped { end, .. } = transition
            && attempt.is_some()
            && is_taken(end)
        {
            return;
        }
        let named = named(id, monitor);
        self.events.push(event(named, transition));
        if let Transition::Running { child, .. } = transition
            && let Some(at) = attempt
        {
            let attempt = self.starts.swap_remove(at);
            let reply = started(named, child.pid);
            self.replies.extend(attempt.client.map(|client| (client, Ok(reply))));
        }
    }

    /// A sandbox is about to be removed. Returns what is to be tried again under another name.
    pub(super) fn ended(
        &mut self,
        id: SandboxId,
        monitor: &Monitor,
    ) -> Option<(Option<ClientId>, Box<Start>, u32)> {
        let end = monitor.end()?;
        let attempt = self.starts.iter().position(|attempt| attempt.id == id);
        let attempt = attempt.map(|at| self.starts.swap_remove(at));
        let Named { config_file, name, .. } = named(id, monitor);
        let was_taken = attempt.is_some() && is_taken(end);
        // The end of an attempt that found the name taken is not that of the sandbox of this name.
        let reply = (!was_taken).then(|| ended(id.number(), end));
        let replies = &mut self.replies;
        self.waits.retain(|(waited, client)| {
            if *waited == id {
                let answer = reply.clone().ok_or_else(|| no_such(name.as_str()));
                replies.push((*client, answer));
            }
            *waited != id
        });
        if let Some(Attempt { client, start, number, .. }) = attempt {
            if start.numbered && was_taken {
                return Some((client, start, number + 1));
            }
            let fault = end.error().map(|error| not_started(&error.to_string(), end.exit_code()));
            let fault = fault.unwrap_or_else(|| not_started("it has ended", end.exit_code()));
            self.replies.extend(client.map(|client| (client, Err(fault))));
        }
        if let Some(reply) = reply {
            if self.ends.len() == KEPT_ENDS {
                self.ends.pop_front();
            }
            let (config_file, name) = (config_file.clone(), name.clone());
            let target = Target { config_file, name, id: Some(id.number()) };
            self.ends.push_back(KeptEnd { target, reply });
        }
        None
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Request(error) => error.into(),
            error => Self::failed(&error.to_string()),
        }
    }
}

fn named(id: SandboxId, monitor: &Monitor) -> Named<'_> {
    let sandbox = monitor.sandbox();
    Named { id: id.number(), config_file: &sandbox.config_file, name: &sandbox.name }
}

fn not_started(message: &str, exit_code: u8) -> Fault {
    Fault::new("NotStarted", json!({ "message": message, "exit_code": exit_code }))
}

fn is_taken(end: &End) -> bool {
    matches!(&end.outcome, Outcome::NotStarted(error)
        if matches!(**error, StartError::Taken { .. } | StartError::Held { .. }))
}
