//! The rate limit of a log: throughput of a flood, its cost, and notices about dropped output.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::{self, Process, State, assert_same, code, contains, eventually, signal, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Lines of seven bytes, all different.
fn numbers(count: u32) -> Vec<u8> {
    (1..=count).flat_map(|number| format!("{number:06}\n").into_bytes()).collect()
}

fn numbers_script(count: u32) -> String {
    format!("seq -f %06.0f 1 {count}")
}

/// A sandbox with the name x that writes to its log only.
fn start(state: &State, options: &[&str], script: &str) -> Process {
    let all = [&["--no-forward", "--log-max-size", "0"], options].concat();
    Process::spawn(state.run("x", &all, script).stdin(Stdio::null()))
}

fn log_size(state: &State) -> u64 {
    fs::metadata(state.log_path("x")).map_or(0, |found| found.len())
}

/// The child's stdout, once it runs.
fn stdout_of_child(state: &State) -> File {
    state.wait_for_status("x", "RUNNING");
    let pid = state.run_column("x", "pid").unwrap();
    let mut open = OpenOptions::new();
    open.read(true).custom_flags(libc::O_NONBLOCK);
    open.open(format!("/proc/{pid}/fd/1")).unwrap()
}

/// Except for a page, whose first bytes may have been read.
fn wait_until_full(pipe: &File) {
    let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).unwrap() as usize;
    let waiting = || common::bytes_waiting(pipe.as_raw_fd());
    eventually("the child's pipe is full", || waiting() + 4096 >= size);
}

fn inspected(state: &State) -> Value {
    let output = state.vmon().args(["inspect", "x"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list[0].clone()
}

/// Number of voluntary context switches of the process.
fn sleeps(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines().filter(|line| line.starts_with("voluntary_ctxt_switches"));
    lines.next().unwrap().to_owned()
}

/// Number of reads of the process (proc(5)).
fn reads(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let count = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    count.unwrap().parse().unwrap()
}

/// Splits a log at its notices, and checks each piece against `sent`. Returns the number of dropped
/// bytes.
fn check_pieces(log: &[u8], sent: &[u8]) -> u64 {
    const BEGIN: &[u8] = b"\r\n[vmon: ";
    const END: &[u8] = b" bytes left out]\r\n";
    let (mut rest, mut at, mut left_out) = (log, 0, 0);
    loop {
        let found = rest.windows(BEGIN.len()).position(|window| window == BEGIN);
        let piece = &rest[..found.unwrap_or(rest.len())];
        assert_same(piece, &sent[at..at + piece.len()], "a piece of the log");
        at += piece.len();
        let Some(found) = found else { break };
        rest = &rest[found + BEGIN.len()..];
        let end = rest.windows(END.len()).position(|window| window == END).unwrap();
        let gap: usize = str::from_utf8(&rest[..end]).unwrap().parse().unwrap();
        assert!(gap > 0);
        rest = &rest[end + END.len()..];
        at += gap;
        left_out += gap as u64;
    }
    assert_eq!(at, sent.len(), "what was kept and what was left out is not all");
    left_out
}

fn flood_gets_its_rate(log: &str, options: &[&str], script: &str) {
    let state = State::new();
    let log_size = |state: &State| fs::metadata(state.log_path(log)).map_or(0, |found| found.len());
    let options = [&["--log-rate", "1MiB/s,burst=64KiB"], options].concat();
    let mut vmon = start(&state, &options, script);
    eventually("the burst is over", || log_size(&state) > 128 << 10);
    let began = Instant::now();
    let (before, reads_before) = (log_size(&state), reads(vmon.0.id()));
    eventually("the log grows", || log_size(&state) > before + MIB);
    let grown = log_size(&state) - before;
    let allowed = began.elapsed().as_secs_f64() * MIB as f64;
    // Output that was late because the machine was busy may come later: up to a burst.
    assert!(grown as f64 <= allowed * 1.01 + f64::from(128 << 10), "{grown} of {allowed}");
    // A hundred reads a second; a terminal gives at most 4,095 bytes each.
    let reads = reads(vmon.0.id()) - reads_before;
    let more = 100 * began.elapsed().as_secs().saturating_sub(1);
    assert!(reads <= 700 + more, "{reads} reads for {grown} bytes");
    signal(&vmon.0, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon.0)), 143);
}

#[test]
fn a_flood_on_a_pipe_is_limited_to_the_rate() {
    flood_gets_its_rate("x", &[], "exec yes");
}

#[test]
fn a_flood_of_small_writes_is_limited_to_the_rate() {
    flood_gets_its_rate("x", &[], "exec dd if=/dev/zero bs=10 status=none");
}

#[test]
fn a_flood_on_a_terminal_is_limited_to_the_rate() {
    flood_gets_its_rate("x", &["--tty", "always"], "exec yes");
}

#[test]
fn a_flood_of_a_console_is_limited_to_the_rate() {
    flood_gets_its_rate("x@a", &["--console", "a=pty"], "exec yes >{a}");
}

/// Number of bytes in a flood of single bytes.
const WRITES: u64 = 100_000;

