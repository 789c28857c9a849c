//! One poller, its sources, timers and signals, on the thread that calls it.
//!
//! A [`Reactor`] owns [`Handler`]s and calls them when a source of theirs is ready, a timer of
//! theirs has expired or a signal has arrived. It knows nothing of children, logs or terminals,
//! starts no thread and never waits but in the poll itself.
//!
//! ```
//! use std::io::Read;
//! use std::os::unix::net::UnixStream;
//! use vmon::reactor::{Context, Handler, Interest, Reactor, Ready, SourceId};
//!
//! /// Collects what a peer sends.
//! struct Collect(UnixStream, Vec<u8>, Option<SourceId>);
//!
//! impl Handler for Collect {
//!     type Source = ();
//!     type Timer = ();
//!
//!     fn start(&mut self, cx: &mut Context<'_, Self>) {
//!         self.2 = cx.sources.register(&self.0, Interest::READ, ()).ok();
//!     }
//!
//!     fn ready(&mut self, (): (), _: Ready, cx: &mut Context<'_, Self>) {
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
//!     fn timer(&mut self, (): (), _: &mut Context<'_, Self>) {}
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

mod allowance;
mod leaving;
mod rearm;
mod share;
mod sources;
mod timers;

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use signal_hook_mio::v1_0::Signals;

pub use allowance::Allowance;
pub(crate) use leaving::Leaving;
pub use sources::{Interest, Ready, SourceId, Sources};
pub use timers::{TimerId, Timers};

use share::Share;
use sources::Slots;
use timers::Queue;

/// Events taken from the kernel at once; more simply wait for the next turn.
const EVENTS: usize = 256;

/// The poller's token for signals; sources count from zero.
const SIGNALS: Token = Token(usize::MAX);

/// The poller's token for a [`Waker`].
const WAKER: Token = Token(usize::MAX - 1);

/// What a reactor calls.
pub trait Handler: Sized {
    /// Names a source among those of this handler.
    type Source: Copy;
    /// Names a timer among those of this handler.
    type Timer: Copy;

