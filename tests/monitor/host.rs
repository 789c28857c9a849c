//! The library in a host of its own: children spawned and handed over, observers, loops in loops,
//! and what the host's process keeps for itself.
//!
//! What concerns a whole process (its signal actions, its threads) needs one of its own: this
//! test binary runs itself again for one test that is ignored otherwise, the *host*.

#![allow(unsafe_code)] // a host that ignores SIGCHLD
#![allow(clippy::zombie_processes)] // vmon reaps what is handed over

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child as StdChild, Command as StdCommand, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::turning::{Loop, start_added, turn_until};
use crate::common::{self, State, assert_same, contains, eventually, is_alive, wait};
use nix::sys::signal::{Signal as Sig, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use vmon::child::{ChildIo, Command, ExitStatus, Signal};
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{
    AdoptError, Claim, End, Monitor, Observer, Outcome, Phase, Progress, Reason, Sandbox,
    StartError, Starting, Transition,
};
use vmon::reactor::{HandlerId, Reactor};

fn sandbox(state: &State, name: &str) -> Sandbox {
    Sandbox::new(name, state.path().join("log")).unwrap()
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn spawn(reactor: &mut Loop, sandbox: Sandbox, script: &str) -> HandlerId {
    Monitor::builder(sandbox).spawn(reactor, sh(script))
}

/// Turns until this monitor is done.
#[track_caller]
fn end_of(reactor: &mut Loop, id: HandlerId) -> End {
    use vmon::reactor::Handler;
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.remove(id).unwrap().into_end().unwrap()
}

fn stop(reactor: &mut Loop, id: HandlerId) {
    reactor.call(id, Monitor::stop).unwrap();
}

#[track_caller]
fn assert_ended(end: &End, expected: ExitStatus, because: Reason) {
    match &end.outcome {
        Outcome::Ended { status, reason } => assert_eq!((*status, *reason), (expected, because)),
        Outcome::NotStarted(error) => panic!("not started: {error}"),
    }
}

fn not_started(end: End) -> Arc<StartError> {
    match end.outcome {
        Outcome::NotStarted(error) => error,
        other => panic!("it was started: {other:?}"),
    }
}

/// An observer that records the transitions, and answers claims as the test sets.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<&'static str>>>);

impl Notes {
    fn seen(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Notes {
    fn transition(&mut self, transition: &Transition) -> Progress {
        self.0.lock().unwrap().push(match transition {
            Transition::Running { .. } => "Running",
            Transition::Stopping { .. } => "Stopping",
            Transition::Draining { .. } => "Draining",
            Transition::Stopped { .. } => "Stopped",
            _ => "another",
        });
        Progress::Done
    }
}

/// An observer that answers claims with a closure.
struct Claims<F>(F, Notes);

impl<F: FnMut() -> Claim + Send> Observer for Claims<F> {
    fn claim(&mut self, _: &Starting<'_>) -> Claim {
        (self.0)()
    }

    fn transition(&mut self, transition: &Transition) -> Progress {
        self.1.transition(transition)
    }
}

/// A child that the host spawns itself.
fn host_child(script: &str) -> StdCommand {
    let mut command = StdCommand::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Fails to compile if a host can't build a monitor, or run its loop, on another thread.
#[test]
fn a_host_may_move_builders_monitors_and_reactors_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<vmon::monitor::Builder>();
    is_send::<Monitor>();
    is_send::<Loop>();
    is_send::<Box<dyn Observer>>();
    is_send::<Box<dyn vmon::monitor::Service>>();
}

const NO_IO: ChildIo = ChildIo::Piped { stdin: None, stdout: None, stderr: None };

/// Reaps nothing: whether this process still has the child to itself.
fn is_reaped(pid: u32) -> bool {
    use nix::sys::wait::{Id, waitid};
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid as i32)), look) == Err(nix::errno::Errno::ECHILD)
}

mod spawned {
    use super::*;

    #[test]
    fn a_child_is_logged_and_its_end_is_returned() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "web"), "echo out; echo err >&2; exit 7");
        reactor.run().unwrap();
        let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
        assert_ended(&end, ExitStatus::Code(7), Reason::Exited);
        assert_eq!((end.exit_code(), end.bytes_logged, end.bytes_dropped), (7, 8, 0));
        let log = state.log("web");
        assert!(contains(&log, b"out\n") && contains(&log, b"err\n"));
    }

    #[test]
    fn a_signal_of_another_process_is_the_reason_of_the_end() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "web"), "kill -USR1 $$");
        let end = end_of(&mut reactor, id);
        assert_eq!(end.signal().map(Signal::number), Some(libc::SIGUSR1));
        assert_eq!((end.reason(), end.exit_code()), (Reason::Signalled, 128 + libc::SIGUSR1 as u8));
    }

    #[test]
    fn a_command_that_does_not_exist_ends_with_127_and_one_transition() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(notes.clone())
            .spawn(&mut reactor, Command::new("/nonexistent/program"));
        let end = end_of(&mut reactor, id);
        assert_eq!((end.exit_code(), end.reason()), (127, Reason::StartFailed));
        assert_eq!(notes.seen(), ["Stopped"]);
    }

    #[test]
    fn a_child_on_a_pty_has_a_terminal_of_its_own() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "tty"))
            .spawn(&mut reactor, sh("test -t 1 && test -t 2 && tty </dev/tty").pty(true));
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(0), Reason::Exited);
        assert!(contains(&state.log("tty"), b"/dev/"));
    }

    #[test]
    fn one_monitor_after_another_is_started_on_the_same_reactor() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        for code in 1..=5 {
            let id = spawn(&mut reactor, sandbox(&state, "again"), &format!("exit {code}"));
            assert_eq!(end_of(&mut reactor, id).exit_code(), code);
        }
    }

    #[test]
    fn two_monitors_of_one_log_are_refused_without_a_record_too() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let first = spawn(&mut reactor, sandbox(&state, "web"), "echo up; exec sleep 1000");
        let other = spawn(&mut reactor, sandbox(&state, "other"), "exit 2");
        let second = spawn(&mut reactor, sandbox(&state, "web"), "echo second");
        let error = not_started(end_of(&mut reactor, second));
        let own = std::process::id();
        assert!(matches!(*error, StartError::Taken { supervisor, .. } if supervisor == own));
        assert_eq!(end_of(&mut reactor, other).exit_code(), 2);
        stop(&mut reactor, first);
        end_of(&mut reactor, first);
        let third = spawn(&mut reactor, sandbox(&state, "web"), "echo third");
        assert_eq!(end_of(&mut reactor, third).exit_code(), 0);
        assert!(!contains(&state.log("web"), b"second"));
    }

    #[test]
    fn removing_a_monitor_mid_run_leaves_the_others_alone() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let removed = spawn(&mut reactor, sandbox(&state, "removed"), "echo up; exec sleep 1000");
        let kept = spawn(&mut reactor, sandbox(&state, "kept"), "echo up; exec sleep 1000");
        turn_until(&mut reactor, "both are up", |_| {
            state.log("removed") == b"up\n" && state.log("kept") == b"up\n"
        });
        let pid = reactor.get(removed).unwrap().pid().unwrap();
        let monitor = reactor.remove(removed).unwrap();
        assert!(monitor.end().is_none());
        drop(monitor);
        stop(&mut reactor, kept);
        let end = end_of(&mut reactor, kept);
        assert_ended(&end, ExitStatus::Signal(Signal::TERM), Reason::Stopped);
        // Nobody monitors it any more: it is the host's to end and to reap.
        kill(Pid::from_raw(pid as i32), Sig::SIGKILL).unwrap();
        waitpid(Pid::from_raw(pid as i32), None).unwrap();
    }
}