/// Repeats floods until one was read many bytes at a time. A writer that is not scheduled for a
/// while looks like one that waits for its reader, and then each byte is read on its own for some
/// time.
#[track_caller]
fn a_flood_is_read_many_bytes_at_a_time(log: &Path, vmon: u32, mut flood: impl FnMut()) {
    let mut seen = Vec::new();
    while seen.iter().all(|reads| *reads >= WRITES / 10) {
        assert!(seen.len() < 20, "{seen:?}");
        let size = || fs::metadata(log).map_or(0, |found| found.len());
        let (before, reads_before) = (size(), reads(vmon));
        flood();
        eventually("all is in the log", || size() == before + WRITES);
        seen.push(reads(vmon) - reads_before);
    }
}

/// Floods a console with single-byte writes, like a VMM's serial port.
#[track_caller]
fn single_bytes_are_read_many_at_a_time(console: &str, open: impl Fn(&State) -> File) {
    if cfg!(vmon_coalesce = "never") {
        return;
    }
    let state = State::new();
    let console = console.replace("DIR", state.path().to_str().unwrap());
    let options = ["--log-rate", "1MiB/s", "--console", &console];
    let mut vmon = start(&state, &options, "echo {a}; exec sleep 600");
    let mut writer = open(&state);
    a_flood_is_read_many_bytes_at_a_time(&state.log_path("x@a"), vmon.0.id(), || {
        for _ in 0..WRITES {
            writer.write_all(b"x").unwrap();
        }
    });
    drop(writer);
    signal(&vmon.0, Signal::SIGTERM);
    wait(&mut vmon.0);
}

#[test]
fn single_bytes_at_a_socket_are_read_many_at_a_time() {
    single_bytes_are_read_many_at_a_time("a=listen:DIR/a.sock", |state| {
        state.wait_for_status("x", "RUNNING");
        let stream = UnixStream::connect(state.file("a.sock")).unwrap();
        OwnedFd::from(stream).into()
    });
}

#[test]
fn single_bytes_of_a_command_at_a_terminal_are_read_many_at_a_time() {
    if cfg!(vmon_coalesce = "never") {
        return;
    }
    let state = State::new();
    let options =
        ["--no-forward", "--log-max-size", "0", "--log-rate", "1MiB/s", "--tty", "always"];
    let dd = format!("dd if=/dev/zero bs=1 count={WRITES} 2>/dev/null");
    let mut run = state.run("x", &options, &format!("while read _ <\"$GO\"; do {dd}; done"));
    state.gate(&mut run);
    let mut vmon = Process::spawn(run.stdin(Stdio::null()));
    a_flood_is_read_many_bytes_at_a_time(&state.log_path("x"), vmon.0.id(), || state.open_gate());
    signal(&vmon.0, Signal::SIGTERM);
    wait(&mut vmon.0);
}

#[test]
fn single_bytes_at_a_terminal_are_read_many_at_a_time() {
    single_bytes_are_read_many_at_a_time("a=pty", |state| {
        state.wait_for_log("x", b"\n");
        let path = String::from_utf8(state.log("x")).unwrap();
        OpenOptions::new().write(true).open(path.trim()).unwrap()
    });
}

#[test]
fn a_writer_under_back_pressure_loses_nothing() {
    for tty in ["never", "always"] {
        let state = State::new();
        let options = ["--log-rate", "1MiB/s,burst=64KiB", "--tty", tty];
        let script = format!("stty -opost 2>/dev/null; {}", numbers_script(150_000));
        assert_eq!(code(wait(&mut start(&state, &options, &script).0)), 0);
        assert_same(&state.log("x"), &numbers(150_000), tty);
    }
}

#[test]
fn a_writer_above_the_rate_blocks_on_its_pipe() {
    let state = State::new();
    let mut vmon = start(&state, &["--log-rate", "1/s,burst=1"], "exec yes");
    wait_until_full(&stdout_of_child(&state));
    assert!(log_size(&state) < 4096);
    signal(&vmon.0, Signal::SIGTERM);
    wait(&mut vmon.0);
}

#[test]
fn a_reader_slower_than_the_rate_gets_everything_when_it_reads_again() {
    let state = State::new();
    let script = numbers_script(150_000);
    let mut command = state.run("x", &["--log-rate", "1MiB/s,burst=64KiB"], &script);
    let mut vmon = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut stdout = vmon.0.stdout.take().unwrap();
    wait_until_full(&stdout_of_child(&state));
    let mut last = String::new();
    eventually("nothing wakes it any more", || {
        let before = std::mem::replace(&mut last, sleeps(vmon.0.id()));
        assert!(Command::new("sleep").arg("0.1").status().unwrap().success());
        before == last
    });
    fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 65536]);
    eventually("all is forwarded", || {
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
        seen.len() >= numbers(150_000).len()
    });
    assert_same(&seen, &numbers(150_000), "what was forwarded");
    assert_eq!(code(wait(&mut vmon.0)), 0);
}

