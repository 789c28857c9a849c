//! An event loop that a test drives turn by turn.

use std::time::{Duration, Instant};

use vmon::monitor::Monitor;
use vmon::reactor::Reactor;

use crate::common::TIMEOUT;

pub type Loop = Reactor<Monitor>;

/// Starts what has been added, in a turn that does not wait.
#[track_caller]
pub fn start_added(reactor: &mut Loop) {
    reactor.poll_once(None).unwrap();
}

/// Turns until something is so.
#[track_caller]
pub fn turn_until(reactor: &mut Loop, what: &str, mut holds: impl FnMut(&mut Loop) -> bool) {
    let give_up = Instant::now() + TIMEOUT;
    while !holds(reactor) {
        assert!(Instant::now() < give_up, "it never came: {what}");
        // Bounded, as what is waited for may be no event of the reactor's.
        reactor.poll_once(Some(Duration::from_millis(20))).unwrap();
    }
}