mod handed_over {
    use super::*;

    /// Starts a monitor of a child that the host has spawned.
    fn start(reactor: &mut Loop, sandbox: Sandbox, child: &StdChild, io: ChildIo) -> HandlerId {
        Monitor::builder(sandbox).start(reactor, child.id(), io).unwrap()
    }

    const TALK: &str = "echo out; echo err >&2; exit 3";

    #[test]
    fn both_outputs_are_logged() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut child =
            host_child(TALK).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = start(&mut reactor, sandbox(&state, "both"), &child, io);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(3), Reason::Exited);
        let log = state.log("both");
        assert!(contains(&log, b"out\n") && contains(&log, b"err\n") && log.len() == 8);
    }

    #[test]
    fn each_stream_may_be_absent() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut ends = Vec::new();
        for (name, out, err, logged) in [
            ("out", true, false, "out\n"),
            ("err", false, true, "err\n"),
            ("none", false, false, ""),
        ] {
            let mut command = host_child(TALK);
            if out {
                command.stdout(Stdio::piped());
            }
            if err {
                command.stderr(Stdio::piped());
            }
            let mut child = command.spawn().unwrap();
            let io = ChildIo::from(&mut child);
            ends.push((name, logged, start(&mut reactor, sandbox(&state, name), &child, io)));
        }
        reactor.run().unwrap();
        for (name, logged, id) in ends {
            let end = reactor.remove(id).unwrap().into_end().unwrap();
            assert_ended(&end, ExitStatus::Code(3), Reason::Exited);
            assert_eq!(state.log(name), logged.as_bytes(), "{name}");
        }
    }

    #[test]
    fn an_input_that_is_not_forwarded_is_closed_at_once() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut command = host_child("cat; echo ended");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = start(&mut reactor, sandbox(&state, "cat"), &child, io);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(0), Reason::Exited);
        assert_eq!(state.log("cat"), b"ended\n");
    }

    #[test]
    fn stream_sockets_serve_as_pipes() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut command = host_child("head -c 300000 /dev/zero; echo end");
        let child = command.stdout(OwnedFd::from(theirs)).spawn().unwrap();
        drop(command);
        let io = ChildIo::Piped { stdin: None, stdout: Some(ours.into()), stderr: None };
        let id = start(&mut reactor, sandbox(&state, "socket"), &child, io);
        let end = end_of(&mut reactor, id);
        assert_eq!(end.bytes_logged, 300_004);
        assert!(state.log("socket").ends_with(b"\0end\n"));
    }

    #[test]
    fn a_pty_master_is_read_to_its_end() {
        use nix::fcntl::{OFlag, open};
        use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave = open(name.as_str(), flags, nix::sys::stat::Mode::empty()).unwrap();
        let mut command = host_child("test -t 1 && seq 1 20000; exit 4");
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        drop(command);
        let io = ChildIo::Tty { master: OwnedFd::from(master) };
        let id = start(&mut reactor, sandbox(&state, "tty"), &child, io);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(4), Reason::Exited);
        let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
        assert_same(&state.log("tty"), expected.as_bytes(), "the log of a PTY");
    }

    #[test]
    fn a_child_that_has_already_ended_can_be_handed_over() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut child = host_child("echo tail; exit 9").stdout(Stdio::piped()).spawn().unwrap();
        eventually("the child is a zombie", || !is_alive(child.id()));
        let io = ChildIo::from(&mut child);
        let id = start(&mut reactor, sandbox(&state, "gone"), &child, io);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(9), Reason::Exited);
        assert_eq!(state.log("gone"), b"tail\n");
    }

    #[test]
    fn a_pid_that_is_not_our_child_is_refused() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut reaped = host_child("exit 0").spawn().unwrap();
        wait(&mut reaped);
        // Its child is none of ours.
        let mut parent =
            host_child("sleep 1000 & echo $!; wait").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(parent.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        let grandchild = line.trim().parse().unwrap();
        for pid in [0, 1, std::process::id(), u32::MAX, reaped.id(), grandchild] {
            let notes = Notes::default();
            let result = Monitor::builder(sandbox(&state, "stranger"))
                .observer(notes.clone())
                .start(&mut reactor, pid, NO_IO);
            assert!(matches!(result, Err(AdoptError { .. })), "pid {pid}: {result:?}");
            assert_eq!(notes.seen(), [""; 0]);
        }
        assert!(reactor.is_done());
        kill(Pid::from_raw(grandchild as i32), Sig::SIGKILL).unwrap();
        wait(&mut parent);
    }

    #[test]
    fn a_child_that_leads_no_group_is_signalled_alone() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        // In our own group: a signal to that would end the tests.
        let child = host_child("exec sleep 1000").spawn().unwrap();
        let id = start(&mut reactor, sandbox(&state, "alone"), &child, NO_IO);
        stop(&mut reactor, id);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Signal(Signal::TERM), Reason::Stopped);
    }

    #[test]
    fn a_child_that_leads_a_group_is_stopped_with_it() {
        use std::os::unix::process::CommandExt;
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let mut command = host_child("sleep 1000 & echo $!; wait");
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = start(&mut reactor, sandbox(&state, "group"), &child, io);
        turn_until(&mut reactor, "its line", |_| state.log("group").ends_with(b"\n"));
        let job: u32 = String::from_utf8(state.log("group")).unwrap().trim().parse().unwrap();
        stop(&mut reactor, id);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Signal(Signal::TERM), Reason::Stopped);
        eventually("its job has ended too", || !is_alive(job));
    }

    #[test]
    fn a_child_that_has_ended_before_a_stop_has_not_ended_because_of_it() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let child = host_child("kill -SEGV $$").spawn().unwrap();
        let id = start(&mut reactor, sandbox(&state, "crashed"), &child, NO_IO);
        // Running for the monitor, which has not been called since.
        turn_until(&mut reactor, "it runs", |it| it.get(id).unwrap().pid().is_some());
        eventually("it has ended", || common::process_state(child.id()) == Some('Z'));
        stop(&mut reactor, id);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Signal("SEGV".parse().unwrap()), Reason::Signalled);
    }

    #[test]
    fn the_drain_of_a_source_that_never_ends_ends_at_the_stop_timeout() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let zero = fs::File::open("/dev/zero").unwrap();
        let child = host_child("exit 3").spawn().unwrap();
        let io = ChildIo::Piped { stdin: None, stdout: Some(zero.into()), stderr: None };
        let retention = Retention::default().max_size(1 << 20).max_files(2);
        let log = LogOptions::default().retention(retention);
        let sandbox = sandbox(&state, "endless").log(log).stop_timeout(Duration::from_millis(200));
        let id = start(&mut reactor, sandbox, &child, io);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Code(3), Reason::Exited);
        assert!(end.bytes_logged > 0);
    }

    #[test]
    fn the_transitions_are_those_of_a_spawned_child() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let child = host_child("exec sleep 1000").spawn().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(notes.clone())
            .start(&mut reactor, child.id(), NO_IO)
            .unwrap();
        start_added(&mut reactor);
        assert_eq!(notes.seen(), ["Running"]);
        assert_eq!(reactor.get(id).unwrap().pid(), Some(child.id()));
        stop(&mut reactor, id);
        end_of(&mut reactor, id);
        assert_eq!(notes.seen(), ["Running", "Stopping", "Draining", "Stopped"]);
    }

    #[test]
    fn a_pending_claim_does_not_delay_the_monitoring_of_a_running_child() {
        let state = State::new();
        for refusal in [false, true] {
            let notes = Notes::default();
            let later = move || match refusal {
                false => Claim::Later(Duration::from_secs(1000), "locked".into()),
                true => Claim::Refused("no disk".into()),
            };
            let mut reactor = Reactor::new().unwrap();
            let child = host_child("exit 5").spawn().unwrap();
            let id = Monitor::builder(sandbox(&state, "web"))
                .observer(Claims(later, notes.clone()))
                .start(&mut reactor, child.id(), NO_IO)
                .unwrap();
            assert_ended(&end_of(&mut reactor, id), ExitStatus::Code(5), Reason::Exited);
            let expected = if refusal { vec![] } else { vec!["Running", "Draining", "Stopped"] };
            assert_eq!(notes.seen(), expected);
        }
    }

    #[test]
    fn a_name_that_is_taken_leaves_the_child_to_the_host() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let mut child = host_child("exec cat").stdin(Stdio::piped()).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Claims(|| Claim::Taken { supervisor: 77 }, notes.clone()))
            .start(&mut reactor, child.id(), io)
            .unwrap();
        let error = not_started(end_of(&mut reactor, id));
        assert!(matches!(*error, StartError::Taken { supervisor: 77, .. }), "{error:?}");
        assert_eq!(notes.seen(), [""; 0]);
        // Its io is closed, which ends `cat`; its exit status is still the host's.
        assert_eq!(common::code(wait(&mut child)), 0);
    }

    #[test]
    fn a_log_that_can_not_be_opened_leaves_the_child_to_the_host() {
        let state = State::new();
        fs::write(state.path().join("log"), "not a directory").unwrap();
        let mut reactor = Reactor::new().unwrap();
        let mut child = host_child("exec cat").stdin(Stdio::piped()).spawn().unwrap();
        let io = ChildIo::from(&mut child);
        let id = start(&mut reactor, sandbox(&state, "web"), &child, io);
        let error = not_started(end_of(&mut reactor, id));
        assert!(matches!(*error, StartError::Log(_)), "{error:?}");
        assert_eq!(common::code(wait(&mut child)), 0);
    }
}

