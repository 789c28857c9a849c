//! A panic of an observer or a service ends its sandbox and nothing else.

use std::error::Error;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::served::socket_of;
use crate::common::turning::{Loop, turn_until};
use crate::common::{State, is_alive};
use vmon::child::{Command, ExitStatus, Signal};
use vmon::control::Server;
use vmon::monitor::{
    Builder, Claim, End, Monitor, Observer, Progress, Reason, Restart, Sandbox, Service,
    ServiceContext, StartError, Starting, Transition,
};
use vmon::reactor::{Handler, HandlerId, Interest, Reactor, Ready};
use vmon::registry::Registry;

/// The calls of one observer or service; the call of one name panics.
#[derive(Clone)]
struct Calls {
    at: &'static str,
    list: Arc<Mutex<Vec<&'static str>>>,
}

impl Calls {
    fn panic_at(at: &'static str) -> Self {
        Self { at, list: Arc::default() }
    }

    fn note(&self, call: &'static str) {
        self.list.lock().unwrap().push(call);
        assert_ne!(call, self.at, "the test's panic");
    }

    fn list(&self) -> Vec<&'static str> {
        self.list.lock().unwrap().clone()
    }
}

fn word(transition: &Transition) -> &'static str {
    match transition {
        Transition::Running { .. } => "Running",
        Transition::Stopping { .. } => "Stopping",
        Transition::Draining { .. } => "Draining",
        Transition::Restarting { .. } => "Restarting",
        Transition::Stopped { .. } => "Stopped",
        _ => "another",
    }
}

struct Watcher(Calls);

impl Observer for Watcher {
    fn claim(&mut self, _: &Starting<'_>) -> Claim {
        self.0.note("claim");
        Claim::Granted
    }

    fn transition(&mut self, transition: &Transition) -> Progress {
        self.0.note(word(transition));
        match (transition, self.0.at) {
            (Transition::Running { .. }, "retry") => Progress::Later(Duration::from_millis(1)),
            _ => Progress::Done,
        }
    }

    fn retry(&mut self) -> Progress {
        self.0.note("retry");
        Progress::Done
    }
}

/// Watches a socket with a byte in it, and has a timer that expires soon. Its end of the socket is
/// closed when it is dropped.
struct Listening {
    calls: Calls,
    stream: UnixStream,
}

impl Service for Listening {
    fn address(&self) -> Option<&Path> {
        if self.calls.at == "address" {
            self.calls.note("address");
        }
        None
    }

    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.calls.at == "ready" {
            cx.register(&self.stream, Interest::READ, 1)?;
        }
        if self.calls.at == "timer" {
            cx.set_timer(Duration::from_millis(1), 1);
            cx.set_timer(Duration::from_millis(2), 1);
        }
        self.calls.note("open");
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, _: &mut ServiceContext<'_, '_>) {
        self.calls.note("ready");
    }

    fn timer(&mut self, _: u32, _: &mut ServiceContext<'_, '_>) {
        self.calls.note("timer");
    }

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        self.calls.note(word(transition));
    }

    fn is_done(&self) -> bool {
        self.calls.note("is_done");
        true
    }
}

/// A loop with two sandboxes: `web`, with the record, the control socket and what panics, and
/// `neighbour`, which must not notice.
struct Host {
    state: State,
    registry: Registry,
    reactor: Loop,
    web: HandlerId,
    neighbour: HandlerId,
}

impl Host {
    fn new(
        script: &str,
        describe: impl FnOnce(Sandbox) -> Sandbox,
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        Self::recorded(script, describe, |builder, registry| {
            build(builder.observer(registry.observer()))
        })
    }

    /// The same, with the record among the observers at a place of the test's choice.
    fn recorded(
        script: &str,
        describe: impl FnOnce(Sandbox) -> Sandbox,
        build: impl FnOnce(Builder, &Registry) -> Builder,
    ) -> Self {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = |name| Sandbox::new(name, state.path().join("log")).unwrap();
        let neighbour = Monitor::builder(sandbox("neighbour"))
            .observer(registry.observer())
            .spawn(&mut reactor, Command::new("sleep").args(["1000"]));
        let web = describe(sandbox("web"));
        let server = Server::new(state.path().join("run"));
        let web = build(Monitor::builder(web), &registry)
            .control_socket(server)
            .unwrap()
            .spawn(&mut reactor, Command::new("sh").args(["-c", script]));
        Self { state, registry, reactor, web, neighbour }
    }

