//! What the clients of a server need of the loop, and of what they control.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::super::call::Call;
use super::connections::Connections;
use crate::reactor::{Interest, SourceId, TimerId};

/// The interface of a server, beside `org.varlink.service`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface {
    pub(super) name: &'static str,
    /// In varlink's interface definition language.
    pub(super) description: &'static str,
    /// How many values the arrays and objects of a call may have.
    pub(super) nested: usize,
}

/// The loop, and what clients control, during one call of a server.
///
/// Used as a trait object, so that the code of connections exists once in a program.
pub(super) trait Backend {
    fn interface(&self) -> Interface;

    /// Acts on a call of a method of the interface by the client in this slot. `method` is its name
    /// without that of the interface.
    fn call(&mut self, clients: &mut Connections, slot: usize, method: &str, call: &Call);

    /// The client in this slot has taken bytes that waited for it.
    fn flushed(&mut self, clients: &mut Connections, slot: usize) {
        let _ = (clients, slot);
    }

    /// Watches `fd` under this key.
    fn register(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: Interest,
        key: u32,
    ) -> io::Result<SourceId>;

    /// Changes what a source is wanted for.
    fn want(&mut self, source: SourceId, interest: Interest) -> io::Result<()>;

    /// Reports that an operation on a source returned `WouldBlock`.
    fn would_block(&mut self, source: SourceId, interest: Interest);

    /// Removes a source, before its descriptor is closed.
    fn deregister(&mut self, source: SourceId);

    /// The number of the loop's turn.
    fn turn(&self) -> u64;

    /// Sets a timer of this key.
    fn set_timer(&mut self, after: Duration, key: u32) -> TimerId;

    /// Cancels a timer.
    fn cancel_timer(&mut self, timer: TimerId);
}
