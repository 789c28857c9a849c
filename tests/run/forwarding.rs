//! What happens to the child and its log when the reader of our output stops or exits.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::{
    self, State, Terminal, assert_same, code, contains, eventually, is_alive, noise, wait,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const MIB: usize = 1024 * 1024;

/// A run with `bytes` in its file `noise`, whose stdout is a pipe that the test reads when it
/// likes.
struct Run {
    state: State,
    supervisor: Child,
    reader: PipeReader,
}

impl Run {
    fn start(bytes: &[u8], options: &[&str], script: &str) -> Self {
        let state = State::new();
        fs::write(state.file("noise"), bytes).unwrap();
        mkfifo(&state.file("go"), Mode::S_IRWXU).unwrap();
        let (reader, writer) = pipe().unwrap();
        let mut command = state.run("child", options, script);
        command.current_dir(state.path()).stderr(Stdio::piped());
        let supervisor = command.stdout(writer).spawn().unwrap();
        Self { state, supervisor, reader }
    }

    fn wait_for_log_of(&self, len: usize) {
        eventually("all is in the log", || size(&self.state.log_path("child")) == len as u64);
    }

    /// The pid that the script has written to `pid`.
    fn child(&self) -> u32 {
        let mut pid = 0;
        eventually("the child has written its pid", || {
            let text = fs::read_to_string(self.state.file("pid")).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok()).unwrap_or(0);
            pid != 0
        });
        pid
    }

    /// Waits until the child and the supervisor both sleep and nothing moves.
    fn wait_for_standstill(&self) {
        let child = self.child();
        let log = self.state.log_path("child");
        let (mut before, mut idle) = (0, 0);
        eventually("the child waits for the reader", || {
            let now = size(&log);
            let still = now > 0 && now == before;
            let asleep = is_asleep(child) && is_asleep(self.supervisor.id());
            idle = if still && asleep { idle + 1 } else { 0 };
            before = now;
            idle == 10
        });
    }

    fn open_gate(&self) {
        fs::write(self.state.file("go"), "go\n").unwrap();
    }

    fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    fn read_until(&mut self, seen: &mut Vec<u8>, end: &[u8]) {
        let mut buffer = vec![0; 65536];
        while !seen.ends_with(end) {
            let count = self.reader.read(&mut buffer).unwrap();
            assert!(count > 0, "the end came after {} bytes", seen.len());
            seen.extend_from_slice(&buffer[..count]);
        }
    }

    /// The exit code, and what came on stderr.
    fn finish(&mut self) -> (i32, String) {
        let mut stderr = String::new();
        let code = code(wait(&mut self.supervisor));
        self.supervisor.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (code, stderr)
    }

    fn dropped(&self) -> u64 {
        self.state.run_column("child", "bytes_dropped").unwrap().parse().unwrap()
    }

    fn wait_for_log_at_least(&self, len: u64) {
        eventually("the reader is waited for", || size(&self.state.log_path("child")) >= len);
    }

    /// Waits until the child has been reaped and the supervisor sleeps again: a stop timeout of
    /// zero has passed by then.
    fn wait_for_reaped_child(&self) {
        let child = self.child();
        let mut idle = 0;
        eventually("the child has been reaped", || {
            let reaped = !Path::new(&format!("/proc/{child}")).exists();
            idle = if reaped && is_asleep(self.supervisor.id()) { idle + 1 } else { 0 };
            idle == 10
        });
    }
}

/// Noise whose top bit distinguishes it from text.
fn high_noise(len: usize, seed: u64) -> Vec<u8> {
    noise(len, seed).into_iter().map(|byte| byte | 0x80).collect()
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('S')
}

/// Splits what a reader saw at the line about missing bytes: before, how many, after.
#[track_caller]
fn split_at_notice(seen: &[u8]) -> (&[u8], u64, &[u8]) {
    const BEGIN: &[u8] = b"\r\n[vmon: ";
    const END: &[u8] = b" bytes left out]\r\n";
    let begin = seen.windows(BEGIN.len()).position(|window| window == BEGIN).expect("no notice");
    let rest = &seen[begin + BEGIN.len()..];
    let end = rest.windows(END.len()).position(|window| window == END).unwrap();
    let missed = std::str::from_utf8(&rest[..end]).unwrap().parse().unwrap();
    (&seen[..begin], missed, &rest[end + END.len()..])
}

#[test]
fn with_drop_a_reader_that_stops_gets_the_number_of_missed_bytes() {
    let bytes = noise(4 * MIB + 1, 1);
    let mut run = Run::start(&bytes, &["--forward-overflow", "drop"], "cat noise; exit 3");
    run.wait_for_log_of(bytes.len());
    let seen = run.read_to_end();
    assert_eq!(run.finish(), (3, String::new()));
    let (prefix, missed, after) = split_at_notice(&seen);
    assert_same(prefix, &bytes[..prefix.len()], "what it saw");
    assert_eq!(prefix.len() as u64 + missed, bytes.len() as u64);
    assert!(prefix.len() >= 256 * 1024);
    assert_eq!(after, b"");
    assert_eq!(run.dropped(), missed);
    assert_same(&run.state.log("child"), &bytes, "the log");
}