    /// Runs until `web` has ended, and checks what is left of it and beside it.
    #[track_caller]
    fn end(mut self) -> End {
        let web = self.web;
        turn_until(&mut self.reactor, "the end", |reactor| reactor.get(web).unwrap().is_done());
        let end = self.reactor.remove(self.web).unwrap().into_end().unwrap();
        let panic = end.panic.as_ref().expect("the end notes the panic").to_string();
        assert!(panic.contains(" panicked: ") && panic.contains("the test's panic"), "{panic}");

        // The record has the reported end, and the socket is removed.
        let runs = self.registry.runs().unwrap();
        if let Some(run) = runs.iter().rfind(|run| run.name == "web") {
            let state = self.state.run_column("web", "state");
            assert_eq!(state.as_deref(), Some("STOPPED"));
            assert_eq!(
                self.state.run_column("web", "reason").as_deref(),
                Some(end.reason().as_str())
            );
            assert_eq!(run.exit_code, end.recorded_code());
        }
        assert!(!socket_of(&self.state, "web").exists());

        // The loop goes on, and the name is free.
        let pid = self.reactor.get(self.neighbour).unwrap().pid().unwrap();
        assert!(is_alive(pid));
        let sandbox = Sandbox::new("web", self.state.path().join("log")).unwrap();
        let next = Monitor::builder(sandbox)
            .observer(self.registry.observer())
            .spawn(&mut self.reactor, Command::new("true"));
        turn_until(&mut self.reactor, "the next", |reactor| reactor.get(next).unwrap().is_done());
        let next = self.reactor.remove(next).unwrap().into_end().unwrap();
        assert_eq!((next.exit_code(), next.panic.is_none()), (0, true));
        self.reactor.call(self.neighbour, Monitor::stop).unwrap();
        self.reactor.run().unwrap();
        let neighbour = self.reactor.remove(self.neighbour).unwrap().into_end().unwrap();
        assert_eq!(neighbour.status(), Some(ExitStatus::Signal(Signal::TERM)));
        assert!(neighbour.panic.is_none());
        end
    }
}

const SLEEP: &str = "exec sleep 1000";

/// Ends a sandbox whose observer panics at this call, and gives the end, what the observer was
/// called for, and what another one was.
fn observed(
    at: &'static str,
    script: &str,
    describe: impl FnOnce(Sandbox) -> Sandbox,
    act: impl FnOnce(&mut Host),
) -> (End, Vec<&'static str>, Vec<&'static str>) {
    let (panics, other) = (Calls::panic_at(at), Calls::panic_at("none"));
    let mut host = Host::new(script, describe, |builder| {
        builder.observer(Watcher(panics.clone())).observer(Watcher(other.clone()))
    });
    act(&mut host);
    (host.end(), panics.list(), other.list())
}

#[track_caller]
fn assert_stopped_by_the_panic(end: &End) {
    assert_eq!(end.reason(), Reason::SupervisorPanicked);
    assert_eq!(end.status(), Some(ExitStatus::Signal(Signal::TERM)));
}

#[test]
fn a_panic_in_a_claim_starts_nothing() {
    let (end, panicked, other) = observed("claim", "exit 0", |it| it, |_| {});
    assert!(matches!(end.error(), Some(StartError::Panic(_))), "{end:?}");
    assert_eq!((end.reason(), end.exit_code()), (Reason::StartFailed, 125));
    assert_eq!((panicked, other), (vec!["claim"], vec![]));
}

