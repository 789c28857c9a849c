//! Retention options of the command, and signals that reopen the log.

#![cfg(target_os = "linux")]

use std::fs::{self, File, FileTimes};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::{self, Detached, Process, State, code, eventually, has, signal, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Number of context switches of a process. Each wake-up adds one.
fn switches(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
    lines.map(|line| line.split('\t').nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_silent_log_is_rotated_at_its_interval_and_causes_no_further_wake_ups() {
    let state = State::new();
    let options = ["--log-rotate-every", "300ms", "--no-forward"];
    let mut run = Process::spawn(&mut state.run("web", &options, "echo one; exec sleep 1000"));
    eventually("the rotation", || state.generations("web").len() == 1);
    assert_eq!(fs::read(&state.generations("web")[0]).unwrap(), b"one\n");
    assert_eq!(state.log("web"), b"");
    state.wait_for_closed_db(run.id());
    // Work after a start and a relayed byte ends after a while.
    let mut before = switches(run.id());
    let quiet = Duration::from_millis(2_500);
    eventually("it rests", || {
        std::thread::sleep(quiet);
        let now = switches(run.id());
        now == std::mem::replace(&mut before, now)
    });
    assert_eq!(state.generations("web").len(), 1, "an empty log is not rotated");
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn each_log_has_its_own_interval() {
    let state = State::new();
    let options = ["--log-rotate-every", "100ms", "--log-max-files", "9"];
    let script = "for i in 1 2 3; do echo $i; read x; done; exec sleep 1000";
    let mut run = state.run("web", &options, script);
    let run = run.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut run = Process::spawn(run);
    let mut input = run.stdin.take().unwrap();
    for count in 1..=3 {
        eventually("the rotation", || state.generations("web").len() == count);
        std::io::Write::write_all(&mut input, b"\n").unwrap();
    }
    let read = |path| fs::read_to_string(path).unwrap();
    let lines: Vec<String> = state.generations("web").into_iter().map(read).collect();
    assert_eq!(lines, ["1\n", "2\n", "3\n"]);
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
}

#[test]
fn old_generations_are_removed_at_the_start_of_a_run() {
    let state = State::new();
    let options = ["--log-max-size", "1000", "--log-max-files", "100"];
    let run = |more: &[&str], script| {
        let mut run = state.run("web", &[&options[..], more].concat(), script);
        assert_eq!(code(wait(&mut run.stdout(Stdio::null()).spawn().unwrap())), 0);
    };
    run(&[], "seq 1 2000");
    let generations = state.generations("web");
    assert_eq!(generations.len(), 8);
    for old in &generations[..3] {
        let times = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(7200));
        File::options().write(true).open(old).unwrap().set_times(times).unwrap();
    }
    run(&["--log-max-age", "3h"], "true");
    assert_eq!(state.generations("web"), generations);
    run(&["--log-max-age", "1h"], "true");
    assert_eq!(state.generations("web"), &generations[3..]);
}

#[test]
fn a_total_alone_keeps_as_many_as_fit_in_logs_of_an_eighth() {
    let state = State::new();
    let script = "seq 1 100000";
    let mut run = state.run("web", &["--log-total-size", "160000", "--log-index", "off"], script);
    assert_eq!(code(wait(&mut run.stdout(Stdio::null()).spawn().unwrap())), 0);
    let sizes: Vec<u64> =
        state.generations("web").iter().map(|path| path.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 7);
    assert!(sizes.iter().all(|size| (19_990..=20_000).contains(size)), "{sizes:?}");
}

#[test]
fn combinations_that_can_not_hold_are_usage_errors() {
    let state = State::new();
    for (options, message) in [
        (&["--log-max-size", "2MiB", "--log-total-size", "1MiB"][..], "--log-max-size 2097152"),
        (
            &["--log-max-size", "300K", "--log-total-size", "1M", "--log-rotate-command", "gzip"],
            "at most 209715, a fifth",
        ),
        (&["--log-max-size", "0", "--log-total-size", "1MiB"], "--log-max-size 0 never rotates"),
        (&["--log-total-size", "1000"], "--log-total-size is too small"),
        (&["--log-max-files", "0", "--log-rotate-command", "gzip"], "--log-max-files 0 keeps no"),
        (&["--log-rotate-command", " "], "the command is empty"),
        (&["--log-max-age", "0"], "longer than 0"),
        (&["--log-rotate-every", "0s"], "longer than 0"),
    ] {
        let output = state.run("web", options, "true").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{options:?}");
        assert!(said.starts_with("vmon: ") && said.contains(message), "{options:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "nothing is written");
    }
}

#[test]
fn a_restart_keeps_all_retention_options() {
    let state = State::new();
    let options = [
        "-d",
        "--log-total-size",
        "40MiB",
        "--log-max-age",
        "36h",
        "--log-rotate-every",
        "1500ms",
        "--log-rotate-command",
        "gzip  -9 '-q' #\u{e9}",
    ];
    let _first = Detached::start(&state, &mut state.run("web", &options, "exec sleep 100"));
    let before = state.run_column("web", "spec").unwrap();
    for (key, value) in [
        ("log_max_size", "5242880"),
        ("log_max_files", "4294967295"),
        ("log_total_size", "41943040"),
        ("log_max_age_seconds", "129600.0"),
        ("log_rotate_every_seconds", "1.5"),
        ("log_rotate_command", "\"gzip  -9 '-q' #\u{e9}\""),
    ] {
        assert!(before.contains(&format!("\"{key}\":{value}")), "{key}: {before}");
    }
    let _second = Detached::start(&state, state.vmon().args(["restart", "web"]));
    assert_eq!(state.run_column("web", "spec"), Some(before));
}

#[test]
fn usr1_reopens_the_log_by_its_name() {
    for tty in ["never", "always"] {
        let state = State::new();
        let script = "echo one; read x; echo two; read x";
        let mut run = state.run("web", &["--tty", tty, "--no-forward"], script);
        let mut run = Process::spawn(run.stdin(Stdio::piped()));
        let mut input = run.stdin.take().unwrap();
        state.wait_for_log("web", b"one");
        let moved = state.file("moved");
        fs::rename(state.log_path("web"), &moved).unwrap();
        signal(&run, Signal::SIGUSR1);
        // At once, although nothing is written.
        eventually("a new log", || state.log_path("web").exists());
        std::io::Write::write_all(&mut input, b"\n").unwrap();
        state.wait_for_log("web", b"two");
        assert!(!common::contains(&state.log("web"), b"one"));
        assert!(!common::contains(&fs::read(&moved).unwrap(), b"two"));
        drop(input);
        wait(&mut run);
    }
}

#[test]
fn usr1_between_two_runs_does_not_terminate_the_supervisor() {
    let state = State::new();
    let mut run = state.run("web", &["--restart", "always"], "echo up; sleep 0.05; exit 1");
    let mut run = Process::spawn(run.stdout(Stdio::null()));
    let count = || state.log("web").windows(3).filter(|line| line == b"up\n").count();
    eventually("three runs", || {
        // It has its signal handlers before there is a log.
        if count() > 0 {
            signal(&run, Signal::SIGUSR1);
        }
        count() >= 3
    });
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
}

/// Runs logrotate(8) on the log with this postrotate script.
fn logrotate(state: &State, postrotate: &str) {
    let configuration = state.file("logrotate.conf");
    let text = format!(
        "{}/log/*/*.log {{\n  rotate 3\n  missingok\n  notifempty\n  nocreate\n  sharedscripts\n  \
         postrotate\n    {postrotate}\n  endscript\n}}\n",
        state.path().display()
    );
    fs::write(&configuration, text).unwrap();
    let mut logrotate = Command::new("logrotate");
    logrotate.arg("--force").arg("--state").arg(state.file("logrotate.state")).arg(configuration);
    logrotate.env("VMON_STATE_DIR", state.path());
    let output = logrotate.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn logrotate_rotates_the_log_without_loss() {
    if !has("logrotate") {
        eprintln!("skipped: there is no logrotate");
        return;
    }
    let state = State::new();
    let options = ["-d", "--log-max-size", "0", "--stdin", "forward"];
    let script = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.001; done";
    let sandbox = Detached::start(&state, &mut state.run("web", &options, script));
    let vmon = env!("CARGO_BIN_EXE_vmon");
    // With one pid, and with those of all running supervisors.
    let all = format!("{vmon} ps --format '{{supervisor_pid}}' | xargs -r kill -USR1");
    for postrotate in [format!("kill -USR1 {}", sandbox.supervisor), all.clone(), all] {
        eventually("bytes", || state.log("web").len() > 500);
        logrotate(&state, &postrotate);
        eventually("a new log", || !state.log("web").is_empty());
    }
    kill(Pid::from_raw(sandbox.pid as i32), Signal::SIGKILL).unwrap();
    state.wait_for_status("web", "STOPPED");
    let mut whole = String::new();
    for ending in [".3", ".2", ".1", ""] {
        let path = state.logs().join(format!("web.log{ending}"));
        whole.push_str(&fs::read_to_string(path).unwrap());
    }
    let numbers: Vec<usize> = whole.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}
