//! The faults of the program that vmon replaces, one test each, in the order of its list.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::{
    self, State, Terminal, assert_same, code, eventually, is_alive, noise, signal, wait,
};

fn rows(state: &State, sql: &str) -> Vec<String> {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn three_million_random_bytes_come_out_as_they_are() {
    let state = State::new();
    let noise = noise(3_000_000, 1);
    let mut source = tempfile::NamedTempFile::new().unwrap();
    source.write_all(&noise).unwrap();
    let output = state.run("x", &[], &format!("cat {}", source.path().display())).output().unwrap();
    assert_same(&output.stdout, &noise, "stdout");
    assert_same(&state.whole_log("x"), &noise, "the log");
}

#[test]
fn a_character_on_a_chunk_boundary_stays_whole() {
    let state = State::new();
    // Every byte of the character ends a write once, and so a read: the next waits for it.
    let script = "printf 'a\\303'; read x; printf '\\244b\\342'; read x; printf '\\202\\254\\n'";
    let mut vmon = state.run("x", &[], script);
    let mut vmon = vmon.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = vmon.stdin.take().unwrap();
    state.wait_for_log("x", b"a\xc3");
    writeln!(input).unwrap();
    state.wait_for_log("x", b"\xa4b\xe2");
    writeln!(input).unwrap();
    let output = vmon.wait_with_output().unwrap();
    assert_eq!(output.stdout, "aäb€\n".as_bytes());
    assert_eq!(state.log("x"), "aäb€\n".as_bytes());
}

#[test]
fn the_exit_code_of_the_child_is_not_lost() {
    let state = State::new();
    assert_eq!(code(wait(&mut state.run("x", &[], "exit 7").spawn().unwrap())), 7);
    assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("7"));
}

#[test]
fn the_signal_that_ended_the_child_is_not_lost() {
    let state = State::new();
    assert_eq!(code(wait(&mut state.run("x", &[], "kill -SEGV $$").spawn().unwrap())), 139);
    assert_eq!(state.run_column("x", "signal").as_deref(), Some("11"));
}

#[test]
fn stopped_is_not_on_record_while_a_child_that_ignores_term_runs_on() {
    let state = State::new();
    // Ignores the first TERM, until the test lets it exit.
    let script = "trap 'echo deaf' TERM; echo ready; while ! read x; do :; done; exit 4";
    let mut vmon = state.run("x", &["--no-forward", "--stop-timeout", "1h"], script);
    let mut vmon = vmon.stdin(Stdio::piped()).spawn().unwrap();
    state.wait_for_log("x", b"ready");
    signal(&vmon, Signal::SIGTERM);
    state.wait_for_log("x", b"deaf");
    eventually("the stop is on record", || {
        state.run_column("x", "state").as_deref() == Some("STOPPING")
    });
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("RUNNING"));
    writeln!(vmon.stdin.as_ref().unwrap(), "end").unwrap();
    assert_eq!(code(wait(&mut vmon)), 4);
    assert_eq!(state.sandbox_column("x", "status").as_deref(), Some("STOPPED"));
}

#[test]
fn a_stop_that_is_ignored_escalates_to_kill() {
    let state = State::new();
    let script = "trap '' TERM; echo ready; exec sleep 1000";
    let options = ["--no-forward", "--stop-timeout", "200ms"];
    let mut vmon = state.run("x", &options, script).spawn().unwrap();
    state.wait_for_log("x", b"ready");
    signal(&vmon, Signal::SIGTERM);
    assert_eq!(code(wait(&mut vmon)), 137);
    assert_eq!(state.run_column("x", "reason").as_deref(), Some("killed"));
}