#[test]
fn a_panic_in_the_claim_of_a_later_run_ends_the_restarts_and_each_run_is_recorded() {
    /// Panics at its second claim.
    struct Second(u32);
    impl Observer for Second {
        fn claim(&mut self, _: &Starting<'_>) -> Claim {
            self.0 += 1;
            assert_ne!(self.0, 2, "the test's panic");
            Claim::Granted
        }
        fn transition(&mut self, _: &Transition) -> Progress {
            Progress::Done
        }
    }
    for registry_first in [true, false] {
        let mut host = Host::recorded(
            "exit 3",
            |sandbox| sandbox.restart(Restart::Always),
            |builder, registry| match registry_first {
                true => builder.observer(registry.observer()).observer(Second(0)),
                false => builder.observer(Second(0)).observer(registry.observer()),
            },
        );
        let (web, registry) = (host.web, host.registry.clone());
        turn_until(&mut host.reactor, "the end", |it| it.get(web).unwrap().is_done());
        let runs = registry.runs().unwrap();
        let ends = runs.iter().filter(|run| run.name == "web").map(|run| run.exit_code);
        assert_eq!(ends.collect::<Vec<_>>(), [Some(3), Some(125)]);
        let end = host.end();
        assert!(matches!(end.error(), Some(StartError::Panic(_))), "{end:?}");
    }
}

#[test]
fn a_panic_at_running_stops_the_child_and_the_others_receive_the_rest() {
    let (end, panicked, other) = observed("Running", SLEEP, |it| it, |_| {});
    assert_stopped_by_the_panic(&end);
    assert_eq!(panicked, ["claim", "Running"]);
    assert_eq!(other, ["claim", "Running", "Stopping", "Draining", "Stopped"]);
}

#[test]
fn a_panic_at_stopping_leaves_the_stop_to_go_on() {
    let stop = |host: &mut Host| {
        host.reactor.call(host.web, Monitor::stop).unwrap();
    };
    let (end, panicked, other) = observed("Stopping", SLEEP, |it| it, stop);
    assert_eq!(end.reason(), Reason::Stopped);
    assert_eq!(panicked, ["claim", "Running", "Stopping"]);
    assert_eq!(other, ["claim", "Running", "Stopping", "Draining", "Stopped"]);
}

#[test]
fn a_panic_at_draining_keeps_the_childs_own_end_and_prevents_a_restart() {
    let always = |sandbox: Sandbox| sandbox.restart(Restart::Always);
    let (end, panicked, other) = observed("Draining", "echo tail; exit 3", always, |_| {});
    assert_eq!((end.reason(), end.exit_code(), end.bytes_logged), (Reason::Exited, 3, 5));
    assert_eq!(panicked, ["claim", "Running", "Draining"]);
    assert_eq!(other, ["claim", "Running", "Draining", "Stopped"]);
}

#[test]
fn a_panic_between_two_runs_ends_the_restarts() {
    let always = |sandbox: Sandbox| sandbox.restart(Restart::Always);
    let (end, panicked, other) = observed("Restarting", "exit 3", always, |_| {});
    assert_eq!((end.reason(), end.exit_code()), (Reason::Exited, 3));
    assert_eq!(panicked, ["claim", "Running", "Draining", "Restarting"]);
    assert_eq!(other, ["claim", "Running", "Draining", "Restarting", "Stopped"]);
}

#[test]
fn a_panic_at_stopped_is_noted_in_the_end() {
    let (end, panicked, other) = observed("Stopped", "exit 3", |it| it, |_| {});
    assert_eq!((end.reason(), end.exit_code()), (Reason::Exited, 3));
    assert_eq!(panicked, ["claim", "Running", "Draining", "Stopped"]);
    assert_eq!(other, panicked);
}

#[test]
fn a_panic_in_a_retry_stops_the_child() {
    let (end, panicked, _) = observed("retry", SLEEP, |it| it, |_| {});
    assert_stopped_by_the_panic(&end);
    assert_eq!(panicked, ["claim", "Running", "retry"]);
}

#[test]
fn a_child_that_ignores_the_stop_signal_after_a_panic_is_killed() {
    /// Panics at its first retry, when the child has set its trap.
    struct Trapped(std::path::PathBuf);
    impl Observer for Trapped {
        fn transition(&mut self, transition: &Transition) -> Progress {
            match transition {
                Transition::Running { .. } => Progress::Later(Duration::from_millis(5)),
                _ => Progress::Done,
            }
        }
        fn retry(&mut self) -> Progress {
            let is_up = std::fs::read(&self.0).is_ok_and(|log| log == b"up\n");
            assert!(!is_up, "the test's panic");
            Progress::Later(Duration::from_millis(5))
        }
    }
    let host = Host::new(
        "trap '' TERM; echo up; while :; do sleep 1000; done",
        |sandbox| sandbox.stop_signal(Signal::TERM).stop_timeout(Duration::from_millis(50)),
        |builder| {
            let log = builder.sandbox().log_path();
            builder.observer(Trapped(log))
        },
    );
    let end = host.end();
    assert_eq!(end.reason(), Reason::SupervisorPanicked);
    assert_eq!(end.status(), Some(ExitStatus::Signal(Signal::KILL)));
}

