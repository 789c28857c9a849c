//! A single-threaded event loop: one poller, its sources, timers and signals.
//!
//! A [`Reactor`] owns [`Handler`]s and calls a handler when one of its sources is ready, one of its
//! timers has expired or a signal has arrived. It knows nothing of children, logs or terminals,
//! starts no thread and blocks only in the poll.
//!
//! ```
//! use std::io::Read;
//! use std::os::unix::net::UnixStream;
//! use vmon::reactor::{Context, Handler, Interest, Reactor, Ready, SourceId};
//!
//! /// Collects the bytes that a peer sends.
//! struct Collect(UnixStream, Vec<u8>, Option<SourceId>);
//!
//! impl Handler for Collect {
//!     type Source = ();
//!     type Timer = ();
//!     type Event = std::convert::Infallible;
//!
//!     fn start(&mut self, cx: &mut Context<'_, (), ()>) {
//!         self.2 = cx.sources.register(&self.0, Interest::READ, ()).ok();
//!     }
//!
//!     fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, (), ()>) {
//!         let Some(source) = self.2 else { return };
//!         match self.0.read(cx.scratch) {
//!             Ok(0) | Err(_) => {
//!                 cx.sources.deregister(source);
//!                 self.2 = None;
//!             }
//!             Ok(n) => self.1.extend_from_slice(&cx.scratch[..n]),
//!         }
//!     }
//!
//!     fn timer(&mut self, (): (), _: &mut Context<'_, (), ()>) {}
//!
//!     fn is_done(&self) -> bool {
//!         self.2.is_none()
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let (ours, theirs) = UnixStream::pair()?;
//! let mut reactor = Reactor::new()?;
//! let id = reactor.add(Collect(ours, Vec::new(), None));
//! std::io::Write::write_all(&mut &theirs, b"hello")?;
//! drop(theirs);
//! reactor.run()?;
//! assert_eq!(reactor.remove(id).unwrap().1, b"hello");
//! # Ok(())
//! # }
//! ```

mod budget;
mod context;
#[cfg(not(mio_unsupported_force_poll_poll))]
mod descriptor;
mod detached;
mod handler;
mod handler_id;
mod rearm;
mod share;
mod sources;
mod timers;
mod waker;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use signal_hook_mio::v1_0::Signals;

pub use budget::Budget;
pub use context::Context;
pub(crate) use detached::Detached;
pub use handler::Handler;
pub use handler_id::HandlerId;
pub use sources::{Interest, Ready, SourceId, Sources};
pub use timers::{TimerId, Timers};
pub use waker::Waker;

use share::Share;
use sources::Slots;
use timers::Queue;

/// The most events that one poll takes from the kernel; the others wait for the next turn.
const EVENTS: usize = 256;

/// The poller's token for signals; sources count from zero.
const SIGNALS: Token = Token(usize::MAX);

struct Slot<H> {
    /// The number of the handler, or of the last one.
    number: u32,
    handler: Option<H>,
    /// Whether the handler was done when it was last called.
    done: bool,
    /// What it has taken of the budget.
    taken: usize,
}

/// The loop. See the [module](self).
///
/// To nest it in another loop: watch its descriptor ([`AsFd`](std::os::fd::AsFd)) for readability
/// and call [`poll_once`](Self::poll_once) with a timeout of zero when it is readable and when
/// [`next_deadline`](Self::next_deadline) has come. Adding a handler makes that deadline now.
pub struct Reactor<H: Handler> {
    poll: Poll,
    events: Events,
    /// Empty until a handler is called.
    scratch: Box<[u8]>,
    slots: Slots<H::Source>,
    queue: Queue<H::Timer>,
    /// What is left of the budget.
    budget: usize,
    /// Whether some of it was taken at the end of the last turn.
    busy: bool,
    handlers: Vec<Slot<H>>,
    /// Handlers to be started at the beginning of the next turn, in the order of [`add`](Self::add).
    added: Vec<HandlerId>,
    /// Events that the host has not taken yet, if it collects them.
    yielded: Option<VecDeque<(HandlerId, H::Event)>>,
    /// Slots without a handler.
    free: Vec<u32>,
    /// Number of handlers that are not done.
    live: usize,
    /// Whether the last turn filled the event buffer or did not poll: the kernel may hold more
    /// events, which an edge-triggered outer loop is not notified of again.
    more: bool,
    share: Share,
    /// Length of the scratch buffer that a handler gets in this turn.
    slice: usize,
    signals: Option<Signals>,
    waker: Option<Waker>,
}

