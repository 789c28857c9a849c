//! What the command does to its own process: memory comes back, descriptors are closed.

#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::fs;
use std::process::Command;

use common::{State, eventually, has, signal, wait};
use nix::sys::signal::Signal;

/// Resident memory of this process in KiB (proc_pid_status(5)).
#[cfg(target_env = "gnu")]
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[cfg(target_env = "gnu")]
fn a_trimmed_heap_gives_back_what_lies_between_blocks_in_use() {
    // Small blocks, so that none is mapped by itself, and one in a thousand stays in use.
    let blocks: Vec<Vec<u8>> = (0..32 << 10).map(|_| vec![1; 1 << 10]).collect();
    let kept: Vec<Vec<u8>> =
        blocks.into_iter().enumerate().filter(|(n, _)| n % 1000 == 0).map(|(_, b)| b).collect();
    let before = resident();
    vmon::process::trim_heap();
    let after = resident();
    assert!(before > after + (16 << 10), "{before} KiB, and {after} KiB after it");
    assert!(kept.iter().all(|block| block.iter().all(|byte| *byte == 1)));
}

#[test]
fn an_idle_supervisor_holds_no_descriptor_of_the_database() {
    let state = State::new();
    let mut vmon = state.run("idle", &["--stdin", "null"], "exec sleep 1000").spawn().unwrap();
    state.wait_for_status("idle", "RUNNING");
    state.wait_for_closed_db(vmon.id());
    signal(&vmon, Signal::SIGTERM);
    wait(&mut vmon);
    state.wait_for_status("idle", "STOPPED");
}

#[test]
fn an_idle_supervisor_gives_its_memory_back() {
    if !has("strace") {
        eprintln!("skipped: no strace here");
        return;
    }
    let state = State::new();
    let trace = state.file("trace");
    let traced = state.run("idle", &["--stdin", "null"], "exec sleep 1000");
    let mut strace = Command::new("strace")
        .args(["-f", "-e", "trace=madvise", "-o"])
        .arg(&trace)
        .arg(traced.get_program())
        .args(traced.get_args())
        .envs(traced.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .spawn()
        .unwrap();
    // Of the stack, whatever the allocator has.
    eventually("pages are given back", || {
        fs::read_to_string(&trace).is_ok_and(|trace| trace.contains("MADV_DONTNEED"))
    });
    let supervisor = state.run_column("idle", "supervisor_pid").unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), Signal::SIGTERM).unwrap();
    wait(&mut strace);
}
