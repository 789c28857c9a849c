//! What other threads ask of a host.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::engine::Engine;
use super::error::HostError;
use super::events::Events;
use super::listed::Listed;
use super::reply::{Answer, Reply};
use super::shared::Shared;
use super::started::Started;
use crate::child::{ChildIo, Command, ExitStatus, Signal};
use crate::monitor::{
    Attach, Attached, Builder, End, Name, Released, Report, SandboxId, SessionId, message_of,
};
use crate::reactor::Waker;
use crate::terminal::WindowSize;

/// What is done on the thread of a host.
pub(super) type Request = Box<dyn FnOnce(&mut Engine) + Send>;

/// Asks things of a [`Host`](super::Host) from any thread. A clone asks the same host.
///
/// Each method makes its request at once and returns a [`Reply`], which can be awaited, or waited
/// for with [`Reply::wait`]. Requests of one thread are met in their order. A reply that is dropped
/// changes nothing: what was asked for is done.
///
/// A handle does not keep the host: once that has ended, each reply is an error.
///
/// After fork(2) without exec the child has no thread of the host, so it must not use the handle.
#[derive(Clone)]
pub struct Handle {
    requests: Sender<Request>,
    waker: Waker,
    shared: Arc<Shared>,
}

/// A client that is attached to a sandbox: the stream to read from and write to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attachment {
    /// The output of the child, and its input. Blocking; closed at the end of the sandbox.
    pub stream: UnixStream,
    /// What the client is attached to. Its `session` is for
    /// [`resize_session`](Handle::resize_session).
    pub attached: Attached,
}

impl Handle {
    pub(super) fn new(requests: Sender<Request>, waker: Waker, shared: Arc<Shared>) -> Self {
        Self { requests, waker, shared }
    }

    /// Starts a command: with a [`Builder`], which has the observers and services of the sandbox, or
    /// just with its description.
    ///
    /// The reply comes when the child runs, or could not be started
    /// ([`HostError::NotStarted`]). Its value has the end of the sandbox as a reply of its own.
    ///
    /// The child is killed when the thread of the host ends for whatever reason
    /// ([`Command::parent_death`]), unless the host [leaves](super::OnDrop::Leave) its children.
    pub fn start(&self, sandbox: impl Into<Builder>, command: Command) -> Reply<Started> {
        let builder = sandbox.into();
        self.ask(move |engine, answer| {
            if engine.is_closing() {
                return send(answer, Err(HostError::Ended));
            }
            let id = engine.start(builder, command);
            engine.answer_start(id, answer);
        })
    }

    /// Takes over a child of this process that the host has started, with its descriptors. A host
    /// that awaits its children itself gives a [`Builder`] that says so
    /// ([`host_reaps`](Builder::host_reaps)), and calls [`reaped`](Self::reaped).
    ///
    /// The reply is as that of [`start`](Self::start). The error of a process that is not a child
    /// has the descriptors ([`HostError::Adopt`]).
    pub fn adopt(&self, sandbox: impl Into<Builder>, pid: u32, io: ChildIo) -> Reply<Started> {
        let builder = sandbox.into();
        self.ask(move |engine, answer| {
            if engine.is_closing() {
                return send(answer, Err(HostError::Ended));
            }
            match engine.adopt(builder, pid, io) {
                Ok(id) => engine.answer_start(id, answer),
                Err(error) => send(answer, Err(error.into())),
            }
        })
    }

    /// The end of a sandbox, when its observers are done with it. Any number of replies get it.
    ///
    /// A sandbox that has ended before is not known any more; the reply of
    /// [`start`](Self::start) has its end in any case.
    pub fn wait(&self, id: SandboxId) -> Reply<Arc<End>> {
        self.ask(move |engine, answer| engine.answer_end(id, answer))
    }

    /// See [`Engine::stop`]. The reply comes when the stop has begun, not when the child has ended.
    pub fn stop(&self, id: SandboxId, timeout: Option<Duration>) -> Reply<()> {
        self.ask(move |engine, answer| send(answer, engine.stop(id, timeout)))
    }

    /// See [`Engine::signal`].
    pub fn signal(&self, id: SandboxId, signal: Signal) -> Reply<()> {
        self.ask(move |engine, answer| send(answer, engine.signal(id, signal)))
    }

