//! What a host adds to its process.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::common::{State, eventually, run_host};
use crate::{sandbox, sh, wait};
use vmon::host::Host;

const STATE: &str = "VMON_TEST_HOST_STATE";

fn entries(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Lines of `/proc/self/status` that tell what handles signals, and `/proc/self/limits`.
fn settings() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let signals = status.lines().filter(|line| ["SigIgn", "SigCgt"].contains(&&line[..6]));
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    signals.chain(limits.lines()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_host_is_one_thread_and_two_descriptors_that_an_idle_one_is_never_woken_for() {
    let state = State::new();
    run_host(&state, module_path!(), "measured_host", STATE, |_| {});
}

#[test]
#[ignore = "run as a process of its own"]
fn measured_host() {
    let state = State::new();
    // A child is started and reaped first: what that opens stays open.
    assert!(Command::new("true").status().unwrap().success());
    let (tasks, files, before) = (entries("/proc/self/task"), entries("/proc/self/fd"), settings());
    let host = Host::new().unwrap();
    let handle = host.handle();
    wait(handle.list()).unwrap();
    let added: Vec<String> =
        entries("/proc/self/task").difference(&tasks).map(String::clone).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    let name = fs::read_to_string(format!("/proc/self/task/{}/comm", added[0])).unwrap();
    assert_eq!(name, "vmon-host\n");
    // The directory that is listed is open too, both times. poll(2) needs one less.
    let descriptors = if cfg!(mio_unsupported_force_poll_poll) { 1..=2 } else { 2..=2 };
    assert!(descriptors.contains(&(entries("/proc/self/fd").len() - files.len())));
    let web = wait(handle.start(sandbox(&state, "web"), sh("echo up; exec sleep 1000"))).unwrap();
    state.wait_for_log("web", b"up\n");
    assert_eq!(settings(), before);
    assert_eq!(entries("/proc/self/task").len(), tasks.len() + 1);

    let switches = || {
        let status = fs::read_to_string(format!("/proc/self/task/{}/status", added[0])).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    // Else it is woken once more, to release it.
    wait(handle.call(|engine| engine.release_scratch())).unwrap();
    // It has come to rest when it sleeps through the life of a process that sleeps itself.
    eventually("it is idle", || {
        let before = switches();
        assert!(Command::new("sleep").arg("0.3").status().unwrap().success());
        switches() == before
    });
    wait(handle.stop(web.id, None)).unwrap();
    wait(web.end).unwrap();
    drop((host, handle));
    eventually("the thread has gone", || entries("/proc/self/task") == tasks);
    assert_eq!(entries("/proc/self/fd").len(), files.len());
}
