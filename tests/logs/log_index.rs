//! The time index of a sandbox's log, parsed as docs/formats.md specifies.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::tmpfs::Tmpfs;
use crate::common::{self, Detached, Process, State, Terminal, code, eventually, tmpfs, wait};
use nix::sys::signal::Signal;
use vmon::logfile::{LogFile, LogOptions, Retention, Stream};

const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const TTY: u8 = 4;
const START: u8 = 16;
const STOP: u8 = 17;
const RESIZE: u8 = 18;

const CHECK: u8 = 22;

/// A record of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    time: u64,
    offset: u64,
    value: u32,
    kind: u8,
}

impl Record {
    fn length(&self) -> u64 {
        if self.kind < START { self.value.into() } else { 0 }
    }
}

/// The records of an index; none without an index.
fn read(index: &Path) -> Vec<Record> {
    let bytes = fs::read(index).unwrap_or_default();
    assert!(bytes.is_empty() || bytes.starts_with(b"VMONIDX\n\x02\0\x18\0"), "{bytes:?}");
    let mut end = 0;
    let mut records: Vec<Record> = Vec::new();
    for record in bytes.get(32..).unwrap_or_default().as_chunks::<24>().0 {
        let number = |from: usize| u64::from_le_bytes(*record[from..].first_chunk().unwrap());
        let value = u32::from_le_bytes(*record[16..].first_chunk().unwrap());
        let record = Record { time: number(0), offset: number(8), value, kind: record[20] };
        if record.offset != end || ![1, 2, 3, 4, 5, 16, 17, 18, 22].contains(&record.kind) {
            break;
        }
        assert!(records.last().is_none_or(|last| last.time <= record.time), "{records:?}");
        end += record.length();
        records.push(record);
    }
    // Checks say nothing of the run.
    records.retain(|record| record.kind != CHECK);
    records
}

fn index_of(log: &Path) -> PathBuf {
    let mut index = log.as_os_str().to_owned();
    index.push(".idx");
    index.into()
}

fn index(state: &State, name: &str) -> Vec<Record> {
    read(&index_of(&state.log_path(name)))
}

/// The types and values of the records, without times and positions.
fn contents(records: &[Record]) -> Vec<(u8, u32)> {
    records.iter().map(|record| (record.kind, record.value)).collect()
}

fn pid(state: &State, name: &str) -> u32 {
    state.run_column(name, "pid").unwrap().parse().unwrap()
}

fn run(state: &State, options: &[&str], script: &str) -> i32 {
    code(wait(&mut state.run("a", options, script).stdout(Stdio::null()).spawn().unwrap()))
}

#[test]
fn the_index_has_the_marks_of_a_run_and_the_stream_of_each_byte() {
    let state = State::new();
    // The second write waits until the first has been read.
    let script =
        format!("echo out; until grep -q out {}; do :; done; echo error >&2; exit 3", "$LOG");
    let log = state.log_path("a");
    let mut command = state.run("a", &["--no-forward"], &script);
    assert_eq!(code(wait(&mut command.env("LOG", &log).spawn().unwrap())), 3);
    let first = pid(&state, "a");
    let expected = [(START, first), (STDOUT, 4), (STDERR, 6), (STOP, 3)];
    assert_eq!(contents(&index(&state, "a")), expected);
    // The next run follows.
    assert_eq!(run(&state, &[], "kill -9 $$"), 137);
    let second = pid(&state, "a");
    let expected = [&expected[..], &[(START, second), (STOP, 256 + 9)]].concat();
    assert_eq!(contents(&index(&state, "a")), expected);
}

#[test]
fn each_run_of_a_command_that_is_restarted_has_its_marks() {
    let state = State::new();
    assert_eq!(run(&state, &["--restart", "on-failure:2"], "echo again; exit 7"), 7);
    let records = index(&state, "a");
    let kinds: Vec<u8> = records.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [START, STDOUT, STOP].repeat(3));
    let pids = |record: &&Record| record.kind == START;
    let mut pids: Vec<u32> = records.iter().filter(pids).map(|record| record.value).collect();
    pids.dedup();
    assert_eq!(pids.len(), 3);
}

#[test]
fn the_index_has_the_initial_window_size_and_each_change() {
    let state = State::new();
    let script = "trap 'stty size' WINCH; stty size; until read key; do :; done";
    let mut terminal = Terminal::spawn(&mut state.run("a", &["-t"], script));
    terminal.wait_for("40 100");
    terminal.resize(33, 77);
    terminal.wait_for("33 77");
    // The same size again gives no record.
    terminal.resize(33, 77);
    terminal.send("\r");
    assert_eq!(terminal.finish(), 0);
    let records = index(&state, "a");
    let size = |columns: u32, rows: u32| (RESIZE, columns << 16 | rows);
    let marks: Vec<_> = contents(&records).into_iter().filter(|&(kind, _)| kind >= START).collect();
    assert_eq!(marks, [(START, pid(&state, "a")), size(100, 40), size(77, 33), (STOP, 0)]);
    assert!(records.iter().filter(|it| it.kind < START).all(|it| it.kind == TTY));
}