    /// Called once, when the handler is added.
    fn start(&mut self, cx: &mut Context<'_, Self>);

    /// A source is ready for something that it is wanted for.
    ///
    /// It may turn out not to be (readiness can be spurious), so every read and write must be
    /// ready for `WouldBlock`. The handler is called again in each turn until it says that the
    /// source would block or is no longer wanted: what one turn takes may be bounded, and nothing
    /// is forgotten.
    fn ready(&mut self, source: Self::Source, ready: Ready, cx: &mut Context<'_, Self>);

    /// A timer has expired.
    fn timer(&mut self, timer: Self::Timer, cx: &mut Context<'_, Self>);

    /// A watched signal has arrived. Every handler is told; several of one kind may be told once.
    fn signal(&mut self, signal: i32, cx: &mut Context<'_, Self>) {
        let _ = (signal, cx);
    }

    /// Called once for each signal, after every handler has been told.
    fn after_signal(signal: i32) {
        let _ = signal;
    }

    /// Whether nothing is left to do. Asked after each call.
    fn is_done(&self) -> bool;
}

/// What a handler may do to the loop, and the buffer that all handlers share.
pub struct Context<'a, H: Handler> {
    /// The descriptors that are watched.
    pub sources: Sources<'a, H::Source>,
    /// The timers.
    pub timers: Timers<'a, H::Timer>,
    /// What all handlers may take together while they are busy.
    pub allowance: Allowance<'a>,
    /// Holds bytes within one call only; the next handler overwrites them.
    ///
    /// One call is to take no more from a source than this holds, so that none holds up the
    /// others: it is 512 KiB long, and 32 KiB while sources of several handlers are ready.
    pub scratch: &'a mut [u8],
    /// The same, for what is made of those bytes: 192 KiB.
    pub(crate) spare: &'a mut [u8],
}

/// A handler on a reactor. Never names another one, also after that has been removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandlerId {
    slot: u32,
    generation: u32,
}

/// Wakes a reactor from another thread: its [`poll_once`](Reactor::poll_once) returns.
#[derive(Debug, Clone)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    /// Wakes the reactor, now or, if it is not polling, at its next poll.
    ///
    /// # Errors
    ///
    /// The system's, when it can't be told.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

struct Slot<H> {
    generation: u32,
    handler: Option<H>,
    /// Whether the handler was done when it was last called.
    done: bool,
    /// Its part of the allowance.
    taken: usize,
}

/// The loop. See the [module](self).
///
/// To nest it in another loop: watch its descriptor ([`AsFd`](std::os::fd::AsFd)) for readability
/// and call [`poll_once`](Self::poll_once) with a timeout of zero when it is readable and when
/// [`next_deadline`](Self::next_deadline) has come.
pub struct Reactor<H: Handler> {
    poll: Poll,
    events: Events,
    /// Empty until a handler is called.
    scratch: Box<[u8]>,
    slots: Slots<H::Source>,
    queue: Queue<H::Timer>,
    /// What is left of the allowance.
    allowance: usize,
    /// Whether some of it was out at the end of the last turn.
    busy: bool,
    handlers: Vec<Slot<H>>,
    /// Slots without a handler.
    free: Vec<u32>,
    /// Handlers that are not done.
    live: usize,
    /// Whether the last poll gave as many events as it could: the kernel may hold more, of which
    /// an edge-triggered outer loop has been told already.
    more: bool,
    share: Share,
    /// How much of the scratch buffer a handler gets in this turn.
    slice: usize,
    signals: Option<Signals>,
    waker: Option<Waker>,
}

impl<H: Handler> Reactor<H> {
    /// A reactor without handlers.
    ///
    /// # Errors
    ///
    /// The system's, when it has no poller to give (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            scratch: Box::default(),
            slots: Slots::new(),
            queue: Queue::new(),
            allowance: allowance::TOTAL,
            busy: false,
            handlers: Vec::new(),
            free: Vec::new(),
            live: 0,
            more: false,
            share: Share::default(),
            slice: share::WHOLE,
            signals: None,
            waker: None,
        })
    }

    /// Adds a handler and starts it.
    pub fn add(&mut self, handler: H) -> HandlerId {
        // A reactor holds far fewer handlers than 2^32: each has descriptors of its own.
        let slot = self.free.pop().unwrap_or_else(|| {
            self.handlers.push(Slot { generation: 0, handler: None, done: true, taken: 0 });
            self.handlers.len() as u32 - 1
        });
        let generation = match self.handlers.get_mut(slot as usize) {
            Some(entry) => {
                entry.generation = entry.generation.wrapping_add(1);
                entry.handler = Some(handler);
                entry.done = false;
                self.live += 1;
                entry.generation
            }
            None => 0,
        };
        let id = HandlerId { slot, generation };
        self.call(id, |handler, cx| handler.start(cx));
        id
    }

    /// Takes a handler off the reactor, with all its sources and timers.
    pub fn remove(&mut self, id: HandlerId) -> Option<H> {
        let slot = self.slot(id)?;
        let handler = slot.handler.take()?;
        let taken = mem::take(&mut slot.taken);
        if !mem::replace(&mut slot.done, true) {
            self.live -= 1;
        }
        self.allowance += taken;
        self.free.push(id.slot);
        self.slots.forget(id, self.poll.registry());
        self.queue.forget(id);
        Some(handler)
    }

    /// A handler.
    pub fn get(&self, id: HandlerId) -> Option<&H> {
        let slot = self.handlers.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.handler.as_ref() } else { None }
    }

    /// Calls `f` with a handler and what it may do to the loop; `None` when it has been removed.
    pub fn call<R>(
        &mut self,
        id: HandlerId,
        f: impl FnOnce(&mut H, &mut Context<'_, H>) -> R,
    ) -> Option<R> {
        let slot = self.handlers.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
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
            allowance: Allowance::new(&mut self.allowance, &mut slot.taken),
            scratch: scratch.get_mut(..self.slice).unwrap_or_default(),
            spare,
        };
        let result = f(handler, &mut cx);
        let done = handler.is_done();
        match (mem::replace(&mut slot.done, done), done) {
            (false, true) => {
                self.live -= 1;
                self.allowance += mem::take(&mut slot.taken);
            }
            (true, false) => self.live += 1,
            _ => {}
        }
        Some(result)
    }

    /// Watches these signals, by number; every handler is told of each.
    ///
    /// Installs signal handlers, which is process-wide and lasts: for hosts that want the reactor
    /// to have their signals. Their former actions are no longer taken.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` for a number that is no signal, and for a signal that can't be
    /// caught or that a handler can't return from (KILL, STOP, ILL, FPE, SEGV). None is watched
    /// then that was not before.
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

    /// A handle by which other threads interrupt the poll.
    ///
    /// # Errors
    ///
    /// The system's, when it has no descriptor to give.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = Waker(Arc::new(mio::Waker::new(self.poll.registry(), WAKER)?));
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
    /// handler that has something to do, once for each source.
    ///
    /// # Errors
    ///
    /// The poller's. An interrupted poll is none: the turn is empty.
    pub fn poll_once(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wait = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let wait = match (wait, timeout) {
            (Some(wait), Some(timeout)) => Some(wait.min(timeout)),
            (wait, timeout) => wait.or(timeout),
        };
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let (mut signalled, mut left) = (false, false);
        let mut taken = 0;
        for event in &self.events {
            taken += 1;
            match event.token() {
                SIGNALS => signalled = true,
                leaving::LEFT => left = true,
                WAKER => {}
                token => self.slots.mark(token, event),
            }
        }
        self.more = taken >= EVENTS;
        if signalled {
            self.take_signals();
        }
        if left {
            self.slots.look_at_left(self.poll.registry());
        }
        let now = Instant::now();
        self.slice = self.share.bytes(now);
        self.fire_timers(now);
        self.call_ready(now);
        self.give_back_scratch();
        Ok(())
    }

    /// The instant by which [`poll_once`](Self::poll_once) must be called although the descriptor
    /// is silent: the next timer, or now where a source has more to give or more events wait than
    /// one turn takes.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.more || self.slots.has_ready() { Some(Instant::now()) } else { self.queue.next() }
    }

    /// Lets go of the buffer that handlers share, until one is called again: for when a long wait
    /// begins.
    pub fn release_scratch(&mut self) {
        self.scratch = Box::default();
    }

    /// Whether there is one to let go of.
    pub fn has_scratch(&self) -> bool {
        !self.scratch.is_empty()
    }

    fn slot(&mut self, id: HandlerId) -> Option<&mut Slot<H>> {
        let slot = self.handlers.get_mut(id.slot as usize)?;
        (slot.generation == id.generation).then_some(slot)
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
        let generation = self.handlers.get(slot)?.generation;
        Some(HandlerId { slot: slot as u32, generation })
    }

    fn fire_timers(&mut self, now: Instant) {
        // Timers that are set meanwhile wait for the next turn: none can keep the loop here.
        while let Some((id, timer)) = self.queue.pop_due(now) {
            self.share.serve(id, now);
            self.call(id, |handler, cx| handler.timer(timer, cx));
        }
    }

    /// When nobody is busy any more, the pages that the scratch buffer has touched go back too.
    fn give_back_scratch(&mut self) {
        let busy = self.allowance < allowance::TOTAL;
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
    /// The signals that signal-hook has room for.
    const ROOM: std::ops::Range<i32> = 1..128;
    ROOM.contains(&signal) && !signal_hook::consts::FORBIDDEN.contains(&signal)
}

#[cfg(not(mio_unsupported_force_poll_poll))]
impl<H: Handler> std::os::fd::AsFd for Reactor<H> {
    /// Readable when a turn has something to do. Not on mio's poll(2) back end, which has no
    /// descriptor of its own.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}