#[test]
fn with_drop_a_reader_that_comes_back_sees_what_follows() {
    let bytes = noise(MIB, 2);
    // Opened once: a second opening could meet the first writer on its way out.
    let script = "exec 3<> go; cat noise; read _ <&3; echo after; read _ <&3";
    let mut run = Run::start(&bytes, &["--forward-overflow", "drop"], script);
    run.wait_for_log_of(bytes.len());
    let mut seen = Vec::new();
    run.read_until(&mut seen, b" bytes left out]\r\n");
    run.open_gate();
    run.read_until(&mut seen, b"after\n");
    run.open_gate();
    assert_eq!(run.finish(), (0, String::new()));
    let (prefix, missed, after) = split_at_notice(&seen);
    assert_eq!(prefix.len() as u64 + missed, bytes.len() as u64);
    assert_eq!(after, b"after\n");
    assert_eq!(run.dropped(), missed);
}

#[test]
fn with_drop_only_the_stream_that_is_not_read_misses_anything() {
    let bytes = noise(MIB, 3);
    let options = ["--forward-overflow", "drop"];
    let mut run = Run::start(&bytes, &options, "cat noise; echo err >&2; exit 3");
    run.wait_for_log_of(bytes.len() + 4);
    let mut stderr = BufReader::new(run.supervisor.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "err\n");
    split_at_notice(&run.read_to_end());
    assert_eq!(code(wait(&mut run.supervisor)), 3);
}

