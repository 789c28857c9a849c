//! What a supervisor costs while it runs.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::common::{self, State, eventually, wait};

/// A number in `/proc/PID/status`.
fn status(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_idle_supervisor_is_one_thread_that_is_never_woken() {
    let state = State::new();
    let mut run = state.run("idle", &[], "echo up; exec sleep 1000").spawn().unwrap();
    state.wait_for_log("idle", b"up\n");
    state.wait_for_status("idle", "RUNNING");
    let pid = run.id();
    let switches = || status(pid, "voluntary_ctxt_switches");
    // It has come to rest when it sleeps through the life of a process that sleeps itself.
    eventually("it is idle", || {
        let before = switches();
        assert_eq!(common::code(Command::new("sleep").arg("1").status().unwrap()), 0);
        switches() == before
    });
    assert_eq!(status(pid, "Threads"), 1);
    common::signal(&run, Signal::SIGTERM);
    assert_eq!(common::code(wait(&mut run)), 128 + libc::SIGTERM);
}

/// The calls of a short run, of all its processes, with their descriptors' paths. `None` without strace.
fn calls(state: &State, filter: &str) -> Option<String> {
    let trace = state.file("trace");
    let vmon = state.vmon();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", filter, "-o"]).arg(&trace).arg(vmon.get_program());
    strace.args(["run", "--", "/bin/true"]).env("VMON_STATE_DIR", state.path());
    match strace.output() {
        Ok(output) if output.status.success() => Some(fs::read_to_string(trace).unwrap()),
        skipped => {
            eprintln!("skipped: no strace: {skipped:?}");
            None
        }
    }
}

#[test]
fn a_short_run_makes_about_one_sigaction_call_for_each_signal_in_each_process() {
    let state = State::new();
    let Some(calls) = calls(&state, "trace=rt_sigaction") else { return };
    let calls = calls.lines().filter(|line| line.contains("rt_sigaction(")).count();
    // 64 in the child.
    assert!(calls < 128, "{calls}");
}

/// A hole would end the process on a full disk: SIGBUS (mmap(2)).
#[test]
fn the_memory_that_connections_of_the_database_share_has_no_holes() {
    let state = State::new();
    let Some(calls) = calls(&state, "trace=pwrite64") else { return };
    let written = calls.lines().filter(|line| line.contains("-shm>"));
    let written: Vec<usize> =
        written.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    // SQLite leaves 3 bytes of an earlier file.
    assert!(written.iter().sum::<usize>() >= (32 << 10) - 3, "{written:?}");
}

#[test]
fn a_flood_to_a_stuck_reader_uses_bounded_memory() {
    const FLOOD: u64 = 64 << 20;
    let state = State::new();
    let options = ["--forward-overflow", "drop", "--log-max-size", "0"];
    let script = format!("echo up; read go; exec head -c {FLOOD} /dev/zero");
    let mut run = state
        .run("flood", &options, &script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    state.wait_for_log("flood", b"up\n");
    let before = status(run.id(), "VmHWM");
    writeln!(run.stdin.take().unwrap(), "go").unwrap();
    let log = state.log_path("flood");
    eventually("the flood is in the log", || fs::metadata(&log).unwrap().len() == FLOOD + 3);
    // VmHWM can fall: the kernel counts roughly, and the supervisor gives memory back meanwhile.
    let after = status(run.id(), "VmHWM");
    assert!(after < before + 4096, "it grew from {before} kB to {after} kB");
    // The reader continues, and gets the number of missed bytes.
    let mut seen = Vec::new();
    run.stdout.take().unwrap().read_to_end(&mut seen).unwrap();
    assert_eq!(common::code(wait(&mut run)), 0);
    let dropped = state.run_column("flood", "bytes_dropped").unwrap();
    let notice = format!("\r\n[vmon: {dropped} bytes left out]\r\n");
    assert!(seen.ends_with(notice.as_bytes()));
    assert_eq!((seen.len() - notice.len()) as u64 + dropped.parse::<u64>().unwrap(), FLOOD + 3);
}
