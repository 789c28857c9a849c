//! `vmon logs --follow` of running sandboxes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::{self, Process, State, assert_same, code, eventually, noise, signal, wait};

fn follow(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.args(["logs", "--follow"]).args(args).env("TZ", "UTC");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A follower, read line by line.
struct Follower {
    process: Process,
    out: BufReader<ChildStdout>,
}

impl Follower {
    fn new(state: &State, args: &[&str]) -> Self {
        let mut process = Process::spawn(&mut follow(state, args));
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The rest of its output, its messages, and the exit code.
    #[track_caller]
    fn end(&mut self) -> (String, String, i32) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        let status = wait(&mut self.process);
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (rest, said, code(status))
    }

    #[track_caller]
    fn assert_ends(&mut self, rest: &str) {
        assert_eq!(self.end(), (rest.to_owned(), String::new(), 0));
    }
}

/// A sandbox that prints what the test writes to a FIFO, and ends with it.
struct Source {
    state: State,
    fifo: Option<File>,
}

impl Source {
    fn new(options: &[&str]) -> Self {
        let state = State::new();
        mkfifo(&state.file("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let script = format!("exec cat {}", state.file("fifo").display());
        let options = [&["-d"][..], options].concat();
        assert!(
            state.run("web", &options, &script).stdout(Stdio::null()).status().unwrap().success()
        );
        let mut source = Self { state, fifo: None };
        source.open();
        source
    }

    fn open(&mut self) {
        let fifo = File::options().write(true).open(self.state.file("fifo"));
        self.fifo = Some(fifo.unwrap());
    }

    fn print(&self, bytes: impl AsRef<[u8]>) {
        self.fifo.as_ref().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    fn end(&mut self) {
        self.fifo = None;
    }

    /// The write end stays open until the new run has opened the FIFO, so that the old run is
    /// stopped and does not end by itself.
    fn restart(&mut self) {
        let restart = self.state.vmon().args(["restart", "web"]).stdout(Stdio::null()).status();
        assert!(restart.unwrap().success());
        self.open();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.fifo = None;
        let _ = self.state.vmon().args(["kill", "web"]).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_follower_prints_new_output_and_ends_with_the_sandbox() {
    let mut source = Source::new(&[]);
    source.print("before\n");
    let mut follower = Follower::new(&source.state, &["web"]);
    assert_eq!(follower.line(), "before\n");
    for line in ["one\n", "two\n"] {
        source.print(line);
        assert_eq!(follower.line(), line);
    }
    source.print("no newline");
    source.end();
    follower.assert_ends("no newline");
    // The log of an ended sandbox is printed without waiting.
    Follower::new(&source.state, &["web"]).assert_ends("before\none\ntwo\nno newline");
    Follower::new(&source.state, &["web", "-n", "1"]).assert_ends("no newline");
}

#[test]
fn the_last_lines_are_printed_before_new_output() {
    let mut source = Source::new(&[]);
    source.print("one\ntwo\nthree\n");
    source.state.wait_for_log("web", b"three\n");
    let mut follower = Follower::new(&source.state, &["web", "-n", "2"]);
    assert_eq!(follower.line() + &follower.line(), "two\nthree\n");
    let mut nothing = Follower::new(&source.state, &["web", "-n", "0"]);
    source.print("four\n");
    assert_eq!(follower.line(), "four\n");
    source.end();
    follower.assert_ends("");
    let (printed, _, _) = nothing.end();
    // The follower may have started after the line.
    assert!("four\n".ends_with(&printed), "{printed}");
}

#[test]
fn a_follower_continues_through_restarts() {
    let mut source = Source::new(&["--restart", "on-failure"]);
    let mut follower = Follower::new(&source.state, &["web"]);
    source.print("one\n");
    assert_eq!(follower.line(), "one\n");
    for word in ["two\n", "three\n"] {
        source.restart();
        source.print(word);
        assert_eq!(follower.line(), word);
    }
    // After a kill, the supervisor restarts it.
    let kill = source.state.vmon().args(["kill", "-s", "KILL", "web"]).status().unwrap();
    assert!(kill.success());
    source.state.wait_for_log("web", b"three\n");
    eventually("the next run", || source.state.run_column("web", "id").as_deref() == Some("4"));
    source.open();
    source.print("four\n");
    assert_eq!(follower.line(), "four\n");
    source.end();
    follower.assert_ends("");
}

#[test]
fn a_follower_of_one_run_ends_with_it() {
    let mut source = Source::new(&[]);
    source.print("one\n");
    let mut follower = Follower::new(&source.state, &["web", "--run", "last"]);
    assert_eq!(follower.line(), "one\n");
    source.restart();
    source.print("two\n");
    follower.assert_ends("");
    let mut next = Follower::new(&source.state, &["web", "--run", "last"]);
    assert_eq!(next.line(), "two\n");
    source.end();
    next.assert_ends("");
}

#[test]
fn a_late_follower_of_one_run_prints_nothing_of_the_next_one() {
    let mut source = Source::new(&[]);
    source.print("one\n");
    let mut follower = Follower::new(&source.state, &["web", "--run", "last"]);
    assert_eq!(follower.line(), "one\n");
    signal(&follower.process, Signal::SIGSTOP);
    source.restart();
    source.print("two\n");
    source.state.wait_for_log("web", b"two\n");
    // The index has the next run up to 200 ms later.
    signal(&follower.process, Signal::SIGCONT);
    follower.assert_ends("");
}

#[test]
fn a_log_that_is_removed_or_renamed_is_followed_under_its_name() {
    let mut source = Source::new(&[]);
    let log = source.state.log_path("web");
    let mut follower = Follower::new(&source.state, &["web"]);
    source.print("one\n");
    assert_eq!(follower.line(), "one\n");
    fs::remove_file(&log).unwrap();
    // The writer checks its file once a second.
    eventually("the log is made anew", || {
        source.print("?\n");
        log.exists()
    });
    source.print("two\n");
    while follower.line() != "two\n" {}
    fs::rename(&log, source.state.file("moved")).unwrap();
    eventually("the log is made anew", || {
        source.print("?\n");
        log.exists()
    });
    source.print("three\n");
    while follower.line() != "three\n" {}
    source.end();
    follower.assert_ends("");
}

#[test]
fn a_follower_of_a_deleted_log_waits_for_the_next_one() {
    let mut source = Source::new(&[]);
    source.print("one\n");
    source.state.wait_for_log("web", b"one\n");
    fs::remove_dir_all(source.state.logs()).unwrap();
    let mut follower = Follower::new(&source.state, &["web"]);
    eventually("the log is made anew", || {
        source.print("two\n");
        source.state.log_path("web").exists()
    });
    assert_eq!(follower.line(), "two\n");
    source.end();
    let (_, said, code) = follower.end();
    assert_eq!((said.as_str(), code), ("", 0));
}

#[test]
fn times_and_streams_are_waited_for() {
    let state = State::new();
    let script = "while read word; do echo out $word; echo err $word >&2; done";
    mkfifo(&state.file("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let script = format!("exec <{}; {script}", state.file("fifo").display());
    assert!(state.run("web", &["-d"], &script).stdout(Stdio::null()).status().unwrap().success());
    let mut fifo = File::options().write(true).open(state.file("fifo")).unwrap();
    let mut errors = Follower::new(&state, &["web", "--stream", "stderr"]);
    let mut stamped = Follower::new(&state, &["web", "-t"]);
    for word in ["one", "two"] {
        writeln!(fifo, "{word}").unwrap();
        assert_eq!(errors.line(), format!("err {word}\n"));
        for _ in 0..2 {
            let line = stamped.line();
            let (time, text) = line.split_once(' ').unwrap();
            assert!(time.starts_with("20") && time.ends_with("+00:00"), "{line}");
            assert!(text.ends_with(&format!(" {word}\n")), "{line}");
        }
    }
    drop(fifo);
    errors.assert_ends("");
    stamped.assert_ends("");
}

#[test]
fn a_follower_ends_at_a_time_while_the_sandbox_is_running() {
    let source = Source::new(&[]);
    source.print("one\n");
    source.state.wait_for_log("web", b"one\n");
    let soon = chrono::Utc::now() + chrono::TimeDelta::seconds(2);
    let mut follower = Follower::new(&source.state, &["web", "--until", &soon.to_rfc3339()]);
    assert_eq!(follower.line(), "one\n");
    follower.assert_ends("");
    Follower::new(&source.state, &["web", "--until", "2026-01-01"]).assert_ends("");
}

#[test]
fn signals_and_a_closed_stdout_end_a_follower_without_a_message() {
    let source = Source::new(&[]);
    source.print("one\n");
    for sent in [Signal::SIGINT, Signal::SIGTERM] {
        let mut follower = Follower::new(&source.state, &["web"]);
        assert_eq!(follower.line(), "one\n");
        signal(&follower.process, sent);
        follower.assert_ends("");
    }
    let mut process = Process::spawn(&mut follow(&source.state, &["web"]));
    let mut first = [0; 4];
    process.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(process.stdout.take());
    // No write is needed to notice that.
    assert!(wait(&mut process).success());
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_blocked_stdout_does_not_keep_a_follower_from_ending() {
    let source = Source::new(&[]);
    let mut process = Process::spawn(&mut follow(&source.state, &["web"]));
    let mut first = [0; 1];
    let writer = thread::spawn({
        let fifo = source.fifo.as_ref().unwrap().try_clone().unwrap();
        move || (&fifo).write_all(&noise(4 << 20, 1)).unwrap()
    });
    process.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    writer.join().unwrap();
    let pipe = std::os::fd::AsRawFd::as_raw_fd(process.stdout.as_ref().unwrap());
    eventually("the pipe is full", || common::bytes_waiting(pipe) > 60_000);
    signal(&process, Signal::SIGINT);
    assert!(wait(&mut process).success());
}

#[test]
fn a_follower_that_falls_behind_reports_what_it_missed_and_continues() {
    let mut source = Source::new(&["--log-max-size", "64KiB", "--log-max-files", "2"]);
    let mut follower = Follower::new(&source.state, &["web"]);
    source.print("first\n");
    assert_eq!(follower.line(), "first\n");
    // The follower's output is not read in the meantime.
    let numbers: String = (0..400_000).map(|number| format!("{number}\n")).collect();
    source.print(numbers + "last\n");
    source.state.wait_for_log("web", b"last\n");
    source.end();
    let (printed, said, code) = follower.end();
    assert_eq!(code, 1);
    assert!(said.starts_with("vmon: generations ") && said.contains(" were removed"), "{said}");
    assert!(printed.starts_with("0\n1\n") && printed.ends_with("\n399999\nlast\n"));
    // In order and in complete lines, since a generation ends with one.
    let numbers = printed.lines().filter_map(|line| line.parse::<u32>().ok());
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

/// Checks a follower of a sandbox that prints these bytes in random chunks, into a log that is
/// rotated every few milliseconds, with all generations kept.
#[track_caller]
fn assert_keeps_up(options: &[&str], bytes: &[u8]) {
    let rotated = ["--log-max-size", "64KiB", "--log-max-files", "9999"];
    let mut source = Source::new(&[&rotated, options].concat());
    let mut process = Process::spawn(&mut follow(&source.state, &["web"]));
    let reader = thread::spawn({
        let mut stdout = process.stdout.take().unwrap();
        move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).unwrap();
            all
        }
    });
    let mut rest = bytes;
    let mut lengths = noise(1 << 20, 3).into_iter().cycle();
    while !rest.is_empty() {
        let length = 1 + usize::from(lengths.next().unwrap()) * 97;
        let (chunk, after) = rest.split_at(length.min(rest.len()));
        source.print(chunk);
        rest = after;
    }
    source.end();
    let printed = reader.join().unwrap();
    let status = wait(&mut process);
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    assert_same(&printed, bytes, "what was followed");
}

/// With `VMON_FULL_SIZE` set, 200 MB in more than 3,000 generations.
fn size() -> usize {
    if std::env::var_os("VMON_FULL_SIZE").is_some() { 200_000_000 } else { 4_000_000 }
}

/// Random bytes that end with a newline.
fn any_bytes(size: usize) -> Vec<u8> {
    let mut bytes = noise(size, 7);
    bytes.push(b'\n');
    bytes
}

#[test]
fn a_follower_keeps_up_with_a_raw_log() {
    assert_keeps_up(&[], &any_bytes(size()));
}

#[test]
fn a_follower_keeps_up_with_a_raw_log_whose_generations_are_compressed() {
    assert_keeps_up(&["--log-rotate-command", "gzip"], &any_bytes(4_000_000));
}

#[test]
fn a_follower_keeps_up_with_a_cri_log() {
    assert_keeps_up(&["--log-format", "cri"], &any_bytes(size()));
}

#[test]
fn a_follower_keeps_up_with_a_json_log_of_text() {
    let line = |number: usize| format!("{number} ä\u{1f680} \"text\" \\ \u{1b}[m {number:x}\n");
    let mut text = String::new();
    let mut number = 0;
    while text.len() < size() {
        text.push_str(&line(number));
        number += 1;
    }
    assert_keeps_up(&["--log-format", "json"], text.as_bytes());
}
