//! `vmon run --log-format`: the records of a log, through full disks, restarts and kills.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use crate::common::records::{files, joined, records};
use crate::common::tmpfs::Tmpfs;
use crate::common::{Process, State, code, eventually, one_line, signal, wait};
use nix::sys::signal::Signal;
use vmon::logfile::{Format, Stream};

const FORMATS: [(&str, Format); 2] = [("cri", Format::Cri), ("json", Format::Json)];

fn run(state: &State, options: &[&str], script: &str) -> ExitStatus {
    state.run("x", options, script).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

#[test]
fn each_stream_has_its_records_and_only_the_childs_bytes_are_counted() {
    for (word, format) in FORMATS {
        let state = State::new();
        let script =
            "printf 'one\\ntwo'; printf 'err\\n' >&2; printf '\\303'; sleep 0.05; printf '\\251'";
        assert_eq!(code(run(&state, &["--log-format", word], script)), 0);
        let log = state.log_path("x");
        let end = if format == Format::Cri { "\n" } else { "" };
        let out = String::from_utf8(joined(format, &log, Stream::Stdout)).unwrap();
        assert_eq!(out, format!("one\ntwoé{end}"));
        assert_eq!(joined(format, &log, Stream::Stderr), b"err\n");
        assert_eq!(state.run_column("x", "bytes_logged").as_deref(), Some("13"));
    }
}

#[test]
fn terminal_output_is_recorded_as_stdout() {
    for (word, format) in FORMATS {
        let state = State::new();
        let options = ["--log-format", word, "--tty", "always", "-d"];
        assert_eq!(code(run(&state, &options, "test -t 1 && echo terminal")), 0);
        state.wait_for_status("x", "STOPPED");
        let records = records(format, &state.log_path("x"));
        let bytes: Vec<u8> = records.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(bytes, b"terminal\r\n");
        assert!(records.iter().all(|(stream, _)| *stream == Stream::Stdout));
    }
}

#[test]
fn a_restart_keeps_the_format() {
    let state = State::new();
    assert_eq!(code(run(&state, &["--log-format", "cri"], "echo here")), 0);
    assert!(state.vmon().args(["restart", "x"]).stdout(Stdio::null()).status().unwrap().success());
    eventually("both runs have written", || {
        let out = fs::read_to_string(state.log_path("x")).unwrap();
        out.lines().filter(|line| line.ends_with(" stdout F here")).count() == 2
    });
    state.wait_for_status("x", "STOPPED");
    assert_eq!(files(&state.log_path("x")).len(), 1);
}

#[test]
fn a_change_of_format_starts_a_new_generation() {
    let state = State::new();
    for format in ["raw", "cri", "json", "json", "raw"] {
        let options = ["--log-format", format, "--log-max-files", "9"];
        assert_eq!(code(run(&state, &options, "echo here")), 0);
    }
    let sizes = files(&state.log_path("x")).into_iter().map(|path| fs::read(path).unwrap());
    let lines: Vec<_> = sizes.map(|log| log.split(|&byte| byte == b'\n').count() - 1).collect();
    assert_eq!(lines, [1, 1, 2, 1]);
}

#[test]
fn an_unknown_format_is_refused() {
    let state = State::new();
    let output = state.run("x", &["--log-format", "xml"], "true").output().unwrap();
    assert_eq!(code(output.status), 125);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("raw, cri, json"), "{stderr}");
}

/// A fast flood of lines from a shell, and a check that a text is its beginning.
const FLOOD: &str = "i=0; while :; do echo \"line $i of a flood, with \u{fc}\"; i=$((i + 1)); done";

fn is_beginning_of_flood(text: &[u8]) {
    let text = str::from_utf8(text).unwrap();
    for (number, line) in text.lines().enumerate() {
        let expected = format!("line {number} of a flood, with \u{fc}");
        assert!(line == expected || expected.starts_with(line), "{number}: {line}");
    }
}

#[test]
fn a_kill_in_a_flood_leaves_complete_records_but_for_the_last() {
    for (word, format) in FORMATS {
        let state = State::new();
        let options = [
            "--no-forward",
            "--log-format",
            word,
            "--log-max-size",
            "64K",
            "--log-max-files",
            "999",
        ];
        let mut vmon = state.run("x", &options, FLOOD).spawn().unwrap();
        let log = state.log_path("x");
        eventually("there are generations", || state.generations("x").len() > 5);
        signal(&vmon, Signal::SIGKILL);
        wait(&mut vmon);
        // The next run starts with complete records.
        assert_eq!(code(run(&state, &options, "true")), 0);
        is_beginning_of_flood(&joined(format, &log, Stream::Stdout));
        for path in files(&log) {
            assert!(fs::metadata(&path).unwrap().len() <= 64 << 10, "{}", path.display());
        }
    }
}

