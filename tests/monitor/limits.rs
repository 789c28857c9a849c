//! Restarts, the maximum duration and the idle timeout.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{State, TIMEOUT, contains};
use vmon::child::{Command, Signal};
use vmon::monitor::{
    Builder, End, Input, Monitor, Phase, Reason, Restart, Sandbox, Service, ServiceContext,
    StartError, Transition,
};
use vmon::reactor::{Handler, HandlerId, Reactor};

/// The transitions of a run, as words.
type Notes = Arc<Mutex<Vec<String>>>;

struct Host {
    state: State,
    reactor: Reactor<Monitor>,
    id: HandlerId,
    notes: Notes,
}

impl Host {
    fn new(command: Command, describe: impl FnOnce(Sandbox) -> Sandbox) -> Self {
        Self::built(command, describe, |builder| builder)
    }

    fn built(
        command: Command,
        describe: impl FnOnce(Sandbox) -> Sandbox,
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let state = State::new();
        let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let notes = Notes::default();
        let calls = Arc::clone(&notes);
        let note = move |transition: &Transition| {
            calls.lock().unwrap().push(match transition {
                Transition::Running { .. } => "running".to_owned(),
                Transition::Restarting { end, after, .. } => {
                    format!("restarting {} {}", end.exit_code(), after.as_millis())
                }
                Transition::Stopped { end, .. } => format!("stopped {}", end.exit_code()),
                _ => return,
            });
        };
        let builder = Monitor::builder(describe(sandbox)).observer(note);
        let id = build(builder).spawn(&mut reactor, command);
        Self { state, reactor, id, notes }
    }

    fn sh(script: &str, describe: impl FnOnce(Sandbox) -> Sandbox) -> Self {
        Self::new(Command::new("sh").args(["-c", script]), describe)
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + TIMEOUT;
        while !holds(self) {
            assert!(Instant::now() < give_up, "it never came: {what}");
            self.reactor.poll_once(Some(Duration::from_millis(20))).unwrap();
        }
    }

    fn monitor(&self) -> &Monitor {
        self.reactor.get(self.id).unwrap()
    }

    fn stop(&mut self) {
        self.reactor.call(self.id, Monitor::stop).unwrap();
    }

    #[track_caller]
    fn end(&mut self) -> End {
        self.until("the end", |host| host.monitor().is_done());
        self.monitor().end().unwrap().clone()
    }