mod stops {
    use super::*;

    /// A child that prints `up`, and then does not end by TERM.
    const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 1000; done";

    #[test]
    fn a_stop_is_a_request_and_the_observer_gets_the_end() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let script = "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.01; done";
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(notes.clone())
            .spawn(&mut reactor, sh(script));
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        stop(&mut reactor, id);
        // It is only asked for.
        assert!(reactor.get(id).unwrap().end().is_none());
        assert_eq!(notes.seen(), ["Running", "Stopping"]);
        turn_until(&mut reactor, "its end", |_| notes.seen().last() == Some(&"Stopped"));
        assert_eq!(notes.seen(), ["Running", "Stopping", "Draining", "Stopped"]);
        assert_ended(&end_of(&mut reactor, id), ExitStatus::Code(5), Reason::Stopped);
        // On its stderr, the shell may have reported its `sleep`, which got the signal too.
        let log = String::from_utf8(state.log("web")).unwrap();
        assert!(log.contains("asked\n"), "{log:?}");
    }

    #[test]
    fn a_second_stop_after_a_second_kills() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox(&state, "web")
            .stop_signal(Signal::TERM)
            .stop_timeout(Duration::from_secs(3600));
        let id = spawn(&mut reactor, sandbox, STUBBORN);
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        let asked = Instant::now();
        // Again and again: what comes within a second is the same request.
        turn_until(&mut reactor, "its end", |reactor| {
            stop(reactor, id);
            reactor.get(id).unwrap().end().is_some()
        });
        assert!(asked.elapsed() >= Duration::from_secs(1));
        assert_ended(&end_of(&mut reactor, id), ExitStatus::Signal(Signal::KILL), Reason::Killed);
    }

    #[test]
    fn the_stop_timeout_kills() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox(&state, "web")
            .stop_signal(Signal::TERM)
            .stop_timeout(Duration::from_millis(50));
        let id = spawn(&mut reactor, sandbox, STUBBORN);
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        stop(&mut reactor, id);
        assert_ended(&end_of(&mut reactor, id), ExitStatus::Signal(Signal::KILL), Reason::Killed);
    }

    #[test]
    fn the_stop_signal_is_the_sandboxes_own() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let sandbox =
            sandbox(&state, "web").stop_signal(Signal::INT).stop_timeout(Duration::from_secs(3600));
        let id = spawn(
            &mut reactor,
            sandbox,
            "trap 'exit 6' INT; echo up; while :; do sleep 0.01; done",
        );
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        stop(&mut reactor, id);
        assert_ended(&end_of(&mut reactor, id), ExitStatus::Code(6), Reason::Stopped);
    }

    #[test]
    fn a_stop_of_one_monitor_does_not_affect_the_others() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let ids = ["a", "b", "c"].map(|name| {
            let script = "trap 'exit 8' TERM; echo up; while :; do sleep 0.01; done";
            spawn(&mut reactor, sandbox(&state, name), script)
        });
        turn_until(&mut reactor, "all are up", |_| {
            ["a", "b", "c"].iter().all(|name| state.log(name) == b"up\n")
        });
        stop(&mut reactor, ids[1]);
        assert_eq!(end_of(&mut reactor, ids[1]).exit_code(), 8);
        for id in [ids[0], ids[2]] {
            assert!(reactor.get(id).unwrap().end().is_none());
            stop(&mut reactor, id);
            assert_eq!(end_of(&mut reactor, id).exit_code(), 8);
        }
    }

    #[test]
    fn a_stop_after_the_end_changes_nothing() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(notes.clone())
            .spawn(&mut reactor, sh("exit 3"));
        reactor.run().unwrap();
        stop(&mut reactor, id);
        reactor.poll_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(notes.seen(), ["Running", "Draining", "Stopped"]);
        assert_eq!(end_of(&mut reactor, id).exit_code(), 3);
    }
}

mod many {
    use super::*;

