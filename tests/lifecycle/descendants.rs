//! The processes that a child leaves behind, and processes that are not descendants of it.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::cgroups::cgroup;
use crate::common::{
    Detached, State, code, eventually, is_alive, is_gone, process_state, python, run_host, signal,
    wait,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmon::child::Command as Child;
use vmon::monitor::{Monitor, Outcome, Reason, Sandbox};
use vmon::reactor::Reactor;

/// The pids that a script has written to this file of the state, one a line.
fn pids(state: &State, file: &str, count: usize) -> Vec<u32> {
    let mut found = Vec::new();
    eventually("the pids", || {
        let text = fs::read_to_string(state.file(file)).unwrap_or_default();
        found = text.lines().filter_map(|line| line.parse().ok()).collect();
        found.len() == count
    });
    found
}

/// A run in the directory of the state.
fn here(state: &State, options: &[&str], script: &str) -> Command {
    let mut command = state.run("x", options, script);
    command.current_dir(state.path());
    command
}

#[test]
fn a_background_job_and_a_daemon_end_with_the_command() {
    let state = State::new();
    let script = "sleep 1000 & echo $! >> pids
        setsid sh -c 'setsid sleep 1000 & echo $! >> pids; exec sleep 1000' & echo $! >> pids
        while [ $(wc -l < pids) -lt 3 ]; do :; done; echo the last; exit 3";
    let output = here(&state, &["--stop-timeout", "1h"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"the last\n");
    for pid in pids(&state, "pids", 3) {
        assert!(is_gone(pid), "{pid}: {:?}", process_state(pid));
    }
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("exited"));
}

#[test]
fn a_daemon_whose_main_thread_has_ended_ends_with_the_command() {
    let Some(python) = python() else { return };
    let state = State::new();
    let program = "import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print(os.getpid(), file=open('pids', 'w'), flush=True)
ctypes.CDLL(None).pthread_exit(None)";
    // A zombie by its state, with a thread that lives.
    let script = format!(
        "setsid {} -c \"$PROGRAM\" & while ! grep -qs '(zombie)' /proc/$(cat pids 2>/dev/null)/status; do :; done",
        python.get_program().display()
    );
    let mut run = here(&state, &["--stop-timeout", "1h"], &script);
    assert!(run.env("PROGRAM", program).status().unwrap().success());
    let pid = pids(&state, "pids", 1)[0];
    assert!(is_gone(pid), "{pid}: {:?}", process_state(pid));
}

#[test]
fn a_daemon_that_ignores_the_stop_signal_is_killed_after_the_stop_timeout() {
    let state = State::new();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > pids; while :; do sleep 1000; done' &
        while ! [ -s pids ]; do :; done; exit 3";
    let begin = Instant::now();
    let mut vmon = here(&state, &["--stop-timeout", "500ms"], script).spawn().unwrap();
    assert_eq!(code(wait(&mut vmon)), 3);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(is_gone(pids(&state, "pids", 1)[0]));
}

#[test]
fn the_last_output_of_a_daemon_is_in_the_log_before_the_end_is_recorded() {
    let state = State::new();
    // Silent for longer than the grace of a drain. Its own child is a program by the time it is
    // told of: one that has only been forked would take the stop signal for the shell.
    let script = "setsid sh -c 'trap \"sleep 0.5; echo the last words; exit\" TERM
            sh -c \"echo \\$PPID > pids; exec sleep 1000\" & wait' &
        while ! [ -s pids ]; do :; done; exit 3";
    let output = here(&state, &["--stop-timeout", "1h"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"the last words\n");
    assert_eq!(state.log("x"), b"the last words\n");
    assert_eq!(state.run_column("x", "state").as_deref(), Some("STOPPED"));
}

#[test]
fn a_stop_request_during_the_drain_kills_what_is_left() {
    let state = State::new();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > pids; while :; do sleep 1000; done' &
        while ! [ -s pids ]; do :; done; echo $$ > child; exit 3";
    let mut vmon = here(&state, &["--stop-timeout", "1h"], script).spawn().unwrap();
    let child = pids(&state, "child", 1)[0];
    eventually("the child has been reaped", || is_gone(child));
    let daemon = pids(&state, "pids", 1)[0];
    assert!(is_alive(daemon));
    signal(&vmon, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon)), 3);
    assert!(is_gone(daemon));
}

#[test]
fn leave_descendants_keeps_them_running() {
    let state = State::new();
    let script = "sleep 1000 & echo $! >> pids; setsid sleep 1000 & echo $! >> pids; exit 3";
    let mut command = here(&state, &["--leave-descendants"], script);
    let mut vmon = command.stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(code(wait(&mut vmon)), 3);
    for pid in pids(&state, "pids", 2) {
        assert!(is_alive(pid));
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
}

#[test]
fn an_orphan_that_ends_while_the_command_runs_leaves_no_zombie() {
    let state = State::new();
    // Each sleep's parent ends at once, so that it comes down to the supervisor.
    let script = "for i in 1 2 3; do
            sh -c 'setsid sleep 0.3 & echo $! >> pids'; done; exec sleep 1000";
    let mut vmon = here(&state, &[], script).spawn().unwrap();
    for pid in pids(&state, "pids", 3) {
        eventually("the orphan is reaped", || is_gone(pid));
    }
    signal(&vmon, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon)), 143);
}

