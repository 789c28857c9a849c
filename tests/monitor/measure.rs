//! `vmon::usage` of real processes.

#![cfg(target_os = "linux")]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::common::eventually;
use vmon::child::Identity;
use vmon::usage::{self, UsageError};

/// A shell in a group of its own; all of that is killed in the end.
struct Tree(Child);

impl Tree {
    fn start(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0).stdin(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn identity(&self) -> Identity {
        Identity::of(self.0.id()).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_tree_counts_its_descendants_and_their_memory() {
    let tree = Tree::start("sleep 1000 & sh -c 'sleep 1000 & sleep 1000; true' & wait");
    let root = tree.identity();
    eventually("five processes", || usage::of_tree(&root).unwrap().processes == 5);
    let usage = usage::of_tree(&root).unwrap();
    assert_eq!(usage.threads, 5);
    assert!(usage.resident > 5 * 64 * 1024, "{usage:?}");
    let proportional = usage::proportional(&root).unwrap().unwrap();
    assert!(proportional > 0 && proportional <= usage.resident, "{proportional}: {usage:?}");
}

#[test]
fn the_time_of_a_child_that_has_been_reaped_stays_in_the_sum() {
    let mut tree =
        Tree::start("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; read -r _; exit 0");
    let root = tree.identity();
    eventually("the loop has ended", || {
        let usage = usage::of_tree(&root).unwrap();
        usage.processes == 1 && !usage.cpu.is_zero()
    });
    let before = usage::of_tree(&root).unwrap().cpu;
    assert!(usage::of_tree(&root).unwrap().cpu >= before);
    tree.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    tree.0.wait().unwrap();
    assert!(matches!(usage::of_tree(&root), Err(UsageError::Gone(pid)) if pid == root.pid));
}

#[test]
fn a_tree_whose_processes_change_is_measured() {
    let tree = Tree::start("while :; do /bin/true & /bin/true; done");
    let root = tree.identity();
    for _ in 0..200 {
        assert!(usage::of_tree(&root).unwrap().processes >= 1);
    }
}

#[test]
fn a_process_of_another_start_time_or_boot_is_not_measured() {
    let own = Identity::current();
    let earlier = Identity { start: own.start - 1, ..own.clone() };
    assert!(matches!(usage::of_tree(&earlier), Err(UsageError::Gone(_))));
    let other_boot = Identity { boot_id: "another".to_owned(), ..own.clone() };
    assert!(matches!(usage::of_tree(&other_boot), Err(UsageError::Gone(_))));
    let elsewhere = Identity { pid_namespace: Some(1), ..own };
    assert!(matches!(usage::of_tree(&elsewhere), Err(UsageError::OutOfSight(_))));
    let error = usage::of_cgroup("/proc".as_ref());
    assert!(matches!(error, Err(UsageError::NotCgroup(_))));
}