#[test]
fn a_pty_without_an_outer_terminal_has_its_size_in_the_index() {
    let state = State::new();
    assert_eq!(run(&state, &["-t", "--no-forward", "--stdin", "null"], "true"), 0);
    let size = (RESIZE, 80 << 16 | 24);
    assert_eq!(contents(&index(&state, "a")), [(START, pid(&state, "a")), size, (STOP, 0)]);
}

#[test]
fn window_sizes_of_attached_clients_are_in_the_index() {
    let state = State::new();
    let script = "trap 'stty size' WINCH; stty size; until read key; do :; done";
    let run = Detached::start(&state, &mut state.run("a", &["-d", "-t"], script));
    state.wait_for_log("a", b"24 80\r\n");
    let mut client = Terminal::spawn(state.vmon().args(["attach", "a"]));
    client.wait_for("40 100");
    // One that is made to draw its screen again.
    let mut second = Terminal::spawn(state.vmon().args(["attach", "a"]));
    second.wait_for("40 101");
    second.wait_for("40 100");
    client.resize(33, 77);
    client.wait_for("33 77");
    client.send("\r");
    assert_eq!(client.finish(), 0);
    state.wait_for_status("a", "STOPPED");
    let records = contents(&index(&state, "a"));
    let marks: Vec<_> = records.into_iter().filter(|&(kind, _)| kind >= START).collect();
    // The wider window that made the program draw again is not noted, nor the way back.
    let sizes =
        [(80, 24), (100, 40), (77, 33)].map(|(columns, rows)| (RESIZE, columns << 16 | rows));
    assert_eq!(marks, [&[(START, run.pid)][..], &sizes, &[(STOP, 0)]].concat());
}

#[test]
fn the_index_is_written_soon_after_the_bytes_and_causes_no_further_wake_up() {
    let state = State::new();
    let mut run = Process::spawn(&mut state.run("a", &["--no-forward"], "echo x; exec sleep 600"));
    eventually("the index", || contents(&index(&state, "a")).ends_with(&[(STDOUT, 2)]));
    common::signal(&run, Signal::SIGTERM);
    wait(&mut run);
    assert_eq!(contents(&index(&state, "a")).last(), Some(&(STOP, 256 + 15)));
}

#[test]
fn with_the_index_off_there_is_none_nor_for_the_supervisors_log() {
    let state = State::new();
    assert_eq!(run(&state, &["--log-index", "off", "--log-max-size", "1K"], "seq 2000"), 0);
    // The supervisor's log has the warning about an unwritable database.
    let script = "echo x";
    let detached = ["-d", "--log-index", "on"];
    let output = state.run("b", &detached, script).output().unwrap();
    assert!(output.status.success());
    state.wait_for_status("b", "STOPPED");
    let names: Vec<String> = fs::read_dir(state.logs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| !name.starts_with("a.") || !name.ends_with(".idx")));
    assert!(names.iter().all(|name| !name.starts_with("b@") || !name.ends_with(".idx")));
    assert!(names.contains(&"b.log.idx".to_owned()));
}

