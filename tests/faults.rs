//! What vmon does when a system call fails that never fails on a healthy machine.

#![cfg(all(feature = "cli", feature = "registry", feature = "control"))]

mod common;
#[path = "common/inject.rs"]
mod inject;

use std::fs;

use common::{Detached, State, is_alive, one_line};

/// Shows that faults are injected, and where.
#[test]
fn a_kill_fails_as_long_as_a_file_exists_and_only_that_of_vmon() {
    let state = State::new();
    let refused = state.file("refused");
    fs::write(&refused, "").unwrap();
    // The child kills a process of its own meanwhile, which no rule concerns.
    let script = "sleep 1000 & kill -KILL $!; wait $!; echo $? up; exec sleep 1000";
    let mut run = state.run("a", &["-d"], script);
    inject::faults(&mut run, &inject::kill_fails_while(&refused));
    let run = Detached::start(&state, &mut run);
    state.wait_for_log("a", b"137 up\n");
    let kill = || state.vmon().args(["kill", "-s", "KILL", "a"]).output().unwrap();
    let output = kill();
    assert!(one_line(&output).contains("Operation not permitted"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    assert!(is_alive(run.pid));
    fs::remove_file(&refused).unwrap();
    assert_eq!(kill().status.code(), Some(0));
    state.wait_for_status("a", "STOPPED");
    assert_eq!(state.run_column("a", "signal").as_deref(), Some("9"));
}
