//! Watched descriptors: what each is ready for, what it is wanted for, and whose turn it is.
//!
//! The poller is edge-triggered: it tells once that a descriptor has become ready. The edge is
//! kept here until the handler says that the descriptor would block, so a handler may stop reading
//! at any point, or not want a source for a while, without losing it and without a system call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Registry, Token};
use nix::sys::stat::{SFlag, fstat};

use super::leaving::{Leaving, Leavings};
use super::{HandlerId, rearm};

/// What a source is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// Nothing for now.
    pub const NONE: Self = Self(0);
    /// To be read.
    pub const READ: Self = Self(READABLE);
    /// To be written.
    pub const WRITE: Self = Self(WRITABLE);
    /// Both.
    pub const BOTH: Self = Self(READABLE | WRITABLE);
}

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
const CLOSED: u8 = 4;

/// What a source is ready for, within what it is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// It can be read: bytes, an end or an error.
    pub fn is_readable(self) -> bool {
        self.0 & READABLE != 0
    }

    /// It can be written, if only to learn of an error.
    pub fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }
}

/// A registered source. Never names another one, also after it has been deregistered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceId {
    slot: u32,
    generation: u32,
}

impl SourceId {
    /// The generation keeps events that were on their way from reaching a slot's next owner.
    fn token(self) -> Token {
        // The topmost bit stays clear: the reactor's own tokens have it set. A 32-bit machine has
        // no room for a generation.
        let generation = u64::from(self.generation & (u32::MAX >> 1));
        Token((generation << 32 | u64::from(self.slot)) as usize)
    }
}

/// What the kernel was told of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Nothing: it can't be polled, and is always ready.
    Always,
    /// To tell when it becomes ready for this.
    Polled(u8),
    /// To tell nothing for a while; afterwards this.
    Muted(u8),
}

#[derive(Debug)]
struct Slot<S> {
    owner: HandlerId,
    name: S,
    fd: RawFd,
    generation: u32,
    wanted: u8,
    ready: u8,
    watch: Watch,
    /// The number of the last call for it, or of the last one before it was registered.
    called: u64,
    queued: bool,
    used: bool,
}

impl<S> Slot<S> {
    fn due(&self) -> u8 {
        if self.used { self.ready & self.wanted } else { 0 }
    }
}

