//! The output of a sandbox in process.

use std::fs;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::tmpfs::Tmpfs;
use crate::common::turning::{Loop, start_added, turn_until};
use crate::common::{State, assert_same, noise};
use chrono::{DateTime, Utc};
use vmon::child::Command;
use vmon::logfile::Stream;
use vmon::monitor::{
    End, LogRate, Monitor, Output, OverRate, Reason, Restart, Sandbox, SandboxId, WaitKind,
};
use vmon::reactor::{Handler, Reactor};

/// What was given to a host: the console, the stream, the time and the bytes.
type Pieces = Arc<Mutex<Vec<(Option<String>, Stream, DateTime<Utc>, Vec<u8>)>>>;

fn sandbox(state: &State) -> Sandbox {
    Sandbox::new("a", state.path().join("log")).unwrap()
}

fn keep(pieces: &Pieces) -> impl FnMut(Output<'_>) + Send + 'static {
    let pieces = Arc::clone(pieces);
    move |Output { console, stream, at, bytes, .. }| {
        assert!(!bytes.is_empty());
        let console = console.map(ToString::to_string);
        pieces.lock().unwrap().push((console, stream, at, bytes.to_vec()));
    }
}

/// The bytes of one stream of the child's own stdio.
fn of(pieces: &Pieces, wanted: Stream) -> Vec<u8> {
    let pieces = pieces.lock().unwrap();
    let own = pieces.iter().filter(|(console, stream, ..)| console.is_none() && *stream == wanted);
    own.flat_map(|(.., bytes)| bytes.clone()).collect()
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

#[track_caller]
fn end_of(reactor: &mut Loop, id: SandboxId) -> End {
    turn_until(reactor, "the end", |reactor| reactor.get(id).unwrap().is_done());
    reactor.get(id).unwrap().end().unwrap().clone()
}

#[test]
fn each_stream_is_given_with_its_times_beside_the_log() {
    let state = State::new();
    let pieces = Pieces::default();
    let mut reactor = Reactor::new().unwrap();
    let before = Utc::now();
    let script = "echo one; echo err >&2; printf two";
    let id =
        Monitor::builder(sandbox(&state)).output(keep(&pieces)).spawn(&mut reactor, sh(script));
    let end = end_of(&mut reactor, id);
    assert_eq!(of(&pieces, Stream::Stdout), b"one\ntwo");
    assert_eq!(of(&pieces, Stream::Stderr), b"err\n");
    assert_eq!((end.bytes_logged, state.log("a").len()), (11, 11));
    let times: Vec<_> = pieces.lock().unwrap().iter().map(|(_, _, at, _)| *at).collect();
    assert!(times.iter().all(|at| (before..=Utc::now()).contains(at)), "{times:?}");
}

#[test]
fn a_terminal_and_a_console_are_given_by_their_names() {
    let state = State::new();
    let pieces = Pieces::default();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state).console("serial=pty".parse().unwrap());
    let command = sh("stty raw <$0; echo guest >$0; echo host").args(["{serial}"]).pty(true);
    let id = Monitor::builder(sandbox).output(keep(&pieces)).spawn(&mut reactor, command);
    end_of(&mut reactor, id);
    assert_eq!(of(&pieces, Stream::Tty), b"host\r\n");
    let pieces = pieces.lock().unwrap();
    let console = pieces.iter().filter(|(console, ..)| console.as_deref() == Some("serial"));
    let console: Vec<u8> = console.flat_map(|(.., bytes)| bytes.clone()).collect();
    assert_eq!(console, b"guest\n");
}

#[test]
fn the_log_has_a_byte_before_the_host_gets_it() {
    let state = State::new();
    let log = state.log_path("a");
    let mut seen = 0;
    let behind = Arc::new(Mutex::new(0));
    let noted = Arc::clone(&behind);
    let mut reactor = Reactor::new().unwrap();
    let id = Monitor::builder(sandbox(&state))
        .output(move |output| {
            seen += output.bytes.len() as u64;
            if fs::metadata(&log).unwrap().len() < seen {
                *noted.lock().unwrap() += 1;
            }
        })
        .spawn(&mut reactor, sh("i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done"));
    end_of(&mut reactor, id);
    assert_eq!(*behind.lock().unwrap(), 0);
}

/// A file to be written by `cat`, and what it has.
fn flood(directory: &Path, size: usize) -> (Command, Vec<u8>) {
    let (path, bytes) = (directory.join("noise"), noise(size, 7));
    fs::write(&path, &bytes).unwrap();
    (Command::new("cat").arg(path), bytes)
}

#[test]
fn a_flood_is_given_exactly_once_and_in_order_without_a_log_too() {
    for off in [false, true] {
        let state = State::new();
        let pieces = Pieces::default();
        let mut reactor = Reactor::new().unwrap();
        let (command, bytes) = flood(state.path(), 1 << 20);
        let sandbox = sandbox(&state).log_off(off);
        let id = Monitor::builder(sandbox).output(keep(&pieces)).spawn(&mut reactor, command);
        let end = end_of(&mut reactor, id);
        assert_same(&of(&pieces, Stream::Stdout), &bytes, "the flood");
        assert_eq!(end.bytes_logged, if off { 0 } else { bytes.len() as u64 });
        assert_eq!(state.path().join("log").exists(), !off);
    }
}

#[test]
fn bytes_that_wait_for_a_full_disk_are_given_once_the_log_has_them() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let pieces = Pieces::default();
    let mut reactor = Reactor::new().unwrap();
    let (command, bytes) = flood(state.path(), 300 << 10);
    let filler = disk.fill_up_to(64 << 10);
    let sandbox = Sandbox::new("a", disk.path()).unwrap();
    let id = Monitor::builder(sandbox).output(keep(&pieces)).spawn(&mut reactor, command);
    start_added(&mut reactor);
    turn_until(&mut reactor, "the disk is full", |reactor| {
        let report = reactor.get(id).unwrap().report();
        report.waits.iter().any(|wait| wait.kind == WaitKind::Log)
    });
    let log = disk.path().join("Sandboxfile/a.log");
    assert_eq!(of(&pieces, Stream::Stdout).len() as u64, fs::metadata(&log).unwrap().len());
    fs::remove_file(filler).unwrap();
    end_of(&mut reactor, id);
    assert_same(&of(&pieces, Stream::Stdout), &bytes, "the output");
    assert_same(&fs::read(&log).unwrap(), &bytes, "the log");
}