    #[test]
    fn fifty_children_on_one_reactor_end_each_on_its_own() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let children: Vec<_> = (0..50_u8)
            .map(|n| {
                let notes = Notes::default();
                let script = format!(
                    "for i in 1 2 3 4 5; do echo {n}.$i; echo err {n}.$i >&2; done; exit {n}"
                );
                let id = Monitor::builder(sandbox(&state, &format!("box-{n}")))
                    .observer(notes.clone())
                    .spawn(&mut reactor, sh(&script).pty(n % 5 == 0));
                (n, id, notes)
            })
            .collect();
        reactor.run().unwrap();
        for (n, id, notes) in children {
            let end = reactor.remove(id).unwrap().into_end().unwrap();
            assert_ended(&end, ExitStatus::Code(n.into()), Reason::Exited);
            assert_eq!(notes.seen(), ["Running", "Draining", "Stopped"]);
            let log = String::from_utf8(state.log(&format!("box-{n}"))).unwrap();
            let lines: Vec<_> = log.lines().map(|line| line.trim_end().to_owned()).collect();
            let out: Vec<_> = lines.iter().filter(|line| !line.starts_with("err")).collect();
            let err: Vec<_> = lines.iter().filter(|line| line.starts_with("err")).collect();
            assert_eq!(
                out,
                (1..=5).map(|i| format!("{n}.{i}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
            );
            assert_eq!(
                err,
                (1..=5)
                    .map(|i| format!("err {n}.{i}"))
                    .collect::<Vec<_>>()
                    .iter()
                    .collect::<Vec<_>>()
            );
            assert_eq!(end.bytes_logged, log.len() as u64);
        }
    }

    /// A log whose generations show how much was written.
    fn small() -> Retention {
        Retention::default().max_size(1 << 20).max_files(1)
    }

    /// The number of the newest generation: how many MiB a flood has brought.
    fn brought(state: &State) -> u64 {
        let newest = state.generations("flood").pop();
        let number = newest.as_ref().and_then(|path| path.extension()?.to_str()?.parse().ok());
        number.unwrap_or(0)
    }

    /// While the flood goes on, each answer of a neighbour takes a few turns and no more.
    #[track_caller]
    fn a_neighbour_answers(reactor: &mut Loop, state: &State) {
        turn_until(reactor, "the flood", |_| brought(state) > 0);
        assert!(brought(state) <= 64, "{} MiB in a turn", brought(state));
        let (questions, mut ask) = std::io::pipe().unwrap();
        let mut command = host_child("exec cat");
        let mut echo = command.stdin(questions).stdout(Stdio::piped()).spawn().unwrap();
        drop(command);
        let io = ChildIo::from(&mut echo);
        let echo = Monitor::builder(sandbox(state, "echo")).start(reactor, echo.id(), io).unwrap();
        for round in 1..=50 {
            ask.write_all(b"question\n").unwrap();
            let begun = brought(state);
            turn_until(reactor, "an answer", |_| state.log("echo").len() == round * 9);
            let meanwhile = brought(state) - begun;
            assert!(meanwhile <= 64, "the answer came after {meanwhile} MiB of the flood");
        }
        drop(ask);
        assert_eq!(end_of(reactor, echo).exit_code(), 0);
    }

    #[test]
    fn a_child_that_floods_starves_none_of_the_others() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox(&state, "flood").log(LogOptions::default().retention(small()));
        let flood = spawn(&mut reactor, sandbox, "exec cat /dev/zero");
        a_neighbour_answers(&mut reactor, &state);
        assert!(reactor.get(flood).unwrap().end().is_none());
        stop(&mut reactor, flood);
        let end = end_of(&mut reactor, flood);
        assert_ended(&end, ExitStatus::Signal(Signal::TERM), Reason::Stopped);
    }

    #[test]
    fn a_stream_that_never_runs_dry_starves_none_of_the_others() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        // A pipe is empty whenever its reader is the faster one. This has 16 GiB for each read.
        let endless = tempfile::tempfile().unwrap();
        endless.set_len(16 << 30).unwrap();
        let mut child = host_child("exec sleep 1000").spawn().unwrap();
        let io = ChildIo::Piped { stdin: None, stdout: Some(endless.into()), stderr: None };
        let flood = Monitor::builder(
            sandbox(&state, "flood").log(LogOptions::default().retention(small())),
        )
        .start(&mut reactor, child.id(), io)
        .unwrap();
        a_neighbour_answers(&mut reactor, &state);
        reactor.remove(flood).unwrap();
        child.kill().unwrap();
        wait(&mut child);
    }
}

mod observers {
    use super::*;

