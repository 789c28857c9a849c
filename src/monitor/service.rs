//! Who serves others beside the monitor, on its loop and its thread: the control socket is one.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::attach::{Attach, AttachError, Attached, SessionId};
use super::keys::{Cx, Source, Timer};
use super::report::Report;
use super::transition::Transition;
use super::{Monitor, RequestError};
use crate::child::Signal;
use crate::reactor::{Interest, Ready, SourceId, TimerId};

/// Serves others on the loop of one monitor, with sources and timers of its own.
///
/// Each call is made on the reactor's thread and must not wait. What it may do to the monitor and
/// to the loop comes to it as a [`Desk`]. A service names its sources and timers by numbers of its
/// own choice, its *keys*.
pub trait Service {
    /// Where others find it, for the record: the path of a socket, say. Asked before the claim.
    fn address(&self) -> Option<&Path> {
        None
    }

    /// Called once, when the observers have granted the start and before the child is started.
    ///
    /// # Errors
    ///
    /// Why nothing may be started without it; the run ends with
    /// [`StartError::Service`](super::StartError::Service).
    fn open(&mut self, desk: &mut Desk<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// A source of this key is ready, as [`Handler::ready`](crate::reactor::Handler::ready) is
    /// told.
    fn ready(&mut self, key: u32, ready: Ready, desk: &mut Desk<'_, '_>);

    /// A timer of this key has expired.
    fn timer(&mut self, key: u32, desk: &mut Desk<'_, '_>);

    /// Told of each transition from [`open`](Self::open) on. After [`Transition::Stopped`] the
    /// service comes to its end: see [`is_done`](Self::is_done).
    fn transition(&mut self, transition: &Transition, desk: &mut Desk<'_, '_>);

    /// Whether nothing is left to do. The monitor's own end waits for it, so after `Stopped` it
    /// must become true within a bounded time.
    fn is_done(&self) -> bool;
}

/// What a [`Service`] may do to its monitor and to the loop.
pub struct Desk<'a, 'b> {
    monitor: &'a mut Monitor,
    cx: &'a mut Cx<'b>,
    /// Which service is being called.
    service: usize,
}

impl Desk<'_, '_> {
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

    /// Says that an operation on a source answered `WouldBlock`.
    pub fn would_block(&mut self, source: SourceId, interest: Interest) {
        self.cx.sources.would_block(source, interest);
    }

    /// The number of the loop's turn; see [`Sources::turn`](crate::reactor::Sources::turn).
    pub fn turn(&self) -> u64 {
        self.cx.sources.turn()
    }

    /// Forgets a source, before its descriptor is closed.
    pub fn deregister(&mut self, source: SourceId) {
        self.cx.sources.deregister(source);
    }

    /// Has [`Service::timer`] called once, after this time.
    pub fn set_timer(&mut self, after: Duration, key: u32) -> TimerId {
        self.cx.timers.set(after, Timer::Service { service: self.service, key }.key())
    }

    /// Takes a timer back.
    pub fn cancel_timer(&mut self, timer: TimerId) {
        self.cx.timers.cancel(timer);
    }

    /// The monitor.
    pub fn monitor(&self) -> &Monitor {
        self.monitor
    }

    /// What is known of the sandbox now.
    pub fn report(&self) -> Report {
        self.monitor.report()
    }

    /// [`Monitor::stop`], killing after `timeout` instead of the sandbox's own, where one is given.
    pub fn stop(&mut self, timeout: Option<Duration>) {
        self.monitor.stop_within(timeout, self.cx);
    }

    /// [`Monitor::signal_child`].
    ///
    /// # Errors
    ///
    /// There is no child to signal now.
    pub fn signal(&mut self, signal: Signal) -> Result<(), RequestError> {
        self.monitor.signal_child(signal)
    }

    /// [`Monitor::reopen_log`].
    ///
    /// # Errors
    ///
    /// There is no log now, or it can't be opened.
    pub fn reopen_log(&mut self) -> Result<(), RequestError> {
        self.monitor.reopen_log()
    }

    /// [`Monitor::attach`].
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
        self.monitor.attach(client, request, preamble, self.cx)
    }

    /// [`Monitor::resize`].
    ///
    /// # Errors
    ///
    /// No such session, or a child without a terminal.
    pub fn resize(
        &mut self,
        session: SessionId,
        rows: u16,
        columns: u16,
    ) -> Result<(), RequestError> {
        self.monitor.resize(session, rows, columns)
    }
}

impl Monitor {
    /// Opens every service, in the order in which they were given.
    pub(super) fn open_services(
        &mut self,
        cx: &mut Cx<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Those of a command that is started again are open already.
        for service in self.services_open..self.services.len() {
            self.with_service(service, cx, |service, desk| service.open(desk)).unwrap_or(Ok(()))?;
            self.services_open = service + 1;
        }
        Ok(())
    }

    /// Calls one service. What happens meanwhile is told to all of them afterwards.
    pub(super) fn with_service<R>(
        &mut self,
        service: usize,
        cx: &mut Cx<'_>,
        call: impl FnOnce(&mut dyn Service, &mut Desk<'_, '_>) -> R,
    ) -> Option<R> {
        // Taken out, so that it and the monitor can be lent at once.
        let mut called = self.services.get_mut(service)?.take()?;
        let result = call(&mut *called, &mut Desk { monitor: self, cx, service });
        if let Some(place) = self.services.get_mut(service) {
            *place = Some(called);
        }
        self.tell_services(cx);
        Some(result)
    }

    /// Tells the services what they have not been told yet, unless one of them is being called:
    /// then that is done when it returns.
    pub(super) fn tell_services(&mut self, cx: &mut Cx<'_>) {
        if self.services.iter().any(Option::is_none) {
            return;
        }
        while let Some(transition) = self.untold.pop_front() {
            for service in 0..self.services_open {
                let Some(mut called) = self.services.get_mut(service).and_then(Option::take) else {
                    continue;
                };
                called.transition(&transition, &mut Desk { monitor: self, cx, service });
                if let Some(place) = self.services.get_mut(service) {
                    *place = Some(called);
                }
            }
        }
    }

    pub(super) fn services_are_done(&self) -> bool {
        let mut open = self.services.iter().take(self.services_open).flatten();
        open.all(|service| service.is_done())
    }
}