#[test]
fn with_drop_a_terminal_under_ctrl_s_blocks_nothing_and_gets_a_notice_after_ctrl_q() {
    let state = State::new();
    let text: Vec<u8> = noise(MIB, 4).into_iter().map(|byte| b'a' + byte % 16).collect();
    fs::write(state.file("text"), &text).unwrap();
    let options = ["--tty", "never", "--forward-overflow", "drop"];
    let script = "echo ready; read _; cat text";
    let mut terminal =
        Terminal::spawn(state.run("child", &options, script).current_dir(state.path()));
    terminal.wait_for("ready");
    terminal.send("\x13go\n");
    let whole = (b"ready\n".len() + text.len()) as u64;
    eventually("all is in the log", || size(&state.log_path("child")) == whole);
    terminal.send("\x11");
    terminal.wait_for(" bytes left out]");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn with_block_the_child_waits_for_the_reader_and_nothing_is_lost() {
    let bytes = noise(4 * MIB, 5);
    let script = "echo $$ > pid; exec cat noise";
    let mut run = Run::start(&bytes, &["--forward-overflow", "block"], script);
    run.wait_for_standstill();
    let logged = size(&run.state.log_path("child"));
    assert!(logged < MIB as u64, "{logged} bytes were taken that no reader has read");
    let seen = run.read_to_end();
    assert_eq!(run.finish(), (0, String::new()));
    assert_same(&seen, &bytes, "stdout");
    assert_same(&run.state.log("child"), &bytes, "the log");
    assert_eq!(run.dropped(), 0);
}

#[test]
fn with_block_a_stream_that_is_not_read_does_not_block_the_other() {
    let bytes = noise(4 * MIB, 6);
    let script = "cat noise & read _ < go; echo err >&2; wait";
    let mut run = Run::start(&bytes, &[], script);
    eventually("stdout is stuck", || size(&run.state.log_path("child")) >= 128 * 1024);
    run.open_gate();
    let mut stderr = BufReader::new(run.supervisor.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "err\n");
    assert_same(&run.read_to_end(), &bytes, "stdout");
    assert_eq!(code(wait(&mut run.supervisor)), 0);
}

#[test]
fn a_reader_that_closes_its_pipe_affects_neither_child_nor_log() {
    let text: Vec<u8> = noise(MIB, 7).into_iter().map(|byte| b'a' + byte % 16).collect();
    let mut run = Run::start(&text, &[], "echo first; read _ < go; cat noise; exit 7");
    let mut line = String::new();
    let mut reader = BufReader::new(run.reader.try_clone().unwrap());
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    drop(reader);
    run.reader = pipe().unwrap().0;
    run.open_gate();
    assert_eq!(run.finish(), (7, String::new()));
    assert_same(&run.state.log("child"), &[b"first\n", &text[..]].concat(), "the log");
}

#[test]
fn a_reader_that_closes_its_pipe_unblocks_the_child() {
    let bytes = noise(4 * MIB, 8);
    let mut run = Run::start(&bytes, &[], "echo $$ > pid; cat noise; exit 7");
    run.wait_for_log_at_least(128 * 1024);
    run.reader = pipe().unwrap().0;
    assert_eq!(run.finish(), (7, String::new()));
    assert_same(&run.state.log("child"), &bytes, "the log");
}

#[test]
fn a_closed_reader_of_stdout_does_not_affect_stderr() {
    let bytes = high_noise(MIB, 9);
    let mut run = Run::start(&bytes, &[], "read _ < go; echo out; cat noise >&2; exit 7");
    run.reader = pipe().unwrap().0;
    run.open_gate();
    let mut seen = Vec::new();
    run.supervisor.stderr.take().unwrap().read_to_end(&mut seen).unwrap();
    assert_eq!(code(wait(&mut run.supervisor)), 7);
    assert_same(&seen, &bytes, "stderr");
    // In any order: the streams are two.
    let (high, low): (Vec<u8>, Vec<u8>) =
        run.state.log("child").into_iter().partition(|byte| byte & 0x80 != 0);
    assert_eq!(low, b"out\n");
    assert_same(&high, &bytes, "the log");
}

#[test]
fn a_closed_reader_of_stderr_does_not_affect_stdout() {
    let bytes = high_noise(MIB, 10);
    let mut run = Run::start(&bytes, &[], "read _ < go; echo err >&2; cat noise; exit 7");
    drop(run.supervisor.stderr.take());
    run.open_gate();
    assert_same(&run.read_to_end(), &bytes, "stdout");
    assert_eq!(code(wait(&mut run.supervisor)), 7);
    // In any order: the streams are two.
    let (high, low): (Vec<u8>, Vec<u8>) =
        run.state.log("child").into_iter().partition(|byte| byte & 0x80 != 0);
    assert_eq!(low, b"err\n");
    assert_same(&high, &bytes, "the log");
}

#[test]
fn without_forwarding_output_goes_to_the_log_only() {
    let state = State::new();
    let output = state.run("child", &["--no-forward"], "echo out; echo err >&2").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    let log = state.log("child");
    assert!(contains(&log, b"out\n") && contains(&log, b"err\n"));
    assert_eq!(state.run_column("child", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn a_reader_that_stops_is_waited_for_after_the_end_beyond_the_stop_timeout() {
    // More than our stdout and the queue before it take, less than with the child's pipe.
    let bytes = noise(150 * 1024, 11);
    let options = ["--stop-timeout", "0"];
    let mut run = Run::start(&bytes, &options, "echo $$ > pid; cat noise; exit 3");
    run.wait_for_reaped_child();
    assert!(run.supervisor.try_wait().unwrap().is_none(), "it did not wait for the reader");
    assert_same(&run.read_to_end(), &bytes, "stdout");
    assert_eq!(run.finish(), (3, String::new()));
    assert_same(&run.state.log("child"), &bytes, "the log");
    assert_eq!(run.dropped(), 0);
}

#[test]
fn a_stop_request_ends_the_wait_for_a_reader_and_the_log_is_complete() {
    let bytes = noise(150 * 1024, 12);
    let mut run = Run::start(&bytes, &[], "echo $$ > pid; cat noise; exit 3");
    run.wait_for_reaped_child();
    common::signal(&run.supervisor, Signal::SIGTERM);
    let (code, stderr) = run.finish();
    assert_eq!(code, 3);
    assert!(stderr.contains("waiting to be written"), "{stderr}");
    assert_same(&run.state.log("child"), &bytes, "the log");
    let seen = run.read_to_end();
    assert_same(&seen, &bytes[..seen.len()], "stdout");
    assert!(run.dropped() > 0);
}

#[test]
fn a_stop_request_ends_a_child_that_waits_for_a_reader() {
    let bytes = noise(4 * MIB, 13);
    let mut run = Run::start(&bytes, &[], "echo $$ > pid; exec cat noise");
    let child = run.child();
    run.wait_for_standstill();
    common::signal(&run.supervisor, Signal::SIGTERM);
    eventually("the child has ended", || !is_alive(child));
    let seen = run.read_to_end();
    assert_eq!(run.finish(), (128 + libc::SIGTERM, String::new()));
    assert_same(&seen, &bytes[..seen.len()], "stdout");
    assert_same(&run.state.log("child"), &seen, "the log");
}

#[test]
fn the_notice_of_missed_bytes_is_not_counted_as_missed() {
    let bytes = noise(MIB, 14);
    let script = "echo $$ > pid; cat noise; exit 3";
    let mut run = Run::start(&bytes, &["--forward-overflow", "drop"], script);
    run.wait_for_reaped_child();
    // As much as was queued: the pipe is full again, and only the line still waits.
    let mut seen = vec![0; 256 * 1024];
    run.reader.read_exact(&mut seen).unwrap();
    run.wait_for_reaped_child();
    common::signal(&run.supervisor, Signal::SIGTERM);
    assert_eq!(run.finish().0, 3);
    seen.extend(run.read_to_end());
    let prefix = seen.iter().zip(&bytes).take_while(|(seen, byte)| seen == byte).count();
    assert_eq!(run.dropped(), (bytes.len() - prefix) as u64);
}
