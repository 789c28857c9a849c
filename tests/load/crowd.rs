//! Two hundred sandboxes in the background at once: started, listed, stopped and removed.

#![cfg(target_os = "linux")]

use std::process::Output;
use std::thread;

use crate::common::{self, State, eventually};
use serde_json::Value;

const SANDBOXES: usize = 200;

/// How many commands start them side by side.
const STARTERS: usize = 8;

/// A state directory whose sandboxes go with it.
struct Crowd(State);

impl Crowd {
    #[track_caller]
    fn vmon(&self, args: &[&str]) -> Output {
        let output = self.0.vmon().args(args).output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    #[track_caller]
    fn list(&self, all: &[&str]) -> Vec<Value> {
        let output = self.vmon(&[&["ps", "--json"], all].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let pids = self.0.supervisors();
        for pid in pids.into_iter().filter(|&pid| common::is_alive(pid)) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

#[test]
fn two_hundred_sandboxes_are_started_listed_stopped_and_removed() {
    let crowd = Crowd(State::new());
    let names: Vec<String> = (0..SANDBOXES).map(|number| format!("s{number:03}")).collect();
    thread::scope(|scope| {
        for part in names.chunks(SANDBOXES.div_ceil(STARTERS)) {
            let crowd = &crowd;
            scope.spawn(move || {
                for name in part {
                    let output = crowd.0.run(name, &["-d"], "echo up; exec sleep 1000").output();
                    let output = output.unwrap();
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success(), "{name}: {said}");
                    let answer = String::from_utf8(output.stdout).unwrap();
                    assert!(answer.starts_with(&format!("{name} ")), "{answer}");
                }
            });
        }
    });
    // Eight that write at once may be late by a moment each.
    eventually("all are on record", || crowd.list(&[]).iter().all(|run| run["pid"].is_u64()));
    let running = crowd.list(&[]);
    let mut listed: Vec<&str> = running.iter().map(|run| run["name"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
    let pids: Vec<u32> = running.iter().map(|run| run["pid"].as_u64().unwrap() as u32).collect();
    assert!(pids.iter().all(|&pid| common::is_alive(pid)));

    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    crowd.vmon(&[&["stop"], &all[..]].concat());
    assert!(pids.iter().all(|&pid| !common::is_alive(pid)));
    assert_eq!(crowd.list(&[]), Vec::<Value>::new());
    let over = crowd.list(&["--all"]);
    assert_eq!(over.len(), SANDBOXES);
    assert!(over.iter().all(|run| run["reason"] == "stopped"), "{over:?}");

    // Each ended by TERM.
    let codes = crowd.vmon(&[&["wait"], &all[..]].concat());
    assert_eq!(String::from_utf8(codes.stdout).unwrap(), "143\n".repeat(SANDBOXES));

    crowd.vmon(&[&["rm", "--logs"], &all[..]].concat());
    assert_eq!(crowd.list(&["--all"]), Vec::<Value>::new());
    let left: Vec<_> = std::fs::read_dir(crowd.0.logs()).map(Iterator::collect).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}
