//! How a run starts, is stopped and ends, and what is on record meanwhile.

#![cfg(target_os = "linux")]
#![allow(unsafe_code)] // dispositions that a parent leaves behind take pre_exec

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::common::{
    State, TIMEOUT, Terminal, code, contains, eventually, is_alive, one_line, signal, wait,
    write_program,
};

/// A `vmon run` under way, with its stdout on a pipe.
struct Session {
    vmon: Child,
    out: ChildStdout,
    seen: Vec<u8>,
    searched: usize,
}

impl Session {
    fn spawn(command: &mut Command) -> Self {
        let mut vmon = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = vmon.stdout.take().unwrap();
        Self { vmon, out, seen: Vec::new(), searched: 0 }
    }

    /// Waits until the child has written this, after what was waited for before.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + TIMEOUT;
        loop {
            let new = &self.seen[self.searched..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.searched += at + text.len();
                return;
            }
            let more = self.read_some(give_up);
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(more, "{text:?} never came; there was {seen:?}");
        }
    }

    /// The number in the rest of the line.
    #[track_caller]
    fn number(&mut self) -> u32 {
        let start = self.searched;
        self.wait_for("\n");
        String::from_utf8_lossy(&self.seen[start..self.searched]).trim().parse().unwrap()
    }

    fn read_some(&mut self, give_up: Instant) -> bool {
        let left = give_up.saturating_duration_since(Instant::now()).as_millis();
        let mut fds = [PollFd::new(self.out.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = self.out.read(&mut buffer).unwrap_or(0);
        self.seen.extend_from_slice(&buffer[..count]);
        count > 0
    }

    fn send(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.vmon.stdin.as_ref().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn signal(&self, to_send: Signal) {
        signal(&self.vmon, to_send);
    }

    fn pid(&self) -> u32 {
        self.vmon.id()
    }

    /// Waits for the end and gives the exit code.
    #[track_caller]
    fn finish(&mut self) -> i32 {
        let give_up = Instant::now() + TIMEOUT;
        while self.read_some(give_up) {}
        code(wait(&mut self.vmon))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.vmon.kill();
        let _ = self.vmon.wait();
    }
}

fn run_code(command: &mut Command) -> i32 {
    let output = command.output().unwrap();
    code(output.status)
}

fn row_count(state: &State, table: &str) -> i64 {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Every process that has `marker` in its arguments.
fn processes_with(marker: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok())
    });
    pids.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id() && contains(&arguments, marker.as_bytes())
    })
    .collect()
}

/// Fails when a process of this marker outlives the test's patience, and does not leave it behind.
#[track_caller]
fn assert_none_left(marker: &str, what: &str) {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_with(marker);
        if left.is_empty() {
            return;
        }
        if Instant::now() > give_up {
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
            }
            panic!("{what}: {left:?} left");
        }
        let _ = poll(&mut [], PollTimeout::from(5_u8));
    }
}

/// A `vmon run` with these dispositions ignored, as some parents leave them behind.
fn ignoring(command: &mut Command, ignored: &'static [Signal]) {
    // SAFETY: signal is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for ignored in ignored {
                nix::sys::signal::signal(*ignored, nix::sys::signal::SigHandler::SigIgn)?;
            }
            Ok(())
        });
    }
}

// How a run ends.

#[test]
fn every_exit_code_is_the_childs() {
    let state = State::new();
    for expected in 0..=255 {
        let status = run_code(&mut state.run("codes", &[], &format!("exit {expected}")));
        assert_eq!(status, expected);
    }
    assert_eq!(row_count(&state, "vmon_runs"), 256);
}

#[test]
fn a_child_that_a_signal_ended_is_128_and_its_number() {
    let state = State::new();
    // Those that dump core and the real-time ones among them; none that the shell itself handles.
    for number in [1, 2, 3, 4, 6, 8, 9, 10, 11, 13, 14, 15, 24, 31, 34, 35, 50, 64] {
        let mut command =
            state.run("signals", &[], &format!("ulimit -c unlimited; kill -{number} $$; exit 99"));
        let status = run_code(command.current_dir(state.path()));
        assert_eq!(status, 128 + number, "signal {number}");
        assert_eq!(state.run_column("signals", "signal"), Some(number.to_string()));
        assert_eq!(state.run_column("signals", "exit_code"), None, "signal {number}");
        assert_eq!(state.run_column("signals", "reason").as_deref(), Some("signalled"));
    }
}

