//! The thread of a host, which turns an engine and meets the requests of handles.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::engine::Engine;
use super::handle::{Handle, Request};
use super::reply::Reply;
use super::shared::Cause;
use crate::monitor::message_of;

/// The most requests that are met before the sandboxes have their turn.
const REQUESTS: usize = 64;

/// Time without relayed output after which the scratch buffer is released.
const SCRATCH_DELAY: Duration = Duration::from_secs(2);

/// The time between two kills of what has not ended: within less, one counts as the same as the one
/// before.
const KILL_AGAIN: Duration = Duration::from_millis(1_100);

/// What becomes of the sandboxes when their [`Host`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDrop {
    /// The children go on without a monitor: they lose their streams, as when a
    /// [`Monitor`](crate::monitor::Monitor) is dropped, and one on a PTY is hung up. On record they
    /// have the reason `supervisor-lost`. Children that the host starts also outlive a host that is
    /// killed.
    Leave,
    /// All are stopped at the same time, each within its stop timeout, and the drop waits for them.
    #[default]
    Stop,
    /// All are killed, and the drop waits for them.
    Kill,
}

/// Runs an [`Engine`] on a thread of its own. [`handle`](Self::handle) gives what other threads use.
///
/// The thread blocks all signals but those of its own faults, so signal handlers of the program run on
/// other threads. The host adds that thread to the process, two descriptors (close-on-exec), and
/// nothing else: no signal handler, no limit, no subreaper.
///
/// When it is dropped, the children are stopped, or what [`on_drop`](HostBuilder::on_drop) says, and
/// the drop waits for that; [`close`](Self::close) does not block.
///
/// # Panics of the thread
///
/// A panic on the thread, which only a closure of [`Handle::call`] or a fault of this library causes,
/// ends the host: every reply and every later request is [`HostError::Panicked`] with the message.
/// The children that the host has started are killed, whatever `on_drop` says, and their runs closed.
/// Those that were [adopted](Handle::adopt) are not, nor those that can't be killed: one message of
/// [`tracing`] names them. So it is with an error of the poller. Panics of observers and services end
/// their sandbox only. With `panic = "abort"` the process ends instead, and the children with it.
///
/// [`HostError::Panicked`]: super::HostError::Panicked
///
/// ```
/// use vmon::child::Command;
/// use vmon::host::Host;
/// use vmon::monitor::Sandbox;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let host = Host::new()?;
/// let handle = host.handle();
/// let web = handle.start(Sandbox::new("web", log_dir)?, Command::new("true")).wait()?;
/// println!("{} runs with the pid {}", web.name, web.pid);
/// assert_eq!(web.end.wait()?.exit_code(), 0);
/// # Ok(())
/// # }
/// ```
pub struct Host {
    handle: Handle,
    /// `None` once it has been closed.
    thread: Option<JoinHandle<()>>,
}

/// Options of a [`Host`].
#[derive(Debug, Clone, Default)]
pub struct HostBuilder {
    on_drop: OnDrop,
}

impl Host {
    /// A host that stops its sandboxes when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`HostBuilder::start`].
    pub fn new() -> io::Result<Self> {
        Self::builder().start()
    }

