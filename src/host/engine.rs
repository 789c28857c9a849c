//! A reactor of monitors that removes those that are done, and reports their ends and events.

#[cfg(not(mio_unsupported_force_poll_poll))]
mod descriptor;
mod ending;

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneshot::Sender;

use super::error::HostError;
use super::listed::Listed;
use super::reply::{Answer, Reply};
#[cfg(all(feature = "control", feature = "codec"))]
use super::serving::Serving;
use super::shared::{Cause, Shared};
use super::started::Started;
use super::subscriptions::{Batch, SandboxEvent, SubscriptionId, Subscriptions};
use super::task::{Supervised, Task, TaskEvent};
use crate::child::{ChildIo, Command, ExitStatus, Signal};
use crate::monitor::{
    AdoptError, Attach, Attached, Builder, End, Event, Monitor, Name, Phase, Released, Report,
    SandboxId, SessionId, SourceKey, TimerKey, Transition,
};
use crate::reactor::{Context, Reactor, Waker};
use crate::terminal::WindowSize;

/// Any number of sandboxes on the thread that calls [`turn`](Self::turn).
///
/// The host gives each [`Builder`] the observers and services that its sandbox is to have, as with a
/// bare [`Reactor`]. A monitor that is done is removed at the end of the turn; its end goes to the
/// replies of [`wait`](Self::wait). No method blocks but `turn`, and none of a sandbox that is to be
/// started calls its observers before the next turn.
///
/// Two sandboxes of one name are not refused here, but by the claim of the log and of the record:
/// the second one ends with [`StartError::Taken`](crate::monitor::StartError::Taken).
///
/// It can be nested in another event loop: watch its descriptor ([`AsFd`](std::os::fd::AsFd)) for
/// readability, and call `turn` with a timeout of zero when it is readable and when
/// [`next_deadline`](Self::next_deadline) has come.
///
/// ```
/// use vmon::child::Command;
/// use vmon::host::Engine;
/// use vmon::monitor::{Monitor, Sandbox};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let mut engine = Engine::new()?;
/// let id = engine.start(Monitor::builder(Sandbox::new("web", log_dir)?), Command::new("true"));
/// let end = engine.wait(id);
/// while !engine.is_empty() {
///     engine.turn(None)?;
/// }
/// assert_eq!(end.wait()?.exit_code(), 0);
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    pub(super) reactor: Reactor<Task>,
    subscriptions: Subscriptions,
    /// Monitors that are done, to be removed by the next turn.
    done: Vec<SandboxId>,
    /// Sandboxes that have not been removed.
    sandboxes: usize,
    /// Whether the children outlive the thread that turns the engine.
    children_outlive: bool,
    /// Set when the host is to end: the answers that are due then.
    closing: Option<Vec<Answer<()>>>,
    shared: Arc<Shared>,
    #[cfg(all(feature = "control", feature = "codec"))]
    pub(super) serving: Option<Box<Serving>>,
}