#[test]
fn an_incomplete_line_of_a_killed_run_ends_before_the_next_run() {
    let state = State::new();
    let options = ["--no-forward", "--log-format", "cri"];
    let mut vmon = state.run("x", &options, "printf half; exec sleep 1000").spawn().unwrap();
    state.wait_for_log("x", b" P half\n");
    signal(&vmon, Signal::SIGKILL);
    wait(&mut vmon);
    assert_eq!(code(run(&state, &options, "echo whole")), 0);
    let log = state.log_path("x");
    assert_eq!(joined(Format::Cri, &log, Stream::Stdout), b"half\nwhole\n");
}

/// A run whose disk is full when the end of its last line is to be written, until the ballast file
/// is removed.
struct Stuck {
    state: State,
    tmpfs: Tmpfs,
    vmon: Process,
}

const LINE: usize = 4_030;

impl Stuck {
    fn new() -> Option<Self> {
        let (state, tmpfs) = (State::new(), Tmpfs::new("size=64k")?);
        // All but one page, which the record needs.
        fs::write(tmpfs.path().join("ballast"), [0; 15 * 4_096]).unwrap();
        let options = [
            &["--no-forward", "--log-format", "cri", "--log-index", "off", "--log-dir"][..],
            &[tmpfs.path().to_str().unwrap()],
        ]
        .concat();
        let messages = File::create(state.file("messages")).unwrap();
        let mut command = state.run("x", &options, &format!("printf %0{LINE}d 0"));
        let vmon = Process::spawn(command.stderr(messages));
        let stuck = Self { state, tmpfs, vmon };
        eventually("it waits for the disk", || stuck.messages().contains("output waits until"));
        assert!(stuck.log().ends_with(b"0\n"), "only the end of the line waits");
        Some(stuck)
    }

    fn messages(&self) -> String {
        fs::read_to_string(self.state.file("messages")).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.tmpfs.path().join("Sandboxfile/x.log")
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.log_path()).unwrap()
    }

    fn bytes_logged(&self) -> Option<String> {
        self.state.run_column("x", "bytes_logged")
    }
}

#[test]
fn the_end_of_a_line_waits_for_a_full_disk() {
    let Some(mut stuck) = Stuck::new() else { return };
    assert_eq!(stuck.bytes_logged(), None, "the run has not ended");
    fs::remove_file(stuck.tmpfs.path().join("ballast")).unwrap();
    assert_eq!(code(wait(&mut stuck.vmon)), 0);
    let expected = format!("{:0LINE$}\n", 0);
    assert_eq!(joined(Format::Cri, &stuck.log_path(), Stream::Stdout), expected.as_bytes());
    assert_eq!(stuck.bytes_logged(), Some(LINE.to_string()));
}

#[test]
fn a_stop_request_drops_the_end_of_a_line_that_waits_for_the_disk() {
    let Some(mut stuck) = Stuck::new() else { return };
    signal(&stuck.vmon, Signal::SIGTERM);
    assert_eq!(code(wait(&mut stuck.vmon)), 0);
    let expected = format!("{:0LINE$}", 0);
    assert_eq!(joined(Format::Cri, &stuck.log_path(), Stream::Stdout), expected.as_bytes());
    assert_eq!(stuck.bytes_logged(), Some(LINE.to_string()));
}

#[test]
fn the_journal_is_beside_a_log_of_the_files_format() {
    for (options, format) in [
        (&["--log-format", "journald"][..], None),
        (&["--log-format", "cri", "--log-format", "journald"], Some(Format::Cri)),
    ] {
        let state = State::new();
        // Whether there is a journal here or not: the log and the exit code are the same.
        assert_eq!(code(run(&state, options, "echo out; exit 3")), 3);
        let log = state.log_path("x");
        match format {
            None => assert_eq!(fs::read(&log).unwrap(), b"out\n"),
            Some(format) => assert_eq!(joined(format, &log, Stream::Stdout), b"out\n"),
        }
        assert_eq!(state.run_column("x", "bytes_logged").as_deref(), Some("4"));
        let spec = state.run_column("x", "spec").unwrap();
        assert!(spec.contains("\"journal\":true"), "{spec}");
    }
}

#[test]
fn two_formats_of_the_file_are_refused() {
    let state = State::new();
    let options = ["--log-format", "cri", "--log-format", "json"];
    let output = state.run("x", &options, "true").output().unwrap();
    assert_eq!(code(output.status), 125);
    assert!(one_line(&output).contains("--log-format names two formats"), "{output:?}");
}
