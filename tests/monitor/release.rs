//! The release of a child: it goes on, and the host has its pid, its descriptors and every byte.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::host::Host;
use crate::common::tmpfs::Tmpfs;
use crate::common::turning::{Loop, start_added, turn_until, turn_until_asleep};
use crate::common::{State, assert_same, is_alive, noise};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use vmon::child::{ChildIo, Command, ExitStatus};
use vmon::control::Server;
use vmon::monitor::{
    Attach, End, Input, Monitor, Phase, Reason, Released, RequestError, Restart, Sandbox,
    SandboxId, WaitKind,
};
use vmon::reactor::{Handler, Reactor};
use vmon::registry::Registry;

fn sandbox(state: &State) -> Sandbox {
    Sandbox::new("a", state.path().join("log")).unwrap()
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn release(reactor: &mut Loop, id: SandboxId) -> Released {
    reactor.call(id, |monitor, cx| monitor.release(cx)).unwrap().unwrap()
}

/// The end of a released child's run.
#[track_caller]
fn end_of(reactor: &mut Loop, id: SandboxId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    let end = reactor.remove(id).unwrap().into_end().unwrap();
    assert_eq!((end.status(), end.reason()), (Some(ExitStatus::Unknown), Reason::Released));
    end
}

/// Its streams, if it is on pipes.
fn pipes(io: ChildIo) -> [Option<OwnedFd>; 3] {
    match io {
        ChildIo::Piped { stdin, stdout, stderr } => [stdin, stdout, stderr],
        other => panic!("{other:?}"),
    }
}

fn blocks(fd: &impl AsFd) -> bool {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    !flags.contains(OFlag::O_NONBLOCK)
}

/// The exit code, once it ends.
fn reap(pid: u32) -> i32 {
    match waitpid(Pid::from_raw(pid as i32), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}"),
    }
}

fn kill_and_reap(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    waitpid(Pid::from_raw(pid as i32), None).unwrap();
}

#[test]
fn a_child_of_the_host_comes_back_as_it_was_given() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let mut child = std::process::Command::new("sh")
        .args(["-c", "echo one; read -r line; echo \"two $line\"; exit 7"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.as_ref().unwrap();
    fcntl(stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let sandbox = sandbox(&state).input(Input::Attached);
    let io = ChildIo::from(&mut child);
    let id = Monitor::builder(sandbox).start(&mut reactor, child.id(), io).unwrap();
    turn_until(&mut reactor, "it writes", |_| state.log("a") == b"one\n");
    let released = release(&mut reactor, id);
    assert_eq!(released.pid, child.id());
    assert!(released.unwritten.is_empty() && released.input.is_empty());
    let end = end_of(&mut reactor, id);
    assert_eq!(reactor.next_deadline(), None, "a timer of it is left");
    assert_eq!((end.bytes_logged, end.bytes_dropped), (4, 0));
    let [stdin, stdout, stderr] = pipes(released.io).map(Option::unwrap);
    assert_eq!([blocks(&stdin), blocks(&stdout), blocks(&stderr)], [true, true, false]);
    File::from(stdin).write_all(b"three\n").unwrap();
    let mut rest = String::new();
    File::from(stdout).read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), &state.log("a")[..]), ("two three\n", &b"one\n"[..]));
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn a_spawned_child_on_a_terminal_goes_on_at_its_master() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let script = "stty -echo; echo ready; read -r line; echo \"got $line\"; exit 7";
    let sandbox = sandbox(&state).input(Input::Attached);
    let id = Monitor::builder(sandbox).spawn(&mut reactor, sh(script).pty(true));
    turn_until(&mut reactor, "it is ready", |_| state.log("a") == b"ready\r\n");
    let released = release(&mut reactor, id);
    let ChildIo::Tty { master } = released.io else { panic!("{:?}", released.io) };
    end_of(&mut reactor, id);
    let mut master = File::from(master);
    master.write_all(b"line\n").unwrap();
    assert_eq!(reap(released.pid), 7);
    let mut seen = Vec::new();
    // The end of a terminal is an error: EIO.
    let _ = master.read_to_end(&mut seen);
    assert_eq!(seen, b"got line\r\n");
    assert_eq!(state.log("a"), b"ready\r\n");
}

