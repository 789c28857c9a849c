//! Services of a monitor, such as its control socket: handlers on its loop that serve clients.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::attach::{Attach, AttachError, Attached, EndOfInput, SessionId};
use super::call_out::{Callee, PanicError, call_out, discard};
use super::keys::{Cx, Source, SourceKey, Timer, TimerKey};
use super::lifecycle::{Event, Lifecycle, StopRequest};
use super::report::Report;
use super::requests::RequestError;
use super::sandbox::Sandbox;
use super::transition::Transition;
use crate::child::Signal;
use crate::reactor::{Interest, Ready, SourceId, TimerId};
use crate::terminal::WindowSize;

/// Serves clients on the loop of one monitor, with sources and timers of its own.
///
/// Each call is made on the reactor's thread and must not block. The [`ServiceContext`] gives it
/// access to the monitor and to the loop. A service identifies its sources and timers by numbers of
/// its own choice, its *keys*.
///
/// A [panic](super::PanicError) of a service ends the sandbox, not the loop: the service is dropped
/// with its sources and timers, and the child is stopped.
pub trait Service: Send {
    /// The address of the service for the record, such as the path of a socket. Asked before the
    /// claim.
    fn address(&self) -> Option<&Path> {
        None
    }

    /// Called once, when the observers have granted the start and before the child is started.
    ///
    /// # Errors
    ///
    /// The reason that nothing may be started without the service; the run ends with
    /// [`StartError::Service`](super::StartError::Service).
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = cx;
        Ok(())
    }

    /// A source of this key is ready; see [`Handler::ready`](crate::reactor::Handler::ready).
    fn ready(&mut self, key: u32, ready: Ready, cx: &mut ServiceContext<'_, '_>) {
        let _ = (key, ready, cx);
    }

    /// A timer of this key has expired.
    fn timer(&mut self, key: u32, cx: &mut ServiceContext<'_, '_>) {
        let _ = (key, cx);
    }

    /// Called at each transition from [`open`](Self::open) on. After [`Transition::Stopped`] the
    /// service comes to its end: see [`is_done`](Self::is_done).
    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        let _ = (transition, cx);
    }

    /// A file of the service, such as its socket, may have been removed: it makes it again. Called
    /// after [`Monitor::reopen_log`](super::Monitor::reopen_log) and a SIGUSR1, and when the
    /// time index is written, at most every 200 ms.
    fn reopen(&mut self, cx: &mut ServiceContext<'_, '_>) {
        let _ = cx;
    }

    /// Whether nothing is left to do. The monitor's own end waits for it, so after `Stopped` it
    /// must become true within a bounded time. Asked from then on, after each call of the monitor.
    fn is_done(&self) -> bool {
        true
    }
}

/// A service's access to its monitor and to the loop, during one call.
pub struct ServiceContext<'a, 'b> {
    lifecycle: &'a mut Lifecycle,
    cx: &'a mut Cx<'b>,
    /// The index of the service that is called.
    service: usize,
}

impl ServiceContext<'_, '_> {
    /// Watches `fd` under this key; see [`Sources::register`](crate::reactor::Sources::register).
    ///
    /// # Errors
    ///
    /// The poller's.
    pub fn register(
        &mut self,
        fd: &impl AsFd,
        interest: Interest,
        key: u32,
    ) -> io::Result<SourceId> {
        self.cx.sources.register(fd, interest, Source::Service { service: self.service, key }.key())
    }

    /// Changes what a source is wanted for.
    ///
    /// # Errors
    ///
    /// The poller's.
    pub fn want(&mut self, source: SourceId, interest: Interest) -> io::Result<()> {
        self.cx.sources.want(source, interest)
    }

    /// Reports that an operation on a source returned `WouldBlock`.
    pub fn would_block(&mut self, source: SourceId, interest: Interest) {
        self.cx.sources.would_block(source, interest);
    }

    /// The number of the loop's turn; see [`Sources::turn`](crate::reactor::Sources::turn).
    pub fn turn(&self) -> u64 {
        self.cx.sources.turn()
    }