impl Engine {
    /// An engine without sandboxes.
    ///
    /// # Errors
    ///
    /// The system's error when a poller can't be created (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new() -> io::Result<Self> {
        let mut reactor = Reactor::new()?;
        reactor.collect_events();
        let subscriptions = Subscriptions::default();
        Ok(Self {
            reactor,
            subscriptions,
            done: Vec::new(),
            sandboxes: 0,
            children_outlive: false,
            closing: None,
            shared: Arc::default(),
            #[cfg(all(feature = "control", feature = "codec"))]
            serving: None,
        })
    }

    /// Starts `command` in the next turn; compare [`Builder::spawn`]. [`started`](Self::started)
    /// says what came of it.
    pub fn start(&mut self, builder: Builder, command: Command) -> SandboxId {
        let command = if self.children_outlive { command.parent_death(false) } else { command };
        self.add(builder.build(command), false)
    }

    /// Takes over a child that the host has started; compare [`Builder::start`].
    ///
    /// # Errors
    ///
    /// `pid` is not a child of this process. The error has `io`.
    pub fn adopt(
        &mut self,
        builder: Builder,
        pid: u32,
        io: ChildIo,
    ) -> Result<SandboxId, AdoptError> {
        Ok(self.add(builder.adopt(pid, io)?, true))
    }

    fn add(&mut self, monitor: Monitor, adopted: bool) -> SandboxId {
        self.sandboxes += 1;
        self.reactor.add(Task::new(monitor, adopted))
    }

    /// A reply that comes when the child runs, or with the error if it can't be started.
    pub fn started(&mut self, id: SandboxId) -> Reply<Started> {
        let (answer, reply) = Reply::new(&self.shared);
        self.answer_start(id, answer);
        reply
    }

    pub(super) fn answer_start(&mut self, id: SandboxId, answer: Answer<Started>) {
        let shared = self.shared.clone();
        let Some(sandbox) = self.sandbox_mut(id) else { return refuse(answer, id) };
        sandbox.waiting.add_start(answer);
        if let Some(pid) = sandbox.monitor.pid() {
            sandbox.running(id, pid, &shared);
        }
    }

    /// A reply that comes with the end, when the observers are done with it.
    pub fn wait(&mut self, id: SandboxId) -> Reply<Arc<End>> {
        let (answer, reply) = Reply::new(&self.shared);
        self.answer_end(id, answer);
        reply
    }

    pub(super) fn answer_end(&mut self, id: SandboxId, answer: Answer<Arc<End>>) {
        match self.sandbox_mut(id) {
            Some(sandbox) => sandbox.waiting.add_end(answer),
            None => refuse(answer, id),
        }
    }

    /// Asks the child to end: the stop signal, then KILL after `timeout` or else the sandbox's stop
    /// timeout. See [`Monitor::stop_within`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox.
    pub fn stop(&mut self, id: SandboxId, timeout: Option<Duration>) -> Result<(), HostError> {
        self.call(id, |monitor, cx| monitor.stop_within(timeout, cx))
    }

    /// Sends a signal to the child's process group. See [`Monitor::signal_child`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox, or no child to signal now.
    pub fn signal(&mut self, id: SandboxId, signal: Signal) -> Result<(), HostError> {
        Ok(self.call(id, |monitor, _| monitor.signal_child(signal))??)
    }

    /// Hands in the status of a child that the host has reaped. See [`Monitor::reaped`]. Does nothing
    /// if its end was seen before, and so if the sandbox is not known any more.
    pub fn reaped(&mut self, id: SandboxId, pid: u32, status: impl Into<ExitStatus>) {
        let _ = self.call(id, |monitor, cx| monitor.reaped(pid, status, cx));
    }

    /// Gives the child's terminal this size. See [`Monitor::resize_terminal`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox, no child, a child without a terminal, or the error of the system.
    pub fn resize(&mut self, id: SandboxId, size: WindowSize) -> Result<(), HostError> {
        Ok(self.call(id, |monitor, _| monitor.resize_terminal(size))??)
    }

    /// Gives the child's terminal the size of a session's terminal. See [`Monitor::resize`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox or session, a read-only session, or a child without a terminal.
    pub fn resize_session(
        &mut self,
        id: SandboxId,
        session: SessionId,
        size: WindowSize,
    ) -> Result<(), HostError> {
        Ok(self.call(id, |monitor, cx| monitor.resize(session, size, cx))??)
    }

    /// Attaches a client, which gets the tail of the log and then the output. See
    /// [`Monitor::attach`], which can also send a preamble and returns the stream after an error.
    ///
    /// # Errors
    ///
    /// There is no such sandbox, or the client can't be attached; its stream is closed.
    pub fn attach(
        &mut self,
        id: SandboxId,
        client: UnixStream,
        request: &Attach,
    ) -> Result<Attached, HostError> {
        let attached =
            self.call(id, |monitor, cx| monitor.attach(client, request, |_| Vec::new(), cx))?;
        attached.map_err(|(error, _)| error.into())
    }

    /// Gives the child input, all of it or none, of which at most 64 KiB may wait. See
    /// [`Monitor::send_input`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox, no child, it has no input or has closed it, or its queue is full.
    pub fn send(&mut self, id: SandboxId, bytes: &[u8]) -> Result<(), HostError> {
        Ok(self.call(id, |monitor, cx| monitor.send_input(bytes, cx))??)
    }

    /// Closes the logs and opens them again by their names. See [`Monitor::reopen_log`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox, no log now, or one can't be opened.
    pub fn reopen_log(&mut self, id: SandboxId) -> Result<(), HostError> {
        Ok(self.call(id, Monitor::reopen_log)??)
    }

    /// Gives the child back, with its descriptors and what waits to be written; the monitor then ends
    /// and is removed. See [`Monitor::release`].
    ///
    /// # Errors
    ///
    /// There is no such sandbox, or no child of it runs.
    pub fn release(&mut self, id: SandboxId) -> Result<Released, HostError> {
        Ok(self.call(id, Monitor::release)??)
    }

    /// Calls `f` with a monitor and its context, as [`Reactor::call`] does.
    ///
    /// # Errors
    ///
    /// There is no such sandbox.
    pub fn call<R>(
        &mut self,
        id: SandboxId,
        f: impl FnOnce(&mut Monitor, &mut Context<'_, SourceKey, TimerKey>) -> R,
    ) -> Result<R, HostError> {
        let result = self.reactor.call(id, |task, cx| match task {
            Task::Sandbox(sandbox) => Some(f(&mut sandbox.monitor, cx)),
            #[cfg(all(feature = "control", feature = "codec"))]
            Task::Socket(_) => None,
        });
        self.take_events();
        result.flatten().ok_or(HostError::NoSuchSandbox(id))
    }

    /// The monitor of a sandbox that has not been removed.
    pub fn get(&self, id: SandboxId) -> Option<&Monitor> {
        match self.reactor.get(id)? {
            Task::Sandbox(sandbox) => Some(&sandbox.monitor),
            #[cfg(all(feature = "control", feature = "codec"))]
            Task::Socket(_) => None,
        }
    }

    /// What is known of a sandbox now.
    ///
    /// # Errors
    ///
    /// There is no such sandbox.
    pub fn report(&self, id: SandboxId) -> Result<Report, HostError> {
        self.get(id).map(Monitor::report).ok_or(HostError::NoSuchSandbox(id))
    }

    /// The sandboxes that have not been removed, in no particular order.
    pub fn list(&self) -> Vec<Listed> {
        let sandboxes = self.sandboxes().map(|(id, monitor)| Listed {
            id,
            name: monitor.sandbox().name.clone(),
            config_file: monitor.sandbox().config_file.clone(),
            phase: monitor.phase(),
            pid: monitor.pid(),
        });
        sandboxes.collect()
    }

    /// The sandbox of this name that has not stopped, if there is one. Compares the names of all.
    pub fn find(&self, config_file: &Name, name: &Name) -> Option<SandboxId> {
        let is_it = |monitor: &Monitor| {
            let sandbox = monitor.sandbox();
            sandbox.name == *name
                && sandbox.config_file == *config_file
                && monitor.phase() != Phase::Stopped
        };
        self.sandboxes().find(|(_, monitor)| is_it(monitor)).map(|(id, _)| id)
    }

    pub(super) fn sandboxes(&self) -> impl Iterator<Item = (SandboxId, &Monitor)> {
        self.reactor.handlers().filter_map(|(id, task)| match task {
            Task::Sandbox(sandbox) => Some((id, &sandbox.monitor)),
            #[cfg(all(feature = "control", feature = "codec"))]
            Task::Socket(_) => None,
        })
    }

    /// Whether there is no sandbox.
    pub fn is_empty(&self) -> bool {
        self.sandboxes == 0
    }

    /// Keeps the events of all sandboxes from now on, at most `limit` of them and at least one. When
    /// more come, the oldest are removed and counted.
    pub fn subscribe(&mut self, limit: usize) -> SubscriptionId {
        let id = self.shared.next_subscription();
        self.subscriptions.add(id, limit, None);
        id
    }

    /// As [`subscribe`](Self::subscribe). What is left when the engine is dropped goes to `last`.
    pub(super) fn subscribe_to(&mut self, id: SubscriptionId, limit: usize, last: Sender<Batch>) {
        self.subscriptions.add(id, limit, Some(last));
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, subscription: SubscriptionId) {
        self.subscriptions.remove(subscription);
    }

    /// The events that have come since they were last taken, up to the last call: empty if there are
    /// none.
    pub fn take_batch(&mut self, subscription: SubscriptionId) -> Batch {
        self.subscriptions.take(subscription)
    }

    /// The next events, as soon as there is one, for another thread. A further call replaces the
    /// reply of an earlier one; if a reply is dropped before it is sent, its events stay.
    pub fn next_batch(&mut self, subscription: SubscriptionId) -> Reply<Batch> {
        let (answer, reply) = Reply::new(&self.shared);
        self.answer_batch(subscription, answer);
        reply
    }

    pub(super) fn answer_batch(&mut self, subscription: SubscriptionId, answer: Answer<Batch>) {
        self.subscriptions.next(subscription, answer);
    }

    /// Whether nothing is left to do: there is no sandbox, and the control socket, if there was one,
    /// has been removed.
    pub fn is_done(&self) -> bool {
        self.reactor.is_done() && !self.is_pending()
    }

    /// Watches these signals for all sandboxes: see [`Reactor::watch_signals`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn watch_signals<S: Into<i32>>(
        &mut self,
        signals: impl IntoIterator<Item = S>,
    ) -> io::Result<()> {
        self.reactor.watch_signals(signals)
    }

    /// A handle that other threads interrupt [`turn`](Self::turn) with.
    ///
    /// # Errors
    ///
    /// The system's error when no descriptor is available.
    pub fn waker(&mut self) -> io::Result<Waker> {
        self.reactor.waker()
    }

    /// One turn: waits for at most `timeout` (`None`: until something happens), then does what is
    /// due. A turn that starts or removes sandboxes does not wait.
    ///
    /// # Errors
    ///
    /// The poller's; the sandboxes are as they were.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = if self.is_pending() { Some(Duration::ZERO) } else { timeout };
        let turned = self.reactor.poll_once(timeout);
        self.take_events();
        self.remove_done();
        #[cfg(all(feature = "control", feature = "codec"))]
        self.serve_clients();
        turned
    }

    /// Whether the next turn has something to do in any case.
    fn is_pending(&self) -> bool {
        #[cfg(all(feature = "control", feature = "codec"))]
        if self.serving.as_ref().is_some_and(|serving| serving.is_pending()) {
            return true;
        }
        !self.done.is_empty()
    }

    /// The instant by which [`turn`](Self::turn) must be called even if the descriptor is not
    /// readable.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.is_pending() { Some(Instant::now()) } else { self.reactor.next_deadline() }
    }

    /// See [`Reactor::has_scratch`].
    pub fn has_scratch(&self) -> bool {
        self.reactor.has_scratch()
    }

    /// See [`Reactor::release_scratch`].
    pub fn release_scratch(&mut self) {
        self.reactor.release_scratch();
    }

    /// Passes on what has happened.
    fn take_events(&mut self) {
        while let Some((id, event)) = self.reactor.next_event() {
            match event {
                TaskEvent::Sandbox(event) => self.sandbox_event(id, event),
                #[cfg(all(feature = "control", feature = "codec"))]
                TaskEvent::Call(call) => {
                    if let Some(serving) = &mut self.serving {
                        serving.called(call);
                    }
                }
            }
        }
        self.subscriptions.deliver();
    }

    fn sandbox_event(&mut self, id: SandboxId, event: Event) {
        match &event {
            Event::Transition(Transition::Running { child, .. }) => {
                let shared = self.shared.clone();
                if let Some(sandbox) = self.sandbox_mut(id) {
                    sandbox.running(id, child.pid, &shared);
                }
            }
            Event::Transition(_) => {}
            Event::Done => self.done.push(id),
        }
        #[cfg(all(feature = "control", feature = "codec"))]
        self.report_to_clients(id, &event);
        self.publish(id, event);
    }

    fn publish(&mut self, id: SandboxId, event: Event) {
        if self.subscriptions.is_empty() {
            return;
        }
        let Some(monitor) = self.get(id) else { return };
        let (name, config_file) =
            (monitor.sandbox().name.clone(), monitor.sandbox().config_file.clone());
        self.subscriptions.push(&SandboxEvent { id, name, config_file, event });
    }

    fn remove_done(&mut self) {
        for id in std::mem::take(&mut self.done) {
            let Some(Task::Sandbox(sandbox)) = self.reactor.remove(id) else { continue };
            self.sandboxes -= 1;
            let Supervised { monitor, waiting, .. } = *sandbox;
            #[cfg(all(feature = "control", feature = "codec"))]
            self.client_sandbox_ended(id, &monitor);
            if let Some(end) = monitor.into_end() {
                waiting.ended(id, end);
            }
        }
    }

    fn sandbox_mut(&mut self, id: SandboxId) -> Option<&mut Supervised> {
        match self.reactor.get_mut(id)? {
            Task::Sandbox(sandbox) => Some(sandbox),
            #[cfg(all(feature = "control", feature = "codec"))]
            Task::Socket(_) => None,
        }
    }
}

impl Supervised {
    fn running(&mut self, id: SandboxId, pid: u32, shared: &Arc<Shared>) {
        let sandbox = self.monitor.sandbox();
        self.waiting.running(id, [&sandbox.config_file, &sandbox.name], pid, shared);
    }
}

fn refuse<T>(answer: Answer<T>, id: SandboxId) {
    // A reply that was dropped is not waited for.
    let _ = answer.send(Err(HostError::NoSuchSandbox(id)));
}

impl Drop for Engine {
    /// What waits for it ends with an error, and its monitors are dropped: each child is left to the
    /// host, as when a [`Monitor`] is dropped.
    fn drop(&mut self) {
        self.shared.set_end(Cause::Dropped);
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("sandboxes", &self.sandboxes)
            .field("subscriptions", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}
