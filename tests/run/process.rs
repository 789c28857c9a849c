//! The process of the command: memory is given back, descriptors are closed.

#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Child, Command};

use crate::common::{State, eventually, has, run_host, signal, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    run_host(&State::new(), hosts::MODULE, "trims_its_heap", "VMON_TEST_STATE", |_| {});
}

/// Processes of their own, whose memory is all their own too.
#[cfg(target_env = "gnu")]
mod hosts {
    use super::*;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    #[test]
    #[ignore = "run by a_trimmed_heap_gives_back_what_lies_between_blocks_in_use"]
    fn trims_its_heap() {
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

/// A traced supervisor, which does not outlive a test that fails.
struct Traced {
    strace: Child,
    supervisor: Pid,
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = kill(self.supervisor, Signal::SIGTERM);
        wait(&mut self.strace);
    }
}

#[test]
fn an_idle_supervisor_gives_its_memory_back() {
    if !has("strace") {
        eprintln!("skipped: no strace here");
        return;
    }
    let state = State::new();
    let trace = state.file("trace");
    let script = "echo begun; exec sleep 1000";
    let traced = state.run("idle", &["--stdin", "null", "--no-forward"], script);
    let strace = Command::new("strace")
        .args(["-e", "trace=madvise,munmap", "-o"])
        .arg(&trace)
        .arg(traced.get_program())
        .args(traced.get_args())
        .envs(traced.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .spawn()
        .unwrap();
    state.wait_for_status("idle", "RUNNING");
    let supervisor = state.run_column("idle", "supervisor_pid").unwrap().parse().unwrap();
    let _traced = Traced { strace, supervisor: Pid::from_raw(supervisor) };

    let maps = fs::read_to_string(format!("/proc/{supervisor}/maps")).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let stack = format!("madvise(0x{},", stack.split('-').next().unwrap());
    let calls = |what: &dyn Fn(&str) -> bool| {
        fs::read_to_string(&trace).is_ok_and(|trace| trace.lines().any(what))
    };
    // The stack grows when it is used, so its first page is looked for by its last digits' range.
    let stack_page = &stack[..stack.len() - 6];
    eventually("the stack's pages are given back", || {
        calls(&|line| line.starts_with(stack_page) && line.contains("MADV_DONTNEED"))
    });
    eventually("the buffer that the streams share is given back", || {
        calls(&|line| {
            let length =
                line.strip_prefix("munmap(").and_then(|rest| rest.split([',', ')']).nth(1));
            length
                .and_then(|length| length.trim().parse::<u64>().ok())
                .is_some_and(|it| it > 256 << 10)
        })
    });
}