#[test]
fn a_command_that_does_not_exist_is_127() {
    let state = State::new();
    for program in ["no-such-command-of-vmons-tests", "/no/such/command"] {
        let output = state.vmon().args(["run", "--name", "x", "--", program]).output().unwrap();
        assert_eq!(output.status.code(), Some(127), "{program}");
        assert!(one_line(&output).contains(program));
        assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("127"));
        assert_eq!(state.run_column("x", "reason").as_deref(), Some("start-failed"));
        assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
    }
}

#[test]
fn a_command_that_can_not_be_executed_is_126() {
    let state = State::new();
    let plain = state.file("plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let orphan = state.file("orphan");
    write_program(&orphan, "#!/no/such/interpreter\n", 0o755);
    for program in [&plain, &orphan, state.path()] as [&Path; 3] {
        let output = state.vmon().args(["run", "--name", "x", "--"]).arg(program).output().unwrap();
        assert_eq!(output.status.code(), Some(126), "{program:?}");
        assert!(one_line(&output).contains(program.to_str().unwrap()));
        assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("126"));
    }
}

#[test]
fn an_exit_status_survives_a_parent_that_ignores_sigchld() {
    let state = State::new();
    let mut command = state.run("x", &[], "exit 9");
    ignoring(&mut command, &[Signal::SIGCHLD]);
    assert_eq!(run_code(&mut command), 9);
    assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("9"));
}

#[test]
fn a_child_with_jobs_of_its_own_keeps_its_exit_code() {
    let state = State::new();
    // dash has job control on a terminal only.
    let script = "set -m; (cut -d' ' -f5 /proc/self/stat; exit 3) & job=$!; wait $job
        echo was $? of $job; exit 5";
    let output = state.run("x", &["--tty", "always"], script).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stdout).unwrap();
    let group = text.lines().next().unwrap();
    assert!(text.contains(&format!("was 3 of {group}\r\n")), "a job has its own group: {text:?}");
}

#[test]
fn a_descendant_in_a_session_of_its_own_does_not_delay_the_stop() {
    let state = State::new();
    let fifo = state.file("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let script = format!("setsid sh -c 'echo up $$; read x < {}' & wait", fifo.display());
    let mut session = Session::spawn(&mut state.run(
        "x",
        &["--stop-timeout", "1h", "--leave-descendants"],
        &script,
    ));
    session.wait_for("up ");
    let descendant = session.number();
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 143);
    assert!(is_alive(descendant), "the stop signal is for the child's group only");
    kill(Pid::from_raw(descendant as i32), Signal::SIGKILL).unwrap();
}

// How a run is stopped.

#[test]
fn term_int_and_hup_stop_the_child_with_the_stop_signal() {
    let state = State::new();
    for request in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let script = "trap 'echo got TERM; kill $! 2>/dev/null; exit 3' TERM
            trap 'echo wrong; exit 4' INT HUP; sh -c 'echo ready; exec sleep 1000' & wait";
        let mut session = Session::spawn(&mut state.run("x", &[], script));
        session.wait_for("ready");
        session.signal(request);
        session.wait_for("got TERM");
        assert_eq!(session.finish(), 3, "{request}");
        assert_eq!(state.run_column("x", "reason").as_deref(), Some("stopped"));
        assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("3"));
        assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
    }
}

#[test]
fn a_child_that_its_stop_signal_ends_is_143_and_stopped() {
    let state = State::new();
    let mut session = Session::spawn(&mut state.run("x", &[], "echo ready; exec sleep 1000"));
    session.wait_for("ready");
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 143);
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("stopped"));
    assert_eq!(state.run_column("x", "signal").as_deref(), Some("15"));
}

#[test]
fn the_stop_signal_reaches_grandchildren_of_the_childs_group() {
    let state = State::new();
    let script = "sh -c 'trap \"echo grandchild stopped; exit\" TERM
            sh -c \"echo ready; exec sleep 1000\" & wait' &
        trap 'wait $!; exit 4' TERM; wait";
    let mut session = Session::spawn(&mut state.run("x", &[], script));
    session.wait_for("ready");
    session.signal(Signal::SIGTERM);
    session.wait_for("grandchild stopped");
    assert_eq!(session.finish(), 4);
}

