//! A panic on the thread of a host.

use std::process::Stdio;

use crate::common::{State, is_alive, is_gone};
use crate::{builder, sandbox, sh, wait};
use vmon::child::{ChildIo, Signal};
use vmon::host::{EventsError, Host, HostError, OnDrop};
use vmon::monitor::{Event, Transition};
use vmon::registry::Registry;

fn is_the_panic(error: &HostError) -> bool {
    matches!(error, HostError::Panicked(message) if &**message == "a fault of the host")
}

#[test]
fn a_panic_is_the_error_of_all_that_waits_and_no_child_is_left_unwatched() {
    for on_drop in [OnDrop::Stop, OnDrop::Leave] {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let host = Host::builder().on_drop(on_drop).start().unwrap();
        let handle = host.handle();
        let observed = builder(&state, "web").observer(registry.observer());
        let web = wait(handle.start(observed, sh("exec sleep 1000"))).unwrap();
        let mut command = std::process::Command::new("sleep");
        let mut adopted = command.arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let io = ChildIo::from(&mut adopted);
        let taken = wait(handle.adopt(sandbox(&state, "own"), adopted.id(), io)).unwrap();
        let mut events = handle.events(10);
        // The events are subscribed to before the panic.
        wait(handle.list()).unwrap();
        let waiting = handle.wait(web.id);
        let panicked = handle.call(|_| -> u32 { panic!("a fault of the host") });

        assert!(is_the_panic(&wait(panicked).unwrap_err()));
        for end in [web.end, waiting, taken.end] {
            assert!(is_the_panic(&wait(end).unwrap_err()));
        }
        assert!(is_the_panic(&wait(handle.list()).unwrap_err()));
        let event = events.wait().unwrap_err();
        assert!(matches!(&event, EventsError::Host(error) if is_the_panic(error)), "{event}");
        drop(host);
        // What the host has started is killed and reaped, and on record; what it was given is not.
        assert!(is_gone(web.pid));
        let runs = registry.runs().unwrap();
        assert_eq!(runs[0].signal, Some(Signal::KILL.number()));
        assert!(is_alive(adopted.id()));
        adopted.kill().unwrap();
        adopted.wait().unwrap();
    }
}

#[test]
fn events_before_a_panic_still_come() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let mut events = handle.events(10);
    wait(handle.start(sandbox(&state, "web"), sh("exec sleep 1000"))).unwrap();
    let panicked = handle.call(|_| panic!("a fault of the host"));
    assert!(is_the_panic(&wait::<()>(panicked).unwrap_err()));
    let event = events.wait().unwrap();
    assert!(matches!(event.event, Event::Transition(Transition::Running { .. })));
    assert!(matches!(events.wait(), Err(EventsError::Host(error)) if is_the_panic(&error)));
}

#[test]
fn a_panic_of_an_observer_ends_its_sandbox_and_not_the_host() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let observer = |_: &Transition| panic!("a fault of the observer");
    let web = handle.start(builder(&state, "web").observer(observer), sh("exec sleep 1000"));
    let end = wait(wait(web).unwrap().end).unwrap();
    assert!(end.panic.is_some());
    let other = wait(handle.start(sandbox(&state, "other"), sh("exit 5"))).unwrap();
    assert_eq!(wait(other.end).unwrap().exit_code(), 5);
}
