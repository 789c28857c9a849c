//! The log of a run: appended to, rotated, paused on a full disk, created again after its removal.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::tmpfs::Tmpfs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::{self, State, TIMEOUT, assert_same, code, eventually, noise, wait};

/// A run whose child copies the file `noise` to its stdout.
fn copy(state: &State, name: &str, options: &[&str]) -> i32 {
    let script = format!("cat {}", state.file("noise").display());
    let options = [&["--no-forward"], options].concat();
    code(wait(&mut state.run(name, &options, &script).spawn().unwrap()))
}

#[test]
fn runs_of_one_name_append_to_one_log() {
    let state = State::new();
    for word in ["one", "two", "three"] {
        let script = format!("echo {word}");
        assert_eq!(code(wait(&mut state.run("x", &["--no-forward"], &script).spawn().unwrap())), 0);
    }
    assert_eq!(state.log("x"), b"one\ntwo\nthree\n");
    assert!(state.generations("x").is_empty());
}

#[test]
fn the_generations_of_a_rotated_log_join_to_the_exact_output() {
    let state = State::new();
    let noise = noise(1_000_000, 7);
    fs::write(state.file("noise"), &noise).unwrap();
    let options = ["--log-max-size", "64KiB", "--log-max-files", "1000"];
    assert_eq!(copy(&state, "x", &options), 0);
    assert_eq!(copy(&state, "x", &options), 0);
    assert_same(&state.whole_log("x"), &[noise.clone(), noise].concat(), "the log");
    let generations = state.generations("x");
    assert!(generations.len() >= 2_000_000 / 65_536, "{}", generations.len());
    for generation in &generations {
        assert!(fs::metadata(generation).unwrap().len() <= 65_536, "{generation:?}");
    }
    assert_eq!(state.run_column("x", "bytes_logged").as_deref(), Some("1000000"));
}

#[test]
fn log_max_files_limits_the_number_of_generations() {
    let state = State::new();
    let noise = noise(300_000, 8);
    fs::write(state.file("noise"), &noise).unwrap();
    for (name, max_files) in [("none", 0), ("one", 1), ("three", 3)] {
        let option = max_files.to_string();
        let options = ["--log-max-size", "16KiB", "--log-max-files", &option];
        assert_eq!(copy(&state, name, &options), 0);
        assert_eq!(state.generations(name).len(), max_files, "{name}");
        let kept = state.whole_log(name);
        // Cut after a newline if there is one, so a generation may be smaller than its limit.
        assert!(kept.len() > max_files * 8_192 && kept.len() <= (max_files + 1) * 16_384);
        assert_same(&kept, &noise[noise.len() - kept.len()..], name);
    }
}

#[test]
fn a_log_size_of_zero_never_rotates() {
    let state = State::new();
    let noise = noise(11 << 20, 9);
    fs::write(state.file("noise"), &noise).unwrap();
    assert_eq!(copy(&state, "x", &["--log-max-size", "0"]), 0);
    assert!(state.generations("x").is_empty());
    assert_same(&state.log("x"), &noise, "the log");
}

/// A child that echoes its input, and the messages of vmon.
struct Echo {
    vmon: Child,
    errors: ChildStderr,
    said: Vec<u8>,
}

impl Echo {
    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut vmon = command.spawn().unwrap();
        let errors = vmon.stderr.take().unwrap();
        Self { vmon, errors, said: Vec::new() }
    }

    fn send(&mut self, line: &str) {
        // In one write, because the log may be created again between two.
        let line = format!("{line}\n");
        self.vmon.stdin.as_ref().unwrap().write_all(line.as_bytes()).unwrap();
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !common::contains(&self.said, text.as_bytes()) {
            let mut fds = [PollFd::new(self.errors.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(TIMEOUT).unwrap()).unwrap_or(0);
            let mut buffer = [0; 4096];
            let count = if ready > 0 { self.errors.read(&mut buffer).unwrap_or(0) } else { 0 };
            let said = String::from_utf8_lossy(&self.said);
            assert!(count > 0, "{text:?} was never said: {said:?}");
            self.said.extend_from_slice(&buffer[..count]);
        }
    }

    #[track_caller]
    fn finish(&mut self) -> i32 {
        drop(self.vmon.stdin.take());
        code(wait(&mut self.vmon))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.vmon.kill();
        let _ = self.vmon.wait();
    }
}

/// The log is created again while the child keeps writing, and has all later output.
fn comes_back_after(meddle: impl FnOnce(&State)) {
    let state = State::new();
    let mut echo = Echo::spawn(&mut state.run("x", &["--no-forward"], "exec cat"));
    echo.send("before");
    state.wait_for_log("x", b"before\n");
    meddle(&state);
    let mut number = 0;
    eventually("the log is there again", || {
        number += 1;
        echo.send(&number.to_string());
        !state.log("x").is_empty()
    });
    echo.send("after");
    assert_eq!(echo.finish(), 0);
    let log = String::from_utf8(state.log("x")).unwrap();
    let mut lines = log.lines();
    let first: u32 = lines.next().unwrap().parse().unwrap();
    let expected: Vec<_> =
        (first + 1..=number).map(|number| number.to_string()).chain(["after".to_owned()]).collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected, "without a gap");
}

#[test]
fn a_removed_log_is_created_again() {
    comes_back_after(|state| fs::remove_file(state.log_path("x")).unwrap());
}