#[test]
fn children_that_the_supervisor_inherited_are_left_alone() {
    let state = State::new();
    let vmon = here(&state, &[], "sleep 1000 & echo $! >> pids; exit 3");
    // The shell that becomes the supervisor has children by then: one of its own session, one not.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "sleep 1000 & echo $! >> strangers; setsid sleep 1000 & echo $! >> strangers
            exec \"$@\"",
            "sh",
        ])
        .arg(vmon.get_program())
        .args(vmon.get_args())
        .envs(vmon.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .current_dir(state.path())
        .stdin(Stdio::null());
    let mut vmon = command.spawn().unwrap();
    assert_eq!(code(wait(&mut vmon)), 3);
    for pid in pids(&state, "strangers", 2) {
        assert!(is_alive(pid));
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    }
    assert!(is_gone(pids(&state, "pids", 1)[0]));
}

/// Not on the poll(2) back end: poll(2) itself fails beyond the file limit.
#[cfg(not(mio_unsupported_force_poll_poll))]
#[test]
fn a_failed_poll_does_not_count_as_no_process_left() {
    let state = State::new();
    let script = "trap 'exit 3' TERM
        setsid sh -c 'echo $$ > pids; exec sleep 1000' >/dev/null 2>&1 </dev/null &
        echo up; while :; do sleep 0.05; done";
    let mut command = here(&state, &["-d", "--stop-timeout", "1h"], script);
    let sandbox = Detached::start(&state, &mut command);
    state.wait_for_log("x", b"up");
    let daemon = pids(&state, "pids", 1)[0];
    // No further descriptor: neither the process table nor an environment can be read.
    let limit = |number: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg(format!("--nofile={number}:")).args(["--pid", &sandbox.supervisor.to_string()]);
        assert!(prlimit.status().unwrap().success());
    };
    let former = fs::read_to_string(format!("/proc/{}/limits", sandbox.supervisor)).unwrap();
    let former = former.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let former = former.split_whitespace().next().unwrap().to_owned();
    limit("3");
    sandbox.signal(Signal::SIGTERM);
    eventually("the command has ended", || is_gone(sandbox.pid));
    // Each failed look is followed by a sleep until the next one.
    let sleeps = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", sandbox.supervisor)).unwrap();
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    let before = sleeps();
    eventually("it has looked again", || sleeps() >= before + 3);
    assert!(is_alive(daemon));
    assert_ne!(state.run_column("x", "state").as_deref(), Some("STOPPED"));
    limit(&former);
    state.wait_for_status("x", "STOPPED");
    assert!(is_gone(daemon));
    assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("3"));
}

#[test]
fn a_cgroup_is_made_for_the_child_and_goes_with_all_that_is_in_it() {
    let Some(path) = cgroup("goes") else { return };
    let state = State::new();
    let script = "cat /proc/self/cgroup
        setsid sh -c 'trap \"\" TERM; echo $$ > pids; while :; do sleep 1000; done' &
        while ! [ -s pids ]; do :; done; exit 3";
    let options = ["--stop-timeout", "300ms", "--cgroup", path.to_str().unwrap()];
    let output = here(&state, &options, script).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let name = path.file_name().unwrap().to_str().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().any(|line| line.starts_with("0::") && line.ends_with(name)), "{said}");
    assert!(is_gone(pids(&state, "pids", 1)[0]));
    assert!(!path.exists());
}

#[test]
fn a_cgroup_that_is_in_use_or_none_is_refused_before_anything_starts() {
    let state = State::new();
    let refused = |path: &Path, what: &str| {
        let options = ["--cgroup", path.to_str().unwrap()];
        let output = here(&state, &options, "touch started").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(what) && said.contains(path.to_str().unwrap()), "{said}");
        assert!(!state.file("started").exists());
    };
    refused(&state.file("no-cgroup"), "not a cgroup v2");
    assert!(!state.file("no-cgroup").exists());
    let Some(path) = cgroup("used") else { return };
    refused(path.parent().unwrap(), "is a root");
    fs::create_dir(&path).unwrap();
    let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(path.join("cgroup.procs"), sleep.id().to_string()).unwrap();
    refused(&path, "has processes already");
    assert!(is_alive(sleep.id()));
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    eventually("the cgroup can be removed", || fs::remove_dir(&path).is_ok());
}