/// Ends a sandbox whose service panics at this call, and checks that it is dropped.
fn served(at: &'static str, script: &str) -> (End, Vec<&'static str>, Vec<&'static str>) {
    let (panics, other) = (Calls::panic_at(at), Calls::panic_at("none"));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"x").unwrap();
    let host = Host::new(
        script,
        |sandbox| sandbox,
        |builder| {
            let (first, _) = UnixStream::pair().unwrap();
            builder
                .service(Listening { calls: panics.clone(), stream: theirs })
                .service(Listening { calls: other.clone(), stream: first })
        },
    );
    let end = host.end();
    (end, panics.list(), other.list())
}

#[test]
fn a_panic_of_a_service_that_is_asked_for_its_address_starts_nothing() {
    let (end, panicked, other) = served("address", "exit 0");
    assert!(matches!(end.error(), Some(StartError::Panic(_))), "{end:?}");
    assert_eq!((panicked, other), (vec!["address"], vec![]));
}

#[test]
fn a_panic_of_a_service_that_is_opened_starts_nothing() {
    let (end, panicked, other) = served("open", "exit 0");
    assert!(matches!(end.error(), Some(StartError::Panic(_))), "{end:?}");
    assert_eq!((panicked, other), (vec!["open"], vec![]));
}

#[test]
fn a_panic_of_a_service_in_a_call_for_a_source_or_a_timer_stops_the_child() {
    for at in ["ready", "timer", "Running"] {
        let (end, panicked, other) = served(at, SLEEP);
        assert_stopped_by_the_panic(&end);
        // Neither its source, which stays readable, nor its second timer calls it again.
        assert_eq!(panicked.last(), Some(&at));
        let rest = ["Stopping", "Draining", "Stopped", "is_done"];
        assert!(other.ends_with(&rest), "{at}: {other:?}");
    }
}

#[test]
fn a_panic_of_a_service_after_the_end_is_noted_in_the_end() {
    for at in ["Stopped", "is_done"] {
        let (end, panicked, _) = served(at, "exit 3");
        assert_eq!((end.reason(), end.exit_code()), (Reason::Exited, 3));
        assert_eq!(panicked.last(), Some(&at));
    }
}

#[test]
fn a_service_that_has_panicked_is_dropped_with_its_sources_and_wakes_the_loop_no_more() {
    struct Open(UnixStream);
    impl Service for Open {
        fn open(
            &mut self,
            cx: &mut ServiceContext<'_, '_>,
        ) -> Result<(), Box<dyn Error + Send + Sync>> {
            cx.register(&self.0, Interest::READ, 1)?;
            cx.set_timer(Duration::from_secs(60), 1);
            Ok(())
        }
        fn ready(&mut self, _: u32, _: Ready, _: &mut ServiceContext<'_, '_>) {
            panic!("the test's panic");
        }
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut host = Host::new(
        "trap '' TERM; echo up; while :; do sleep 1000; done",
        |sandbox| sandbox.stop_signal(Signal::TERM).stop_timeout(Duration::from_secs(3600)),
        |builder| builder.service(Open(theirs)),
    );
    turn_until(&mut host.reactor, "it is up", |_| host.state.log("web") == b"up\n");
    ours.write_all(b"x").unwrap();
    turn_until(&mut host.reactor, "only the stop timeout is due", |reactor| {
        reactor.next_deadline().is_some_and(|at| at > Instant::now() + Duration::from_secs(600))
    });
    let closed = std::io::Read::read(&mut ours, &mut [0]);
    assert!(matches!(&closed, Ok(0) | Err(_)), "{closed:?}");
    host.reactor.call(host.web, |web, _| web.signal_child(Signal::KILL)).unwrap().unwrap();
    assert_eq!(host.end().reason(), Reason::SupervisorPanicked);
}