    #[test]
    fn an_observer_is_not_called_before_the_host_knows_the_id() {
        let state = State::new();
        let notes = Notes::default();
        let calls = notes.clone();
        let claim = move || {
            calls.0.lock().unwrap().push("Claim");
            Claim::Granted
        };
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Claims(claim.clone(), notes.clone()))
            .spawn(&mut reactor, sh("exec sleep 1000"));
        let child = host_child("exec sleep 1000").spawn().unwrap();
        let given = Monitor::builder(sandbox(&state, "given"))
            .observer(Claims(claim, notes.clone()))
            .start(&mut reactor, child.id(), NO_IO)
            .unwrap();
        assert_eq!(notes.seen(), [""; 0]);
        assert_eq!(reactor.get(id).unwrap().report().phase, Phase::Starting);
        // The first turn starts both and does not wait.
        reactor.poll_once(None).unwrap();
        assert_eq!(notes.seen(), ["Claim", "Running", "Claim", "Running"]);
        for id in [id, given] {
            stop(&mut reactor, id);
            end_of(&mut reactor, id);
        }
    }

    #[test]
    fn a_request_before_the_first_turn_finds_the_child_started() {
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(notes.clone())
            .spawn(&mut reactor, sh("exec sleep 1000"));
        stop(&mut reactor, id);
        assert_eq!(notes.seen(), ["Running", "Stopping"]);
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Signal(Signal::TERM), Reason::Stopped);
    }

    #[test]
    fn each_of_several_observers_gets_every_transition_once_and_in_order() {
        let state = State::new();
        let (first, second) = (Notes::default(), Notes::default());
        let closure = Arc::new(Mutex::new(0));
        let count = closure.clone();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(first.clone())
            .observer(second.clone())
            .observer(move |_: &Transition| *count.lock().unwrap() += 1)
            .spawn(&mut reactor, sh("echo x"));
        end_of(&mut reactor, id);
        assert_eq!(first.seen(), ["Running", "Draining", "Stopped"]);
        assert_eq!(second.seen(), first.seen());
        assert_eq!(*closure.lock().unwrap(), 3);
    }

    #[test]
    fn the_end_is_reported_after_the_child_is_reaped_and_its_output_logged() {
        let state = State::new();
        let path = state.log_path("web");
        let seen = Arc::new(Mutex::new(None));
        let pid = Arc::new(Mutex::new(0));
        let (seen_there, pid_there) = (seen.clone(), pid.clone());
        let observer = move |transition: &Transition| match transition {
            Transition::Running { child, .. } => *pid_there.lock().unwrap() = child.pid,
            Transition::Draining { status, .. } => {
                assert_eq!(*status, ExitStatus::Code(2));
                assert!(is_reaped(*pid_there.lock().unwrap()));
            }
            Transition::Stopped { end, .. } => {
                let logged = fs::metadata(&path).unwrap().len();
                *seen_there.lock().unwrap() = Some((logged, end.bytes_logged));
            }
            _ => {}
        };
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(observer)
            .spawn(&mut reactor, sh("head -c 1000000 /dev/zero; exit 2"));
        end_of(&mut reactor, id);
        assert_eq!(*seen.lock().unwrap(), Some((1_000_000, 1_000_000)));
    }

    #[test]
    fn nothing_is_started_if_an_observer_refuses_the_claim() {
        let state = State::new();
        let marker = state.file("started");
        let (granted, refused, behind) = (Notes::default(), Notes::default(), Notes::default());
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(granted.clone())
            .observer(Claims(|| Claim::Refused("not today".into()), refused.clone()))
            .observer(behind.clone())
            .spawn(&mut reactor, Command::new("touch").args([&marker]));
        let end = end_of(&mut reactor, id);
        assert_eq!((end.exit_code(), end.reason()), (125, Reason::StartFailed));
        let error = not_started(end);
        assert!(error.to_string().contains("not today"), "{error}");
        assert!(!marker.exists());
        assert!(!state.log_path("web").exists());
        // An observer that has granted the claim gets the end; the others get nothing.
        assert_eq!(granted.seen(), ["Stopped"]);
        assert_eq!((refused.seen(), behind.seen()), (vec![], vec![]));
    }

    #[test]
    fn an_observer_that_answers_later_is_asked_again_until_it_grants() {
        let state = State::new();
        let notes = Notes::default();
        let asked = Arc::new(Mutex::new(0));
        let asking = asked.clone();
        let later = move || {
            *asking.lock().unwrap() += 1;
            match *asking.lock().unwrap() {
                1..=3 => Claim::Later(Duration::from_millis(10), "busy".into()),
                _ => Claim::Granted,
            }
        };
        let first = Arc::new(Mutex::new(0));
        let counting = first.clone();
        let mut reactor = Reactor::new().unwrap();
        let count = move || {
            *counting.lock().unwrap() += 1;
            Claim::Granted
        };
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Claims(count, Notes::default()))
            .observer(Claims(later, notes.clone()))
            .spawn(&mut reactor, sh("exit 4"));
        start_added(&mut reactor);
        assert!(reactor.get(id).unwrap().pid().is_none());
        assert_eq!(end_of(&mut reactor, id).exit_code(), 4);
        assert_eq!((*asked.lock().unwrap(), *first.lock().unwrap()), (4, 1));
        assert_eq!(notes.seen(), ["Running", "Draining", "Stopped"]);
    }

    #[test]
    fn a_claim_that_is_never_granted_fails_after_five_seconds() {
        let state = State::new();
        let marker = state.file("started");
        let begun = Instant::now();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Claims(
                || Claim::Later(Duration::from_millis(100), "somebody holds the lock".into()),
                Notes::default(),
            ))
            .spawn(&mut reactor, Command::new("touch").args([&marker]));
        // A neighbour comes and goes meanwhile.
        let neighbour = spawn(&mut reactor, sandbox(&state, "neighbour"), "exit 0");
        assert_eq!(end_of(&mut reactor, neighbour).exit_code(), 0);
        assert!(reactor.get(id).unwrap().end().is_none());
        let error = not_started(end_of(&mut reactor, id));
        assert!(begun.elapsed() >= Duration::from_secs(5));
        assert!(error.to_string().contains("somebody holds the lock"), "{error}");
        assert!(!marker.exists());
    }

    #[test]
    fn a_stop_while_the_claim_waits_starts_nothing() {
        let state = State::new();
        let marker = state.file("started");
        let notes = Notes::default();
        let grants = Arc::new(Mutex::new(false));
        let granting = grants.clone();
        let claim = move || match *granting.lock().unwrap() {
            false => Claim::Later(Duration::from_millis(1), "busy".into()),
            true => Claim::Granted,
        };
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Claims(claim, notes.clone()))
            .spawn(&mut reactor, Command::new("touch").args([&marker]));
        stop(&mut reactor, id);
        *grants.lock().unwrap() = true;
        assert!(matches!(*not_started(end_of(&mut reactor, id)), StartError::Stopped));
        assert!(!marker.exists());
    }

    #[test]
    fn a_monitor_is_not_done_before_its_observers_are() {
        /// Is done with the end at its third retry.
        struct Slow(Notes, u32);
        impl Observer for Slow {
            fn transition(&mut self, transition: &Transition) -> Progress {
                self.0.transition(transition);
                match transition {
                    Transition::Stopped { .. } => Progress::Later(Duration::from_millis(5)),
                    _ => Progress::Done,
                }
            }
            fn retry(&mut self) -> Progress {
                self.1 += 1;
                self.0.0.lock().unwrap().push("retry");
                if self.1 == 3 { Progress::Done } else { Progress::Later(Duration::from_millis(5)) }
            }
        }
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Slow(notes.clone(), 0))
            .spawn(&mut reactor, sh("exit 0"));
        reactor.run().unwrap();
        assert_eq!(notes.seen(), ["Running", "Draining", "Stopped", "retry", "retry", "retry"]);
        assert_eq!(end_of(&mut reactor, id).exit_code(), 0);
    }

    #[test]
    fn an_observer_that_is_never_done_does_not_delay_the_transitions() {
        struct Never(Notes);
        impl Observer for Never {
            fn transition(&mut self, transition: &Transition) -> Progress {
                self.0.transition(transition);
                match transition {
                    Transition::Stopped { .. } => Progress::Done,
                    _ => Progress::Later(Duration::from_secs(1000)),
                }
            }
        }
        let state = State::new();
        let notes = Notes::default();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Never(notes.clone()))
            .spawn(&mut reactor, sh("exit 0"));
        end_of(&mut reactor, id);
        assert_eq!(notes.seen(), ["Running", "Draining", "Stopped"]);
    }
}

mod events {
    use super::*;
    use vmon::monitor::{Event, Restart, SandboxId};

    fn word(event: &Event) -> &'static str {
        match event {
            Event::Transition(Transition::Running { .. }) => "Running",
            Event::Transition(Transition::Stopping { .. }) => "Stopping",
            Event::Transition(Transition::Draining { .. }) => "Draining",
            Event::Transition(Transition::Restarting { .. }) => "Restarting",
            Event::Transition(Transition::Stopped { .. }) => "Stopped",
            Event::Done => "Done",
            _ => "another",
        }
    }

    /// The events that can be taken now.
    fn taken(reactor: &mut Loop) -> Vec<(SandboxId, &'static str)> {
        std::iter::from_fn(|| reactor.next_event()).map(|(id, event)| (id, word(&event))).collect()
    }

    #[test]
    fn a_turn_yields_each_transition_with_the_id_of_its_sandbox() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        reactor.collect_events();
        let one = spawn(&mut reactor, sandbox(&state, "one"), "exit 3");
        let two = spawn(&mut reactor, sandbox(&state, "two"), "exec sleep 1000");
        assert_eq!(taken(&mut reactor), []);
        reactor.poll_once(None).unwrap();
        assert_eq!(taken(&mut reactor), [(one, "Running"), (two, "Running")]);
        stop(&mut reactor, two);
        assert_eq!(taken(&mut reactor), [(two, "Stopping")]);
        let mut events = Vec::new();
        while !reactor.is_done() {
            reactor.poll_once(None).unwrap();
            events.extend(taken(&mut reactor));
        }
        for id in [one, two] {
            let of_one = events.iter().filter(|(of, _)| *of == id).map(|(_, word)| *word);
            assert_eq!(of_one.collect::<Vec<_>>(), ["Draining", "Stopped", "Done"]);
        }
    }

    #[test]
    fn an_event_has_the_data_of_its_transition_and_survives_its_monitor() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        reactor.collect_events();
        let once = sandbox(&state, "web").restart(Restart::OnFailure { max: Some(1) });
        let id = spawn(&mut reactor, once, "echo out; exit 3");
        reactor.run().unwrap();
        assert!(reactor.remove(id).is_some());
        let events: Vec<Event> =
            std::iter::from_fn(|| reactor.next_event()).map(|(_, event)| event).collect();
        let words: Vec<_> = events.iter().map(word).collect();
        let run = ["Running", "Draining"];
        assert_eq!(words, [&run[..], &["Restarting"], &run, &["Stopped", "Done"]].concat());
        let Event::Transition(Transition::Stopped { end, .. }) = &events[5] else { panic!() };
        assert_eq!((end.exit_code(), end.bytes_logged), (3, 4));
        assert!(reactor.next_event().is_none());
    }

    #[test]
    fn events_of_before_the_host_collects_them_are_not_kept() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "web"), "exec sleep 1000");
        start_added(&mut reactor);
        assert_eq!(taken(&mut reactor), []);
        reactor.collect_events();
        stop(&mut reactor, id);
        assert_eq!(taken(&mut reactor), [(id, "Stopping")]);
        end_of(&mut reactor, id);
    }

    #[test]
    fn done_comes_when_the_observers_are_done_too() {
        struct Slow;
        impl Observer for Slow {
            fn transition(&mut self, transition: &Transition) -> Progress {
                match transition {
                    Transition::Stopped { .. } => Progress::Later(Duration::from_millis(5)),
                    _ => Progress::Done,
                }
            }
        }
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        reactor.collect_events();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(Slow)
            .spawn(&mut reactor, sh("exit 0"));
        let mut last = "";
        turn_until(&mut reactor, "its end", |reactor| {
            last = taken(reactor).last().map_or(last, |(_, word)| *word);
            reactor.get(id).unwrap().end().is_some()
        });
        assert_eq!(last, "Stopped");
        reactor.run().unwrap();
        assert_eq!(taken(&mut reactor), [(id, "Done")]);
    }
}

