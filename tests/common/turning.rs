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

/// Turns until nothing wakes the loop up: neither a descriptor nor a timer.
#[track_caller]
pub fn turn_until_asleep(reactor: &mut Loop) {
    turn_until(reactor, "silence", |reactor| {
        !has_events(reactor) && reactor.next_deadline().is_none()
    });
}

#[cfg(not(mio_unsupported_force_poll_poll))]
fn has_events(reactor: &Loop) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(reactor.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

/// This poller has no descriptor.
#[cfg(mio_unsupported_force_poll_poll)]
fn has_events(_: &Loop) -> bool {
    false
}