#[test]
fn the_stop_signal_is_the_one_of_the_option() {
    let state = State::new();
    for (option, name) in [("INT", "INT"), ("SIGUSR1", "USR1"), ("10", "USR1"), ("usr2", "USR2")] {
        let script = format!(
            "trap 'echo got {name}; kill $! 2>/dev/null; exit 5' {name}; trap 'exit 6' TERM
            sh -c 'echo ready; exec sleep 1000' & wait"
        );
        let mut session = Session::spawn(&mut state.run("x", &["--stop-signal", option], &script));
        session.wait_for("ready");
        session.signal(Signal::SIGTERM);
        session.wait_for("got");
        assert_eq!(session.finish(), 5, "{option}");
    }
}

#[test]
fn a_real_time_signal_can_be_the_stop_signal() {
    let state = State::new();
    let script = "echo ready; exec sleep 1000";
    let mut session = Session::spawn(&mut state.run("x", &["--stop-signal", "40"], script));
    session.wait_for("ready");
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 168);
}

const DEAF: &str = "trap '' TERM; echo ready $$; exec sleep 1000";

#[test]
fn a_child_that_ignores_the_stop_is_killed_after_the_timeout() {
    let state = State::new();
    let mut session = Session::spawn(&mut state.run("x", &["--stop-timeout", "300ms"], DEAF));
    session.wait_for("ready ");
    let child = session.number();
    let asked = Instant::now();
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 137);
    assert!(asked.elapsed() >= Duration::from_millis(300), "killed too early");
    assert!(!is_alive(child));
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("killed"));
    assert_eq!(state.run_column("x", "signal").as_deref(), Some("9"));
}

#[test]
fn the_kill_reaches_the_whole_group() {
    let state = State::new();
    let script = "trap '' TERM; sleep 1000 & echo job $!; wait";
    let mut session = Session::spawn(&mut state.run("x", &["--stop-timeout", "0"], script));
    session.wait_for("job ");
    let job = session.number();
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 137);
    eventually("the grandchild ends", || !is_alive(job));
}

/// A child that prints each TERM, answers each line, and ends only by KILL.
const STUBBORN: &str = "trap 'echo stopping' TERM; echo ready
    while :; do if read x; then echo pong $x; fi; done";

fn stubborn(state: &State) -> Session {
    let mut command = state.run("x", &["--stop-timeout", "1h"], STUBBORN);
    let mut session = Session::spawn(command.stdin(Stdio::piped()));
    session.wait_for("ready");
    session
}

#[test]
fn a_second_stop_a_second_later_kills_at_once() {
    let state = State::new();
    let mut session = stubborn(&state);
    session.signal(Signal::SIGTERM);
    session.wait_for("stopping");
    let signalled = Instant::now();
    eventually("a second has passed", || signalled.elapsed() > Duration::from_secs(1));
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 137);
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("killed"));
}

#[test]
fn two_stops_in_quick_succession_are_one() {
    let state = State::new();
    loop {
        let mut session = stubborn(&state);
        let asked = Instant::now();
        session.signal(Signal::SIGTERM);
        session.wait_for("stopping");
        session.signal(Signal::SIGTERM);
        session.signal(Signal::SIGINT);
        // An answer shows that the loop has turned since.
        session.send("1");
        let give_up = Instant::now() + TIMEOUT;
        while !contains(&session.seen, b"pong 1") && session.read_some(give_up) {}
        let answered = contains(&session.seen, b"pong 1");
        // On a machine that was too busy for it the two were not in quick succession.
        if answered || asked.elapsed() < Duration::from_secs(1) {
            assert!(answered, "it was killed");
            assert!(session.vmon.try_wait().unwrap().is_none());
            return;
        }
    }
}

#[test]
fn a_hangup_never_kills_however_often_it_comes() {
    let state = State::new();
    let mut session = stubborn(&state);
    session.signal(Signal::SIGHUP);
    session.wait_for("stopping");
    let signalled = Instant::now();
    eventually("a second has passed", || signalled.elapsed() > Duration::from_secs(1));
    session.signal(Signal::SIGHUP);
    session.send("1");
    session.wait_for("pong 1");
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 137);
}

#[test]
fn a_suspended_child_can_be_stopped() {
    let state = State::new();
    let mut session = Session::spawn(&mut state.run("x", &[], "echo pid $$; exec sleep 1000"));
    session.wait_for("pid ");
    let child = session.number();
    kill(Pid::from_raw(child as i32), Signal::SIGSTOP).unwrap();
    eventually("the child is suspended", || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    });
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 143);
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("stopped"));
}

