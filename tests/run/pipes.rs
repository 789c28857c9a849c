//! A child's pipes: its output on stdout and in the log, stdin to the child, byte for byte.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // prlimit and close_range, which nothing safe wraps

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use crate::common::{self, State, assert_same, code, eventually, noise, signal, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

const MIB: usize = 1024 * 1024;

/// Compares at the speed of memory, and reports a difference as [`assert_same`] does.
#[track_caller]
fn same(left: &[u8], right: &[u8], what: &str) {
    if left != right {
        assert_same(left, right, what);
    }
}

/// Reads to the end, beside whatever the test does.
fn reader(mut source: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        bytes
    })
}

/// Writes all of it, or as much as anyone reads; the end follows.
fn writer(mut target: impl Write + Send + 'static, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let _ = target.write_all(&bytes);
    })
}

/// Runs to the end with this input.
fn output_of(command: &mut Command, input: Vec<u8>) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = writer(child.stdin.take().unwrap(), input);
    let stdout = reader(child.stdout.take().unwrap());
    let stderr = reader(child.stderr.take().unwrap());
    let status = wait(&mut child);
    // A writer that is left without a reader has failed by now.
    input.join().unwrap();
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Kibibytes of a line of `/proc/PID/status`.
fn memory(pid: u32, key: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn is_in_state(pid: u32, state: char) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with(state)
}

/// Writes until the pipe is full although the supervisor sleeps; returns the number of bytes.
fn fill(pipe: &mut (impl Write + AsFd), bytes: &[u8], supervisor: u32) -> usize {
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut written = 0;
    let mut idle = 0;
    eventually("the input is no longer taken", || {
        match pipe.write(&bytes[written..]) {
            Ok(count) => {
                written += count;
                idle = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                idle = if is_in_state(supervisor, 'S') { idle + 1 } else { 0 };
            }
            Err(error) => panic!("{error}"),
        }
        idle == 5 || written == bytes.len()
    });
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    written
}

