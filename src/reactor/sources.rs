//! Watched descriptors: what each is ready for, what it is wanted for, and the order of the calls.
//!
//! The poller is edge-triggered: it reports once that a descriptor has become ready. The edge is
//! kept here until the handler reports that the descriptor would block. So a handler may stop
//! reading at any point, or not want a source for a while, without losing the edge and without a
//! system call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Registry, Token};
use nix::sys::stat::{SFlag, fstat};

use super::detached::{Detached, DetachedSet};
use super::handler_id::HandlerId;
use super::rearm;

/// The operations that a source is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// None for now.
    pub const NONE: Self = Self(0);
    /// Reading.
    pub const READ: Self = Self(READABLE);
    /// Writing.
    pub const WRITE: Self = Self(WRITABLE);
    /// Both.
    pub const BOTH: Self = Self(READABLE | WRITABLE);
}

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
const CLOSED: u8 = 4;

/// The operations that a source is ready for, among those that it is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// A read returns bytes, end of file or an error.
    pub fn is_readable(self) -> bool {
        self.0 & READABLE != 0
    }

    /// A write is accepted, or returns an error.
    pub fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }
}

/// Identifies a registered source. Never reused, also after it has been deregistered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceId {
    slot: u32,
    generation: u32,
}

impl SourceId {
    /// The generation keeps events that are already queued from reaching the slot's next source.
    fn token(self) -> Token {
        // The topmost bit stays clear: the reactor's own tokens have it set. On a 32-bit machine
        // the token has no room for a generation.
        let generation = u64::from(self.generation & (u32::MAX >> 1));
        Token((generation << 32 | u64::from(self.slot)) as usize)
    }
}

/// How a source is registered with the poller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Not at all: it can't be polled and is always ready.
    Always,
    /// For these operations.
    Polled(u8),
    /// Not for now; for these operations once it is armed again.
    Disarmed(u8),
}

#[derive(Debug)]
struct Slot<S> {
    owner: HandlerId,
    key: S,
    fd: RawFd,
    generation: u32,
    wanted: u8,
    ready: u8,
    watch: Watch,
    /// The number of the last call for it, or of the last call before it was registered.
    called: u64,
    queued: bool,
    used: bool,
}

impl<S> Slot<S> {
    fn due(&self) -> u8 {
        if self.used { self.ready & self.wanted } else { 0 }
    }
}

/// A slot in the queue of calls.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// The number of the last call for it.
    called: u64,
    slot: u32,
}

#[derive(Debug)]
pub(super) struct Slots<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    /// The number of sources of each handler, by the handler's slot.
    owned: Vec<u32>,
    /// Slots that are ready for a wanted operation, each once: first the one whose last call is
    /// longest ago, so that a flood does not delay a keystroke.
    queue: BinaryHeap<Reverse<Turn>>,
    /// Calls so far.
    calls: u64,
    /// Turns so far.
    turn: u64,
    detached: DetachedSet,
}