#[test]
fn a_stop_does_not_wait_for_the_rate_and_all_output_is_in_the_log() {
    let state = State::new();
    let mut vmon = start(&state, &["--log-rate", "1/s,burst=1"], "exec yes");
    let pipe = stdout_of_child(&state);
    wait_until_full(&pipe);
    let written = common::bytes_waiting(pipe.as_raw_fd()) as u64;
    drop(pipe);
    signal(&vmon.0, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon.0)), 143);
    assert!(log_size(&state) >= written, "{} of {written}", log_size(&state));
    assert_eq!(state.run_column("x", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn each_stream_has_a_rate_of_its_own() {
    let state = State::new();
    let script = "yes >&2 & sleep 0.1; echo hello; wait";
    let mut vmon = start(&state, &["--log-rate", "6/s,burst=6"], script);
    eventually("stdout is in the log", || contains(&state.log("x"), b"hello\n"));
    signal(&vmon.0, Signal::SIGTERM);
    wait(&mut vmon.0);
}

#[test]
fn dropped_output_has_a_notice_in_its_place_and_is_counted() {
    let state = State::new();
    let options =
        ["--log-max-size", "0", "--log-rate", "64KiB/s,burst=64KiB", "--over-rate", "drop"];
    let mut command = state.run("x", &options, &numbers_script(150_000));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(code(output.status), 0);
    let log = state.log("x");
    let left_out = check_pieces(&log, &numbers(150_000));
    assert!(left_out > 0);
    assert_eq!(state.run_column("x", "bytes_dropped"), Some(left_out.to_string()));
    let kept = numbers(150_000).len() as u64 - left_out;
    assert_eq!(state.run_column("x", "bytes_logged"), Some(kept.to_string()));
    assert_same(&output.stdout, &log, "what was forwarded");
}

#[test]
fn dropped_output_at_the_end_has_a_notice_too() {
    let state = State::new();
    let options = ["--log-rate", "64KiB/s", "--over-rate", "drop"];
    let script = format!("{}; exec sleep 600", numbers_script(15_000));
    let mut vmon = start(&state, &options, &script);
    eventually("the notice", || state.log("x").ends_with(b" bytes left out]\r\n"));
    let left_out = check_pieces(&state.log("x"), &numbers(15_000));
    eventually("the supervisor counts it", || {
        inspected(&state)["live"]["bytes_dropped"] == left_out
    });
    signal(&vmon.0, Signal::SIGTERM);
    wait(&mut vmon.0);
}

#[test]
fn dropped_output_is_read_no_faster_than_eight_times_the_rate() {
    let state = State::new();
    let options = ["--log-rate", "1/s,burst=1", "--over-rate", "drop"];
    let mut vmon = start(&state, &options, "exec yes");
    wait_until_full(&stdout_of_child(&state));
    assert!(log_size(&state) < 4096);
    signal(&vmon.0, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon.0)), 143);
    assert!(contains(&state.log("x"), b" bytes left out]\r\n"));
}

#[test]
fn a_source_that_is_silent_again_causes_no_wake_ups() {
    for over in ["block", "drop"] {
        let state = State::new();
        let script = format!("{}; echo end; exec sleep 600", numbers_script(30_000));
        let options = ["--log-rate", "64KiB/s", "--over-rate", over];
        let mut vmon = start(&state, &options, &script);
        let done: &[u8] = if over == "block" { b"end\n" } else { b"left out]\r\n" };
        eventually("the flood is over", || state.log("x").ends_with(done));
        eventually("it sleeps through the life of a process that sleeps itself", || {
            let before = sleeps(vmon.0.id());
            assert!(Command::new("sleep").arg("1").status().unwrap().success());
            sleeps(vmon.0.id()) == before
        });
        signal(&vmon.0, Signal::SIGTERM);
        wait(&mut vmon.0);
    }
}

#[test]
fn a_restart_keeps_the_rate() {
    let state = State::new();
    let options = ["--log-rate", "2KiB/s,burst=3KiB", "--over-rate", "drop"];
    assert_eq!(code(wait(&mut start(&state, &options, "exit 0").0)), 0);
    let output = state.vmon().args(["restart", "x"]).output().unwrap();
    assert_eq!(code(output.status), 0);
    eventually("both runs are over", || {
        inspected(&state)["runs"] == 2 && inspected(&state)["status"] == "STOPPED"
    });
    let spec = &inspected(&state)["spec"];
    assert_eq!((&spec["log_rate"], &spec["log_burst"]), (&2048.into(), &3072.into()));
    assert_eq!(spec["over_rate"], "drop");
}

#[test]
fn an_invalid_rate_is_a_usage_error_with_a_suggestion() {
    let state = State::new();
    for (options, message) in [
        (&["--log-rate", "0/s"][..], "leave the option out"),
        (&["--log-rate", "1MiB"], "such as 1MiB/s"),
        (&["--log-rate", "1MiB/s,4MiB"], "burst=4MiB"),
        (&["--over-rate", "drop"], "--log-rate"),
    ] {
        let output = state.run("x", options, "true").output().unwrap();
        assert_eq!(code(output.status), 125, "{options:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(message), "{options:?}: {text}");
    }
    assert!(!state.log_path("x").exists());
}