#[test]
fn stdout_and_stderr_arrive_at_ours_untouched() {
    let state = State::new();
    let (out, err) = (noise(MIB, 1), noise(MIB + 1, 2));
    fs::write(state.file("out"), &out).unwrap();
    fs::write(state.file("err"), &err).unwrap();
    let script = "cat out; cat err >&2";
    let output = state.run("noise", &[], script).current_dir(state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    same(&output.stdout, &out, "stdout");
    same(&output.stderr, &err, "stderr");
    let log = state.whole_log("noise");
    assert_eq!(log.len(), out.len() + err.len());
    let logged = state.run_column("noise", "bytes_logged").unwrap();
    assert_eq!(logged, log.len().to_string());
    assert_eq!(state.run_column("noise", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn both_streams_at_once_are_each_in_order() {
    let state = State::new();
    // The top bit of a byte identifies its stream in the log.
    let out: Vec<u8> = noise(4 * MIB, 3).into_iter().map(|byte| byte & 0x7f).collect();
    let err: Vec<u8> = noise(4 * MIB, 4).into_iter().map(|byte| byte | 0x80).collect();
    fs::write(state.file("out"), &out).unwrap();
    fs::write(state.file("err"), &err).unwrap();
    let mut command = state.run("both", &[], "cat out & cat err >&2; wait");
    let output = output_of(command.current_dir(state.path()), Vec::new());
    assert_eq!(output.status.code(), Some(0));
    same(&output.stdout, &out, "stdout");
    same(&output.stderr, &err, "stderr");
    let (logged_err, logged_out): (Vec<u8>, Vec<u8>) =
        state.whole_log("both").into_iter().partition(|byte| byte & 0x80 != 0);
    same(&logged_out, &out, "stdout in the log");
    same(&logged_err, &err, "stderr in the log");
}

#[test]
fn noise_of_64_mebibytes_is_the_same_on_stdout_and_in_the_joined_generations() {
    let state = State::new();
    let bytes = noise(64 * MIB, 5);
    fs::write(state.file("noise"), &bytes).unwrap();
    let options = ["--log-max-size", "3MiB", "--log-max-files", "100"];
    let mut command = state.run("noise", &options, "cat noise");
    let output = output_of(command.current_dir(state.path()), Vec::new());
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    same(&output.stdout, &bytes, "stdout");
    let generations = state.generations("noise");
    assert_eq!(generations.len(), 21);
    for generation in generations {
        assert!(generation.metadata().unwrap().len() <= 3 * MIB as u64, "{generation:?}");
    }
    same(&state.whole_log("noise"), &bytes, "the log");
}

#[test]
fn noise_of_64_mebibytes_from_stdin_comes_back_on_stdout_and_in_the_log() {
    let state = State::new();
    let bytes = noise(64 * MIB, 6);
    let mut command = state.vmon();
    command.args(["run", "--name", "cat", "--log-max-size", "0", "--", "cat"]);
    let output = output_of(&mut command, bytes.clone());
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    same(&output.stdout, &bytes, "stdout");
    same(&state.whole_log("cat"), &bytes, "the log");
}

#[test]
fn a_log_that_can_not_be_written_blocks_the_child_and_loses_nothing() {
    let state = State::new();
    let bytes = noise(2 * MIB, 7);
    fs::write(state.file("noise"), &bytes).unwrap();
    let mut supervisor = limited(&state, "pause", MIB);
    let stdout = reader(supervisor.stdout.take().unwrap());
    let limit = MIB as u64;
    eventually("the log is as large as it may be", || {
        state.log_path("limited").metadata().is_ok_and(|log| log.len() == limit)
    });
    assert!(supervisor.try_wait().unwrap().is_none());
    lift_limit(&supervisor);
    assert_eq!(code(wait(&mut supervisor)), 3);
    same(&stdout.join().unwrap(), &bytes, "stdout");
    same(&state.whole_log("limited"), &bytes, "the log");
    assert_eq!(state.run_column("limited", "bytes_dropped").as_deref(), Some("0"));
}

#[test]
fn a_stop_ends_at_the_stop_timeout_also_while_the_log_can_not_be_written() {
    let state = State::new();
    // More than the log and a pipe that has grown take together: the command can't end by itself.
    fs::write(state.file("noise"), noise(16 * MIB, 7)).unwrap();
    let options = ["--log-max-size", "0", "--stop-timeout", "300ms", "--no-forward"];
    let mut supervisor = under_limit(&state, &options, MIB, "cat noise");
    eventually("the log is as large as it may be", || {
        state.log_path("limited").metadata().is_ok_and(|log| log.len() == MIB as u64)
    });
    signal(&supervisor, Signal::SIGTERM);
    assert_eq!(code(wait(&mut supervisor)), 143);
    let column = |column| state.run_column("limited", column);
    assert_eq!(column("bytes_logged"), Some(MIB.to_string()));
    // What was read, and what was still in the pipe.
    let dropped: usize = column("bytes_dropped").unwrap().parse().unwrap();
    assert!(dropped > 0 && dropped < 15 * MIB, "{dropped}");
    assert_eq!(column("reason").as_deref(), Some("stopped"));
    let said = fs::read_to_string(state.file("said")).unwrap();
    assert!(said.contains(&format!(": {dropped} bytes are missing ")), "{said}");
}

#[test]
fn with_drop_a_log_that_can_not_be_written_counts_the_missing_bytes() {
    let state = State::new();
    let bytes = noise(2 * MIB, 8);
    fs::write(state.file("noise"), &bytes).unwrap();
    let mut supervisor = limited(&state, "drop", MIB);
    let stdout = reader(supervisor.stdout.take().unwrap());
    assert_eq!(code(wait(&mut supervisor)), 3);
    same(&stdout.join().unwrap(), &bytes, "stdout");
    same(&state.whole_log("limited"), &bytes[..MIB], "the log");
    let column = |column| state.run_column("limited", column);
    assert_eq!(column("bytes_logged"), Some(MIB.to_string()));
    assert_eq!(column("bytes_dropped"), Some(MIB.to_string()));
}

/// Runs `cat noise; exit 3` with a log that can't grow beyond `size` bytes.
fn limited(state: &State, policy: &str, size: usize) -> Child {
    under_limit(
        state,
        &["--on-log-error", policy, "--log-max-size", "0"],
        size,
        "cat noise; exit 3",
    )
}

/// A run whose files may have this size at most.
fn under_limit(state: &State, options: &[&str], size: usize, script: &str) -> Child {
    let run = state.run("limited", options, script);
    let mut command = Command::new("sh");
    // Units of 512 bytes.
    let script = format!("ulimit -S -f {}; exec \"$@\"", size / 512);
    command.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    command.env("VMON_STATE_DIR", state.path()).current_dir(state.path());
    let said = fs::File::create(state.file("said")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    command.spawn().unwrap()
}

fn lift_limit(supervisor: &Child) {
    let pid = supervisor.id() as i32;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit writes one rlimit to the last pointer, then reads one from the other.
    unsafe {
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_FSIZE, std::ptr::null(), &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()), 0);
    }
}

#[test]
fn a_log_is_rotated_at_the_file_size_limit_of_the_process() {
    let state = State::new();
    let bytes = noise(MIB, 4);
    fs::write(state.file("noise"), &bytes).unwrap();
    let options = ["--log-max-files", "9", "--log-index", "off"];
    let mut supervisor = under_limit(&state, &options, MIB / 4, "cat noise; exit 3");
    let mut output = Vec::new();
    supervisor.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert_eq!(code(wait(&mut supervisor)), 3);
    same(&output, &bytes, "what was forwarded");
    same(&state.whole_log("limited"), &bytes, "the log");
}

#[test]
fn a_child_that_reads_late_blocks_stdin_and_gets_all_of_it() {
    let state = State::new();
    let bytes = noise(8 * MIB, 9);
    // Opened once: a second opening could meet the first writer on its way out.
    let script = r#"exec 3<> "$GO"; echo ready; read _ <&3; cat > copy; echo done; read _ <&3"#;
    let mut command = state.run("slow", &[], script);
    state.gate(&mut command);
    command.current_dir(state.path()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut supervisor = command.spawn().unwrap();
    state.wait_for_log("slow", b"ready");
    let before = memory(supervisor.id(), "VmHWM:");
    let mut input = supervisor.stdin.take().unwrap();
    let taken = fill(&mut input, &bytes, supervisor.id());
    assert!(taken < MIB, "{taken} bytes were taken that the child has not read");
    let rest = writer(input, bytes[taken..].to_vec());
    state.open_gate();
    state.wait_for_log("slow", b"done");
    rest.join().unwrap();
    let after = memory(supervisor.id(), "VmHWM:");
    state.open_gate();
    assert_eq!(code(wait(&mut supervisor)), 0);
    same(&fs::read(state.file("copy")).unwrap(), &bytes, "what the child read");
    // VmHWM can fall: the kernel counts roughly, and the supervisor gives memory back meanwhile.
    assert!(after < before + 1024, "it grew from {before} KiB to {after} KiB");
}

#[test]
fn the_end_of_our_stdin_is_the_end_of_the_childs() {
    let state = State::new();
    let output = output_of(&mut state.run("end", &[], "cat; echo end"), b"unfinished".to_vec());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"unfinishedend\n");
}

#[test]
fn a_child_without_forwarded_stdin_reads_nothing() {
    let state = State::new();
    let options = ["--stdin", "null"];
    let output = output_of(&mut state.run("null", &options, "cat; echo end"), b"input".to_vec());
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"end\n"[..]));
}

#[test]
fn a_child_that_closes_its_stdin_early_causes_no_error() {
    let state = State::new();
    let mut command = state.run("closes", &[], r#"exec <&-; echo closed; read _ < "$GO"; exit 3"#);
    state.gate(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut supervisor = command.spawn().unwrap();
    state.wait_for_log("closes", b"closed");
    let mut input = supervisor.stdin.take().unwrap();
    fill(&mut input, &noise(MIB, 10), supervisor.id());
    state.open_gate();
    let output = supervisor.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"closed\n"[..], &b""[..]));
}

#[test]
fn a_child_that_ends_with_unread_input_causes_no_error() {
    let state = State::new();
    let mut command = state.vmon();
    command.args(["run", "--name", "head", "--", "head", "-c", "5"]);
    let output = output_of(&mut command, noise(8 * MIB, 11));
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(output.stdout, noise(5, 11));
}

#[test]
fn no_descriptor_but_the_three_reaches_the_child() {
    let state = State::new();
    // `[ -e` opens nothing, as a glob or ls would.
    let script = "n=0; while [ $n -lt 256 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done";
    let mut command = state.run("fds", &[], script);
    // SAFETY: close_range is a system call on three integers. What the test itself was started
    // with stays out of it.
    unsafe {
        command.pre_exec(|| {
            let flags = libc::CLOSE_RANGE_CLOEXEC as i32;
            nix::errno::Errno::result(libc::close_range(3, u32::MAX, flags))?;
            Ok(())
        });
    }
    let output = output_of(&mut command, Vec::new());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n1\n2\n");
}

#[test]
fn the_child_blocks_no_signal_and_sigpipe_ends_it() {
    let state = State::new();
    let mut command = state.vmon();
    command.args(["run", "--name", "signals", "--", "cat", "/proc/self/status"]);
    let output = command.output().unwrap();
    let status = String::from_utf8(output.stdout).unwrap();
    let mask = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:") & (1 << (libc::SIGPIPE - 1)), 0);
}

#[test]
fn a_supervisor_that_is_stopped_and_continued_loses_nothing() {
    use nix::sys::signal::Signal;
    let state = State::new();
    let bytes = noise(4 * MIB, 12);
    fs::write(state.file("noise"), &bytes).unwrap();
    let mut command = state.run("stopped", &[], "cat noise");
    command.current_dir(state.path()).stdout(Stdio::piped());
    let mut supervisor = command.spawn().unwrap();
    let mut stdout = supervisor.stdout.take().unwrap();
    let mut seen = vec![0; 100];
    stdout.read_exact(&mut seen).unwrap();
    common::signal(&supervisor, Signal::SIGSTOP);
    eventually("it has stopped", || is_in_state(supervisor.id(), 'T'));
    let rest = reader(stdout);
    common::signal(&supervisor, Signal::SIGCONT);
    assert_eq!(code(wait(&mut supervisor)), 0);
    seen.extend(rest.join().unwrap());
    same(&seen, &bytes, "stdout");
    same(&state.whole_log("stopped"), &bytes, "the log");
}
