//! Logs that something has happened to: copies, marks without output, truncation, crashes, generations
//! that are missing.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Output, Stdio};

use crate::common::{Process, State, code, each, eventually, signal, wait};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;

fn logs(state: &State, args: &[&str]) -> Output {
    state.vmon().args(["logs", "web"]).args(args).output().unwrap()
}

#[track_caller]
fn printed(output: &Output) -> &str {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn a_copied_state_directory_keeps_times_streams_and_runs_through_the_next_run() {
    each(&["raw", "cri", "json"], |format| {
        let (state, copy) = (State::new(), State::new());
        let options = ["--no-forward", "--log-format", format];
        state.ran("web", &options, "echo out; sleep 0.02; echo err >&2");
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(state.path().join(".")).arg(copy.path());
        assert!(cp.status().unwrap().success());
        let before = logs(&copy, &["-t"]);
        let output = copy.run("web", &options, "echo more").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{format}");
        let after = logs(&copy, &["-t"]);
        assert!(printed(&after).starts_with(printed(&before)), "{format}: {after:?}");
        assert_eq!(printed(&logs(&copy, &["--stream", "stderr"])), "err\n", "{format}");
        assert_eq!(printed(&logs(&copy, &["--run", "1"])), "out\nerr\n", "{format}");
        assert_eq!(printed(&logs(&copy, &["--run", "2"])), "more\n", "{format}");
    });
}

#[test]
fn a_log_that_was_replaced_in_place_is_noticed_and_its_index_goes_with_a_warning() {
    let state = State::new();
    let options = ["--no-forward"];
    state.ran("web", &options, "echo what the command wrote");
    // More bytes than before, in the same file.
    fs::write(state.log_path("web"), "another text, which is longer than the one before\n")
        .unwrap();
    let read = logs(&state, &["-t"]);
    assert!(String::from_utf8_lossy(&read.stderr).contains("does not match its log"), "{read:?}");
    assert!(read.stdout.starts_with(b"- another text"), "{read:?}");
    let output = state.run("web", &options, "echo more").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the time index is removed"));
    let read = logs(&state, &["-t"]);
    assert!(read.stdout.starts_with(b"- another text"), "{read:?}");
    assert_eq!(printed(&logs(&state, &["--run", "last"])), "more\n");
}

#[test]
fn a_file_that_is_no_index_is_removed_and_called_that() {
    let state = State::new();
    let options = ["--no-forward"];
    state.ran("web", &options, "echo one");
    let mut index = state.log_path("web").into_os_string();
    index.push(".idx");
    fs::write(index, "x".repeat(100)).unwrap();
    let output = state.run("web", &options, "echo two").output().unwrap();
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.contains("the time index is removed: it is not an index"), "{warning}");
    assert!(!warning.contains("another program"), "{warning}");
}

#[test]
fn records_are_read_as_records_beside_a_file_that_is_no_index() {
    for format in ["cri", "json"] {
        let state = State::new();
        state.ran("web", &["--no-forward", "--log-format", format], "echo one");
        let mut index = state.log_path("web").into_os_string();
        index.push(".idx");
        for damaged in [&b"x"[..], &[b'x'; 100]] {
            fs::write(&index, damaged).unwrap();
            let output = logs(&state, &[]);
            assert_eq!(output.stdout, b"one\n", "{format}");
            let warning = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(warning.contains("is ignored: it is not an index"), "{format}: {warning}");
        }
    }
}

#[test]
fn since_waits_for_the_index_of_output_that_has_just_come() {
    let state = State::new();
    let script = "echo one; exec sleep 1000";
    let mut run = Process::spawn(&mut state.run("web", &["--no-forward"], script));
    state.wait_for_log("web", b"one\n");
    assert_eq!(printed(&logs(&state, &["--since", "1h"])), "one\n");
    let mut follow = state.vmon();
    follow.args(["logs", "-f", "--since", "1h", "web"]).stdout(Stdio::piped());
    let mut follow = Process::spawn(follow.stderr(Stdio::piped()));
    let mut line = [0; 4];
    follow.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(line, *b"one\n");
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
    assert_eq!(code(wait(&mut follow)), 0);
    let mut errors = String::new();
    follow.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "");
}

#[test]
fn nuls_that_a_crash_has_left_at_the_beginning_hide_no_record() {
    let state = State::new();
    fs::create_dir_all(state.logs()).unwrap();
    let time = "2026-11-23T17:02:03.000000000";
    let cri = format!("ut F half\n{time}+00:00 stdout F whole\n");
    let json = format!(
        "\\n\",\"stream\":\"stdout\",\"time\":\"{time}Z\"}}\n\
         {{\"log\":\"whole\\n\",\"stream\":\"stdout\",\"time\":\"{time}Z\"}}\n"
    );
    for records in [&cri, &json] {
        for (zeros, records) in
            [(4096, &records[..]), (70_000, records.split_once('\n').unwrap().1)]
        {
            let log = [&vec![0; zeros][..], records.as_bytes()].concat();
            fs::write(state.log_path("web"), log).unwrap();
            assert_eq!(printed(&logs(&state, &[])), "whole\n", "{zeros} {records:?}");
        }
    }
}

#[test]
fn generations_that_are_missing_or_not_readable_are_reported() {
    let state = State::new();
    let options = ["--no-forward", "--log-max-size", "8", "--log-max-files", "9"];
    state.ran("web", &options, "for i in 1 2 3 4 5 6; do echo line $i; done");
    let generation = |number: u32| state.log_path("web").with_extension(format!("log.{number:08}"));
    for (number, suffix) in [(1, "xz"), (4, "bz2")] {
        let mut packed = generation(number).into_os_string();
        packed.push(format!(".{suffix}"));
        fs::rename(generation(number), packed).unwrap();
    }
    fs::remove_file(generation(2)).unwrap();
    let output = logs(&state, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"line 3\nline 5\nline 6\n");
    let errors = String::from_utf8(output.stderr).unwrap();
    for expected in ["00000001.xz is left out", "generations 2 to 2 of", "00000004.bz2 is left out"]
    {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_follower_that_waits_for_times_loses_nothing_to_a_truncation() {
    let state = State::new();
    let script = "while read line; do echo $line; done";
    let mut run = state.run("web", &["--no-forward"], script);
    let mut run = Process::spawn(run.stdin(Stdio::piped()));
    let input = run.stdin.as_mut().unwrap();
    let mut send = |line: &str| std::io::Write::write_all(input, line.as_bytes()).unwrap();
    send("first\n");
    state.wait_for_log("web", b"first\n");
    let out = state.file("out");
    let mut follow = state.vmon();
    follow.args(["logs", "-f", "-t", "web"]).stdout(File::create(&out).unwrap());
    let mut follow = Process::spawn(follow.stderr(Stdio::null()));
    let lines = || fs::read_to_string(&out).unwrap();
    eventually("it follows", || lines().contains("first"));
    // The follower reads the line at once and shows it when its time is known, up to 200 ms later.
    // Nothing else reads the log.
    let reads = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
    reads.add_watch(&state.log_path("web"), AddWatchFlags::IN_ACCESS).unwrap();
    send("second\n");
    eventually("it is read", || reads.read_events().is_ok());
    File::options().write(true).open(state.log_path("web")).unwrap().set_len(0).unwrap();
    send("third\n");
    eventually("all lines", || {
        ["first", "second", "third"].iter().all(|line| lines().contains(line))
    });
    drop(run.stdin.take());
    wait(&mut run);
    wait(&mut follow);
}