#[test]
fn a_renamed_log_is_created_again_and_the_old_one_kept() {
    comes_back_after(|state| {
        fs::rename(state.log_path("x"), state.file("old.log")).unwrap();
        assert_eq!(fs::read(state.file("old.log")).unwrap(), b"before\n");
    });
}

#[test]
fn a_removed_log_directory_is_created_again() {
    comes_back_after(|state| fs::remove_dir_all(state.file("log")).unwrap());
}

#[test]
fn a_renamed_log_directory_is_created_again() {
    comes_back_after(|state| fs::rename(state.file("log"), state.file("old")).unwrap());
}

#[test]
fn a_full_disk_pauses_the_child_and_loses_nothing() {
    let Some(disk) = Tmpfs::new("size=4m") else { return };
    let state = State::new();
    let noise = noise(2 << 20, 10);
    fs::write(state.file("noise"), &noise).unwrap();
    let filler = disk.fill_up_to(1 << 20);
    let done = state.file("done");
    let script = format!("cat {}; touch {}", state.file("noise").display(), done.display());
    let mut run =
        Echo::spawn(&mut state.run("x", &["--log-dir", disk.path().to_str().unwrap()], &script));
    run.wait_for("waits until it works again");
    assert!(!done.exists(), "the child can't have written it all");
    assert!(run.vmon.try_wait().unwrap().is_none());
    fs::remove_file(filler).unwrap();
    assert_eq!(run.finish(), 0);
    assert!(done.exists());
    let log = fs::read(disk.path().join("Sandboxfile/x.log")).unwrap();
    assert_same(&log, &noise, "the log");
    assert_eq!(state.run_column("x", "bytes_logged"), Some(noise.len().to_string()));
    assert_eq!(state.run_column("x", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn a_full_disk_is_waited_for_after_the_childs_end_too() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let filler = disk.fill_up_to(0);
    let options = ["--log-dir", disk.path().to_str().unwrap()];
    let mut run = Echo::spawn(&mut state.run("x", &options, "echo last words; exit 5"));
    run.wait_for("waits until it works again");
    eventually("the child is reaped", || {
        let pid = state.run_column("x", "pid");
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("RUNNING"));
    fs::remove_file(filler).unwrap();
    assert_eq!(run.finish(), 5);
    assert_eq!(fs::read(disk.path().join("Sandboxfile/x.log")).unwrap(), b"last words\n");
}

#[test]
fn a_full_disk_in_drop_mode_counts_what_the_log_lacks() {
    let Some(disk) = Tmpfs::new("size=4m") else { return };
    let state = State::new();
    let noise = noise(2 << 20, 11);
    fs::write(state.file("noise"), &noise).unwrap();
    let filler = disk.fill_up_to(1 << 20);
    let done = state.file("done");
    let script = format!(
        "cat {}; touch {}; while read x; do echo $x; done",
        state.file("noise").display(),
        done.display()
    );
    let options =
        ["--log-dir", disk.path().to_str().unwrap(), "--on-log-error", "drop", "--no-forward"];
    let mut run = Echo::spawn(&mut state.run("x", &options, &script));
    // The child is not blocked.
    eventually("the child has written it all", || done.exists());
    // In the meantime the log is tried several times, with more bytes to drop each time.
    let full = Instant::now();
    eventually("it has been tried again", || {
        run.send("lost");
        full.elapsed() > Duration::from_millis(350)
    });
    fs::remove_file(filler).unwrap();
    let path = disk.path().join("Sandboxfile/x.log");
    eventually("the log takes lines again", || {
        run.send("line");
        fs::read(&path).unwrap().ends_with(b"line\n")
    });
    assert_eq!(run.finish(), 0);

    let number = |column| state.run_column("x", column).unwrap().parse::<usize>().unwrap();
    let log = fs::read(&path).unwrap();
    let (logged, dropped) = (number("bytes_logged"), number("bytes_dropped"));
    let notice = format!("\r\n[vmon: {dropped} bytes left out]\r\n");
    let kept = log.windows(notice.len()).position(|window| window == notice.as_bytes());
    let kept = kept.unwrap_or_else(|| panic!("{notice:?} is not in the log"));
    assert_eq!(logged + notice.len(), log.len());
    // The index distinguishes the notice from the child's bytes: records of 24 bytes after a header
    // of 32.
    let index = fs::read(disk.path().join("Sandboxfile/x.log.idx")).unwrap();
    let of_the_line = [kept.to_le_bytes(), (notice.len() | 5 << 32).to_le_bytes()].concat();
    let mut records = index[32..].as_chunks::<24>().0.iter();
    assert!(records.any(|record| record[8..21] == of_the_line[..13]));
    assert!(kept > 500_000);
    assert_same(&log[..kept], &noise[..kept], "what came before");
    // After it the rest of the pipe at the time when there was space again, and the lines.
    let behind = &log[kept + notice.len()..];
    let is_line = |line: &&[u8]| **line == *b"line\n" || **line == *b"lost\n";
    let lines = behind.rchunks(5).take_while(is_line).count() * 5;
    let rest = &behind[..behind.len() - lines];
    assert_same(rest, &noise[noise.len() - rest.len()..], "what was still in the pipe");
    let lost_noise = noise.len() - kept - rest.len();
    assert!(dropped >= lost_noise && (dropped - lost_noise).is_multiple_of(5));
}