    /// Removes a source, before its descriptor is closed.
    pub fn deregister(&mut self, source: SourceId) {
        self.cx.sources.deregister(source);
    }

    /// Calls [`Service::timer`] once, after this time.
    pub fn set_timer(&mut self, after: Duration, key: u32) -> TimerId {
        self.cx.timers.set(after, Timer::Service { service: self.service, key }.key())
    }

    /// Cancels a timer.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.cx.timers.cancel(timer);
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.lifecycle.parts.sandbox
    }

    /// The child's pid, from its start until it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        self.lifecycle.pid()
    }

    /// What is known of the sandbox now.
    pub fn report(&self) -> Report {
        self.lifecycle.report()
    }

    /// See [`Monitor::stop_within`](super::Monitor::stop_within).
    pub fn stop(&mut self, timeout: Option<Duration>) {
        let request = StopRequest::Within(timeout);
        self.lifecycle.handle(Event::Stop(request), self.cx);
    }

    /// See [`Monitor::signal_child`](super::Monitor::signal_child).
    ///
    /// # Errors
    ///
    /// There is no child to signal now.
    pub fn signal(&mut self, signal: Signal) -> Result<(), RequestError> {
        self.lifecycle.signal_child(signal)
    }

    /// See [`Monitor::reopen_log`](super::Monitor::reopen_log).
    ///
    /// # Errors
    ///
    /// There is no log now, or it can't be opened.
    pub fn reopen_log(&mut self) -> Result<(), RequestError> {
        self.lifecycle.reopen_log()
    }

    /// See [`Monitor::attach`](super::Monitor::attach).
    ///
    /// # Errors
    ///
    /// The request can't be met; the client's stream comes back.
    pub fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        self.lifecycle.attach(client, request, preamble, self.cx)
    }

    /// See [`Monitor::attach_packets`](super::Monitor::attach_packets).
    ///
    /// # Errors
    ///
    /// The request can't be met; the client's socket comes back.
    pub fn attach_packets(
        &mut self,
        client: OwnedFd,
        end: EndOfInput,
    ) -> Result<SessionId, (AttachError, OwnedFd)> {
        self.lifecycle.attach_packets(client, end, self.cx)
    }

    /// See [`Monitor::resize`](super::Monitor::resize).
    ///
    /// # Errors
    ///
    /// No such session, or a child without a terminal.
    pub fn resize(&mut self, session: SessionId, size: WindowSize) -> Result<(), RequestError> {
        self.lifecycle.parts.channels.resize(session, size, self.cx)
    }

    /// See [`Monitor::resize_terminal`](super::Monitor::resize_terminal).
    ///
    /// # Errors
    ///
    /// There is no child, a child without a terminal, or the error of the system.
    pub fn resize_terminal(&mut self, size: WindowSize) -> Result<(), RequestError> {
        self.lifecycle.parts.channels.resize_terminal(size)
    }
}

impl fmt::Debug for ServiceContext<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceContext")
            .field("sandbox", &self.sandbox().name)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// The services of one monitor.
#[derive(Default)]
pub(super) struct Services {
    /// `None` for one that has panicked.
    list: Vec<Option<Box<dyn Service>>>,
    /// How many of them have been opened.
    open: usize,
    /// Whether no open service had anything left to do when they were last asked.
    done: bool,
}

impl Services {
    pub(super) fn add(&mut self, service: Box<dyn Service>) {
        self.list.push(Some(service));
    }

    /// The address that is recorded.
    ///
    /// # Errors
    ///
    /// The index of a service that panicked, which is to be [removed](Self::remove).
    pub(super) fn address(&self) -> Result<Option<&Path>, (usize, PanicError)> {
        for (index, service) in self.list.iter().enumerate() {
            let Some(service) = service else { continue };
            match call_out(Callee::Service, || service.address()) {
                Ok(None) => {}
                Ok(address) => return Ok(address),
                Err(panic) => return Err((index, panic)),
            }
        }
        Ok(None)
    }

