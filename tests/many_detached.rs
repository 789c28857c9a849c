//! Many sandboxes in the background at once.

#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use common::{Detached, State, code, eventually, is_alive, wait};

const COUNT: usize = 200;

/// As many as a machine of two processors starts at a time without a claim that gives up.
const AT_ONCE: usize = 50;

#[test]
fn two_hundred_are_started_listed_stopped_and_removed() {
    let state = State::new();
    let names: Vec<String> = (0..COUNT).map(|number| format!("s{number}")).collect();
    let mut sandboxes = Vec::new();
    for names in names.chunks(AT_ONCE) {
        let starts: Vec<_> = names
            .iter()
            .map(|name| {
                let mut run = state.run(name, &["-d"], "echo ready; exec sleep 1000");
                run.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for start in starts {
            let output = start.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0));
            sandboxes.push(Detached::of(&state, &String::from_utf8(output.stdout).unwrap()));
        }
    }
    let listed = state.vmon().args(["ps", "--format", "names"]).output().unwrap();
    let listed: BTreeSet<String> =
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(names.iter().all(|name| listed.iter().any(|line| line.ends_with(name.as_str()))));
    assert_eq!(listed.len(), COUNT);

    let all = |command: &str| -> Command {
        let mut vmon = state.vmon();
        vmon.arg(command).args(&names);
        vmon
    };
    assert_eq!(code(wait(&mut all("stop").spawn().unwrap())), 0);
    assert!(sandboxes.iter().all(|sandbox| !is_alive(sandbox.pid)));
    eventually("the supervisors have gone", || {
        sandboxes.iter().all(|sandbox| !is_alive(sandbox.supervisor))
    });
    let waited = all("wait").output().unwrap();
    assert_eq!(String::from_utf8(waited.stdout).unwrap(), "143\n".repeat(COUNT));
    assert_eq!(code(wait(&mut all("rm").arg("--logs").spawn().unwrap())), 0);
    let listed = state.vmon().args(["ps", "--all", "--format", "names"]).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "");
    assert_eq!(std::fs::read_dir(state.logs()).map_or(0, Iterator::count), 0);
}
