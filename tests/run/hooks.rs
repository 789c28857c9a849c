//! The PID file, the exit file, and the command of `--on-exit`.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use crate::common::{Process, State, code, eventually, signal, wait};
use nix::sys::signal::Signal;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_pid_file_is_there_while_the_command_runs() {
    let state = State::new();
    let file = state.file("pid");
    let mut run = state.run("web", &["--pid-file", file.to_str().unwrap()], "exec sleep 100");
    let mut run = Process::spawn(&mut run);
    eventually("the PID file", || file.exists());
    state.wait_for_status("web", "RUNNING");
    assert_eq!(Some(text(&file).trim_end().to_owned()), state.run_column("web", "pid"));
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
    assert!(!file.exists());
}

#[test]
fn the_exit_file_has_the_exit_code_when_the_record_is_closed() {
    let state = State::new();
    let file = state.file("exit");
    let option = ["--exit-file", file.to_str().unwrap()];
    for (script, expected) in [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)] {
        let status = wait(&mut state.run("web", &option, script).spawn().unwrap());
        assert_eq!(code(status), expected);
        assert_eq!(text(&file), format!("{expected}\n"));
    }
    let mut command = state.vmon();
    command.arg("run").args(option).args(["--", "/nonexistent/x"]);
    assert_eq!(code(wait(&mut command.spawn().unwrap())), 127);
    assert_eq!(text(&file), "127\n");
}

#[test]
fn an_exit_file_of_an_earlier_run_is_gone_when_the_next_one_runs() {
    let state = State::new();
    let file = state.file("exit");
    fs::write(&file, "old\n").unwrap();
    let option = ["--exit-file", file.to_str().unwrap()];
    let mut run = Process::spawn(&mut state.run("web", &option, "echo runs; exec sleep 100"));
    state.wait_for_log("web", b"runs\n");
    assert!(!file.exists());
    // A start that is refused leaves the files of the run that has the name.
    assert_eq!(code(wait(&mut state.run("web", &option, "true").spawn().unwrap())), 125);
    assert!(!file.exists());
    signal(&run, Signal::SIGTERM);
    wait(&mut run);
    assert_eq!(text(&file), "143\n");
}

#[test]
fn a_file_in_a_missing_directory_is_refused_before_anything_is_made() {
    let state = State::new();
    for option in ["--pid-file", "--exit-file"] {
        let output = state.run("web", &[option, "/nonexistent/file"], "true").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(said.contains("/nonexistent") && said.contains(option), "{said}");
        assert!(!state.db().exists());
    }
}

#[test]
fn a_fifo_or_a_device_in_the_place_of_a_file_is_refused_and_stays() {
    let state = State::new();
    let fifo = state.file("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for option in ["--pid-file", "--exit-file"] {
        let output = state.run("web", &[option, fifo.to_str().unwrap()], "true").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("fifo") && said.contains(option), "{said}");
        assert!(!fs::symlink_metadata(&fifo).unwrap().is_file());
    }
}

#[test]
fn a_file_may_have_the_longest_name_that_there_is() {
    let state = State::new();
    let file = state.file(&"x".repeat(255));
    let option = ["--exit-file", file.to_str().unwrap()];
    wait(&mut state.run("web", &option, "exit 4").spawn().unwrap());
    assert_eq!(text(&file), "4\n");
}

#[test]
fn the_command_of_on_exit_gets_the_end_in_its_environment() {
    let state = State::new();
    let file = state.file("seen");
    let hook = format!(
        "echo \"$VMON_NAME $VMON_CONFIG $VMON_REASON $VMON_EXIT_CODE $VMON_SIGNAL $VMON_LOG\" > {}",
        file.display()
    );
    let log = state.log_path("web");
    for (script, expected) in [("exit 7", "exited 7 "), ("kill -9 $$", "signalled 137 SIGKILL")] {
        wait(&mut state.run("web", &["--on-exit", &hook], script).spawn().unwrap());
        assert_eq!(text(&file), format!("web Sandboxfile {expected} {}\n", log.display()));
    }
    let mut command = state.vmon();
    command.args(["run", "--name", "web", "--on-exit", &hook, "--", "/nonexistent/x"]);
    wait(&mut command.spawn().unwrap());
    assert!(text(&file).starts_with("web Sandboxfile start-failed 127 "), "{}", text(&file));
}

#[test]
fn the_command_of_on_exit_has_the_file_limit_that_vmon_was_started_with() {
    let state = State::new();
    let file = state.file("limit");
    let hook = format!("ulimit -n > {}", file.display());
    let vmon = state.run("web", &["--on-exit", &hook], "true");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -Sn 123 && exec \"$@\"", "sh"]).arg(vmon.get_program());
    shell.args(vmon.get_args()).envs(vmon.get_envs().filter_map(|(k, v)| Some((k, v?))));
    assert_eq!(code(shell.status().unwrap()), 0);
    assert_eq!(text(&file), "123\n");
}

#[test]
fn on_exit_comes_after_the_record_is_closed_and_the_exit_file_written() {
    let state = State::new();
    let (seen, exit) = (state.file("seen"), state.file("exit"));
    let vmon = env!("CARGO_BIN_EXE_vmon");
    let hook = format!("({vmon} ps --all --json; cat {}) > {}", exit.display(), seen.display());
    let options = ["--on-exit", &hook, "--exit-file", exit.to_str().unwrap()];
    wait(&mut state.run("web", &options, "exit 3").spawn().unwrap());
    let seen = text(&seen);
    assert!(seen.contains("\"STOPPED\"") && seen.ends_with("]\n3\n"), "{seen}");
}

#[test]
fn a_failure_of_on_exit_is_a_warning_and_no_more() {
    let state = State::new();
    let output = state.run("web", &["--on-exit", "exit 9"], "exit 7").output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("vmon: warn: ") && said.contains('9'), "{said}");
}

#[test]
fn a_stop_ends_a_command_of_on_exit_that_takes_long() {
    let state = State::new();
    let file = state.file("runs");
    let hook = format!("echo runs > {}; sleep 1000", file.display());
    let mut run = Process::spawn(&mut state.run("web", &["--on-exit", &hook], "exit 7"));
    eventually("the hook runs", || text(&file) == "runs\n");
    // A signal is lost before the handler is installed, so it is sent repeatedly.
    eventually("vmon ends", || {
        signal(&run, Signal::SIGTERM);
        run.try_wait().unwrap().is_some()
    });
    assert_eq!(code(wait(&mut run)), 7);
}

#[test]
fn the_command_of_on_exit_has_no_signal_blocked_after_a_short_run() {
    let state = State::new();
    let mask = state.file("mask");
    let hook = format!("grep SigBlk /proc/self/status >{}", mask.display());
    state.ran("web", &["--on-exit", &hook], "exit 0");
    assert_eq!(std::fs::read_to_string(mask).unwrap(), "SigBlk:\t0000000000000000\n");
}