impl<S: Copy> Slots<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            owned: Vec::new(),
            queue: BinaryHeap::new(),
            calls: 0,
            turn: 0,
            detached: DetachedSet::default(),
        }
    }

    pub(super) fn poll_detached(&mut self, registry: &Registry) {
        self.detached.poll(registry);
    }

    /// Notes an event of a source.
    pub(super) fn mark(&mut self, token: Token, event: &Event) {
        let slot = token.0 as u32;
        let Some(entry) = self.slots.get_mut(slot as usize) else { return };
        let id = SourceId { slot, generation: entry.generation };
        if !entry.used || id.token() != token {
            return;
        }
        if event.is_readable() {
            entry.ready |= READABLE;
        }
        if event.is_writable() {
            entry.ready |= WRITABLE;
        }
        if event.is_read_closed() || event.is_write_closed() || event.is_error() {
            // The next operation of either kind returns the end or the error.
            entry.ready |= READABLE | WRITABLE | CLOSED;
        }
        self.enqueue(slot);
    }

    pub(super) fn has_ready(&self) -> bool {
        self.queue.iter().any(|Reverse(turn)| self.due(turn.slot) != 0)
    }

    /// Begins a turn; returns the number of sources to call.
    pub(super) fn begin_turn(&mut self) -> usize {
        self.turn += 1;
        self.queue.len()
    }

    /// The next source to call. It stays in the queue, behind all others, while it remains ready.
    pub(super) fn next_ready(&mut self) -> Option<(HandlerId, S, Ready)> {
        let Reverse(Turn { slot, .. }) = self.queue.pop()?;
        let due = self.due(slot);
        let entry = self.slots.get_mut(slot as usize)?;
        if due == 0 {
            entry.queued = false;
            return None;
        }
        self.calls += 1;
        entry.called = self.calls;
        self.queue.push(Reverse(Turn { called: entry.called, slot }));
        Some((entry.owner, entry.key, Ready(due)))
    }

    pub(super) fn forget(&mut self, handler: HandlerId, registry: &Registry) {
        for slot in 0..self.slots.len() as u32 {
            if self.owned(handler) == Some(&mut 0) {
                return;
            }
            let Some(entry) = self.slots.get(slot as usize) else { continue };
            if entry.used && entry.owner == handler {
                self.release(SourceId { slot, generation: entry.generation }, registry);
            }
        }
    }

    fn owned(&mut self, handler: HandlerId) -> Option<&mut u32> {
        self.owned.get_mut(handler.slot as usize)
    }

    fn due(&self, slot: u32) -> u8 {
        self.slots.get(slot as usize).map_or(0, Slot::due)
    }

    fn get(&mut self, id: SourceId) -> Option<&mut Slot<S>> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        (entry.used && entry.generation == id.generation).then_some(entry)
    }

    #[inline(never)]
    fn enqueue(&mut self, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot as usize) else { return };
        if entry.due() != 0 && !entry.queued {
            entry.queued = true;
            self.queue.push(Reverse(Turn { called: entry.called, slot }));
        }
    }

    fn insert(&mut self, new: Slot<S>) -> SourceId {
        let owner = new.owner.slot as usize;
        if owner >= self.owned.len() {
            self.owned.resize(owner + 1, 0);
        }
        if let Some(owned) = self.owned(new.owner) {
            *owned += 1;
        }
        if let Some(slot) = self.free.pop()
            && let Some(entry) = self.slots.get_mut(slot as usize)
        {
            let generation = entry.generation.wrapping_add(1);
            // If the old source is still queued, the new one takes over its place.
            let queued = entry.queued;
            *entry = Slot { generation, queued, ..new };
            return SourceId { slot, generation };
        }
        let slot = self.slots.len() as u32;
        self.slots.push(new);
        SourceId { slot, generation: 0 }
    }

    fn release(&mut self, id: SourceId, registry: &Registry) {
        let Some(entry) = self.get(id) else { return };
        entry.used = false;
        if let Watch::Polled(_) = entry.watch {
            // The poll(2) back end drops a closed descriptor without a call.
            let _ = registry.deregister(&mut SourceFd(&entry.fd));
        }
        let owner = entry.owner;
        self.free.push(id.slot);
        if let Some(owned) = self.owned(owner) {
            *owned -= 1;
        }
    }
}

/// The sources of one handler.
#[derive(Debug)]
pub struct Sources<'a, S> {
    handler: HandlerId,
    registry: &'a Registry,
    slots: &'a mut Slots<S>,
}

impl<'a, S: Copy> Sources<'a, S> {
    pub(super) fn new(handler: HandlerId, registry: &'a Registry, slots: &'a mut Slots<S>) -> Self {
        Self { handler, registry, slots }
    }

    /// Watches `fd` for `interest`; its events carry `key`.
    ///
    /// A regular file, and a device that can't be polled (epoll_ctl(2): `EPERM`), is always
    /// ready. The handler keeps the descriptor and deregisters it before closing it.
    ///
    /// # Errors
    ///
    /// The poller's: `ENOSPC` and `ENOMEM` from epoll_ctl(2), or a descriptor that is not open.
    pub fn register(&mut self, fd: &impl AsFd, interest: Interest, key: S) -> io::Result<SourceId> {
        let fd = fd.as_fd();
        let always =
            SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        let id = self.slots.insert(Slot {
            owner: self.handler,
            key,
            fd: fd.as_raw_fd(),
            generation: 0,
            wanted: interest.0,
            ready: 0,
            watch: Watch::Always,
            called: self.slots.calls,
            queued: false,
            used: true,
        });
        let watch =
            if always { Ok(Watch::Always) } else { self.poll_for(id, fd.as_raw_fd(), interest) };
        match watch {
            Ok(watch) => {
                if let Some(entry) = self.slots.get(id) {
                    entry.watch = watch;
                    if watch == Watch::Always {
                        entry.ready = READABLE | WRITABLE;
                    }
                }
                self.slots.enqueue(id.slot);
                Ok(id)
            }
            Err(error) => {
                self.slots.release(id, self.registry);
                Err(error)
            }
        }
    }

    fn poll_for(&self, id: SourceId, fd: RawFd, interest: Interest) -> io::Result<Watch> {
        // The poller needs at least one operation; an unwanted edge costs one event.
        let asked = if interest == Interest::NONE { Interest::READ } else { interest };
        match self.registry.register(&mut SourceFd(&fd), id.token(), to_mio(asked.0)) {
            Ok(()) => Ok(Watch::Polled(asked.0)),
            Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => Ok(Watch::Always),
            Err(error) => Err(error),
        }
    }