#[test]
fn an_unwritable_index_is_reported_once_and_blocks_nothing() {
    let state = State::new();
    fs::create_dir_all(state.logs()).unwrap();
    let target = state.file("target");
    fs::write(&target, "mine").unwrap();
    symlink(&target, index_of(&state.log_path("a"))).unwrap();
    let script = "i=0; while [ $i -lt 300 ]; do echo o; echo e >&2; i=$((i+1)); done";
    let output = state.run("a", &[], script).output().unwrap();
    assert_eq!(code(output.status), 0);
    let stderr = String::from_utf8(output.stderr).unwrap().replace("e\n", "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("a.log.idx is a symbolic link, not a regular file"), "{stderr}");
    assert_eq!(state.log("a").len(), 1200);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}

/// Checks an index against a log in which stdout has only `o` and stderr only `e`. Returns how many
/// bytes it describes.
fn known_and_true(log: &Path) -> u64 {
    let bytes = fs::read(log).unwrap();
    let mut known = 0;
    for record in read(&index_of(log)) {
        let expected = match record.kind {
            STDOUT => b'o',
            STDERR => b'e',
            _ => continue,
        };
        let range = record.offset as usize..(record.offset + record.length()) as usize;
        let theirs = bytes.get(range).unwrap_or_else(|| panic!("{record:?} of {}", log.display()));
        assert!(theirs.iter().all(|&byte| byte == expected), "{record:?} of {}", log.display());
        known += record.length();
    }
    known
}

#[test]
fn a_killed_supervisor_leaves_a_correct_index_for_the_next_run_too() {
    let state = State::new();
    // Without newlines, each byte identifies its stream wherever the log is cut.
    let script = "while :; do printf oooooooooooo; printf eeeeeeeee >&2; done";
    let options = ["--no-forward", "--log-max-size", "4K", "--log-max-files", "100000"];
    let mut generations = 0;
    for life in 0..8 {
        let mut supervisor = Process::spawn(&mut state.run("a", &options, script));
        let wanted = generations + 3 + life;
        eventually("a few rotations", || state.generations("a").len() > wanted);
        supervisor.kill().unwrap();
        wait(&mut supervisor);
        // This ends the child if it is still running.
        assert!(state.vmon().args(["ps"]).output().unwrap().status.success());
        generations = state.generations("a").len();
    }
    assert_eq!(run(&state, &options, "printf ooo"), 0);
    let mut logs = state.generations("a");
    logs.push(state.log_path("a"));
    let size: u64 = logs.iter().map(|log| fs::metadata(log).unwrap().len()).sum();
    let known: u64 = logs.iter().map(|log| known_and_true(log)).sum();
    assert!(known <= size && known > size / 2, "{known} of {size}");
    // The last three bytes may be in a new file.
    let records: Vec<Record> = logs.iter().flat_map(|log| read(&index_of(log))).collect();
    let last = contents(&records);
    let expected = [(START, pid(&state, "a")), (STDOUT, 3), (STOP, 0)];
    assert!(last.ends_with(&expected), "{last:?}");
}

#[test]
fn a_full_disk_leaves_a_correct_index() {
    for (max_size, ballast_size) in [(0, 8 << 10), (0, 32 << 10), (6_000, 16 << 10)] {
        let Some(tmpfs) = Tmpfs::new("size=128k") else { return };
        let ballast = tmpfs.path().join("ballast");
        fs::write(&ballast, vec![0; ballast_size]).unwrap();
        let retention = Retention::default().max_size(max_size).max_files(1000);
        let options = LogOptions::default().retention(retention);
        let mut log = LogFile::open(tmpfs.path(), "config", "vm", options).unwrap();
        let mut turn = 0;
        let mut write = |log: &mut LogFile| {
            let (stream, byte) =
                if turn % 2 == 0 { (Stream::Stdout, b'o') } else { (Stream::Stderr, b'e') };
            turn += 1;
            let chunk = [byte; 300];
            let mut rest = &chunk[..];
            // Like the monitor, with a time limit.
            for _ in 0..100_000 {
                match log.write(stream, rest) {
                    Ok(()) => return,
                    Err(error) => rest = &rest[error.written..],
                }
                let _ = fs::remove_file(&ballast);
            }
            panic!("the disk stays full");
        };
        while ballast.exists() {
            write(&mut log);
        }
        for _ in 0..20 {
            write(&mut log);
        }
        let path = log.path().to_owned();
        drop(log);
        let mut logs: Vec<PathBuf> = (1..1000)
            .map(|number| PathBuf::from(format!("{}.{number:08}", path.display())))
            .take_while(|path| path.exists())
            .collect();
        logs.push(path);
        let size: u64 = logs.iter().map(|log| fs::metadata(log).unwrap().len()).sum();
        assert_eq!(size, u64::from(turn as u32) * 300);
        let known: u64 = logs.iter().map(|log| known_and_true(log)).sum();
        assert!(known > size / 2, "{known} of {size}");
    }
}

/// Counts calls of epoll(7). The poll(2) back end makes more of them, with or without an index.
#[test]
#[cfg(not(mio_unsupported_force_poll_poll))]
fn the_index_causes_no_system_call_between_a_key_and_its_echo() {
    if !common::has("strace") {
        return tmpfs::skip("needs strace");
    }
    let state = State::new();
    let trace = state.file("trace");
    let run =
        state.run("a", &["-t"], "stty raw -echo; echo ready; exec dd bs=1 count=10 2>/dev/null");
    let mut strace = std::process::Command::new("strace");
    strace.arg("-o").arg(&trace).arg(run.get_program()).args(run.get_args());
    strace.env("VMON_STATE_DIR", state.path());
    let mut terminal = Terminal::spawn(&mut strace);
    terminal.wait_for("ready");
    for key in "abcdefghij".chars() {
        terminal.send(key.to_string());
        terminal.wait_for(key.to_string());
    }
    assert_eq!(terminal.finish(), 0);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(common::contains(trace.as_bytes(), b"a.log.idx"), "the index is written");
    // From the read of a key to the write of its echo. In some of them a timer may expire.
    let calls_of = |key: char| -> Vec<&str> {
        let word = format!("\"{key}\", 1");
        let moves_it = |line: &&str| {
            (line.starts_with("read(") || line.starts_with("write(")) && line.contains(&word)
        };
        let from: Vec<&str> = trace.lines().skip_while(|line| !moves_it(line)).collect();
        let last = from.iter().rposition(moves_it).unwrap();
        from[..=last].iter().map(|line| line.split('(').next().unwrap()).collect()
    };
    let echoes: Vec<_> = "abcdefghij".chars().map(calls_of).collect();
    let expected = ["read", "write", "epoll_wait", "read", "write", "write"];
    assert!(echoes.iter().any(|calls| calls[..] == expected), "{echoes:#?}");
}