    /// A host with other options.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// A handle, for any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the host as a drop does, without blocking: the reply comes when it has ended.
    pub fn close(mut self) -> Reply<()> {
        // It ends by itself.
        self.thread = None;
        self.handle.ask(|engine, answer| engine.close(Some(answer)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.handle.tell(|engine| engine.close(None));
        // A closure on that thread may own the host: it can't wait for itself.
        if thread.thread().id() != thread::current().id() {
            // A panic was reported to all that waited.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl HostBuilder {
    /// What becomes of the sandboxes when the host is dropped.
    #[must_use]
    pub fn on_drop(mut self, on_drop: OnDrop) -> Self {
        self.on_drop = on_drop;
        self
    }

    /// Starts the thread, which is named `vmon-host`.
    ///
    /// # Errors
    ///
    /// The system's error when no poller (`EMFILE`, `ENFILE`, `ENOMEM`) or thread (`EAGAIN`) can be
    /// created.
    pub fn start(self) -> io::Result<Host> {
        let mut engine = Engine::new()?;
        if self.on_drop == OnDrop::Leave {
            engine.let_children_outlive();
        }
        let (sender, requests) = mpsc::channel();
        let handle = Handle::new(sender, engine.waker()?, engine.shared().clone());
        let on_drop = self.on_drop;
        let blocked = SignalsBlocked::new();
        let thread = thread::Builder::new().name("vmon-host".to_owned());
        let thread = thread.spawn(move || run(engine, requests, on_drop))?;
        drop(blocked);
        Ok(Host { handle, thread: Some(thread) })
    }
}

/// Blocks the signals that a program may have handlers for, for this thread and those that it
/// starts; dropped, restores what was blocked before.
struct SignalsBlocked(Option<SigSet>);

impl SignalsBlocked {
    fn new() -> Self {
        let mut blocked = SigSet::all();
        // Faults of the thread itself. Blocked, they would end the process without its handler.
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGSYS,
            Signal::SIGABRT,
        ] {
            blocked.remove(fault);
        }
        // Fails only for an invalid operation.
        Self(blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK).ok())
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = before.thread_set_mask();
        }
    }
}

/// The thread of a host.
fn run(mut engine: Engine, requests: Receiver<Request>, on_drop: OnDrop) {
    engine.shared().set_thread();
    let driven = catch_unwind(AssertUnwindSafe(|| drive(&mut engine, &requests, on_drop)));
    let failure = match driven {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Cause::Poll(Arc::new(error))),
        Err(panic) => Some(Cause::Panicked(message_of(&*panic).into())),
    };
    let closed = engine.take_closing();
    let has_failed = failure.is_some();
    // Before anything that is waited for is dropped: this is the error of it.
    engine.shared().set_end(failure.unwrap_or(Cause::Dropped));
    if has_failed {
        let why = engine.shared().error().to_string();
        engine.kill_all(&why);
    }
    drop(requests);
    drop(engine);
    if !has_failed {
        for answer in closed {
            let _ = answer.send(Ok(()));
        }
    }
}

/// Turns the engine until the host is closed, and after that until its sandboxes have ended.
fn drive(engine: &mut Engine, requests: &Receiver<Request>, on_drop: OnDrop) -> io::Result<()> {
    let mut release_at: Option<Instant> = None;
    let mut kill_at: Option<Instant> = None;
    loop {
        let met = meet(requests, engine);
        if engine.is_closing() {
            if engine.is_empty() || on_drop == OnDrop::Leave {
                return Ok(());
            }
            if on_drop == OnDrop::Kill && kill_at.is_none_or(|at| at <= Instant::now()) {
                engine.stop_all(Some(Duration::ZERO));
                kill_at = Some(Instant::now() + KILL_AGAIN);
            }
            if on_drop == OnDrop::Stop && met > 0 {
                engine.stop_rest();
            }
        }
        let now = Instant::now();
        if release_at.is_some_and(|at| now >= at) {
            engine.release_scratch();
        }
        // Postponed by each turn that relayed something.
        release_at = engine.has_scratch().then(|| now + SCRATCH_DELAY);
        let next = [release_at, kill_at].into_iter().flatten().min();
        let timeout = next.map(|at| at.saturating_duration_since(now));
        let more_may_wait = met == REQUESTS || (met > 0 && engine.is_closing());
        engine.turn(if more_may_wait { Some(Duration::ZERO) } else { timeout })?;
    }
}

/// Meets requests that have come; returns how many.
fn meet(requests: &Receiver<Request>, engine: &mut Engine) -> usize {
    let mut met = 0;
    while met < REQUESTS
        && let Ok(request) = requests.try_recv()
    {
        request(engine);
        met += 1;
        if engine.is_closing() {
            // What it means for the sandboxes comes before the next one.
            break;
        }
    }
    met
}