/// The reactor as one descriptor in a loop of the host's. Not on mio's poll(2) back end, which has
/// none.
#[cfg(not(mio_unsupported_force_poll_poll))]
mod nested {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    /// Drives a reactor by its descriptor and its deadline alone; gives the number of turns.
    #[track_caller]
    pub fn drive(reactor: &mut Loop) -> u32 {
        let give_up = Instant::now() + crate::common::TIMEOUT;
        let mut turns = 0;
        while !reactor.is_done() {
            assert!(Instant::now() < give_up, "neither descriptor nor deadline reported the end");
            let until = reactor.next_deadline().unwrap_or(give_up).min(give_up);
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap();
            let mut fds = [PollFd::new(reactor.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, left).unwrap() > 0;
            if ready || reactor.next_deadline().is_some_and(|at| at <= Instant::now()) {
                reactor.poll_once(Some(Duration::ZERO)).unwrap();
                turns += 1;
            }
        }
        turns
    }

    #[test]
    fn children_are_monitored_in_an_event_loop_of_the_host() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let ids: Vec<_> = (0..20)
            .map(|n| {
                let script = format!("seq 1 5000; sleep 0.0{n}; exit {n}");
                (n, spawn(&mut reactor, sandbox(&state, &format!("n{n}")), &script))
            })
            .collect();
        drive(&mut reactor);
        let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
        for (n, id) in ids {
            assert_eq!(reactor.remove(id).unwrap().into_end().unwrap().exit_code(), n);
            assert_same(&state.log(&format!("n{n}")), expected.as_bytes(), "a log");
        }
    }

    #[test]
    fn the_stop_timeout_is_a_deadline_of_the_hosts_loop() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox(&state, "web")
            .stop_signal(Signal::TERM)
            .stop_timeout(Duration::from_millis(100));
        let id =
            spawn(&mut reactor, sandbox, "trap '' TERM; echo up; while :; do sleep 1000; done");
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        stop(&mut reactor, id);
        let turns = drive(&mut reactor);
        assert!(turns < 50, "the loop turns in vain: {turns} times");
        let end = reactor.remove(id).unwrap().into_end().unwrap();
        assert_ended(&end, ExitStatus::Signal(Signal::KILL), Reason::Killed);
    }

    #[test]
    fn the_quiet_period_of_a_drain_is_a_deadline_of_the_hosts_loop() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        // A grandchild keeps the pipe open and writes nothing.
        let id = spawn(&mut reactor, sandbox(&state, "web"), "echo tail; sleep 1000 & echo $! >&2");
        drive(&mut reactor);
        assert_eq!(reactor.remove(id).unwrap().into_end().unwrap().exit_code(), 0);
        let log = String::from_utf8(state.log("web")).unwrap();
        let pid = log.lines().find_map(|line| line.parse().ok()).unwrap();
        kill(Pid::from_raw(pid), Sig::SIGKILL).unwrap();
        assert!(log.contains("tail\n"));
    }

    #[test]
    fn an_idle_reactor_has_no_deadline_and_a_silent_descriptor() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "web"), "echo up; exec sleep 1000");
        turn_until(&mut reactor, "it is up", |_| state.log("web") == b"up\n");
        turn_until(&mut reactor, "it is idle", |reactor| reactor.next_deadline().is_none());
        let mut fds = [PollFd::new(reactor.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        stop(&mut reactor, id);
        drive(&mut reactor);
    }
}

/// What vmon leaves to the host's process.
mod process {
    use super::*;

    #[test]
    fn other_children_of_the_host_are_not_reaped() {
        let state = State::new();
        let mut others =
            [host_child("exit 11").spawn().unwrap(), host_child("exit 12").spawn().unwrap()];
        eventually("one is a zombie", || !is_alive(others[0].id()));
        let mut reactor = Reactor::new().unwrap();
        for name in ["a", "b", "c"] {
            spawn(&mut reactor, sandbox(&state, name), "exit 0");
        }
        reactor.run().unwrap();
        assert_eq!(others.each_mut().map(|other| common::code(wait(other))), [11, 12]);
    }

    #[test]
    fn a_child_that_the_host_has_reaped_ends_with_an_unknown_status() {
        let state = State::new();
        let mut reactor = Reactor::new().unwrap();
        let id = spawn(&mut reactor, sandbox(&state, "web"), "echo tail; exit 3");
        start_added(&mut reactor);
        let pid = reactor.get(id).unwrap().pid().unwrap();
        waitpid(Pid::from_raw(pid as i32), None).unwrap();
        let end = end_of(&mut reactor, id);
        assert_ended(&end, ExitStatus::Unknown, Reason::Exited);
        assert_eq!((end.exit_code(), state.log("web").as_slice()), (125, b"tail\n".as_slice()));
    }

    /// Runs one of [`hosts`] as a process of its own, to its end.
    #[track_caller]
    fn run_host(state: &State, name: &str, stdin: Stdio) {
        common::run_host(state, hosts::MODULE, name, hosts::DIRECTORY, |command| {
            command.stdin(stdin);
        });
    }

    #[test]
    fn a_host_that_ignores_sigchld_gets_unknown_ends_and_no_hang() {
        run_host(&State::new(), "ignores_sigchld", Stdio::null());
    }

    #[test]
    fn a_host_that_ignores_sigchld_may_have_children_that_end_at_once() {
        run_host(&State::new(), "ignores_sigchld_of_brief_children", Stdio::null());
    }

    #[test]
    fn a_host_that_ignores_sigchld_gets_the_error_of_a_missing_command() {
        run_host(&State::new(), "ignores_sigchld_and_has_no_command", Stdio::null());
    }

