//! The loop as the clients of a host's socket use it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::super::super::call::Call;
use super::super::backend::{Backend, Interface};
use super::super::connection::{Fate, Mode};
use super::super::connections::{ClientId, Connections};
use super::events::Events;
use super::requests::Request;
use super::{HOST, HostCall};
use crate::monitor::{SourceKey, TimerKey};
use crate::reactor::{Context, Interest, SourceId, TimerId};

/// What a call of the socket's handler works with.
pub(super) struct HostContext<'a, 'b> {
    pub(super) cx: &'a mut Context<'b, SourceKey, TimerKey>,
    pub(super) calls: &'a mut VecDeque<HostCall>,
    pub(super) events: &'a Events,
}

impl HostContext<'_, '_> {
    /// Sends events to a client that watches, as long as it takes them.
    pub(super) fn send_events(&mut self, clients: &mut Connections, slot: usize) {
        let events = self.events;
        clients.with(slot, self, |connection, cx| {
            while let Mode::Following(from) = connection.mode
                && connection.is_flushed()
                && let Some((messages, next)) = events.batch(from)
            {
                connection.mode = Mode::Following(next);
                if connection.send(messages, cx) == Fate::Gone {
                    return Fate::Gone;
                }
            }
            Fate::Stays
        });
    }
}

impl Backend for HostContext<'_, '_> {
    fn interface(&self) -> Interface {
        HOST
    }

    fn call(&mut self, clients: &mut Connections, slot: usize, method: &str, call: &Call) {
        match Request::read(method, call) {
            Ok(request) => {
                let client: Option<ClientId> =
                    if call.oneway { None } else { clients.suspend(slot) };
                self.calls.push_back(HostCall { client, request });
            }
            Err(_) if call.oneway => {}
            Err(fault) => clients.reply(slot, Err(fault), self),
        }
    }

    fn flushed(&mut self, clients: &mut Connections, slot: usize) {
        self.send_events(clients, slot);
    }

    fn register(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        key: u32,
    ) -> io::Result<SourceId> {
        self.cx.sources.register(&fd, interest, SourceKey::of_host(key))
    }

    fn want(&mut self, source: SourceId, interest: Interest) -> io::Result<()> {
        self.cx.sources.want(source, interest)
    }

    fn would_block(&mut self, source: SourceId, interest: Interest) {
        self.cx.sources.would_block(source, interest);
    }

    fn deregister(&mut self, source: SourceId) {
        self.cx.sources.deregister(source);
    }

    fn turn(&self) -> u64 {
        self.cx.sources.turn()
    }

    fn set_timer(&mut self, after: Duration, key: u32) -> TimerId {
        self.cx.timers.set(after, TimerKey::of_host(key))
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        self.cx.timers.cancel(timer);
    }
}
