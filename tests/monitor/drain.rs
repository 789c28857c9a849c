//! When the drain of a child's output is over, and what becomes of a PTY master that the host hands
//! over: its size, its modes, and what it costs once no process has the terminal open.

#![allow(clippy::zombie_processes)] // vmon reaps what is handed over

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::process::{Child as StdChild, Command as StdCommand, Stdio};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use vmon::child::{ChildIo, Command};
use vmon::monitor::{Drain, End, Monitor, RequestError, Sandbox};
use vmon::reactor::{Handler, HandlerId, Reactor};
use vmon::terminal::WindowSize;

use crate::common::turning::{Loop, start_added, turn_until, turn_until_asleep};
use crate::common::{State, assert_same, contains};

/// A sandbox whose drain would last for an hour while a process that it leaves behind writes.
fn sandbox(state: &State, name: &str) -> Sandbox {
    let sandbox = Sandbox::new(name, state.path().join("log")).unwrap();
    sandbox.leave_descendants(true).stop_timeout(Duration::from_secs(3600))
}

fn end_of(reactor: &mut Loop, id: HandlerId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.remove(id).unwrap().into_end().unwrap()
}

/// A PTY, and the path of its slave.
fn pty() -> (PtyMaster, String) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname_r(&master).unwrap();
    (master, path)
}

fn open_slave(path: &str, flags: OFlag) -> File {
    let flags = flags | OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).unwrap().into()
}

/// A child of the host's, with the slave as its stdout.
fn child_on(path: &str, script: &str) -> StdChild {
    let mut command = StdCommand::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(open_slave(path, OFlag::empty())).spawn().unwrap()
}

fn adopt(reactor: &mut Loop, sandbox: Sandbox, child: &StdChild, master: PtyMaster) -> HandlerId {
    let io = ChildIo::Tty { master: OwnedFd::from(master) };
    let builder = Monitor::builder(sandbox).drain(Drain::Available);
    let id = builder.start(reactor, child.id(), io).unwrap();
    start_added(reactor);
    id
}

fn stty(slave: &File, argument: &str) -> String {
    let mut command = StdCommand::new("stty");
    let output = command.arg(argument).stdin(slave.try_clone().unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_drain_of_what_is_available_does_not_wait_for_a_daemon_that_writes_on() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let script = "{ while echo more; do sleep 0.01; done 2>&-; } & head -c 60000 /dev/zero; exit 3";
    let command = Command::new("sh").args(["-c", script]);
    let builder = Monitor::builder(sandbox(&state, "daemon")).drain(Drain::Available);
    let id = builder.spawn(&mut reactor, command);
    let end = end_of(&mut reactor, id);
    assert_eq!(end.exit_code(), 3);
    let zeros = state.log("daemon").iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, 60_000);
}

#[test]
fn a_drain_of_what_is_available_reads_a_terminal_until_it_is_empty() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let (master, path) = pty();
    let mut slave = open_slave(&path, OFlag::O_NONBLOCK);
    let child = child_on(&path, "seq 1 5000; exit 4");
    let id = adopt(&mut reactor, sandbox(&state, "tty"), &child, master);
    turn_until(&mut reactor, "the end", |reactor| {
        match slave.write(b"x") {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The master is closed with the end.
            Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}"),
        }
        reactor.get(id).unwrap().is_done()
    });
    let end = reactor.remove(id).unwrap().into_end().unwrap();
    assert_eq!(end.exit_code(), 4);
    let log = state.log("tty");
    let own: Vec<u8> = log.into_iter().filter(|byte| *byte != b'x').collect();
    let expected: String = (1..=5000).map(|n| format!("{n}\r\n")).collect();
    assert_same(&own, expected.as_bytes(), "the log");
}

#[test]
fn a_terminal_that_is_handed_over_keeps_its_modes_and_has_no_size_until_it_gets_one() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let (master, path) = pty();
    let slave = open_slave(&path, OFlag::empty());
    let modes = stty(&slave, "-g");
    let mut child = child_on(&path, "echo up; exec sleep 1000");
    let id = adopt(&mut reactor, sandbox(&state, "tty"), &child, master);
    turn_until(&mut reactor, "its output", |_| contains(&state.log("tty"), b"up\r\n"));
    assert_eq!((stty(&slave, "size"), stty(&slave, "-g")), ("0 0".to_owned(), modes));
    for (rows, columns) in [(25, 83), (0, 7), (0, 0)] {
        let size = WindowSize::new(rows, columns);
        reactor.call(id, |monitor, _| monitor.resize_terminal(size)).unwrap().unwrap();
        assert_eq!(stty(&slave, "size"), format!("{rows} {columns}"));
    }
    child.kill().unwrap();
    end_of(&mut reactor, id);
}

#[test]
fn a_size_is_refused_without_a_terminal_and_without_a_child() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let command = Command::new("sleep").args(["1000"]);
    let id = Monitor::builder(sandbox(&state, "pipes")).spawn(&mut reactor, command);
    let resize = |reactor: &mut Loop| {
        let size = WindowSize::new(1, 1);
        reactor.call(id, |monitor, _| monitor.resize_terminal(size)).unwrap()
    };
    start_added(&mut reactor);
    assert!(matches!(resize(&mut reactor), Err(RequestError::NoTerminal)));
    reactor.call(id, Monitor::stop).unwrap();
    turn_until(&mut reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    assert!(matches!(resize(&mut reactor), Err(RequestError::NotRunning)));
}

/// A sleeping loop is woken up by its poller or by a timer only.
#[test]
fn a_terminal_that_no_process_has_open_causes_no_wake_up_and_is_relayed_when_it_is_opened_again() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let (master, path) = pty();
    let mut child = child_on(&path, "echo up; exec sleep 1000 >/dev/null");
    let id = adopt(&mut reactor, sandbox(&state, "tty"), &child, master);
    for round in 0..3 {
        let line = format!("round {round}");
        writeln!(open_slave(&path, OFlag::empty()), "{line}").unwrap();
        turn_until(&mut reactor, &line, |_| contains(&state.log("tty"), line.as_bytes()));
        turn_until_asleep(&mut reactor);
    }
    child.kill().unwrap();
    end_of(&mut reactor, id);
}