    /// Opens every service that is not open yet, in the order in which they were added. They stay
    /// open over all runs. `None` if one has panicked.
    ///
    /// # Errors
    ///
    /// The error of the service that can't be opened.
    pub(super) fn open(
        &mut self,
        lifecycle: &mut Lifecycle,
        cx: &mut Cx<'_>,
    ) -> Option<Result<(), Box<dyn Error + Send + Sync>>> {
        for service in self.open..self.list.len() {
            match self.call(service, lifecycle, cx, |called, cx| called.open(cx))? {
                Ok(()) => self.open = service + 1,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(()))
    }

    /// A source of a service is ready.
    pub(super) fn ready(
        &mut self,
        (service, key): (usize, u32),
        ready: Ready,
        lifecycle: &mut Lifecycle,
        cx: &mut Cx<'_>,
    ) {
        self.call(service, lifecycle, cx, |called, cx| called.ready(key, ready, cx));
    }

    /// A timer of a service has expired.
    pub(super) fn timer(
        &mut self,
        (service, key): (usize, u32),
        lifecycle: &mut Lifecycle,
        cx: &mut Cx<'_>,
    ) {
        self.call(service, lifecycle, cx, |called, cx| called.timer(key, cx));
    }

    /// Reports to the open services the transitions that they have not received yet. None is called
    /// while another one is: a transition that a service causes is reported afterwards.
    pub(super) fn report(&mut self, lifecycle: &mut Lifecycle, cx: &mut Cx<'_>) {
        while let Some(transition) = lifecycle.parts.reported.next() {
            for service in 0..self.open {
                let report = |called: &mut dyn Service, cx: &mut ServiceContext<'_, '_>| {
                    called.transition(&transition, cx);
                };
                self.call(service, lifecycle, cx, report);
            }
            lifecycle.parts.reported.pass_on(transition);
        }
    }

    /// Has the open services make again what has been removed.
    pub(super) fn reopen(&mut self, lifecycle: &mut Lifecycle, cx: &mut Cx<'_>) {
        for service in 0..self.open {
            self.call(service, lifecycle, cx, |called, cx| called.reopen(cx));
        }
    }

    /// Asks the open services whether they have anything left to do.
    pub(super) fn ask_whether_done(&mut self, lifecycle: &mut Lifecycle, cx: &mut Cx<'_>) {
        self.done = (0..self.open).all(|service| {
            self.call(service, lifecycle, cx, |called, _| called.is_done()).unwrap_or(true)
        });
    }

    /// Whether no open service had anything left to do when they were last asked.
    pub(super) fn are_done(&self) -> bool {
        self.done
    }

    /// Calls a service; `None` if it has panicked, now or before.
    fn call<R>(
        &mut self,
        service: usize,
        lifecycle: &mut Lifecycle,
        cx: &mut Cx<'_>,
        call: impl FnOnce(&mut dyn Service, &mut ServiceContext<'_, '_>) -> R,
    ) -> Option<R> {
        let called = self.list.get_mut(service)?.as_mut()?;
        let result = call_out(Callee::Service, || {
            call(&mut **called, &mut ServiceContext { lifecycle, cx, service })
        });
        match result {
            Ok(result) => Some(result),
            Err(panic) => {
                self.remove(service, panic, lifecycle, cx);
                None
            }
        }
    }

    /// Removes a service that has panicked, with its sources and timers.
    pub(super) fn remove(
        &mut self,
        removed: usize,
        panic: PanicError,
        lifecycle: &mut Lifecycle,
        cx: &mut Cx<'_>,
    ) {
        lifecycle.parts.note_panic(panic);
        cx.sources.deregister_where(
            |SourceKey(key)| matches!(key, Source::Service { service, .. } if service == removed),
        );
        cx.timers.cancel_where(
            |TimerKey(key)| matches!(key, Timer::Service { service, .. } if service == removed),
        );
        // What it has open is closed; the control socket is removed.
        discard(self.list.get_mut(removed).and_then(Option::take));
    }
}