    fn seen(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

#[test]
fn a_failed_command_is_restarted_n_times_with_growing_delays() {
    let twice = |sandbox: Sandbox| sandbox.restart(Restart::OnFailure { max: Some(2) });
    let mut host = Host::sh("echo again; exit 3", twice);
    assert_eq!(host.end().exit_code(), 3);
    let expected =
        ["running", "restarting 3 100", "running", "restarting 3 200", "running", "stopped 3"];
    assert_eq!(host.seen(), expected);
    assert_eq!(host.state.log("a"), b"again\nagain\nagain\n");
    assert_eq!(host.monitor().report().restarts, 2);
}

#[test]
fn a_successful_command_is_restarted_only_with_always() {
    let on_failure = |sandbox: Sandbox| sandbox.restart(Restart::OnFailure { max: None });
    let mut host = Host::sh("exit 0", on_failure);
    assert_eq!(host.end().exit_code(), 0);
    assert_eq!(host.seen(), ["running", "stopped 0"]);
    let mut host = Host::sh("exit 0", |sandbox| sandbox.restart(Restart::Always));
    // Between two runs: a stop would end a shell that still runs by its signal.
    host.until("it has run three times", |host| {
        let report = host.monitor().report();
        report.restarts >= 2 && report.phase == Phase::Restarting
    });
    host.stop();
    assert_eq!(host.end().exit_code(), 0);
}

#[test]
fn a_run_that_ends_in_a_flood_gives_back_what_its_pipes_took() {
    let mut host = Host::sh("head -c 16000000 /dev/zero", |it| it.restart(Restart::Always));
    host.until("it has run three times", |host| {
        let report = host.monitor().report();
        report.restarts >= 2 && report.phase == Phase::Restarting
    });
    let is_whole = host.reactor.call(host.id, |_, cx| cx.budget.take(8 << 20));
    assert_eq!(is_whole, Some(true));
    host.stop();
    host.end();
}

#[test]
fn a_signal_is_a_failure() {
    let once = |sandbox: Sandbox| sandbox.restart(Restart::OnFailure { max: Some(1) });
    let mut host = Host::sh("kill -9 $$", once);
    assert_eq!(host.end().exit_code(), 137);
    assert_eq!(host.monitor().report().restarts, 1);
}

#[test]
fn a_command_that_could_not_be_started_is_not_restarted() {
    let command = Command::new("/nonexistent/program");
    let mut host = Host::new(command, |sandbox| sandbox.restart(Restart::Always));
    assert_eq!(host.end().exit_code(), 127);
    assert_eq!(host.seen(), ["stopped 127"]);
}

#[test]
#[cfg(target_os = "linux")]
fn starts_that_fail_again_and_again_keep_one_descriptor_on_the_log() {
    let directory = State::new();
    let gone = directory.file("gone");
    std::fs::create_dir(&gone).unwrap();
    let command = Command::new("sh").args(["-c", "rmdir \"$PWD\"; exit 1"]).current_dir(&gone);
    let mut host = Host::new(command, |sandbox| sandbox.restart(Restart::Always));
    host.until("three starts have failed", |host| {
        let report = host.monitor().report();
        report.restarts >= 3 && report.phase == Phase::Restarting
    });
    let log = host.monitor().report().log;
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(open.filter(|path| Some(path) == log.as_ref()).count(), 1);
    host.stop();
    host.end();
}

#[test]
fn a_service_that_requests_a_stop_while_it_is_opened_gets_the_end() {
    struct Stopping {
        done: bool,
    }
    impl Service for Stopping {
        fn open(
            &mut self,
            cx: &mut ServiceContext<'_, '_>,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            cx.stop(None);
            Ok(())
        }
        fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
            self.done |= matches!(transition, Transition::Stopped { .. });
        }
        fn is_done(&self) -> bool {
            self.done
        }
    }
    let service = Stopping { done: false };
    let mut host =
        Host::built(Command::new("true"), |sandbox| sandbox, |builder| builder.service(service));
    assert!(matches!(host.end().error(), Some(StartError::Stopped)));
    assert_eq!(host.seen(), ["stopped 125"]);
}

#[test]
fn a_stop_ends_the_restarts_while_it_runs_and_between_two_runs() {
    let mut host = Host::sh("exec sleep 1000", |sandbox| sandbox.restart(Restart::Always));
    host.until("it runs", |host| host.monitor().pid().is_some());
    host.stop();
    let end = host.end();
    assert_eq!((end.reason(), end.exit_code()), (Reason::Stopped, 143));

    let mut host = Host::sh("exit 5", |sandbox| sandbox.restart(Restart::Always));
    host.until("it waits", |host| host.monitor().report().phase == Phase::Restarting);
    let waiting = host.monitor().report();
    assert_eq!(waiting.end.unwrap().exit_code(), 5);
    host.stop();
    let end = host.end();
    assert_eq!((end.reason(), end.exit_code()), (Reason::Exited, 5));
    assert!(host.seen().last().unwrap().starts_with("stopped 5"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_stop_while_the_output_is_drained_ends_the_restarts() {
    // What is left ignores the signal that the child's end brings.
    let script = "trap '' TERM; sleep 1000 & exit 5";
    let mut host = Host::sh(script, |sandbox| {
        sandbox
            .restart(Restart::Always)
            .stop_signal(Signal::TERM)
            .stop_timeout(Duration::from_secs(3600))
    });
    host.until("it drains", |host| host.monitor().report().phase == Phase::Draining);
    host.stop();
    let end = host.end();
    assert_eq!((end.reason(), end.exit_code()), (Reason::Exited, 5));
    assert_eq!(host.seen(), ["running", "stopped 5"]);
}

#[test]
fn a_run_is_stopped_after_its_maximum_duration() {
    let short = |sandbox: Sandbox| {
        sandbox.max_duration(Duration::from_millis(200)).restart(Restart::Always)
    };
    let mut host = Host::sh("echo up; exec sleep 1000", short);
    let end = host.end();
    assert_eq!((end.reason(), end.exit_code()), (Reason::MaxDuration, 143));
    assert_eq!(host.seen(), ["running", "stopped 143"]);
}

#[test]
fn the_idle_timeout_ends_a_silent_run_and_output_renews_it() {
    let quiet = |sandbox: Sandbox| sandbox.idle_timeout(Duration::from_secs(2));
    // Longer than the timeout in all, and far shorter between two lines.
    let script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.4; done; exec sleep 1000";
    let mut host = Host::sh(script, quiet);
    let end = host.end();
    assert_eq!(end.reason(), Reason::IdleTimeout);
    assert!(contains(&host.state.log("a"), b"\n8\n"), "{:?}", host.state.log("a"));
}

#[test]
fn input_renews_the_idle_timeout() {
    let quiet =
        |sandbox: Sandbox| sandbox.idle_timeout(Duration::from_secs(2)).input(Input::Attached);
    let mut host = Host::sh("cat >/dev/null", quiet);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let request = vmon::monitor::Attach::default();
    host.reactor
        .call(host.id, |it, cx| it.attach(ours, &request, |_| Vec::new(), cx).map(drop))
        .unwrap()
        .unwrap();
    // More often than the timeout, for longer than that.
    for _ in 0..30 {
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        let next = Instant::now() + Duration::from_millis(100);
        host.until("a moment", |_| Instant::now() >= next);
    }
    assert!(host.monitor().pid().is_some(), "it runs on");
    assert_eq!(host.end().reason(), Reason::IdleTimeout);
}