#[test]
fn a_supervisor_killed_by_sigkill_leaves_no_child_and_nothing_running() {
    let state = State::new();
    let script = "echo ready; exec sleep 1000";
    let mut vmon = state.run("x", &["--no-forward"], script).spawn().unwrap();
    state.wait_for_log("x", b"ready");
    state.wait_for_status("x", "RUNNING");
    let child: u32 = state.run_column("x", "pid").unwrap().parse().unwrap();
    vmon.kill().unwrap();
    wait(&mut vmon);
    eventually("the child is killed", || !is_alive(child));
    let ps = |options: &[&str]| {
        let output = state.vmon().arg("ps").args(options).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ps(&[]).lines().count(), 1, "nothing but the header: {}", ps(&[]));
    assert!(ps(&["--all"]).contains("STOPPED"));
    assert!(ps(&["--all", "--json"]).contains("supervisor-lost"));
    // And in the rows, as soon as the name is claimed again.
    wait(&mut state.run("x", &[], "exit 0").spawn().unwrap());
    let states = rows(&state, "SELECT state FROM vmon_runs ORDER BY id");
    assert_eq!(states, ["STOPPED", "STOPPED"]);
    assert_eq!(rows(&state, "SELECT status FROM sandboxes"), ["STOPPED"]);
}

