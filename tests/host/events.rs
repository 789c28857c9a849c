//! The events of a host's sandboxes.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::common::{State, TIMEOUT};
use crate::{sandbox, sh, wait};
use vmon::host::{Events, EventsError, Host, HostError, SandboxEvent};
use vmon::monitor::{Event, SandboxId, Transition};

#[track_caller]
fn next(events: &mut Events) -> Result<SandboxEvent, EventsError> {
    events.wait_timeout(TIMEOUT).expect("no event")
}

fn is_done(event: &SandboxEvent) -> bool {
    matches!(event.event, Event::Done)
}

#[test]
fn events_of_sandboxes_come_with_their_names_and_all_of_them_before_the_host_has_ended() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let mut events = handle.events(1000);
    let starts: Vec<_> = (0..20)
        .map(|n| handle.start(sandbox(&state, &format!("n{n}")), sh(&format!("exit {n}"))))
        .collect();
    let ids: Vec<SandboxId> = starts.into_iter().map(|it| wait(it).unwrap().id).collect();
    drop(host);
    let mut seen = vec![0; ids.len()];
    let ended = loop {
        let event = match next(&mut events) {
            Ok(event) => event,
            Err(error) => break error,
        };
        let index = ids.iter().position(|id| *id == event.id).unwrap();
        assert_eq!(event.name.as_str(), format!("n{index}"));
        assert_eq!(event.config_file.as_str(), "Sandboxfile");
        if seen[index] == 0 {
            assert!(matches!(event.event, Event::Transition(Transition::Running { .. })));
        }
        seen[index] += if is_done(&event) { 100 } else { 1 };
    };
    assert!(matches!(ended, EventsError::Host(HostError::Ended)));
    // A stop of the host may have come before an end.
    assert!(seen.iter().all(|count| matches!(count, 103 | 104)), "{seen:?}");
    assert!(matches!(next(&mut events), Err(EventsError::Host(HostError::Ended))));
}

#[test]
fn a_slow_consumer_holds_nothing_up_and_learns_how_many_events_it_has_missed() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let (mut slow, mut fast) = (handle.events(10), handle.events(1000));
    let starts: Vec<_> =
        (0..20).map(|n| handle.start(sandbox(&state, &format!("n{n}")), sh("exit 0"))).collect();
    for start in starts {
        assert_eq!(wait(wait(start).unwrap().end).unwrap().exit_code(), 0);
    }
    let missed = next(&mut slow).unwrap_err();
    assert!(matches!(missed, EventsError::Missed(70)), "{missed}");
    let all: Vec<_> = (0..80).map(|_| next(&mut fast).unwrap()).collect();
    for event in &all[70..] {
        let newest = next(&mut slow).unwrap();
        assert_eq!((newest.id, is_done(&newest)), (event.id, is_done(event)));
    }
    assert!(slow.wait_timeout(Duration::ZERO).is_none());
}

#[test]
fn a_future_that_is_dropped_loses_no_event() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let mut events = handle.events(1000);
    let poll_and_drop = |events: &mut Events| {
        let next = pin!(events.next());
        assert!(next.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    };
    poll_and_drop(&mut events);
    poll_and_drop(&mut events);
    let started = wait(handle.start(sandbox(&state, "web"), sh("exit 0"))).unwrap();
    wait(started.end).unwrap();
    let seen: Vec<_> = (0..4).map(|_| next(&mut events).unwrap()).collect();
    assert!(is_done(&seen[3]) && seen[..3].iter().all(|event| !is_done(event)));
}

#[test]
fn events_that_are_dropped_are_kept_no_longer() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    for _ in 0..100 {
        let mut events = handle.events(10);
        assert!(events.wait_timeout(Duration::ZERO).is_none());
    }
    let id = wait(handle.call(|engine| engine.subscribe(10))).unwrap();
    let started = wait(handle.start(sandbox(&state, "web"), sh("exit 0"))).unwrap();
    wait(started.end).unwrap();
    let batch = wait(handle.call(move |engine| engine.take_batch(id))).unwrap();
    assert_eq!((batch.missed, batch.events.len()), (0, 4));
    let debug = wait(handle.call(|engine| format!("{engine:?}"))).unwrap();
    assert!(debug.contains("subscriptions: 1"), "{debug}");
}