#[test]
fn what_a_rate_leaves_out_is_a_notice() {
    let state = State::new();
    let pieces = Pieces::default();
    let mut reactor = Reactor::new().unwrap();
    let (command, bytes) = flood(state.path(), 300 << 10);
    let rate = LogRate::new(NonZeroU64::new(65_536).unwrap());
    let sandbox = sandbox(&state).log_rate(rate.over(OverRate::Drop));
    let id = Monitor::builder(sandbox).output(keep(&pieces)).spawn(&mut reactor, command);
    let end = end_of(&mut reactor, id);
    assert_eq!(of(&pieces, Stream::Stdout).len() as u64, end.bytes_logged);
    assert_eq!(end.bytes_logged + end.bytes_dropped, bytes.len() as u64);
    let notices = String::from_utf8(of(&pieces, Stream::Notice)).unwrap();
    assert!(notices.contains("bytes left out]"), "{notices:?}");
}

#[test]
fn the_output_of_a_restarted_command_is_given_too() {
    let state = State::new();
    let pieces = Pieces::default();
    let mut reactor = Reactor::new().unwrap();
    let sandbox = sandbox(&state).restart(Restart::OnFailure { max: Some(1) });
    let builder = Monitor::builder(sandbox).output(keep(&pieces));
    let id = builder.spawn(&mut reactor, sh("echo run; exit 1"));
    end_of(&mut reactor, id);
    assert_eq!(of(&pieces, Stream::Stdout), b"run\nrun\n");
}

#[test]
fn a_panic_in_it_ends_its_sandbox_and_no_other() {
    let state = State::new();
    let mut reactor = Reactor::new().unwrap();
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let id = Monitor::builder(sandbox(&state))
        .output(move |_| {
            *counted.lock().unwrap_or_else(|it| it.into_inner()) += 1;
            panic!("the test's panic");
        })
        .spawn(&mut reactor, sh("echo x; while :; do echo y; sleep 0.01; done"));
    let other = Sandbox::new("b", state.path().join("log")).unwrap();
    let gate = state.file("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("read -r _ <'{}'; exit 3", gate.display());
    let other = Monitor::builder(other).spawn(&mut reactor, sh(&script));
    let end = end_of(&mut reactor, id);
    assert_eq!(end.reason(), Reason::SupervisorPanicked);
    let panic = end.panic.unwrap().to_string();
    assert_eq!(panic, "an output callback panicked: the test's panic");
    assert_eq!(*calls.lock().unwrap(), 1);
    assert!(reactor.get(other).unwrap().end().is_none());
    fs::write(&gate, "\n").unwrap();
    assert_eq!(end_of(&mut reactor, other).exit_code(), 3);
}