/// Everything that comes from the descriptor of a released child, read while it writes.
fn read_rest(released: Released) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        released.unwritten.iter().flat_map(|rest| rest.unlogged.clone()).collect();
    let [_, stdout, _] = pipes(released.io);
    File::from(stdout.unwrap()).read_to_end(&mut bytes).unwrap();
    assert_eq!(reap(released.pid), 0);
    bytes
}

#[test]
fn no_byte_of_a_flood_is_lost_or_doubled() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let bytes = noise(1 << 20, 3);
    fs::write(state.file("noise"), &bytes).unwrap();
    let command = Command::new("cat").arg(state.file("noise"));
    let id = Monitor::builder(sandbox(&state)).spawn(&mut reactor, command);
    turn_until(&mut reactor, "it writes", |_| !state.log("a").is_empty());
    match reactor.call(id, |monitor, cx| monitor.release(cx)).unwrap() {
        Ok(released) => {
            end_of(&mut reactor, id);
            let mut all = state.log("a");
            all.extend(read_rest(released));
            assert_same(&all, &bytes, "the log and the rest");
        }
        // It was faster.
        Err(error) => assert!(matches!(error, RequestError::NotRunning), "{error}"),
    }
}

#[test]
fn bytes_that_a_full_disk_holds_up_come_back() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let bytes = noise(300 << 10, 3);
    fs::write(state.file("noise"), &bytes).unwrap();
    let _filler = disk.fill_up_to(64 << 10);
    let sandbox = Sandbox::new("a", disk.path()).unwrap();
    let command = Command::new("cat").arg(state.file("noise"));
    let id = Monitor::builder(sandbox).spawn(&mut reactor, command);
    start_added(&mut reactor);
    turn_until(&mut reactor, "the disk is full", |reactor| {
        let report = reactor.get(id).unwrap().report();
        report.waits.iter().any(|wait| wait.kind == WaitKind::Log)
    });
    let released = release(&mut reactor, id);
    assert!(!released.unwritten[0].unlogged.is_empty());
    let end = end_of(&mut reactor, id);
    let mut all = fs::read(disk.path().join("Sandboxfile/a.log")).unwrap();
    assert_eq!((end.bytes_logged, end.bytes_dropped), (all.len() as u64, 0));
    all.extend(read_rest(released));
    assert_same(&all, &bytes, "the log, what waited, and the rest");
}

#[test]
fn the_record_has_the_reason_and_the_pid_and_nothing_is_ended_because_of_it() {
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let mut reactor = Reactor::new().unwrap();
    let id = Monitor::builder(sandbox(&state))
        .observer(registry.observer())
        .control_socket(Server::new(state.path().join("run")))
        .unwrap()
        .spawn(&mut reactor, sh("echo up; exec sleep 1000"));
    turn_until(&mut reactor, "it is up", |_| state.log("a") == b"up\n");
    let released = release(&mut reactor, id);
    end_of(&mut reactor, id);
    let runs = registry.runs().unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(
        (runs[0].reason, runs[0].exit_code, runs[0].signal),
        (Some(Reason::Released), None, None)
    );
    assert_eq!((runs[0].state, runs[0].pid), (Some(Phase::Stopped), Some(released.pid)));
    assert!(!state.path().join("run/Sandboxfile/a.sock").exists());
    // A further claim of the name ends what an earlier run has left, but not this one.
    let again = Monitor::builder(sandbox(&state)).observer(registry.observer());
    let again = again.spawn(&mut reactor, sh("exit 3"));
    turn_until(&mut reactor, "the next run", |reactor| reactor.get(again).unwrap().is_done());
    assert_eq!(reactor.get(again).unwrap().end().unwrap().exit_code(), 3);
    assert!(is_alive(released.pid));
    kill_and_reap(released.pid);
}