#[test]
fn a_cgroup_that_was_there_before_stays() {
    let Some(path) = cgroup("stays") else { return };
    fs::create_dir(&path).unwrap();
    let state = State::new();
    let output = here(&state, &["--cgroup", path.to_str().unwrap()], "exit 3").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir(&path).unwrap();
}

#[test]
fn the_cgroup_of_a_lost_run_that_is_another_runs_by_now_is_left_alone() {
    let Some(path) = cgroup("reused") else { return };
    fs::create_dir(&path).unwrap();
    let (lost, live) = (State::new(), State::new());
    let options = ["--cgroup", path.to_str().unwrap()];
    let run = |state: &State| here(state, &options, "echo up; exec sleep 1000").spawn().unwrap();
    let mut supervisor = run(&lost);
    lost.wait_for_status("x", "RUNNING");
    signal(&supervisor, Signal::SIGKILL);
    wait(&mut supervisor);
    let populated = || fs::read_to_string(path.join("cgroup.events")).unwrap();
    eventually("its child is gone", || populated().contains("populated 0"));
    // In another record, so that no claim ends what may be left of the first.
    let mut supervisor = run(&live);
    live.wait_for_log("x", b"up");
    live.wait_for_status("x", "RUNNING");
    assert!(lost.vmon().args(["ps", "--all"]).output().unwrap().status.success());
    assert_eq!(lost.run_column("x", "reason").as_deref(), Some("supervisor-lost"));
    signal(&supervisor, Signal::SIGTERM);
    assert_eq!(code(wait(&mut supervisor)), 143);
    assert_eq!(live.run_column("x", "reason").as_deref(), Some("stopped"));
    eventually("the cgroup can be removed", || fs::remove_dir(&path).is_ok());
}

#[test]
fn a_library_ends_the_group_of_its_child_and_no_other_process() {
    run_host(
        &State::new(),
        hosts::MODULE,
        "the_group_ends_and_others_stay",
        "VMON_TEST_DESCENDANTS",
        |_| {},
    );
}

/// Processes of their own, on their main threads: run by the tests above.
mod hosts {
    use super::*;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    #[test]
    #[ignore = "run by a_library_ends_the_group_of_its_child_and_no_other_process"]
    fn the_group_ends_and_others_stay() {
        let directory = PathBuf::from(std::env::var_os("VMON_TEST_DESCENDANTS").unwrap());
        let file = |name: &str| directory.join(name).display().to_string();
        // Children of the host's own: one that runs, and one that has ended and waits for it.
        let mut own = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut ended = Command::new("true").spawn().unwrap();
        eventually("it has ended", || process_state(ended.id()) == Some('Z'));
        let script = format!(
            "sleep 1000 & echo $! > {job}
            setsid sh -c 'echo $$ > {away}; exec sleep 1000' >/dev/null 2>&1 &
            while ! [ -s {away} ]; do :; done; exit 3",
            job = file("job"),
            away = file("away"),
        );
        let mut reactor = Reactor::new().unwrap();
        let sandbox = Sandbox::new("x", directory.join("log")).unwrap();
        let id =
            Monitor::builder(sandbox).spawn(&mut reactor, Child::new("sh").args(["-c", &script]));
        reactor.run().unwrap();
        let end = reactor.remove(id).and_then(Monitor::into_end).unwrap();
        assert!(matches!(end.outcome, Outcome::Ended { reason: Reason::Exited, .. }));
        let pid =
            |name: &str| -> u32 { fs::read_to_string(file(name)).unwrap().trim().parse().unwrap() };
        assert!(!is_alive(pid("job")));
        // It has left the group, and no process here is a subreaper.
        assert!(is_alive(pid("away")));
        kill(Pid::from_raw(pid("away") as i32), Signal::SIGKILL).unwrap();
        assert!(own.try_wait().unwrap().is_none());
        assert_eq!(ended.try_wait().unwrap().and_then(|status| status.code()), Some(0));
        own.kill().unwrap();
        own.wait().unwrap();
    }
}

#[test]
fn as_process_1_of_a_container_vmon_reaps_every_orphan() {
    let namespace = ["-r", "-p", "-f", "--mount-proc", "--kill-child"];
    let possible = Command::new("unshare").args(namespace).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    let state = State::new();
    for options in [&[][..], &["--leave-descendants"]] {
        // The command ends well when it has no zombie beside it any more.
        let script = "setsid -f sleep 0.1; setsid -f true; (sleep 0.1 &)
            while pgrep -x 'sleep|true' >/dev/null; do :; done; echo all reaped";
        let run = state.run("x", options, script);
        let mut command = Command::new("unshare");
        command.args(namespace).arg(run.get_program()).args(run.get_args());
        command.envs(run.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let mut vmon = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(code(wait(&mut vmon)), 0, "{options:?}");
        assert_eq!(state.log("x"), b"all reaped\n", "{options:?}");
        fs::remove_file(state.log_path("x")).unwrap();
    }
}