    /// Hands in the status of a child that the host has reaped. See [`Engine::reaped`].
    pub fn reaped(&self, id: SandboxId, pid: u32, status: impl Into<ExitStatus>) {
        let status = status.into();
        self.tell(move |engine| engine.reaped(id, pid, status));
    }

    /// See [`Engine::resize`].
    pub fn resize(&self, id: SandboxId, size: WindowSize) -> Reply<()> {
        self.ask(move |engine, answer| send(answer, engine.resize(id, size)))
    }

    /// See [`Engine::resize_session`].
    pub fn resize_session(&self, id: SandboxId, session: SessionId, size: WindowSize) -> Reply<()> {
        self.ask(move |engine, answer| send(answer, engine.resize_session(id, session, size)))
    }

    /// Attaches a client, which gets the tail of the log and then the output. See
    /// [`Monitor::attach`](crate::monitor::Monitor::attach).
    pub fn attach(&self, id: SandboxId, request: Attach) -> Reply<Attachment> {
        self.ask(move |engine, answer| {
            let attached = UnixStream::pair().map_err(HostError::System);
            let attached = attached.and_then(|(stream, client)| {
                let attached = engine.attach(id, client, &request)?;
                Ok(Attachment { stream, attached })
            });
            send(answer, attached);
        })
    }

    /// Gives the child input, all of it or none. See
    /// [`Monitor::send_input`](crate::monitor::Monitor::send_input).
    pub fn send(&self, id: SandboxId, bytes: impl Into<Vec<u8>>) -> Reply<()> {
        let bytes = bytes.into();
        self.ask(move |engine, answer| send(answer, engine.send(id, &bytes)))
    }

    /// See [`Engine::reopen_log`].
    pub fn reopen_log(&self, id: SandboxId) -> Reply<()> {
        self.ask(move |engine, answer| send(answer, engine.reopen_log(id)))
    }

    /// Gives the child back. See [`Engine::release`]. A reply that is dropped closes its descriptors.
    ///
    /// On Linux a child that was started here dies with the thread of the host, unless the host leaves
    /// its children, or [`Command::parent_death`] is false.
    pub fn release(&self, id: SandboxId) -> Reply<Released> {
        self.ask(move |engine, answer| send(answer, engine.release(id)))
    }

    /// What is known of a sandbox.
    pub fn report(&self, id: SandboxId) -> Reply<Report> {
        self.ask(move |engine, answer| send(answer, engine.report(id)))
    }

    /// The sandboxes that have not ended, in no particular order.
    pub fn list(&self) -> Reply<Vec<Listed>> {
        self.ask(|engine, answer| send(answer, Ok(engine.list())))
    }

    /// The sandbox of this name that has not stopped, if there is one.
    pub fn find(&self, config_file: Name, name: Name) -> Reply<Option<SandboxId>> {
        self.ask(move |engine, answer| send(answer, Ok(engine.find(&config_file, &name))))
    }

    /// The events of all sandboxes from now on: of those that this thread starts afterwards, all. At
    /// most `limit` of them wait for a slow consumer, and at least one.
    pub fn events(&self, limit: usize) -> Events {
        let id = self.shared.next_subscription();
        let (last, events) = Events::new(self.clone(), id);
        self.tell(move |engine| engine.subscribe_to(id, limit, last));
        events
    }

    /// Calls `f` on the thread of the host, for what the other methods do not offer. It must not
    /// block: every sandbox waits for it. A panic in it is one of that thread, and ends the host.
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Reply<R> {
        self.ask(move |engine, answer| match catch_unwind(AssertUnwindSafe(|| f(engine))) {
            Ok(result) => send(answer, Ok(result)),
            Err(panic) => {
                send(answer, Err(HostError::Panicked(message_of(&*panic).into())));
                resume_unwind(panic);
            }
        })
    }

    pub(super) fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut Engine, Answer<T>) + Send + 'static,
    ) -> Reply<T> {
        let (answer, reply) = Reply::new(&self.shared);
        self.tell(move |engine| request(engine, answer));
        reply
    }

    pub(super) fn tell(&self, request: impl FnOnce(&mut Engine) + Send + 'static) {
        // If the thread has ended, the request is dropped with its answer: the reply is an error.
        if self.requests.send(Box::new(request)).is_ok() {
            // Fails only without memory; the request is met with the next one, or at the next event.
            let _ = self.waker.wake();
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Sends an answer; a reply that was dropped is not waited for.
fn send<T>(answer: Answer<T>, result: Result<T, HostError>) {
    let _ = answer.send(result);
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