#[test]
fn clients_end_and_the_command_is_not_started_again() {
    let describe = |sandbox: Sandbox| sandbox.restart(Restart::Always);
    let command = ["sh", "-c", "echo up; exec sleep 1000"].map(str::to_owned);
    let mut host = Host::new(State::new(), &command, describe, |builder| builder);
    host.until("it is up", |host| host.state.log("a") == b"up\n");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let attached = host.reactor.call(host.id, |monitor, cx| {
        monitor.attach(ours, &Attach::default().tail(100), |_| Vec::new(), cx)
    });
    attached.unwrap().unwrap();
    let released = release(&mut host.reactor, host.id);
    let Host { mut reactor, id, .. } = host;
    end_of(&mut reactor, id);
    let mut seen = Vec::new();
    theirs.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"up\n");
    assert!(is_alive(released.pid));
    kill_and_reap(released.pid);
}

#[test]
fn a_child_that_is_being_stopped_gets_no_kill_any_more() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state).stop_timeout(Duration::from_millis(20));
    let script = "trap '' TERM; echo up; read -r _; exit 7";
    let id = Monitor::builder(sandbox.input(Input::Attached)).spawn(&mut reactor, sh(script));
    turn_until(&mut reactor, "it is up", |_| state.log("a") == b"up\n");
    let released = reactor.call(id, |monitor, cx| {
        monitor.stop(cx);
        monitor.release(cx)
    });
    let released = released.unwrap().unwrap();
    end_of(&mut reactor, id);
    turn_until_asleep(&mut reactor);
    assert!(is_alive(released.pid));
    let [stdin, ..] = pipes(released.io);
    File::from(stdin.unwrap()).write_all(b"\n").unwrap();
    assert_eq!(reap(released.pid), 7);
}

#[test]
fn a_console_comes_back_with_its_mode() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let id = Monitor::builder(sandbox(&state))
        .console("serial".parse().unwrap(), ours)
        .spawn(&mut reactor, sh("exec sleep 1000"));
    start_added(&mut reactor);
    (&theirs).write_all(b"one").unwrap();
    turn_until(&mut reactor, "the console is logged", |_| state.log("a@serial") == b"one");
    let mut released = release(&mut reactor, id);
    let end = end_of(&mut reactor, id);
    assert_eq!(end.consoles[0].bytes_logged, 3);
    let console = released.consoles.pop().unwrap();
    assert_eq!(console.name.as_str(), "serial");
    assert!(blocks(&console.descriptor));
    (&theirs).write_all(b"two").unwrap();
    let mut bytes = [0; 3];
    UnixStream::from(console.descriptor).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"two");
    kill_and_reap(released.pid);
}

#[test]
fn input_that_the_child_has_not_taken_comes_back() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state).input(Input::Attached);
    let id = Monitor::builder(sandbox).spawn(&mut reactor, sh("exec sleep 1000"));
    start_added(&mut reactor);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let request = Attach::default();
    let input = noise(100 << 10, 5);
    reactor
        .call(id, |monitor, cx| {
            let attached = monitor.attach(ours, &request, |_| Vec::new(), cx).unwrap();
            monitor.send(attached.session, &input, cx);
        })
        .unwrap();
    let released = release(&mut reactor, id);
    end_of(&mut reactor, id);
    let taken = input.len() - released.input.len();
    assert!(taken > 0 && !released.input.is_empty());
    assert_same(&released.input, &input[taken..], "the rest");
    kill_and_reap(released.pid);
}

#[test]
fn a_child_that_does_not_run_can_not_be_released() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let id = Monitor::builder(sandbox(&state)).spawn(&mut reactor, sh("exit 3"));
    turn_until(&mut reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    let error = reactor.call(id, |monitor, cx| monitor.release(cx)).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the sandbox is not running");
    assert_eq!(reactor.get(id).unwrap().end().unwrap().exit_code(), 3);
}