#[test]
fn a_hangup_that_was_ignored_at_entry_stays_ignored() {
    let state = State::new();
    let mut command = state.run("x", &["--stop-timeout", "1h"], STUBBORN);
    ignoring(&mut command, &[Signal::SIGHUP, Signal::SIGINT]);
    let mut session = Session::spawn(command.stdin(Stdio::piped()));
    session.wait_for("ready");
    session.signal(Signal::SIGHUP);
    session.signal(Signal::SIGINT);
    session.send("1");
    session.wait_for("pong 1");
    assert!(!contains(&session.seen, b"stopping"));
    assert_eq!(state.run_column("x", "state").as_deref(), Some("RUNNING"));
    // TERM is heeded.
    session.signal(Signal::SIGTERM);
    session.wait_for("stopping");
}

#[test]
fn a_stop_reaches_a_supervisor_whose_parent_has_blocked_all_signals() {
    let state = State::new();
    let mut command = state.run("x", &[], "echo ready; exec sleep 1000");
    // SAFETY: sigfillset and pthread_sigmask are async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::signal::SigSet::all().thread_block()?));
    }
    let mut session = Session::spawn(&mut command);
    session.wait_for("ready");
    session.signal(Signal::SIGTERM);
    assert_eq!(session.finish(), 143);
}

#[test]
fn a_stop_at_any_moment_of_the_start_leaves_no_child() {
    let state = State::new();
    let marker = format!("vmon-stop-{}", std::process::id());
    let step = time_to_start(&state, &marker) / 12;
    for round in 0..25 {
        let mut vmon = blocked_child(&state, &marker).spawn().unwrap();
        let born = Instant::now();
        while born.elapsed() < step * round {
            std::hint::spin_loop();
        }
        signal(&vmon, Signal::SIGTERM);
        let status = code(wait(&mut vmon));
        // By the signal itself before it is watched, refused while it starts, or stopped.
        assert!([143, 125].contains(&status), "round {round}: {status}");
        assert_none_left(&marker, &format!("stopped in round {round}"));
    }
}

// The record.

#[test]
fn the_record_is_running_with_both_pids_while_the_child_runs() {
    let state = State::new();
    let mut session =
        Session::spawn(state.run("x", &[], "echo pid $$; read x").stdin(Stdio::piped()));
    session.wait_for("pid ");
    let child = session.number().to_string();
    state.wait_for_status("x", "RUNNING");
    let vmon = session.pid().to_string();
    assert_eq!(state.sandbox_column("x", "microvm_pid"), Some(child.clone()));
    assert_eq!(state.sandbox_column("x", "supervisor_pid"), Some(vmon.clone()));
    assert_eq!(state.run_column("x", "state").as_deref(), Some("RUNNING"));
    assert_eq!(state.run_column("x", "pid"), Some(child));
    assert_eq!(state.run_column("x", "supervisor_pid"), Some(vmon));
    assert_eq!(state.run_column("x", "ended_at"), None);
    session.send("");
    assert_eq!(session.finish(), 0);
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
}

#[test]
fn the_record_is_stopping_from_the_stop_request_on() {
    let state = State::new();
    let session = stubborn(&state);
    session.signal(Signal::SIGTERM);
    eventually("STOPPING", || state.run_column("x", "state").as_deref() == Some("STOPPING"));
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("RUNNING"));
}

#[test]
fn the_record_is_stopped_only_after_the_output_of_descendants() {
    // On a machine that is too busy the grandchild is silent for longer than the grace time.
    let right = (0..5).any(|_| stopped_only_after_the_output_of_descendants());
    assert!(right, "the drain ended although the grandchild wrote on");
}