    /// Changes what a source is wanted for. Edges that arrived meanwhile are kept.
    ///
    /// Costs a system call only where the wish to write changes: a source that is not to be read
    /// stays watched.
    ///
    /// # Errors
    ///
    /// The poller's, as in [`register`](Self::register).
    pub fn want(&mut self, id: SourceId, interest: Interest) -> io::Result<()> {
        let Some(entry) = self.slots.get(id) else { return Ok(()) };
        entry.wanted = interest.0;
        let wider = |polled| match interest.0 | (polled & READABLE) {
            0 => polled,
            wider => wider,
        };
        match entry.watch {
            Watch::Polled(polled) if polled != wider(polled) => {
                entry.watch = Watch::Polled(wider(polled));
                rearm::update(self.registry, entry.fd, id.token(), to_mio(wider(polled)))?;
            }
            Watch::Disarmed(polled) => entry.watch = Watch::Disarmed(wider(polled)),
            Watch::Always | Watch::Polled(_) => {}
        }
        self.slots.enqueue(id.slot);
        Ok(())
    }

    /// Reports that an operation returned `WouldBlock`: the source is not ready for it until the
    /// kernel reports the next edge.
    pub fn would_block(&mut self, id: SourceId, interest: Interest) {
        let Some(entry) = self.slots.get(id) else { return };
        if entry.watch == Watch::Always {
            return;
        }
        entry.ready &= !interest.0;
        if let Watch::Polled(polled) = entry.watch {
            rearm::fd(self.registry, entry.fd, id.token(), to_mio(polled));
        }
    }

    /// Reports that a read returned less than was asked for, which means the same as `WouldBlock`
    /// for a stream (epoll(7)), unless its end has been seen: no further edge follows that.
    ///
    /// Not for a PTY master outside Linux, and not for a terminal in canonical mode: a short read
    /// does not mean that those are empty.
    pub fn short_read(&mut self, id: SourceId) {
        let Some(entry) = self.slots.get(id) else { return };
        if entry.ready & CLOSED == 0 {
            self.would_block(id, Interest::READ);
        }
    }

    /// Reports that the source is still ready, whatever was reported before: the handler is called
    /// again without an edge.
    pub fn not_drained(&mut self, id: SourceId, interest: Interest) {
        if let Some(entry) = self.slots.get(id) {
            entry.ready |= interest.0;
            self.slots.enqueue(id.slot);
        }
    }

    /// Takes the source out of the poller until [`arm`](Self::arm): bytes that arrive meanwhile,
    /// and its end, cause no wake-up. The handler reads it on a timer of its own. Edges that
    /// arrived before are kept.
    ///
    /// Costs a system call, as [`arm`](Self::arm) does. Neither does anything for a source that is
    /// in that state already or can't be polled. If the kernel refuses, the source stays armed.
    pub fn disarm(&mut self, id: SourceId) {
        let Some(entry) = self.slots.get(id) else { return };
        // Deregistered rather than watched for no operation: on Linux each write to a registered
        // pipe takes the poller's lock, which costs the writer a third of its time.
        if let Watch::Polled(polled) = entry.watch
            && self.registry.deregister(&mut SourceFd(&entry.fd)).is_ok()
        {
            entry.watch = Watch::Disarmed(polled);
        }
    }

    /// Registers a disarmed source with the poller again, which reports what it is ready for now.
    ///
    /// # Errors
    ///
    /// The poller's, as in [`register`](Self::register): the user's limit of watched descriptors
    /// is reached, for example. The source stays disarmed, so the caller tries again.
    pub fn arm(&mut self, id: SourceId) -> io::Result<()> {
        let Some(entry) = self.slots.get(id) else { return Ok(()) };
        if let Watch::Disarmed(polled) = entry.watch {
            self.registry.register(&mut SourceFd(&entry.fd), id.token(), to_mio(polled))?;
            entry.watch = Watch::Polled(polled);
        }
        Ok(())
    }

    /// Removes all sources of the handler whose key matches.
    pub(crate) fn deregister_where(&mut self, matches: impl Fn(S) -> bool) {
        for slot in 0..self.slots.slots.len() as u32 {
            let Some(entry) = self.slots.slots.get(slot as usize) else { continue };
            if entry.used && entry.owner == self.handler && matches(entry.key) {
                let id = SourceId { slot, generation: entry.generation };
                self.slots.release(id, self.registry);
            }
        }
    }

    /// Gives work to the reactor that outlives the handler.
    pub(crate) fn detach(&mut self, work: Box<dyn Detached>) {
        self.slots.detached.add(work, self.registry);
    }

    /// The number of the turn, for a handler that bounds what all of its sources together do in
    /// one turn. A source that is left ready is called again in the next turn.
    pub fn turn(&self) -> u64 {
        self.slots.turn
    }

    /// Removes a source. Does not close its descriptor.
    pub fn deregister(&mut self, id: SourceId) {
        self.slots.release(id, self.registry);
    }
}

fn to_mio(interest: u8) -> mio::Interest {
    match interest & (READABLE | WRITABLE) {
        WRITABLE => mio::Interest::WRITABLE,
        READABLE => mio::Interest::READABLE,
        _ => mio::Interest::READABLE | mio::Interest::WRITABLE,
    }
}
