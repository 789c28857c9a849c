//! What hosts and clients ask of a lifecycle: none of it changes the state.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tracing::debug;

use super::{Event, Lifecycle, State};
use crate::child::Signal;
use crate::monitor::attach::{Attach, AttachError, Attached, EndOfInput, SessionId};
use crate::monitor::keys::Cx;
#[cfg(feature = "consoles")]
use crate::monitor::logs::LogOpener;
#[cfg(feature = "consoles")]
use crate::monitor::name::Name;
use crate::monitor::parts::Parts;
use crate::monitor::requests::RequestError;
#[cfg(feature = "consoles")]
use crate::monitor::transition::StartError;
use crate::reactor::Ready;

impl Lifecycle {
    /// Sends input of a client.
    pub(in crate::monitor) fn send(&mut self, session: SessionId, bytes: &[u8], cx: &mut Cx<'_>) {
        if self.process().is_some() && self.parts.channels.send(session, bytes, cx) {
            self.handle(Event::Input, cx);
        }
    }

    /// See [`Monitor::send_input`](crate::monitor::Monitor::send_input).
    pub(in crate::monitor) fn send_input(
        &mut self,
        bytes: &[u8],
        cx: &mut Cx<'_>,
    ) -> Result<(), RequestError> {
        self.process().ok_or(RequestError::NotRunning)?;
        self.parts.channels.send_host_input(bytes, cx)?;
        self.handle(Event::Input, cx);
        Ok(())
    }

    /// See [`Monitor::attach`](crate::monitor::Monitor::attach).
    pub(in crate::monitor) fn attach(
        &mut self,
        client: UnixStream,
        request: &Attach,
        preamble: impl FnOnce(&Attached) -> Vec<u8>,
        cx: &mut Cx<'_>,
    ) -> Result<Attached, (AttachError, UnixStream)> {
        let (State::Alive(..) | State::Draining(_)) = self.state else {
            return Err((AttachError::NotRunning, client));
        };
        let attached = self.parts.channels.attach(client, request, preamble, cx)?;
        debug!(session = attached.session.0, "attached");
        Ok(attached)
    }

    /// See [`Monitor::attach_packets`](crate::monitor::Monitor::attach_packets).
    pub(in crate::monitor) fn attach_packets(
        &mut self,
        client: OwnedFd,
        end: EndOfInput,
        cx: &mut Cx<'_>,
    ) -> Result<SessionId, (AttachError, OwnedFd)> {
        let ending = match self.state {
            State::Alive(..) => false,
            State::Draining(_) => true,
            _ => return Err((AttachError::NotRunning, client)),
        };
        let session = self.parts.channels.attach_packets(client, end, ending, cx)?;
        debug!(session = session.0, "attached to packets");
        Ok(session)
    }

    /// A packet client is ready.
    pub(in crate::monitor) fn serve_packets(
        &mut self,
        client: SessionId,
        ready: Ready,
        cx: &mut Cx<'_>,
    ) {
        let alive = self.process().is_some();
        if self.parts.channels.serve_packets(client, ready, alive, cx) {
            self.handle(Event::Input, cx);
        }
        self.output_moved(false, cx);
    }

    /// See [`Monitor::add_console`](crate::monitor::Monitor::add_console).
    #[cfg(feature = "consoles")]
    pub(in crate::monitor) fn add_console(
        &mut self,
        name: Name,
        descriptor: OwnedFd,
        cx: &mut Cx<'_>,
    ) -> Result<(), StartError> {
        let child = self.pid();
        let Parts { channels, given_consoles, sandbox, post_rotate, .. } = &mut self.parts;
        let exists = channels.find(&name).is_some();
        given_consoles.try_give(name, descriptor, sandbox, exists)?;
        let Some(child) = child else { return Ok(()) };
        let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
        let prepared = given_consoles.open(sandbox, &mut logs)?;
        channels.add_consoles(prepared.channels, prepared.host, child, cx);
        Ok(())
    }

    /// See [`Monitor::signal_child`](crate::monitor::Monitor::signal_child).
    pub(in crate::monitor) fn signal_child(&mut self, signal: Signal) -> Result<(), RequestError> {
        let State::Alive(process, _) = &mut self.state else {
            return Err(RequestError::NotRunning);
        };
        let sent = process.signal(signal);
        sent.map_err(|source| RequestError::Signal { signal, source })
    }

    /// See [`Monitor::reopen_log`](crate::monitor::Monitor::reopen_log).
    pub(in crate::monitor) fn reopen_log(&mut self) -> Result<(), RequestError> {
        let Parts { channels, reopen, .. } = &mut self.parts;
        *reopen = true;
        if channels.stdio().is_none() {
            return Err(RequestError::NotRunning);
        }
        Ok(channels.reopen_logs()?)
    }
}