    #[test]
    fn the_library_starts_no_thread() {
        run_host(&State::new(), "counts_its_threads", Stdio::null());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_sandboxes_that_answer_for_their_descendants_end_each_its_own() {
        run_host(&State::new(), "answers_for_the_descendants_of_two", Stdio::null());
    }

    #[test]
    fn a_child_that_closes_its_input_does_not_end_a_host_with_the_default_action_of_sigpipe() {
        let state = State::new();
        let input = state.file("input");
        fs::write(&input, common::noise(1 << 20, 1)).unwrap();
        let stdin = fs::File::open(&input).unwrap();
        run_host(&state, "has_the_default_action_of_sigpipe", stdin.into());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_ends_with_the_thread_that_has_started_it_unless_it_is_told_not_to() {
        let state = State::new();
        for (parent_death, signal) in [(true, Signal::KILL), (false, Signal::TERM)] {
            let mut reactor = Reactor::new().unwrap();
            let command = sh("exec sleep 1000").parent_death(parent_death);
            let id = Monitor::builder(sandbox(&state, "web")).spawn(&mut reactor, command);
            let start = move || {
                start_added(&mut reactor);
                reactor
            };
            let mut reactor = std::thread::spawn(start).join().unwrap();
            if !parent_death {
                stop(&mut reactor, id);
            }
            assert_eq!(end_of(&mut reactor, id).signal(), Some(signal));
        }
    }

    #[test]
    fn the_library_installs_no_signal_handler_unless_asked() {
        run_host(&State::new(), "looks_at_its_signals", Stdio::null());
    }

    /// Not on mio's poll(2) back end, which has no descriptor to nest.
    #[cfg(not(mio_unsupported_force_poll_poll))]
    #[test]
    fn a_loop_of_the_hosts_reads_an_input_that_is_always_ready() {
        let state = State::new();
        let input = state.file("input");
        fs::write(&input, common::noise(1 << 20, 1)).unwrap();
        let stdin = fs::File::open(&input).unwrap();
        run_host(&state, "nests_with_a_file_as_its_stdin", stdin.into());
        assert_same(&state.log("cat"), &fs::read(&input).unwrap(), "what came through");
    }
}

/// Hosts that [`process`] runs. By themselves they do nothing.
mod hosts {
    use super::*;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    /// Names the directory for the log to a host.
    pub const DIRECTORY: &str = "VMON_TEST_HOST";

    fn sandbox(name: &str) -> Option<Sandbox> {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
        Some(Sandbox::new(name, directory.join("log")).unwrap())
    }

    fn ignore_sigchld() {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_IGN installs no handler.
        unsafe { sigaction(Sig::SIGCHLD, &ignore) }.unwrap();
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn ignores_sigchld() {
        let Some(sandbox) = sandbox("web") else { return };
        ignore_sigchld();
        // None ends before all have been spawned.
        let go = sandbox.log_dir.with_file_name("go");
        let script = format!("until test -e {}; do sleep 0.01; done; exit 7", go.display());
        let mut reactor = Reactor::new().unwrap();
        let pipes = spawn(&mut reactor, sandbox.clone(), &script);
        let builder = |name| Monitor::builder(self::sandbox(name).unwrap());
        let pty = builder("pty").spawn(&mut reactor, sh(&script).pty(true));
        let child = host_child(&script).spawn().unwrap();
        let given = builder("given").start(&mut reactor, child.id(), NO_IO).unwrap();
        let stopped = builder("stopped").spawn(&mut reactor, sh("exec sleep 1000"));
        fs::write(go, "").unwrap();
        stop(&mut reactor, stopped);
        for (id, why) in [
            (pipes, Reason::Exited),
            (pty, Reason::Exited),
            (given, Reason::Exited),
            (stopped, Reason::Stopped),
        ] {
            assert_ended(&end_of(&mut reactor, id), ExitStatus::Unknown, why);
        }
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn ignores_sigchld_of_brief_children() {
        let Some(sandbox) = sandbox("web") else { return };
        ignore_sigchld();
        let mut reactor = Reactor::new().unwrap();
        for _ in 0..300 {
            let id = Monitor::builder(sandbox.clone()).spawn(&mut reactor, Command::new("true"));
            // One that ends before its spawn is over may still be asked for its status.
            let end = end_of(&mut reactor, id);
            let status = end.status().expect("it was started");
            assert!(matches!(status, ExitStatus::Unknown | ExitStatus::Code(0)), "{status:?}");
        }
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn ignores_sigchld_and_has_no_command() {
        let Some(sandbox) = sandbox("web") else { return };
        ignore_sigchld();
        let mut reactor = Reactor::new().unwrap();
        for (program, code) in [("/nonexistent/program", 127), ("/", 126)] {
            let id = Monitor::builder(sandbox.clone()).spawn(&mut reactor, Command::new(program));
            assert_eq!(end_of(&mut reactor, id).exit_code(), code);
        }
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn has_the_default_action_of_sigpipe() {
        let Some(sandbox) = sandbox("web") else { return };
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_DFL installs no handler.
        unsafe { sigaction(Sig::SIGPIPE, &default) }.unwrap();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox.input(vmon::monitor::Input::Forward);
        let id = spawn(&mut reactor, sandbox, "exec 0<&-; sleep 0.5; exit 4");
        assert_ended(&end_of(&mut reactor, id), ExitStatus::Code(4), Reason::Exited);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Sig::SIGPIPE));
    }

    #[cfg(target_os = "linux")]
    #[test]
    #[ignore = "a host, run by other tests"]
    fn answers_for_the_descendants_of_two() {
        let (Some(first), Some(second)) = (sandbox("first"), sandbox("second")) else { return };
        vmon::process::become_subreaper().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let mut answer = |sandbox, script| {
            let builder = Monitor::builder(sandbox).answer_for_descendants();
            builder.spawn(&mut reactor, sh(script))
        };
        // Both before either has a child. The first one leaves a process behind.
        let first = answer(first, "sleep 1000 >/dev/null 2>&1 & exit 3");
        let second = answer(second, "sleep 0.5; exit 4");
        assert_ended(&end_of(&mut reactor, first), ExitStatus::Code(3), Reason::Exited);
        assert_ended(&end_of(&mut reactor, second), ExitStatus::Code(4), Reason::Exited);
    }

    fn threads() -> usize {
        fs::read_dir("/proc/self/task").unwrap().count()
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn counts_its_threads() {
        let Some(sandbox) = sandbox("web") else { return };
        let before = threads();
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_signals(vmon::monitor::command_signals()).unwrap();
        let calls = Arc::new(Mutex::new(0));
        for pty in [false, true] {
            let calls = calls.clone();
            let name = format!("{}-{pty}", sandbox.name).parse().unwrap();
            let mut named = sandbox.clone();
            named.name = name;
            let builder = Monitor::builder(named).observer(move |_: &Transition| {
                assert_eq!(threads(), before);
                *calls.lock().unwrap() += 1;
            });
            let builder = {
                let db = sandbox.log_dir.with_file_name(format!("sandbox-{pty}.db"));
                builder.observer(vmon::registry::Registry::open(db).unwrap().observer())
            };
            builder.spawn(&mut reactor, sh("head -c 1000000 /dev/zero").pty(pty));
        }
        while !reactor.is_done() {
            reactor.poll_once(None).unwrap();
            assert_eq!(threads(), before);
        }
        assert_eq!(*calls.lock().unwrap(), 6);
    }

    /// The signals with a handler, and those that are ignored or blocked.
    fn signals() -> Vec<String> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let wanted = ["SigBlk", "SigIgn", "SigCgt"];
        let lines = status.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
        lines.map(str::to_owned).collect()
    }

    #[test]
    #[ignore = "a host, run by other tests"]
    fn looks_at_its_signals() {
        let Some(sandbox) = sandbox("web") else { return };
        let before = signals();
        let mut reactor = Reactor::new().unwrap();
        for pty in [false, true] {
            let id = Monitor::builder(sandbox.clone()).spawn(&mut reactor, sh("exit 0").pty(pty));
            assert_eq!(signals(), before);
            end_of(&mut reactor, id);
        }
        assert_eq!(signals(), before);
    }

    #[cfg(not(mio_unsupported_force_poll_poll))]
    #[test]
    #[ignore = "a host, run by other tests"]
    fn nests_with_a_file_as_its_stdin() {
        let Some(sandbox) = sandbox("cat") else { return };
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox.input(vmon::monitor::Input::Forward);
        let id = spawn(&mut reactor, sandbox, "exec cat");
        nested::drive(&mut reactor);
        assert_eq!(reactor.remove(id).unwrap().into_end().unwrap().exit_code(), 0);
    }
}

mod recorded {
    use super::*;
    use vmon::monitor::Rootfs;
    use vmon::registry::{Registry, RunStatus};

    #[test]
    fn fifteen_lines_embed_it() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let sandbox = Sandbox::new("web", state.path().join("log"))
            .unwrap()
            .rootfs(Rootfs::Native("/srv/web".into()));
        let id = Monitor::builder(sandbox)
            .observer(registry.observer())
            .spawn(&mut reactor, Command::new("echo").args(["hello"]));
        reactor.run().unwrap();
        let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
        assert_eq!(end.exit_code(), 0);
        assert_eq!(state.log("web"), b"hello\n");
        let [run] = &registry.runs().unwrap()[..] else { panic!("one run") };
        assert_eq!((run.state, run.exit_code), (Some(Phase::Stopped), Some(0)));
        assert_eq!(state.sandbox_column("web", "status").as_deref(), Some("STOPPED"));
    }

    #[test]
    fn either_kind_of_rootfs_is_recorded() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let layers = ["/base", "/site", "/run"].map(PathBuf::from).to_vec();
        for (name, rootfs) in [
            ("native", Some(Rootfs::Native("/srv/web".into()))),
            ("overlayfs", Some(Rootfs::Overlayfs(layers))),
            ("none", None),
        ] {
            let sandbox = sandbox(&state, name);
            let sandbox = rootfs.into_iter().fold(sandbox, Sandbox::rootfs);
            Monitor::builder(sandbox)
                .observer(registry.observer())
                .spawn(&mut reactor, sh("exit 0"));
        }
        reactor.run().unwrap();
        let paths = |name| state.sandbox_column(name, "rootfs_paths").unwrap();
        assert_eq!(paths("native"), "native:/srv/web");
        assert_eq!(paths("overlayfs"), "overlayfs:/base:/site:/run");
        assert_eq!(paths("none"), "");
    }

    #[test]
    fn a_child_that_is_handed_over_is_recorded() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let mut child = host_child("echo out; exit 3").stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let io = ChildIo::from(&mut child);
        let id = Monitor::builder(sandbox(&state, "given"))
            .observer(registry.observer())
            .start(&mut reactor, pid, io)
            .unwrap();
        start_added(&mut reactor);
        assert_eq!(state.sandbox_column("given", "status").as_deref(), Some("RUNNING"));
        assert_eq!(state.sandbox_column("given", "microvm_pid"), Some(pid.to_string()));
        end_of(&mut reactor, id);
        let [run] = &registry.runs().unwrap()[..] else { panic!("one run") };
        assert_eq!((run.pid, run.exit_code, run.bytes_logged), (Some(pid), Some(3), Some(4)));
        assert_eq!(run.supervisor, Some(std::process::id()));
        assert_eq!(run.reason, Some(Reason::Exited));
    }

    #[test]
    fn an_observer_beside_the_registry_finds_each_transition_recorded() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (reader, noted) = (registry.clone(), seen.clone());
        let look = move |transition: &Transition| {
            let run = reader.runs().unwrap().pop().unwrap();
            let what = match transition {
                Transition::Running { .. } => "Running",
                Transition::Stopping { .. } => "Stopping",
                Transition::Draining { .. } => "Draining",
                _ => "Stopped",
            };
            noted.lock().unwrap().push((what, run.state, run.status));
        };
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(registry.observer())
            .observer(look)
            .spawn(&mut reactor, sh("exec sleep 1000"));
        stop(&mut reactor, id);
        end_of(&mut reactor, id);
        let expected = [
            ("Running", Some(Phase::Running), RunStatus::Running),
            ("Stopping", Some(Phase::Stopping), RunStatus::Running),
            ("Draining", Some(Phase::Stopping), RunStatus::Running),
            ("Stopped", Some(Phase::Stopped), RunStatus::Stopped),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn a_name_that_runs_is_refused_on_the_same_reactor_and_free_again_afterwards() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let start = |reactor: &mut Loop, script| {
            Monitor::builder(sandbox(&state, "web"))
                .observer(registry.observer())
                .spawn(reactor, sh(script))
        };
        let first = start(&mut reactor, "exec sleep 1000");
        let second = start(&mut reactor, "exit 0");
        let ours = std::process::id();
        match &*not_started(end_of(&mut reactor, second)) {
            StartError::Taken { name, config_file, supervisor } => {
                assert_eq!((name.as_str(), config_file.as_str()), ("web", common::CONFIG));
                assert_eq!(*supervisor, ours);
            }
            other => panic!("{other}"),
        }
        // Nor by a child that is handed over, which stays the host's.
        let mut child = host_child("exit 6").spawn().unwrap();
        let third = Monitor::builder(sandbox(&state, "web"))
            .observer(registry.observer())
            .start(&mut reactor, child.id(), NO_IO)
            .unwrap();
        assert!(matches!(*not_started(end_of(&mut reactor, third)), StartError::Taken { .. }));
        assert_eq!(common::code(wait(&mut child)), 6);
        stop(&mut reactor, first);
        end_of(&mut reactor, first);
        let fourth = start(&mut reactor, "exit 2");
        assert_eq!(end_of(&mut reactor, fourth).exit_code(), 2);
        // Those that were refused have left no run.
        assert_eq!(registry.runs().unwrap().len(), 2);
    }

    #[test]
    fn an_observer_that_refuses_after_the_registry_has_granted_leaves_no_live_run() {
        let state = State::new();
        let registry = Registry::open(state.db()).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(registry.observer())
            .observer(Claims(|| Claim::Refused("no".into()), Notes::default()))
            .spawn(&mut reactor, sh("exit 0"));
        not_started(end_of(&mut reactor, id));
        let runs = registry.runs().unwrap();
        assert!(runs.iter().all(|run| run.state == Some(Phase::Stopped)), "{runs:?}");
        let id = Monitor::builder(sandbox(&state, "web"))
            .observer(registry.observer())
            .spawn(&mut reactor, sh("exit 0"));
        assert_eq!(end_of(&mut reactor, id).exit_code(), 0);
    }
}
