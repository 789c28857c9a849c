//! A panic on the thread of a host.

use std::fmt::{Debug, Write as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, span};

use crate::common::{State, is_alive, is_gone, run_host};
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

/// The errors of all threads, as text.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        write!(self.0, "{value:?}").unwrap();
    }
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

const STATE: &str = "VMON_TEST_PANIC_STATE";

#[test]
fn one_message_names_the_children_that_a_panic_leaves_behind() {
    let state = State::new();
    run_host(&state, module_path!(), "host_that_panics", STATE, |_| {});
}

#[test]
#[ignore = "run as a process of its own"]
fn host_that_panics() {
    let (state, errors) = (State::new(), Errors::default());
    tracing::subscriber::set_global_default(errors.clone()).unwrap();
    let host = Host::new().unwrap();
    let handle = host.handle();
    for name in ["one", "two"] {
        wait(handle.start(sandbox(&state, name), sh("exec sleep 1000"))).unwrap();
    }
    let mut adopted =
        std::process::Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let pid = adopted.id();
    let io = ChildIo::from(&mut adopted);
    wait(handle.adopt(sandbox(&state, "own"), pid, io)).unwrap();
    assert!(wait::<()>(handle.call(|_| panic!("a fault of the host"))).is_err());
    drop(host);
    let errors = errors.0.lock().unwrap().clone();
    let expected = format!(
        "the thread of the host has panicked: a fault of the host: 2 children were killed; \
         left without a monitor: Sandboxfile/own (pid {pid})"
    );
    assert_eq!(errors, [expected]);
    adopted.kill().unwrap();
    adopted.wait().unwrap();
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