impl<H: Handler> Reactor<H> {
    /// A reactor without handlers.
    ///
    /// # Errors
    ///
    /// The system's error when a poller can't be created (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            scratch: Box::default(),
            slots: Slots::new(),
            queue: Queue::new(),
            budget: budget::TOTAL,
            busy: false,
            handlers: Vec::new(),
            added: Vec::new(),
            yielded: None,
            free: Vec::new(),
            live: 0,
            more: false,
            share: Share::default(),
            slice: share::WHOLE,
            signals: None,
            waker: None,
        })
    }

    /// Adds a handler, which is started by the next turn, or by [`call`](Self::call) if that comes
    /// first: not before the caller knows its identifier.
    pub fn add(&mut self, handler: H) -> HandlerId {
        // A reactor holds far fewer handlers than 2^32: each has descriptors of its own.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.handlers.push(Slot { number: 0, handler: None, done: true, taken: 0 });
            self.handlers.len() as u32 - 1
        });
        let id = HandlerId::next(slot);
        if let Some(entry) = self.handlers.get_mut(slot as usize) {
            entry.number = id.number;
            entry.handler = Some(handler);
            entry.done = false;
            self.live += 1;
        }
        self.added.push(id);
        id
    }

    /// Removes a handler with all its sources and timers.
    pub fn remove(&mut self, id: HandlerId) -> Option<H> {
        let slot = self.slot(id)?;
        let handler = slot.handler.take()?;
        let taken = mem::take(&mut slot.taken);
        if !mem::replace(&mut slot.done, true) {
            self.live -= 1;
        }
        self.budget += taken;
        self.free.push(id.slot);
        self.added.retain(|added| *added != id);
        self.slots.forget(id, self.poll.registry());
        self.queue.forget(id);
        Some(handler)
    }

    /// A handler.
    pub fn get(&self, id: HandlerId) -> Option<&H> {
        let slot = self.handlers.get(id.slot as usize)?;
        if slot.number == id.number { slot.handler.as_ref() } else { None }
    }

    /// A handler, without the loop: [`call`](Self::call) is for what needs that.
    #[cfg(feature = "host")]
    pub(crate) fn get_mut(&mut self, id: HandlerId) -> Option<&mut H> {
        self.slot(id)?.handler.as_mut()
    }

    /// The handlers that have not been removed, in no particular order.
    pub fn handlers(&self) -> impl Iterator<Item = (HandlerId, &H)> {
        self.handlers.iter().zip(0..).filter_map(|(entry, slot)| {
            Some((HandlerId { slot, number: entry.number }, entry.handler.as_ref()?))
        })
    }

    /// Calls `f` with a handler and its context; `None` when the handler has been removed. A handler
    /// that has not been started yet is started first.
    pub fn call<R>(
        &mut self,
        id: HandlerId,
        f: impl FnOnce(&mut H, &mut Context<'_, H::Source, H::Timer>) -> R,
    ) -> Option<R> {
        let slot = self.handlers.get_mut(id.slot as usize)?;
        if slot.number != id.number {
            return None;
        }
        let handler = slot.handler.as_mut()?;
        if self.scratch.is_empty() {
            self.scratch = vec![0; share::WHOLE + share::SPARE].into_boxed_slice();
        }
        let (scratch, spare) = self.scratch.split_at_mut(share::WHOLE);
        let mut cx = Context {
            sources: Sources::new(id, self.poll.registry(), &mut self.slots),
            timers: Timers::new(id, &mut self.queue),
            budget: Budget::new(&mut self.budget, &mut slot.taken),
            scratch: scratch.get_mut(..self.slice).unwrap_or_default(),
            spare,
        };
        if let Some(index) = self.added.iter().position(|added| *added == id) {
            self.added.remove(index);
            handler.start(&mut cx);
        }
        let result = f(handler, &mut cx);
        while let Some(event) = handler.take_event() {
            if let Some(yielded) = &mut self.yielded {
                yielded.push_back((id, event));
            }
        }
        let done = handler.is_done();
        match (mem::replace(&mut slot.done, done), done) {
            (false, true) => {
                self.live -= 1;
                self.budget += mem::take(&mut slot.taken);
            }
            (true, false) => self.live += 1,
            _ => {}
        }
        Some(result)
    }

    /// Keeps the events of all handlers from now on, for [`next_event`](Self::next_event). Without
    /// this call they are dropped, and cost nothing.
    ///
    /// No event is lost and nothing bounds their number, so the host takes them after each turn.
    /// They do not end a wait: those that a [`call`](Self::call) has caused are taken before the
    /// next turn.
    pub fn collect_events(&mut self) {
        self.yielded.get_or_insert_default();
    }

    /// The oldest event that has not been taken, and the handler that it is about, which may have
    /// been removed since.
    pub fn next_event(&mut self) -> Option<(HandlerId, H::Event)> {
        self.yielded.as_mut()?.pop_front()
    }

    /// Watches these signals, by number; each is passed to every handler.
    ///
    /// Installs signal handlers for the whole process, for good: only for hosts that hand their
    /// signals to the reactor. The former actions of these signals are no longer taken.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` for a number that is no signal, and for a signal that can't be
    /// caught or that a handler can't return from (KILL, STOP, ILL, FPE, SEGV). No further signal
    /// is watched then.
    pub fn watch_signals<S: Into<i32>>(
        &mut self,
        signals: impl IntoIterator<Item = S>,
    ) -> io::Result<()> {
        let signals: Vec<i32> = signals.into_iter().map(Into::into).collect();
        // signal-hook panics on these.
        if !signals.iter().all(|signal| can_be_watched(*signal)) {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        match &self.signals {
            Some(watched) => signals.into_iter().try_for_each(|signal| watched.add_signal(signal)),
            None => {
                let mut watched = Signals::new(signals)?;
                self.poll.registry().register(&mut watched, SIGNALS, mio::Interest::READABLE)?;
                self.signals = Some(watched);
                Ok(())
            }
        }
    }

    /// A handle that other threads interrupt the poll with.
    ///
    /// # Errors
    ///
    /// The system's error when no descriptor is available.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = Waker::new(self.poll.registry())?;
        self.waker = Some(waker.clone());
        Ok(waker)
    }

    /// Runs until every handler is done.
    ///
    /// # Errors
    ///
    /// The poller's; the handlers are as they were.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.is_done() {
            self.poll_once(None)?;
        }
        Ok(())
    }

    /// Whether every handler is done.
    pub fn is_done(&self) -> bool {
        self.live == 0
    }

    /// One turn: waits for at most `timeout` (`None`: until something happens), then calls each
    /// handler that has something to do, once for each source. A turn that starts
    /// [added](Self::add) handlers does not wait.
    ///
    /// # Errors
    ///
    /// The poller's. An interrupted poll is not an error: the turn is empty.
    pub fn poll_once(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let started = self.start_added();
        // A start costs no further poll: the host sees at once what came of it. But a host that
        // adds handlers in every turn must not keep the others from being polled.
        if started && !mem::replace(&mut self.more, true) {
            return Ok(());
        }
        let timeout = if started { Some(Duration::ZERO) } else { timeout };
        let wait = self.next_call().map(|at| at.saturating_duration_since(Instant::now()));
        let wait = match (wait, timeout) {
            (Some(wait), Some(timeout)) => Some(wait.min(timeout)),
            (wait, timeout) => wait.or(timeout),
        };
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let (mut signalled, mut detached) = (false, false);
        let mut taken = 0;
        for event in &self.events {
            taken += 1;
            match event.token() {
                SIGNALS => signalled = true,
                detached::DETACHED => detached = true,
                waker::WAKER => {}
                token => self.slots.mark(token, event),
            }
        }
        self.more = taken >= EVENTS;
        if signalled {
            self.take_signals();
        }
        if detached {
            self.slots.poll_detached(self.poll.registry());
        }
        let now = Instant::now();
        self.slice = self.share.bytes(now);
        self.fire_timers(now);
        self.call_ready(now);
        self.give_back_scratch();
        Ok(())
    }

    /// The instant by which [`poll_once`](Self::poll_once) must be called even if the descriptor is
    /// not readable: the next timer, or now if a handler is to be started, a source is still ready
    /// or more events are pending than one turn takes.
    pub fn next_deadline(&self) -> Option<Instant> {
        let now = self.more || !self.added.is_empty();
        if now { Some(Instant::now()) } else { self.next_call() }
    }

    /// Frees the buffer that handlers share until a handler is called again: for use before a long
    /// wait.
    pub fn release_scratch(&mut self) {
        self.scratch = Box::default();
    }

    /// Whether the shared buffer is allocated.
    pub fn has_scratch(&self) -> bool {
        !self.scratch.is_empty()
    }

    fn slot(&mut self, id: HandlerId) -> Option<&mut Slot<H>> {
        let slot = self.handlers.get_mut(id.slot as usize)?;
        (slot.number == id.number).then_some(slot)
    }

    /// When a handler is to be called even if the poll returns no event.
    fn next_call(&self) -> Option<Instant> {
        if self.slots.has_ready() { Some(Instant::now()) } else { self.queue.next() }
    }

    /// Starts the handlers that have been added; returns whether there were any.
    fn start_added(&mut self) -> bool {
        let added = mem::take(&mut self.added);
        for &id in &added {
            self.call(id, |handler, cx| handler.start(cx));
        }
        !added.is_empty()
    }

    fn take_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let pending: Vec<i32> = signals.pending().collect();
        rearm::source(self.poll.registry(), signals, SIGNALS);
        for signal in pending {
            for slot in 0..self.handlers.len() {
                if let Some(id) = self.id_at(slot) {
                    self.call(id, |handler, cx| handler.signal(signal, cx));
                }
            }
            H::after_signal(signal);
        }
    }

    fn id_at(&self, slot: usize) -> Option<HandlerId> {
        let number = self.handlers.get(slot)?.number;
        Some(HandlerId { slot: slot as u32, number })
    }

    fn fire_timers(&mut self, now: Instant) {
        // A timer that is set meanwhile is due after `now`, so this loop ends.
        while let Some((id, timer)) = self.queue.pop_due(now) {
            self.share.serve(id, now);
            self.call(id, |handler, cx| handler.timer(timer, cx));
        }
    }

    /// Frees the pages that the scratch buffer has touched once the whole budget has come back.
    fn give_back_scratch(&mut self) {
        let busy = self.budget < budget::TOTAL;
        if mem::replace(&mut self.busy, busy) && !busy {
            self.release_scratch();
        }
    }

    fn call_ready(&mut self, now: Instant) {
        for _ in 0..self.slots.begin_turn() {
            let Some((id, source, ready)) = self.slots.next_ready() else { continue };
            self.share.serve(id, now);
            self.call(id, |handler, cx| handler.ready(source, ready, cx));
        }
    }
}

fn can_be_watched(signal: i32) -> bool {
    /// The signal numbers that signal-hook supports.
    const ROOM: std::ops::Range<i32> = 1..128;
    ROOM.contains(&signal) && !signal_hook::consts::FORBIDDEN.contains(&signal)
}

impl<H: Handler> fmt::Debug for Reactor<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handlers = self.handlers().count();
        f.debug_struct("Reactor")
            .field("handlers", &handlers)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}
