//! The event loop of a supervisor. When idle, it returns the memory that its work took to the
//! system, and sleeps in the kernel.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::raise;
use vmon::child::{Signal, unblock_signals};
use vmon::monitor::{
    Claim, Monitor, Observer, Progress, Starting, Transition, Wait, forwarded_signals,
};
use vmon::process;
use vmon::reactor::Reactor;
use vmon::registry::RegistryObserver;

/// Time after a transition at which memory is trimmed. Shorter commands avoid its cost and the page
/// faults that follow.
pub const TRIM_DELAY: Duration = Duration::from_millis(50);

/// Time without relayed output after which the scratch buffer is released. It is long enough that a
/// child which writes a line a second does not cause a second wake-up for each.
pub const SCRATCH_DELAY: Duration = Duration::from_secs(2);

/// Records whether the record was written since the last check.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<AtomicBool>);

impl Activity {
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Passes transitions to the registry's observer, and notes the activity.
pub struct Noted {
    pub registry: RegistryObserver,
    pub activity: Activity,
}

impl Observer for Noted {
    fn claim(&mut self, starting: &Starting<'_>) -> Claim {
        self.activity.note();
        self.registry.claim(starting)
    }

    fn transition(&mut self, transition: &Transition) -> Progress {
        self.activity.note();
        self.registry.transition(transition)
    }

    fn retry(&mut self) -> Progress {
        let progress = self.registry.retry();
        // Failed retries are frequent, and each note would trim the heap.
        if progress == Progress::Done {
            self.activity.note();
        }
        progress
    }

    fn waits_for(&self) -> Option<Wait> {
        self.registry.waits_for()
    }
}

/// Runs the reactor until its handlers are done. With `orphans`, this process is a subreaper that
/// has to reap orphaned processes.
pub fn run(reactor: &mut Reactor<Monitor>, activity: &Activity, orphans: bool) -> io::Result<()> {
    let mut is_short = true;
    let mut trim_at: Option<Instant> = None;
    let mut release_at: Option<Instant> = None;
    while !reactor.is_done() {
        let now = Instant::now();
        if activity.take() {
            trim_at = Some(now + TRIM_DELAY);
        }
        if trim_at.is_some_and(|at| now >= at) {
            trim_at = None;
            if mem::take(&mut is_short) {
                watch_more_signals(reactor, orphans)?;
                // After the reactor has handled the signals.
                trim_at = Some(now);
            } else {
                trim(reactor);
            }
        } else if release_at.is_some_and(|at| now >= at) {
            reactor.release_scratch();
        }
        // Postponed by each turn that relayed something.
        release_at = reactor.has_scratch().then(|| now + SCRATCH_DELAY);
        let next = [trim_at, release_at].into_iter().flatten().min();
        reactor.poll_once(next.map(|at| at.saturating_duration_since(now)))?;
    }
    Ok(())
}

/// Passes signals on, and reaps orphaned processes at SIGCHLD, from now on. Not earlier: a short
/// command would only pay for the setup. Signals to be passed on have been blocked until now, and
/// orphans of a short command are handled at its end.
fn watch_more_signals(reactor: &mut Reactor<Monitor>, orphans: bool) -> io::Result<()> {
    reactor.watch_signals(forwarded_signals())?;
    unblock_signals();
    if orphans {
        reactor.watch_signals([Signal::CHLD])?;
        // A process may have ended before the handler was installed.
        raise(nix::sys::signal::Signal::SIGCHLD)?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn trim(reactor: &mut Reactor<Monitor>) {
    reactor.release_scratch();
    // SAFETY: the process has one thread, the main one, and no coroutines. All frames below this
    // one are unused.
    unsafe { process::trim_stack() };
    process::trim_heap();
}
