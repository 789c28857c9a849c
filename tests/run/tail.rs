//! The last output of a child is never lost, also if another process has its pipe open.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, State, assert_same, code, contains, eventually, is_alive, noise, wait};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const MIB: usize = 1024 * 1024;

/// How long the streams must be silent after the child's end.
const GRACE: Duration = Duration::from_millis(200);

/// The pid of a grandchild, which the script has written to `pid`; killed in the end.
struct Grandchild(u32);

impl Grandchild {
    fn of(state: &State) -> Self {
        let text = fs::read_to_string(state.file("pid")).unwrap();
        Self(text.trim().parse().unwrap())
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0 as i32), Signal::SIGKILL);
    }
}

/// The processes that a script leaves behind are not killed: they stand for others with the pipe
/// open.
fn here(state: &State, options: &[&str], script: &str) -> Command {
    let options = [options, &["--leave-descendants"]].concat();
    let mut command = state.run("child", &options, script);
    command.current_dir(state.path());
    command
}

#[test]
fn the_tail_of_a_child_that_ends_at_once_is_complete() {
    let state = State::new();
    let bytes = noise(MIB, 1);
    fs::write(state.file("noise"), &bytes).unwrap();
    let output = here(&state, &[], "exec cat noise").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_same(&output.stdout, &bytes, "stdout");
    assert_same(&state.log("child"), &bytes, "the log");
}

#[test]
fn the_tail_survives_a_silent_grandchild_on_the_pipe_without_delay() {
    let state = State::new();
    let bytes = noise(MIB, 2);
    fs::write(state.file("noise"), &bytes).unwrap();
    // Only the grace ends it: the stop timeout is out of reach.
    let script = "sleep 600 & echo $! > pid; cat noise; exit 3";
    let output = here(&state, &["--stop-timeout", "1h"], script).output().unwrap();
    let grandchild = Grandchild::of(&state);
    assert!(is_alive(grandchild.0));
    assert_eq!(output.status.code(), Some(3));
    assert_same(&output.stdout, &bytes, "stdout");
    assert_same(&state.log("child"), &bytes, "the log");
}

