//! A host with its own event loop, in which the reactor is one descriptor among others.
//!
//! The host spawns its children itself, as a libkrun host does, hands them over, and receives the
//! transitions in an observer. It needs no registry and builds with `--no-default-features`.
//!
//! `cargo run --no-default-features --example nested`
//!
//! mio's poll(2) back end has no descriptor that can be nested: there the example prints a message.

#![cfg_attr(mio_unsupported_force_poll_poll, allow(unused))]

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmon::monitor::{Monitor, Sandbox, Transition};
use vmon::reactor::Reactor;

#[cfg(mio_unsupported_force_poll_poll)]
fn main() {
    eprintln!("mio's poll(2) back end has no descriptor that could be nested");
}

#[cfg(not(mio_unsupported_force_poll_poll))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let logs = std::env::temp_dir().join("vmon-nested");
    let (ticks, mut clock) = std::io::pipe()?;
    let mut reactor = Reactor::new()?;

    for (name, script) in [("first", "echo one; sleep 0.2"), ("second", "echo two >&2; exit 2")] {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let observer = move |transition: &Transition| eprintln!("{name}: {transition:?}");
        Monitor::builder(Sandbox::new(name, &logs)?).observer(observer).start(
            &mut reactor,
            child.id(),
            child.into(),
        )?;
    }

    std::io::Write::write_all(&mut clock, b"!")?;
    let mut host_events = 0;
    while !reactor.is_done() || host_events == 0 {
        let (reactor_ready, host_ready) = {
            let mut fds = [
                PollFd::new(reactor.as_fd(), PollFlags::POLLIN),
                PollFd::new(ticks.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, until(reactor.next_deadline())) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let [reactor_fd, host_fd] = fds;
            (reactor_fd.any().unwrap_or(false), host_fd.any().unwrap_or(false))
        };
        if host_ready {
            host_events += std::io::Read::read(&mut &ticks, &mut [0; 64])?;
        }
        let due = reactor.next_deadline().is_some_and(|at| at <= Instant::now());
        if reactor_ready || due {
            reactor.poll_once(Some(Duration::ZERO))?;
        }
    }
    eprintln!("the host's own descriptor gave {host_events} byte");
    Ok(())
}

/// Milliseconds until the deadline, rounded up so that poll(2) does not return early.
fn until(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_millis() + u128::from(left.subsec_nanos() % 1_000_000 != 0);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}