/// A slot that waits for its turn.
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
    /// How many slots each handler has, by the handler's own slot.
    owned: Vec<u32>,
    /// Slots that are ready for something wanted, each once: first the one that has waited longest
    /// since it was last called for, so that a flood does not go before a keystroke.
    queue: BinaryHeap<Reverse<Turn>>,
    /// Calls so far.
    calls: u64,
    /// Turns so far.
    turn: u64,
    left: Leavings,
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
            left: Leavings::default(),
        }
    }

    pub(super) fn look_at_left(&mut self, registry: &Registry) {
        self.left.look(registry);
    }

    /// Notes what the kernel says of a source.
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
            // An end shows itself to whichever operation is tried next.
            entry.ready |= READABLE | WRITABLE | CLOSED;
        }
        self.enqueue(slot);
    }

    pub(super) fn has_ready(&self) -> bool {
        self.queue.iter().any(|Reverse(turn)| self.due(turn.slot) != 0)
    }

    /// Begins a turn. Says how many sources it is of.
    pub(super) fn begin_turn(&mut self) -> usize {
        self.turn += 1;
        self.queue.len()
    }

    /// The next source in turn. It stays in the queue, behind all others, while it remains ready.
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
        Some((entry.owner, entry.name, Ready(due)))
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
            // Where the old owner's turn is still queued, the new one takes it over.
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
            // The poll(2) back end has dropped a closed descriptor by itself.
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

    /// Watches `fd` for `interest`, under this name.
    ///
    /// A regular file, and a device that can't be polled (epoll_ctl(2): `EPERM`), is always
    /// ready. The handler keeps the descriptor and deregisters it before closing it.
    ///
    /// # Errors
    ///
    /// The poller's: `ENOSPC` and `ENOMEM` from epoll_ctl(2), or a descriptor that is not open.
    pub fn register(
        &mut self,
        fd: &impl AsFd,
        interest: Interest,
        name: S,
    ) -> io::Result<SourceId> {
        let fd = fd.as_fd();
        let always =
            SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        let id = self.slots.insert(Slot {
            owner: self.handler,
            name,
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
        // Something must be asked for; an unwanted readiness costs one event at most.
        let asked = if interest == Interest::NONE { Interest::READ } else { interest };
        match self.registry.register(&mut SourceFd(&fd), id.token(), to_mio(asked.0)) {
            Ok(()) => Ok(Watch::Polled(asked.0)),
            Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => Ok(Watch::Always),
            Err(error) => Err(error),
        }
    }

    /// Changes what a source is wanted for. What it was ready for meanwhile is not forgotten.
    ///
    /// No system call but where writing is wanted that was not before, or no longer is: a source
    /// that is not to be read stays watched, and its edge is kept.
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
            Watch::Muted(polled) => entry.watch = Watch::Muted(wider(polled)),
            Watch::Always | Watch::Polled(_) => {}
        }
        self.slots.enqueue(id.slot);
        Ok(())
    }

    /// Says that an operation answered `WouldBlock`: the source is not ready for it until the
    /// kernel says so again.
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

    /// Says that a read gave less than was asked for, which means the same for a stream (epoll(7)),
    /// unless its end has been seen: no further edge would tell of that.
    ///
    /// Not for a PTY master, which gives at most 4,095 bytes however many there are.
    pub fn short_read(&mut self, id: SourceId) {
        let Some(entry) = self.slots.get(id) else { return };
        if entry.ready & CLOSED == 0 {
            self.would_block(id, Interest::READ);
        }
    }

    /// Says that the source was left with more to give, whatever was said before: the handler is
    /// called again without an edge.
    pub fn not_drained(&mut self, id: SourceId, interest: Interest) {
        if let Some(entry) = self.slots.get(id) {
            entry.ready |= interest.0;
            self.slots.enqueue(id.slot);
        }
    }

    /// Has the kernel tell nothing of this source until [`unmute`](Self::unmute), its end included:
    /// bytes that arrive meanwhile wake nobody, and the handler reads when a timer of its own says
    /// so. What the source was ready for before is not forgotten.
    ///
    /// Costs a system call, as [`unmute`](Self::unmute) does; neither does anything where it is
    /// so already, nor for what can't be polled. Where the kernel refuses, the source goes on
    /// being told of.
    pub fn mute(&mut self, id: SourceId) {
        let Some(entry) = self.slots.get(id) else { return };
        // Taken out of the poller, not only watched for nothing: on Linux each write to a pipe
        // would still go through the poller's lock, which costs its writer a third of its time.
        if let Watch::Polled(polled) = entry.watch
            && self.registry.deregister(&mut SourceFd(&entry.fd)).is_ok()
        {
            entry.watch = Watch::Muted(polled);
        }
    }

    /// Has it told of again, beginning with what it is ready for by now.
    ///
    /// # Errors
    ///
    /// The poller's, as in [`register`](Self::register): its user may watch no more just now. The
    /// source is muted still, so this is to be tried again.
    pub fn unmute(&mut self, id: SourceId) -> io::Result<()> {
        let Some(entry) = self.slots.get(id) else { return Ok(()) };
        if let Watch::Muted(polled) = entry.watch {
            self.registry.register(&mut SourceFd(&entry.fd), id.token(), to_mio(polled))?;
            entry.watch = Watch::Polled(polled);
        }
        Ok(())
    }

    /// Has the reactor look after this when the handler is gone.
    pub(crate) fn leave(&mut self, leaving: Box<dyn Leaving>) {
        self.slots.left.add(leaving, self.registry);
    }

    /// The number of the turn: for a handler that bounds what all of its sources together do in
    /// one. A source that is left ready is called for again in the next.
    pub fn turn(&self) -> u64 {
        self.slots.turn
    }

    /// Forgets a source. Its descriptor is not closed.
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