#[test]
fn a_silent_grandchild_does_not_delay_the_end_if_the_log_fails() {
    let state = State::new();
    fs::write(state.file("noise"), noise(MIB, 3)).unwrap();
    let options = ["--stop-timeout", "1h", "--on-log-error", "drop", "--leave-descendants"];
    let run = state.run("child", &options, "sleep 600 & echo $! > pid; cat noise; exit 3");
    let mut command = Command::new("sh");
    // 512 KiB, in units of 512 bytes.
    command.args(["-c", "ulimit -f 1024; exec \"$@\"", "sh"]);
    command.arg(run.get_program()).args(run.get_args()).env("VMON_STATE_DIR", state.path());
    command.current_dir(state.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut supervisor = command.stderr(Stdio::null()).spawn().unwrap();
    let status = wait(&mut supervisor);
    let _grandchild = Grandchild::of(&state);
    assert_eq!(code(status), 3);
}

/// One byte at a time for thrice the grace, each when the one before has come; gives how long that
/// went on, and how long after the last of them the end came.
fn ping_a_grandchild(state: &State) -> (Duration, Duration) {
    let _ = fs::remove_file(state.file("go"));
    mkfifo(&state.file("go"), Mode::S_IRWXU).unwrap();
    let script = "while read -r n; do echo $n; done < go & echo child; exit 3";
    let mut command = here(state, &["--stop-timeout", "1h"], script);
    // When the last byte that has come was asked for: never later than it came.
    let mut last = Instant::now();
    let mut supervisor = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(supervisor.stdout.take().unwrap());
    let mut seen = String::new();
    stdout.read_line(&mut seen).unwrap();
    let mut go = File::options().write(true).open(state.file("go")).unwrap();
    let begin = Instant::now();
    for number in 0.. {
        if last.saturating_duration_since(begin) >= 3 * GRACE {
            break;
        }
        let sent = Instant::now();
        // A grandchild whose output has gone no longer reads.
        if go.write_all(format!("{number}\n").as_bytes()).is_err()
            || stdout.read_line(&mut seen).unwrap() == 0
        {
            break;
        }
        last = sent;
    }
    stdout.read_to_string(&mut seen).unwrap();
    let end = Instant::now();
    assert_eq!(code(wait(&mut supervisor)), 3);
    assert!(state.log("child").ends_with(seen.as_bytes()), "{seen:?}");
    (last.saturating_duration_since(begin), end - last)
}

#[test]
fn a_grandchild_that_still_writes_is_read_until_the_quiet_period_has_passed() {
    let state = State::new();
    // On a busy machine the grandchild may fall silent itself: then it is to be tried again.
    let lasted = (0..10).any(|_| {
        let (lasted, silence) = ping_a_grandchild(&state);
        assert!(silence >= GRACE, "the end came {silence:?} after a byte");
        lasted >= 3 * GRACE
    });
    assert!(lasted);
}

#[test]
fn a_grandchild_that_writes_for_ever_is_cut_after_the_stop_timeout() {
    let script = "yes & echo $! > pid; echo the last of the child; exit 3";
    let options = ["--stop-timeout", "500ms", "--log-max-size", "1MiB", "--no-forward"];
    // On a busy machine the grandchild may not run for the grace: then it is to be tried again.
    let cut = (0..10).any(|_| {
        let state = State::new();
        let begin = Instant::now();
        let mut supervisor = here(&state, &options, script).spawn().unwrap();
        let status = wait(&mut supervisor);
        let _grandchild = Grandchild::of(&state);
        assert_eq!(code(status), 3);
        begin.elapsed() >= Duration::from_millis(500)
    });
    assert!(cut);
}

#[test]
fn a_grandchild_that_writes_for_ever_costs_nothing_of_the_childs_own_tail() {
    let state = State::new();
    let bytes = noise(150 * 1024, 4);
    fs::write(state.file("noise"), &bytes).unwrap();
    mkfifo(&state.file("go"), Mode::S_IRWXU).unwrap();
    // The tail waits in the pipe until the reader comes, long after a stop timeout of zero.
    let script = "(read _ < go; exec yes) & echo $! > pid; cat noise; echo $$ > child; exit 3";
    let (mut reader, writer) = pipe().unwrap();
    let mut supervisor =
        here(&state, &["--stop-timeout", "0"], script).stdout(writer).spawn().unwrap();
    let mut child = String::new();
    eventually("the child has been reaped", || {
        child = fs::read_to_string(state.file("child")).unwrap_or_default();
        child.ends_with('\n') && !Path::new(&format!("/proc/{}", child.trim())).exists()
    });
    let _grandchild = Grandchild::of(&state);
    fs::write(state.file("go"), "go\n").unwrap();
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(code(wait(&mut supervisor)), 3);
    assert_same(&seen[..bytes.len()], &bytes, "stdout");
    assert_same(&state.log("child"), &seen, "the log");
}

#[test]
fn a_stop_request_cuts_a_grandchild_that_writes_for_ever() {
    let state = State::new();
    let script = "yes & echo $! > pid; echo $$ > child; exit 3";
    let options = ["--stop-timeout", "1h", "--log-max-size", "1MiB", "--no-forward"];
    let mut supervisor = here(&state, &options, script).spawn().unwrap();
    eventually("the child has been reaped", || {
        let child = fs::read_to_string(state.file("child")).unwrap_or_default();
        child.ends_with('\n') && !Path::new(&format!("/proc/{}", child.trim())).exists()
    });
    let _grandchild = Grandchild::of(&state);
    common::signal(&supervisor, Signal::SIGTERM);
    assert_eq!(code(wait(&mut supervisor)), 3);
}

#[test]
fn a_child_that_is_killed_in_the_middle_of_a_line_leaves_the_half_of_it() {
    let state = State::new();
    let output = here(&state, &[], "echo whole; printf half; kill -9 $$").output().unwrap();
    assert_eq!(output.status.code(), Some(128 + libc::SIGKILL));
    assert_eq!(output.stdout, b"whole\nhalf");
    assert_eq!(state.log("child"), b"whole\nhalf");
    assert_eq!(state.run_column("child", "signal").as_deref(), Some("9"));
}

#[test]
fn the_end_is_on_record_only_when_the_tail_is_in_the_log() {
    let state = State::new();
    let bytes = noise(150 * 1024, 5);
    fs::write(state.file("noise"), &bytes).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let script = "cat noise; echo $$ > child; exit 3";
    let mut supervisor = here(&state, &[], script).stdout(writer).spawn().unwrap();
    eventually("the child has been reaped", || {
        let child = fs::read_to_string(state.file("child")).unwrap_or_default();
        child.ends_with('\n') && !Path::new(&format!("/proc/{}", child.trim())).exists()
    });
    state.wait_for_status("child", "RUNNING");
    assert_eq!(state.run_column("child", "ended_at"), None);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(code(wait(&mut supervisor)), 3);
    assert_eq!(state.sandbox_column("child", "status").as_deref(), Some("STOPPED"));
    assert_same(&state.log("child"), &bytes, "the log");
}

#[test]
fn a_tail_in_packets_is_complete() {
    if !common::has("python3") {
        eprintln!("SKIPPED a_tail_in_packets_is_complete: no python3 to set O_DIRECT on a pipe");
        return;
    }
    let state = State::new();
    // With O_DIRECT a pipe gives one write a read (pipe(2)).
    fs::write(
        state.file("packets.py"),
        "import fcntl, os, subprocess\n\
         fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_DIRECT)\n\
         print(subprocess.Popen(['sleep', '600']).pid, file=open('pid', 'w'))\n\
         for n in range(12): os.write(1, b'%d\\n' % n)\n",
    )
    .unwrap();
    let output = here(&state, &[], "exec python3 packets.py").output().unwrap();
    let _grandchild = Grandchild::of(&state);
    assert_eq!(output.status.code(), Some(0));
    let expected: String = (0..12).map(|number: i32| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(contains(&state.log("child"), expected.as_bytes()));
}
