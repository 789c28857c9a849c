//! The `disk_bound` that `vmon inspect` prints holds under the worst load.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{
    Process, State, code, directory_size, eventually, process_state, signal, wait,
};

fn bound(state: &State) -> Value {
    let output = state.vmon().args(["inspect", "x"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list[0]["disk_bound"].clone()
}

/// Runs a child whose output is the worst case for the index, with a command that copies each
/// generation and fails, and checks all files until this number of generations has been written.
fn flood(options: &[&str], generations: usize) {
    let script = "while :; do printf a; printf b >&2; done";
    flood_by(script, &["x"], options, generations);
}

/// The same with this script, which writes to all of these logs.
fn flood_by(script: &str, logs: &[&str], options: &[&str], generations: usize) {
    let state = State::new();
    let broken = "f() { cat \"$1\" >\"$1.gz\"; exit 1; }; f";
    let own = ["--no-forward", "--log-level", "error", "--log-rotate-command", broken];
    let options = [&own, options].concat();
    let mut vmon = Process::spawn(state.run("x", &options, script).stdin(Stdio::null()));
    state.wait_for_status("x", "RUNNING");
    let bound = bound(&state).as_u64().unwrap();
    let newest = |log: &&str| {
        let names = state.generations(log).into_iter();
        let names = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        names.filter_map(|name| name.split('.').nth(2)?.parse::<usize>().ok()).max()
    };
    eventually("the generations have come", || {
        // Nothing is renamed during the check.
        signal(&vmon.0, Signal::SIGSTOP);
        eventually("it is stopped", || process_state(vmon.0.id()) == Some('T'));
        let found = directory_size(&state.logs());
        signal(&vmon.0, Signal::SIGCONT);
        assert!(found <= bound, "{found} of {bound}");
        logs.iter().map(newest).min() >= Some(Some(generations))
    });
    signal(&vmon.0, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon.0)), 143);
    let found = directory_size(&state.logs());
    assert!(found <= bound, "at the end: {found} of {bound}");
}

#[test]
fn a_sandbox_whose_compression_fails_stays_within_its_total_size() {
    flood(&["--log-total-size", "64KiB", "--log-max-size", "4KiB"], 20);
}

#[test]
fn a_sandbox_whose_compression_fails_stays_within_what_inspect_prints() {
    flood(&["--log-max-size", "4KiB", "--log-max-files", "3"], 20);
}

#[test]
fn consoles_whose_compression_fails_stay_within_what_inspect_prints() {
    let script = "flood() { while :; do head -c 500 /dev/zero; done; }; \
                  flood >{a} & flood >{b} & wait";
    let consoles = ["--console", "a=pty", "--console", "b=pty"];
    for limits in [
        ["--log-max-size", "4KiB", "--log-max-files", "3"],
        ["--log-max-size", "4KiB", "--log-total-size", "64KiB"],
    ] {
        flood_by(script, &["x@a", "x@b"], &[&consoles[..], &limits].concat(), 20);
    }
}

#[test]
fn the_bound_is_on_record_before_the_end_and_after_it() {
    for (options, expected) in [
        (&["--log-total-size", "1MiB"][..], Some((1 << 20) + (2 << 20))),
        (&["--log-max-size", "1MiB", "--log-max-files", "4"], Some((10 << 20) + (2 << 20))),
        (&["--log-max-size", "1MiB", "--console", "a=pty"], Some((8 << 20) + (2 << 20))),
        // One more generation of either log, with its copy.
        (
            &["--log-max-size", "1MiB", "--console", "a=pty", "--log-rotate-command", "gzip"],
            Some((8 << 20) + 2 * ((3 << 20) + (1 << 14) + (1 << 10)) + (2 << 20)),
        ),
        (&["--log-max-size", "0"], None),
    ] {
        let state = State::new();
        assert_eq!(code(state.run("x", options, "true").status().unwrap()), 0);
        assert_eq!(bound(&state).as_u64(), expected, "{options:?}");
    }
}
