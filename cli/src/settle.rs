//! The wait of a supervisor: when it has nothing more to do, it gives back the memory that its work
//! took, and then sleeps in the kernel.

use std::cell::Cell;
use std::io;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::raise;
use vmon::child::Signal;
use vmon::monitor::{Claim, Monitor, Observer, Progress, Starting, Transition};
use vmon::process;
use vmon::reactor::Reactor;
use vmon::registry::RegistryObserver;

/// How long after a transition the memory is given back. A command that ends sooner never pays
/// for that, nor for the page faults that follow.
const LULL: Duration = Duration::from_millis(50);

/// How long nothing must have been relayed before the buffer for that goes too: long enough that a
/// child which writes a line a second does not cost a second wake-up each.
const SILENCE: Duration = Duration::from_secs(2);

/// Says whether the record was written since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct Activity(Rc<Cell<bool>>);

impl Activity {
    pub fn note(&self) {
        self.0.set(true);
    }

    fn take(&self) -> bool {
        self.0.take()
    }
}

/// The registry's observer, and the note that it has done something.
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
        // One that failed follows, and each of them would look through the heap.
        if progress == Progress::Done {
            self.activity.note();
        }
        progress
    }
}

/// Runs the reactor until its handlers are done. `orphans` come down to us, and are to be reaped.
pub fn run(
    reactor: &mut Reactor<Monitor>,
    activity: &Activity,
    mut orphans: bool,
) -> io::Result<()> {
    let mut trim_at: Option<Instant> = None;
    let mut release_at: Option<Instant> = None;
    while !reactor.is_done() {
        let now = Instant::now();
        if activity.take() {
            trim_at = Some(now + LULL);
        }
        if trim_at.is_some_and(|at| now >= at) {
            trim_at = None;
            if mem::take(&mut orphans) {
                watch_orphans(reactor)?;
                // Once the reactor has told of it.
                trim_at = Some(now);
            } else {
                trim(reactor);
            }
        } else if release_at.is_some_and(|at| now >= at) {
            reactor.release_scratch();
        }
        // Each turn that had something to do puts it off.
        release_at = reactor.has_scratch().then(|| now + SILENCE);
        let next = [trim_at, release_at].into_iter().flatten().min();
        reactor.poll_once(next.map(|at| at.saturating_duration_since(now)))?;
    }
    Ok(())
}

/// From here on, processes that have come down to us are reaped as soon as they have ended. Not
/// before: a command that ends sooner would only pay for it, and what it leaves is looked for then.
fn watch_orphans(reactor: &mut Reactor<Monitor>) -> io::Result<()> {
    reactor.watch_signals([Signal::CHLD])?;
    // One may have ended already.
    Ok(raise(nix::sys::signal::Signal::SIGCHLD)?)
}

#[allow(unsafe_code)]
fn trim(reactor: &mut Reactor<Monitor>) {
    reactor.release_scratch();
    // SAFETY: the command has one thread, the main one, and no coroutines: below this frame are
    // dead ones only.
    unsafe { process::trim_stack() };
    process::trim_heap();
}
