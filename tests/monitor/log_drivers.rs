//! Log drivers of the host's choice in place of a sandbox's own log.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::State;
use crate::common::tmpfs::Tmpfs;
use crate::common::turning::{Loop, start_added, turn_until};
use vmon::child::Command;
use vmon::logfile::{K8sFile, K8sFileOptions};
use vmon::monitor::{End, LogDriver, Monitor, OnLogError, Restart, Sandbox, SandboxId, WaitKind};
use vmon::reactor::{Handler, Reactor};

fn sandbox(state: &State) -> Sandbox {
    Sandbox::new("a", state.path().join("log")).unwrap()
}

fn file(path: &Path) -> LogDriver {
    K8sFile::open(path, K8sFileOptions::default()).unwrap().into()
}

fn limited(path: &Path, global_max: u64) -> LogDriver {
    let options = K8sFileOptions { global_max, ..Default::default() };
    K8sFile::open(path, options).unwrap().into()
}

fn spawn<const N: usize>(
    reactor: &mut Loop,
    sandbox: Sandbox,
    drivers: [LogDriver; N],
    script: &str,
) -> SandboxId {
    let command = Command::new("sh").args(["-c", script]);
    Monitor::builder(sandbox).log_drivers(drivers).spawn(reactor, command)
}

#[track_caller]
fn end_of(reactor: &mut Loop, id: SandboxId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.get(id).unwrap().end().unwrap().clone()
}

/// The bytes of one stream in a file.
fn text(path: &Path, stream: &str) -> String {
    let log = fs::read_to_string(path).unwrap();
    let mut text = String::new();
    for line in log.split_inclusive('\n') {
        let record = &line[36..];
        if let Some(rest) = record.strip_prefix(&format!("{stream} F ")) {
            text.push_str(rest);
        } else if let Some(rest) = record.strip_prefix(&format!("{stream} P ")) {
            text.push_str(rest.trim_end_matches('\n'));
        }
    }
    text
}

fn path(state: &State, name: &str) -> PathBuf {
    state.file(name)
}

#[test]
fn every_driver_has_the_output_and_no_other_log_is_made() {
    let state = State::new();
    let paths = [path(&state, "one.log"), path(&state, "two.log")];
    let mut reactor = Reactor::new().unwrap();
    let drivers = [file(&paths[0]), file(&paths[1])];
    let script = "printf 'one\ntwo'; echo err >&2; read -r _";
    let builder = Monitor::builder(sandbox(&state)).log_drivers(drivers);
    let id = builder.spawn(&mut reactor, Command::new("sh").args(["-c", script]));
    assert!(reactor.call(id, |monitor, _| monitor.take_log_drivers()).unwrap().is_empty());
    assert_eq!(reactor.get(id).unwrap().report().log, None);
    let end = end_of(&mut reactor, id);
    assert_eq!((end.bytes_logged, end.bytes_dropped), (11, 0));
    assert!(end.rotated.is_empty());
    for path in &paths {
        assert_eq!(text(path, "stdout"), "one\ntwo");
        assert_eq!(text(path, "stderr"), "err\n");
    }
    assert!(!state.path().join("log").exists());
    let drivers = reactor.remove(id).unwrap().take_log_drivers();
    assert_eq!(drivers.len(), 2);
    for driver in drivers {
        driver.sync().unwrap();
    }
}

#[test]
fn without_any_driver_nothing_is_logged_and_no_log_is_claimed() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let ids = [(); 2].map(|()| spawn(&mut reactor, sandbox(&state), [], "echo x; exit 3"));
    for id in ids {
        let end = end_of(&mut reactor, id);
        assert_eq!((end.exit_code(), end.bytes_logged, end.bytes_dropped), (3, 0, 0));
    }
    assert!(!state.path().join("log").exists());
}

#[test]
fn a_restarted_command_goes_on_in_the_same_drivers() {
    let state = State::new();
    let log = path(&state, "ctr.log");
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state).restart(Restart::OnFailure { max: Some(2) });
    let id = spawn(&mut reactor, sandbox, [file(&log)], "echo run; exit 1");
    end_of(&mut reactor, id);
    assert_eq!(text(&log, "stdout"), "run\nrun\nrun\n");
    assert!(!state.path().join("log").exists());
}

