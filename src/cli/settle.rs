//! The wait of a supervisor: after each transition it gives back the memory that this took, and
//! then sleeps in the kernel.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vmon::monitor::{Claim, Monitor, Observer, Progress, Starting, Transition};
use vmon::process;
use vmon::reactor::Reactor;
use vmon::registry::RegistryObserver;

/// How long after a transition the memory is given back. A command that ends sooner never pays
/// for that, nor for the page faults that follow.
const LULL: Duration = Duration::from_millis(50);

/// Says whether the record was written since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct Activity(Rc<Cell<bool>>);

impl Activity {
    fn note(&self) {
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
        self.activity.note();
        self.registry.retry()
    }
}

/// Runs the reactor until its handlers are done.
pub fn run(reactor: &mut Reactor<Monitor>, activity: &Activity) -> io::Result<()> {
    let mut trim_at: Option<Instant> = None;
    while !reactor.is_done() {
        if activity.take() {
            trim_at = Some(Instant::now() + LULL);
        }
        let wait = trim_at.map(|at| at.saturating_duration_since(Instant::now()));
        if wait == Some(Duration::ZERO) {
            reactor.release_scratch();
            process::trim_stack();
            process::trim_heap();
            trim_at = None;
            continue;
        }
        reactor.poll_once(wait)?;
    }
    Ok(())
}