#[test]
fn a_name_can_not_lead_out_of_the_log_directory() {
    let state = State::new();
    let outside = tempfile::tempdir().unwrap();
    let up = "../".repeat(20);
    let evil = format!("{up}{}", outside.path().join("evil").display());
    for option in ["--name", "--sandbox-name", "--config-file"] {
        let mut command = state.vmon();
        let output = command.args(["run", option, &evil, "--", "echo", "evil"]).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{option}");
        assert_eq!(output.stdout, b"");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn the_terminal_of_the_child_has_the_size_of_ours_and_follows_it() {
    let state = State::new();
    let script = "stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do read x; done";
    let mut terminal = Terminal::spawn(&mut state.run("x", &[], script));
    terminal.wait_for("40 100");
    terminal.wait_for("ready");
    terminal.resize(33, 77);
    terminal.wait_for("33 77");
    assert_eq!(terminal.finish(), 3);
}

#[test]
fn the_end_on_a_terminal_does_not_wait_for_enter() {
    let state = State::new();
    let mut terminal = Terminal::spawn(&mut state.run("x", &[], "echo bye; exit 3"));
    assert_eq!(terminal.finish(), 3, "without any input");
}

#[test]
fn the_end_on_a_terminal_leaves_nothing_unwritten() {
    let state = State::new();
    let script = "seq 100000; printf last; exit 3";
    let mut terminal = Terminal::spawn(&mut state.run("x", &[], script));
    assert_eq!(terminal.finish(), 3);
    let lines: Vec<_> = (1..=100_000).map(|number| format!("{number}\r\n")).collect();
    let expected = lines.concat() + "last";
    assert_same(&state.whole_log("x"), expected.as_bytes(), "the log");
    assert_same(&terminal.seen, expected.as_bytes(), "the terminal");
}

#[test]
fn a_closed_stdout_does_not_panic() {
    let state = State::new();
    // Closed by its reader, and not there at all.
    for redirection in ["| true", ">&-", ">&- 2>&-"] {
        let vmon = env!("CARGO_BIN_EXE_vmon");
        let script = format!("{vmon} run --name x -- sh -c 'seq 20000; exit 7' {redirection}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("VMON_STATE_DIR", state.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors, "", "{redirection}");
        assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("7"), "{redirection}");
        assert!(state.log("x").ends_with(b"\n20000\n"), "{redirection}");
        // With its index: one that is left behind is reported by the next run.
        fs::remove_dir_all(state.logs()).unwrap();
    }
}

#[test]
fn a_slow_terminal_does_not_delay_the_log() {
    let state = State::new();
    let script = "seq 200000; echo logged";
    let options = ["--forward-overflow", "drop"];
    let mut terminal = Terminal::spawn(&mut state.run("x", &options, script));
    // The terminal is not read meanwhile.
    state.wait_for_log("x", b"\nlogged\r\n");
    terminal.wait_for("bytes left out]");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn two_supervisors_of_one_name_leave_one_row() {
    let state = State::new();
    let gate = state.file("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    // Several times: the fault was a race.
    for round in 1..=10 {
        let run = |_| {
            let mut command = state.run("x", &["--no-forward"], &format!("cat {}", gate.display()));
            command.stderr(Stdio::null()).spawn().unwrap()
        };
        let mut runs = [(); 2].map(run);
        eventually("one is refused", || {
            runs.iter_mut().any(|run| run.try_wait().unwrap().is_some())
        });
        // The other one's child, which opens the gate, gets its end.
        drop(fs::OpenOptions::new().write(true).open(&gate).unwrap());
        let mut codes = runs.each_mut().map(|run| code(wait(run)));
        codes.sort_unstable();
        assert_eq!(codes, [0, 125]);
        assert_eq!(rows(&state, "SELECT name FROM sandboxes"), ["x"]);
        assert_eq!(rows(&state, "SELECT state FROM vmon_runs").len(), round);
    }
}

#[test]
fn rotation_loses_and_repeats_no_byte_of_either_stream() {
    let state = State::new();
    let script = "(i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo out $i; done) &
        i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo err $i >&2; done; wait";
    let options = ["--no-forward", "--log-max-size", "4KiB", "--log-max-files", "1000"];
    assert_eq!(code(wait(&mut state.run("x", &options, script).spawn().unwrap())), 0);
    let log = String::from_utf8(state.whole_log("x")).unwrap();
    for stream in ["out ", "err "] {
        let numbers = log.lines().filter_map(|line| line.strip_prefix(stream));
        assert!(numbers.eq((1..=5000).map(|number| number.to_string())), "{stream}");
    }
    assert_eq!(log.lines().count(), 10_000);
    let generations = state.generations("x");
    assert!(generations.len() > 10);
    // Nothing is written to a file after it was renamed.
    for generation in generations {
        assert!(fs::metadata(&generation).unwrap().len() <= 4_096, "{generation:?}");
    }
}

#[test]
fn rotation_is_a_rename_of_the_index_then_of_the_log_and_syncs_nothing() {
    let state = State::new();
    if !common::has("strace") || !can_trace() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: rotation_is_a_rename_of_the_index_then_of_the_log_and_syncs_nothing: no strace"
        );
        return;
    }
    let trace = state.file("trace");
    let run = state.run(
        "x",
        &["--no-forward", "--log-max-size", "4KiB", "--log-max-files", "1000"],
        "seq 20000",
    );
    let mut strace = Command::new("strace");
    strace
        .args(["-e", "trace=fsync,fdatasync,sync,syncfs,sync_file_range,rename,renameat,renameat2"])
        .arg("-o")
        .arg(&trace)
        .arg(run.get_program())
        .args(run.get_args())
        .env("VMON_STATE_DIR", state.path())
        .stdin(Stdio::null());
    assert_eq!(code(wait(&mut strace.spawn().unwrap())), 0);
    let trace = fs::read_to_string(trace).unwrap();
    let of_log = |line: &&str| line.contains("x.log");
    let renames = || trace.lines().filter(|line| line.starts_with("rename")).filter(of_log);
    let of_indexes = renames().filter(|line| line.contains(".idx")).count();
    let renames = renames().count() - of_indexes;
    assert_eq!((renames, of_indexes), (state.generations("x").len(), renames));
    let mut order = trace.lines().filter(|line| line.starts_with("rename")).filter(of_log);
    while let (Some(index), Some(log)) = (order.next(), order.next()) {
        assert!(index.contains(".idx") && !log.contains(".idx"), "{index} before {log}");
    }
    // SQLite syncs once, when it makes the database; the log never does.
    let syncs = trace.lines().filter(|line| line.contains("sync")).count();
    assert!(renames > 20 && syncs < 10, "{syncs} syncs, {renames} renames");
}

/// Whether strace works here: a container may forbid it.
fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "true"]).stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}