#[test]
fn a_reopened_driver_writes_to_the_file_at_its_path() {
    let state = State::new();
    let log = path(&state, "ctr.log");
    let moved = path(&state, "ctr.log.moved");
    let mut reactor = Reactor::new().unwrap();
    let gate = path(&state, "gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("echo one; read -r _ < '{}'; echo two", gate.display());
    let id = spawn(&mut reactor, sandbox(&state), [file(&log)], &script);
    start_added(&mut reactor);
    turn_until(&mut reactor, "output", |_| text(&log, "stdout") == "one\n");
    fs::rename(&log, &moved).unwrap();
    reactor.call(id, Monitor::reopen_log).unwrap().unwrap();
    assert_eq!(fs::read(&log).unwrap(), b"");
    fs::write(&gate, "\n").unwrap();
    end_of(&mut reactor, id);
    assert_eq!(text(&log, "stdout"), "two\n");
    assert_eq!(text(&moved, "stdout"), "one\n");
}

#[test]
fn bytes_beyond_the_bound_of_a_file_are_dropped_and_not_logged() {
    let state = State::new();
    let (bounded, whole) = (path(&state, "bounded.log"), path(&state, "whole.log"));
    let mut reactor = Reactor::new().unwrap();
    let drivers = [limited(&bounded, 50), file(&whole)];
    let id = spawn(&mut reactor, sandbox(&state), drivers, "printf '12\n34\n56\n78\n'");
    let end = end_of(&mut reactor, id);
    assert_eq!((end.bytes_logged, end.bytes_dropped), (6, 6));
    assert_eq!(text(&bounded, "stdout"), "12\n34\n");
    assert_eq!(text(&whole, "stdout"), "12\n34\n56\n78\n");
}

/// Lines on both streams, more than a small disk has room for.
const FLOOD: &str = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";

fn flooded(stream: &str) -> String {
    (0..2000).map(|number| format!("{stream} {number}\n")).collect()
}

#[test]
fn a_driver_on_a_full_disk_holds_up_the_child_and_every_driver_gets_all() {
    let Some(disk) = Tmpfs::new("size=512k") else { return };
    let state = State::new();
    let logs = [path(&state, "ctr.log"), disk.path().join("ctr.log")];
    let mut reactor = Reactor::new().unwrap();
    let drivers = [file(&logs[0]), file(&logs[1])];
    let filler = disk.fill_up_to(16 << 10);
    let id = spawn(&mut reactor, sandbox(&state), drivers, FLOOD);
    start_added(&mut reactor);
    turn_until(&mut reactor, "the disk is full", |reactor| {
        let report = reactor.get(id).unwrap().report();
        report.waits.iter().any(|wait| wait.kind == WaitKind::Log)
    });
    fs::remove_file(filler).unwrap();
    let end = end_of(&mut reactor, id);
    for log in &logs {
        assert_eq!(text(log, "stdout"), flooded("out"));
        assert_eq!(text(log, "stderr"), flooded("err"));
    }
    let all = (flooded("out").len() + flooded("err").len()) as u64;
    assert_eq!((end.bytes_logged, end.bytes_dropped), (all, 0));
}

#[test]
fn with_drop_a_driver_on_a_full_disk_costs_bytes_and_says_so() {
    let Some(disk) = Tmpfs::new("size=512k") else { return };
    let state = State::new();
    let log = disk.path().join("ctr.log");
    let mut reactor = Reactor::new().unwrap();
    let filler = disk.fill_up_to(16 << 10);
    let sandbox = sandbox(&state).on_log_error(OnLogError::Drop);
    let gate = path(&state, "gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("{FLOOD}; read -r _ < '{}'; echo last", gate.display());
    let id = spawn(&mut reactor, sandbox, [file(&log)], &script);
    start_added(&mut reactor);
    turn_until(&mut reactor, "bytes are dropped", |reactor| {
        reactor.get(id).unwrap().report().bytes_dropped > 0
    });
    fs::remove_file(filler).unwrap();
    turn_until(&mut reactor, "the log says so", |_| {
        text(&log, "stderr").contains("bytes left out]")
    });
    fs::write(&gate, "\n").unwrap();
    let end = end_of(&mut reactor, id);
    assert!(text(&log, "stdout").ends_with("last\n"));
    let all = (flooded("out").len() + flooded("err").len() + "last\n".len()) as u64;
    assert_eq!(end.bytes_logged + end.bytes_dropped, all);
}

#[cfg(all(feature = "journald", target_os = "linux"))]
mod journal {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use vmon::journal::{Journal, JournalOptions};

    fn journal(socket: &Path) -> LogDriver {
        Journal::new(JournalOptions { socket: socket.to_owned(), ..Default::default() }).into()
    }

    /// The messages that have arrived.
    fn messages(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 1000];
        let mut messages = Vec::new();
        while let Ok(count) = socket.recv(&mut buffer) {
            let entry = str::from_utf8(&buffer[..count]).unwrap();
            let message = entry.split('\n').next().unwrap();
            messages.push(message.strip_prefix("MESSAGE=").unwrap().to_owned());
        }
        messages
    }

    fn listen(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// More than the queue holds.
    const FLOOD: &str = "yes 'a line of the flood, not a short one' | head -n 60000";

    #[test]
    fn a_slow_journald_holds_up_the_child_and_loses_nothing() {
        let state = State::new();
        let (address, log) = (path(&state, "journal"), path(&state, "ctr.log"));
        let socket = listen(&address);
        let mut reactor = Reactor::new().unwrap();
        let drivers = [journal(&address), file(&log)];
        let id = spawn(&mut reactor, sandbox(&state), drivers, FLOOD);
        start_added(&mut reactor);
        turn_until(&mut reactor, "the queue is full", |reactor| {
            let report = reactor.get(id).unwrap().report();
            report.waits.iter().any(|wait| wait.reason.contains("journal"))
        });
        let mut found = Vec::new();
        turn_until(&mut reactor, "the end", |reactor| {
            found.extend(messages(&socket));
            reactor.get(id).unwrap().is_done()
        });
        found.extend(messages(&socket));
        assert_eq!(found.len(), 60_000);
        assert_eq!(text(&log, "stdout").lines().count(), 60_000);
        let end = reactor.get(id).unwrap().end().unwrap();
        assert_eq!(end.bytes_dropped, 0);
        assert_eq!(end.bytes_logged, text(&log, "stdout").len() as u64);
    }

    #[test]
    fn a_stop_does_not_wait_for_a_journald_that_hangs() {
        let state = State::new();
        let address = path(&state, "journal");
        let _socket = listen(&address);
        let mut reactor = Reactor::new().unwrap();
        let sandbox = sandbox(&state).stop_timeout(std::time::Duration::from_millis(50));
        let id = spawn(&mut reactor, sandbox, [journal(&address)], "exec yes");
        start_added(&mut reactor);
        turn_until(&mut reactor, "the queue is full", |reactor| {
            !reactor.get(id).unwrap().report().waits.is_empty()
        });
        reactor.call(id, Monitor::stop).unwrap();
        let end = end_of(&mut reactor, id);
        assert!(end.bytes_dropped > 0);
    }
}