/// Whether the drain lasted as long as the grandchild wrote.
fn stopped_only_after_the_output_of_descendants() -> bool {
    let state = State::new();
    let enough = state.file("enough");
    // Without a fork in the loop, which could take long.
    let script = format!(
        "(while ! [ -e {} ]; do echo tick; done; echo last) & echo child $$; exit 6",
        enough.display()
    );
    let options =
        ["--no-forward", "--log-max-size", "0", "--stop-timeout", "1h", "--leave-descendants"];
    let mut vmon = state.run("x", &options, &script).spawn().unwrap();
    eventually("the child is reaped", || {
        let pid = state.run_column("x", "pid").and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    for _ in 0..3 {
        let before = log_len(&state);
        let status = state.sandbox_column("x", "status");
        let mut grown = false;
        eventually("the grandchild writes on, or the run is over", || {
            grown = log_len(&state) > before;
            grown || vmon.try_wait().unwrap().is_some()
        });
        if !grown {
            fs::write(&enough, "").unwrap();
            return false;
        }
        // It was still being drained when the status was read.
        assert_eq!(status.as_deref(), Some("RUNNING"));
    }
    fs::write(&enough, "").unwrap();
    assert_eq!(code(wait(&mut vmon)), 6);
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
    assert_eq!(state.run_column("x", "bytes_logged"), Some(log_len(&state).to_string()));
    state.log("x").ends_with(b"tick\nlast\n")
}

#[test]
fn a_supervisor_that_is_suspended_during_the_drain_loses_nothing() {
    let suspended = (0..5).any(|_| suspended_during_the_drain());
    assert!(suspended, "the drain was always over before vmon could be suspended");
}

/// Whether vmon was suspended before the drain was over: else the grandchild was silent for too
/// long, on a machine that is too busy.
fn suspended_during_the_drain() -> bool {
    let state = State::new();
    let enough = state.file("enough");
    let script = format!(
        "(while ! [ -e {} ]; do echo tick; sleep 0.02; done; echo last) & echo $! >{}; exit 6",
        enough.display(),
        state.file("pid").display(),
    );
    let options =
        ["--no-forward", "--log-max-size", "0", "--stop-timeout", "1h", "--leave-descendants"];
    let mut vmon = state.run("x", &options, &script).spawn().unwrap();
    eventually("the child is reaped", || {
        let pid = state.run_column("x", "pid").and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    let descendant: u32 = fs::read_to_string(state.file("pid")).unwrap().trim().parse().unwrap();
    signal(&vmon, Signal::SIGSTOP);
    let mut over = false;
    eventually("vmon is suspended", || {
        over = vmon.try_wait().unwrap().is_some();
        let stat = fs::read_to_string(format!("/proc/{}/stat", vmon.id())).unwrap_or_default();
        over || stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    });
    let suspended = Instant::now();
    eventually("the grace time has passed", || suspended.elapsed() > Duration::from_millis(300));
    fs::write(&enough, "").unwrap();
    eventually("the grandchild has written its last", || !is_alive(descendant));
    if over {
        return false;
    }
    signal(&vmon, Signal::SIGCONT);
    assert_eq!(code(wait(&mut vmon)), 6);
    assert!(state.log("x").ends_with(b"tick\nlast\n"), "{:?}", state.log("x"));
    true
}

fn log_len(state: &State) -> u64 {
    fs::metadata(state.log_path("x")).map_or(0, |metadata| metadata.len())
}

#[test]
fn each_run_leaves_its_row() {
    let state = State::new();
    let before = Utc::now();
    for (round, script) in ["printf 12345; exit 7", "printf e >&2", "kill -9 $$"].iter().enumerate()
    {
        let mut vmon =
            state.run("x", &["--no-forward", "--env", "SECRET=hush"], script).spawn().unwrap();
        wait(&mut vmon);
        let column = |name: &str| state.run_column("x", name);
        let time = |name: &str| {
            let text = column(name).unwrap();
            assert!(text.ends_with('Z') && text.len() == 27, "{name}: {text}");
            text.parse::<DateTime<Utc>>().unwrap()
        };
        assert_eq!(row_count(&state, "vmon_runs"), round as i64 + 1);
        assert_eq!(column("state").as_deref(), Some("STOPPED"));
        assert_eq!(column("supervisor_pid"), Some(vmon.id().to_string()));
        let (started, running, ended) = (time("started_at"), time("running_at"), time("ended_at"));
        assert!(before - chrono::Duration::microseconds(1) <= started);
        assert!(started <= running && running <= ended && ended <= Utc::now());
        let spec = column("spec").unwrap();
        assert!(spec.contains("sh") && spec.contains("exit 7") == (round == 0), "{spec}");
        assert!(!spec.contains("hush") && !spec.contains("SECRET"), "{spec}");
        let (exit_code, signal, reason, bytes) = [
            (Some("7"), None, "exited", "5"),
            (Some("0"), None, "exited", "1"),
            (None, Some("9"), "signalled", "0"),
        ][round];
        assert_eq!(column("exit_code").as_deref(), exit_code);
        assert_eq!(column("signal").as_deref(), signal);
        assert_eq!(column("reason").as_deref(), Some(reason));
        assert_eq!(column("bytes_logged").as_deref(), Some(bytes));
        assert_eq!(column("bytes_dropped").as_deref(), Some("0"));
    }
    assert_eq!(row_count(&state, "sandboxes"), 1);
}

// Names.

#[test]
fn a_running_name_refuses_a_second_run_and_touches_nothing() {
    let state = State::new();
    let mut command = state.run("x", &[], "echo first; read x");
    let mut first = Session::spawn(command.stdin(Stdio::piped()));
    first.wait_for("first");
    state.wait_for_status("x", "RUNNING");
    let rows = |table| dump(&state, table);
    let (sandboxes, runs) = (rows("sandboxes"), rows("vmon_runs"));

    let started = state.file("started");
    let script = format!("touch {}; echo second", started.display());
    let second = state.run("x", &[], &script).output().unwrap();
    assert_eq!(second.status.code(), Some(125));
    assert!(one_line(&second).contains(&first.pid().to_string()), "{second:?}");
    assert_eq!(second.stdout, b"");
    assert!(!started.exists());
    assert_eq!((rows("sandboxes"), rows("vmon_runs")), (sandboxes, runs));
    assert_eq!(state.log("x"), b"first\n");

    first.send("");
    assert_eq!(first.finish(), 0);
    assert_eq!(run_code(&mut state.run("x", &[], "exit 3")), 3, "the name is free again");
}

/// Every value of every row, as SQL text.
fn dump(state: &State, table: &str) -> Vec<String> {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY id")).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns).map(|at| Ok(format!("{:?} ", row.get_ref(at)?))).collect()
    };
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_name_of_another_config_file_is_another_name() {
    let state = State::new();
    let mut command = state.run("x", &[], "echo first; read x");
    let mut first = Session::spawn(command.stdin(Stdio::piped()));
    first.wait_for("first");
    state.wait_for_status("x", "RUNNING");
    assert_eq!(run_code(&mut state.run("x", &["--config-file", "Other"], "exit 3")), 3);
    assert_eq!(row_count(&state, "sandboxes"), 2);
}

#[test]
fn a_default_name_is_numbered_while_it_is_taken() {
    let state = State::new();
    let cat = || {
        let mut command = state.vmon();
        command.args(["run", "cat"]).stdin(Stdio::piped());
        Session::spawn(&mut command)
    };
    let first = cat();
    state.wait_for_status("cat", "RUNNING");
    let mut second = cat();
    state.wait_for_status("cat-2", "RUNNING");
    let third = cat();
    state.wait_for_status("cat-3", "RUNNING");
    drop(second.vmon.stdin.take());
    assert_eq!(second.finish(), 0);

    let again = cat();
    state.wait_for_status("cat-2", "RUNNING");
    let pid = |name| state.sandbox_column(name, "supervisor_pid").unwrap();
    assert_eq!(pid("cat"), first.pid().to_string());
    assert_eq!(pid("cat-2"), again.pid().to_string());
    assert_eq!(pid("cat-3"), third.pid().to_string());
    assert_eq!(row_count(&state, "sandboxes"), 3);
}

#[test]
fn of_two_runs_that_race_for_a_name_one_gets_it() {
    let state = State::new();
    for round in 0..20 {
        let name = format!("race-{round}");
        let mut runs = [(); 4].map(|()| {
            let mut command = state.run(&name, &[], "echo in; read x");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        });
        let mut losers = 0;
        eventually("all but one are refused", || {
            losers = runs.iter_mut().filter_map(|run| run.try_wait().unwrap()).count();
            losers == 3
        });
        let codes: Vec<_> = runs
            .iter_mut()
            .map(|run| {
                drop(run.stdin.take());
                code(wait(run))
            })
            .collect();
        // read(1) fails at the end of its input.
        assert_eq!(codes.iter().filter(|code| **code == 125).count(), 3, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == 1).count(), 1, "{codes:?}");
        assert_eq!(state.log(&name), b"in\n");
    }
    assert_eq!(row_count(&state, "vmon_runs"), 20);
    assert_eq!(row_count(&state, "sandboxes"), 20);
}

// A supervisor that is killed.

#[test]
fn a_killed_supervisors_row_is_taken_over_and_its_run_closed() {
    let state = State::new();
    let mut lost = Session::spawn(&mut state.run("x", &[], "echo ready; exec sleep 1000"));
    lost.wait_for("ready");
    state.wait_for_status("x", "RUNNING");
    lost.signal(Signal::SIGKILL);
    assert_eq!(lost.finish(), 137);
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("RUNNING"));

    let output = state.run("x", &[], "exit 4").output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(output.stderr, b"");
    assert_eq!(row_count(&state, "sandboxes"), 1);
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let sql = "SELECT state || ' ' || reason || ' ' || ifnull(exit_code, '-') || ' ' ||
        (ended_at >= started_at) FROM vmon_runs ORDER BY id";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let rows: Vec<_> = rows.map(Result::unwrap).collect();
    assert_eq!(rows, ["STOPPED supervisor-lost - 1", "STOPPED exited 4 1"]);
}

#[test]
fn a_killed_supervisor_takes_its_child_with_it() {
    let state = State::new();
    for options in [&["--tty", "never"], &["--tty", "always"]] {
        let mut command = state.run("x", options, "echo pid $$; exec sleep 1000");
        let mut session = Session::spawn(command.stdin(Stdio::piped()));
        session.wait_for("pid ");
        let child = session.number();
        session.signal(Signal::SIGKILL);
        eventually("the child is killed", || !is_alive(child));
    }
}

/// A run of one single process, which has `marker` in its arguments and never ends by itself.
fn blocked_child(state: &State, marker: &str) -> Command {
    let fifo = state.file("never");
    if !fifo.exists() {
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    }
    // It prints nothing: without a reader it would end by SIGPIPE, and hide that it was left.
    let mut command = state.run("x", &[], &format!("read x < {}", fifo.display()));
    command.arg(marker).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How long a start takes on this machine now.
fn time_to_start(state: &State, marker: &str) -> Duration {
    let begin = Instant::now();
    let session = Session::spawn(&mut blocked_child(state, marker));
    state.wait_for_status("x", "RUNNING");
    let took = begin.elapsed();
    drop(session);
    took
}

#[test]
fn a_supervisor_killed_at_any_moment_of_the_start_leaves_no_child() {
    let state = State::new();
    let marker = format!("vmon-kill-{}", std::process::id());
    let step = time_to_start(&state, &marker) / 35;
    for round in 0..50 {
        let mut vmon = blocked_child(&state, &marker).spawn().unwrap();
        let born = Instant::now();
        while born.elapsed() < step * round {
            std::hint::spin_loop();
        }
        vmon.kill().unwrap();
        wait(&mut vmon);
        assert_none_left(&marker, &format!("killed in round {round}"));
    }
    // Whatever was left of them, the name is free.
    assert_eq!(run_code(&mut state.run("x", &[], "exit 3")), 3);
}

#[test]
fn a_supervisor_killed_between_clone_and_the_parent_death_signal_leaves_no_child() {
    let state = State::new();
    // strace holds the child up before the prctl(2) that asks for the signal. Its supervisor is
    // suspended meanwhile (vfork(2)); SIGKILL ends it.
    let delay = ["-f", "-o", "/dev/null", "-e", "inject=prctl:delay_enter=1000000"];
    let mut probe = Command::new("strace");
    probe.args(delay).arg("true").stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: a_supervisor_killed_between_clone_and_the_parent_death_signal_leaves_no_child: no strace"
        );
        return;
    }
    let marker = format!("vmon-fork-{}", std::process::id());
    let run = blocked_child(&state, &marker);
    let mut strace = Command::new("strace");
    strace.args(delay).arg(run.get_program()).args(run.get_args());
    strace.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut strace = strace.stderr(Stdio::null()).spawn().unwrap();
    let tracer = strace.id();
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let mut vmon = None;
    eventually("vmon has a child", || {
        let pids = processes_with(&marker);
        vmon = pids.iter().copied().find(|pid| parent(*pid) == Some(tracer));
        pids.iter().any(|pid| vmon.is_some() && parent(*pid) == vmon)
    });
    kill(Pid::from_raw(vmon.unwrap() as i32), Signal::SIGKILL).unwrap();
    // strace itself ends with the last of them.
    assert_none_left(&marker, "killed between clone and prctl");
    wait(&mut strace);
}

// Terminals.

#[test]
fn a_child_that_closes_its_terminal_before_it_ends_is_not_hung_up_on() {
    let state = State::new();
    let gate = state.file("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    // Both ends of the gate: no process waits to open it.
    let mut opened = fs::OpenOptions::new().read(true).write(true).open(&gate).unwrap();
    let script = format!("echo bye; exec <{} >&- 2>&-; read x; exit 7", gate.display());
    let mut vmon = state.run("x", &["--tty", "always", "--no-forward"], &script).spawn().unwrap();
    state.wait_for_log("x", b"bye");
    state.wait_for_status("x", "RUNNING");
    let child = state.run_column("x", "pid").unwrap();
    eventually("the terminal is closed", || {
        let files = fs::read_dir(format!("/proc/{child}/fd")).unwrap();
        let mut targets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        !targets.any(|target| target.starts_with("/dev/pts"))
    });
    opened.write_all(b"go\n").unwrap();
    assert_eq!(code(wait(&mut vmon)), 7);
}

#[test]
fn a_child_that_opens_its_terminal_again_is_read_again() {
    let state = State::new();
    let script = "echo one; exec </dev/null >&- 2>&-; exec >/dev/tty; echo two; exit 7";
    let mut session = Session::spawn(&mut state.run("x", &["--tty", "always"], script));
    session.wait_for("one");
    session.wait_for("two");
    assert_eq!(session.finish(), 7);
}

#[test]
fn an_ordinary_end_on_a_terminal_is_never_a_hangup() {
    let state = State::new();
    // cat closes its streams, and only then exits.
    for _ in 0..100 {
        let mut command = state.vmon();
        command.args(["run", "--tty", "always", "--no-forward", "cat"]);
        assert_eq!(run_code(command.stdin(Stdio::null())), 0);
    }
}

// What the child gets.

#[test]
fn the_environment_is_that_of_vmon_with_the_changes_of_env() {
    let state = State::new();
    let options = ["--env", "A=1=2", "--env", "B=", "--env", "C", "--env", "D"];
    let script = "echo ${A-unset}:${B-unset}:${C-unset}:${D-unset}:$E";
    let mut command = state.run("x", &options, script);
    command.env("A", "ours").env("C", "ours").env_remove("D").env("E", "ours");
    assert_eq!(command.output().unwrap().stdout, b"1=2::ours:unset:ours\n");
}

#[test]
fn the_working_directory_is_that_of_vmon_or_of_cwd() {
    let state = State::new();
    let directory = state.file("inside");
    fs::create_dir(&directory).unwrap();
    let here = state.run("x", &[], "pwd -P").current_dir(state.path()).output().unwrap();
    let canonical = |path: &Path| format!("{}\n", fs::canonicalize(path).unwrap().display());
    assert_eq!(String::from_utf8(here.stdout).unwrap(), canonical(state.path()));
    for cwd in [directory.to_str().unwrap(), "inside"] {
        let mut command = state.run("x", &["--cwd", cwd], "pwd -P");
        let output = command.current_dir(state.path()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), canonical(&directory));
    }
}

#[test]
fn the_child_leads_a_session_and_group_of_its_own() {
    let state = State::new();
    for tty in ["never", "always"] {
        let script = "cut -d' ' -f1,5,6 /proc/$$/stat";
        let output = state.run("x", &["--tty", tty], script).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let ids: Vec<_> = text.split_ascii_whitespace().collect();
        assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{tty}: {text:?}");
    }
}

#[test]
fn a_child_on_a_terminal_keeps_its_exit_code_and_signal() {
    let state = State::new();
    for (script, expected) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -40 $$", 168)] {
        let mut terminal = Terminal::spawn(&mut state.run("x", &[], script));
        assert_eq!(terminal.finish(), expected, "{script}");
    }
}

#[test]
fn signals_that_would_end_vmon_are_passed_on_to_the_command() {
    let state = State::new();
    let signals = [("USR2", Signal::SIGUSR2 as i32), ("PWR", 30), ("ALRM", 14), ("40", 40)];
    let traps: String =
        signals.iter().map(|(name, _)| format!("trap 'echo got {name}' {name}; ")).collect();
    let script = format!("{traps} echo ready; while :; do sleep 0.05; done");
    let mut run = Session::spawn(&mut state.run("web", &[], &script));
    run.wait_for("ready");
    for (name, number) in signals {
        // SAFETY: kill(2) has no memory-safety conditions. nix knows no real-time signals.
        let sent = unsafe { libc::kill(run.vmon.id().try_into().unwrap(), number) };
        assert_eq!(sent, 0, "{name}");
        run.wait_for(&format!("got {name}\n"));
    }
    signal(&run.vmon, Signal::SIGTERM);
    assert_eq!(code(wait(&mut run.vmon)), 143);
}
