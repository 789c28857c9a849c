//! `vmon restart`: starts a sandbox again with the options on record.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use crate::common::{self, Detached, State, code, copy_program, wait};
use nix::sys::signal::Signal;

#[track_caller]
fn restart(state: &State, name: &str) -> Detached {
    Detached::start(state, state.vmon().args(["restart", name]))
}

#[test]
fn a_running_sandbox_is_stopped_and_started_again() {
    let state = State::new();
    let first =
        Detached::start(&state, &mut state.run("web", &["-d"], "echo ready; exec sleep 100"));
    let second = restart(&state, "web");
    assert_eq!(second.name, "web");
    assert_ne!((first.pid, first.supervisor), (second.pid, second.supervisor));
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
    let runs = rusqlite::Connection::open(state.db()).unwrap();
    let states: Vec<String> = runs
        .prepare("SELECT state || ' ' || coalesce(reason, '') FROM vmon_runs ORDER BY id")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(states, ["STOPPED stopped", "RUNNING "]);
}

#[test]
fn a_stopped_sandbox_is_started_in_its_directory_with_exact_arguments() {
    let state = State::new();
    let directory = state.file("work");
    fs::create_dir(&directory).unwrap();
    let mut run = state.run("web", &[], "pwd; printf '[%s]' \"$@\"; echo; sleep 0.2");
    run.args(["x"]).arg(OsStr::from_bytes(b"\xff\n--name")).arg("").stdout(Stdio::null());
    assert_eq!(code(wait(&mut run.current_dir(&directory).spawn().unwrap())), 0);
    let first = state.log("web");
    assert!(common::contains(&first, b"[\xff\n--name][]\n"), "{first:?}");
    let _again = restart(&state, "web");
    assert_eq!(state.vmon().args(["wait", "web"]).output().unwrap().stdout, b"0\n");
    assert_eq!(state.log("web"), [first.clone(), first].concat());
}

#[test]
fn every_option_is_as_it_was() {
    let state = State::new();
    let (exit, pid) = (state.file("exit"), state.file("pid"));
    let options = [
        "-d",
        "--stop-signal",
        "INT",
        "--stop-timeout",
        "2500ms",
        "--log-max-size",
        "4KiB",
        "--log-max-files",
        "7",
        "--log-index",
        "off",
        "--on-log-error",
        "drop",
        "--stdin",
        "forward",
        "--max-duration",
        "1h",
        "--idle-timeout",
        "2h",
        "--restart",
        "on-failure:3",
        "--overlayfs-layer",
        "/a",
        "/b",
        "--exit-file",
        exit.to_str().unwrap(),
        "--pid-file",
        pid.to_str().unwrap(),
        "--on-exit",
        "true --x",
        "--leave-descendants",
        "--metrics-interval",
        "1h",
    ];
    let _first = Detached::start(&state, &mut state.run("web", &options, "exec sleep 100"));
    let before = state.run_column("web", "spec").unwrap();
    let second = restart(&state, "web");
    assert_eq!(state.run_column("web", "spec"), Some(before));
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", second.pid));
    assert!(!exit.exists(), "it is the file of the run that goes on");
}

#[test]
fn a_sandbox_that_had_a_terminal_gets_a_new_one() {
    let state = State::new();
    let mut terminal =
        common::Terminal::spawn(&mut state.run("web", &["-t"], "tty; exec sleep 100"));
    terminal.wait_for("/dev/pts/");
    let again = restart(&state, "web");
    assert_eq!(terminal.finish(), 143);
    let link = fs::read_link(format!("/proc/{}/fd/0", again.pid)).unwrap();
    assert!(link.starts_with("/dev/pts"), "{link:?}");
}

#[test]
fn a_sandbox_without_a_command_on_record_is_not_stopped() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    let db = rusqlite::Connection::open(state.db()).unwrap();
    // Like a child that a host has passed.
    db.execute("UPDATE vmon_runs SET spec = json_set(spec, '$.command', NULL)", []).unwrap();
    drop(db);
    let output = state.vmon().args(["restart", "web", "nosuch"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("can't restart Sandboxfile/web: its host"), "{said}");
    assert!(said.contains("'nosuch'"), "{said}");
    assert!(common::is_alive(sandbox.pid));
}

#[test]
fn a_sandbox_that_a_host_runs_is_not_taken_out_of_it() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    let db = rusqlite::Connection::open(state.db()).unwrap();
    // Like a command that a host has spawned.
    db.execute("UPDATE vmon_runs SET spec = json_remove(spec, '$.options')", []).unwrap();
    let output = state.vmon().args(["restart", "web"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("can't restart Sandboxfile/web: its host program runs it"), "{said}");
    assert!(common::is_alive(sandbox.pid));
    // Once it has stopped, the command on record is started as any other.
    assert!(state.vmon().args(["stop", "web"]).output().unwrap().status.success());
    let _again = restart(&state, "web");
}

#[test]
fn a_sandbox_that_could_not_be_started_again_is_not_stopped() {
    let state = State::new();
    let directory = state.file("work");
    fs::create_dir(&directory).unwrap();
    let mut run = state.run("web", &["-d"], "exec sleep 100");
    let sandbox = Detached::start(&state, run.current_dir(&directory));
    let refused = |why: &str| {
        let output = state.vmon().args(["restart", "web"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("can't restart Sandboxfile/web") && said.contains(why), "{said}");
        assert!(common::is_alive(sandbox.pid));
    };
    fs::remove_dir(&directory).unwrap();
    refused("working directory");
    fs::create_dir(&directory).unwrap();
    // Like a host that stores options of its own there.
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE vmon_runs SET spec = json_set(spec, '$.options.tenant', 'x')", []).unwrap();
    drop(db);
    refused("options on record");
}

#[test]
fn a_missing_command_is_reported() {
    let state = State::new();
    let program = state.file("program");
    copy_program("/bin/true", &program);
    let mut run: Command = state.vmon();
    run.args(["run", "--name", "web", "--"]).arg(&program);
    wait(&mut run.spawn().unwrap());
    fs::remove_file(&program).unwrap();
    let output = state.vmon().args(["restart", "web"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("can't restart Sandboxfile/web") && said.contains("not found"), "{said}");
}

#[test]
fn a_supervisor_that_was_lost_is_no_obstacle() {
    let state = State::new();
    let first = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    first.signal(Signal::SIGKILL);
    let _second = restart(&state, "web");
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
}

#[test]
fn all_are_restarted_although_stdout_can_not_be_written() {
    let state = State::new();
    let first: Vec<Detached> = ["a", "b"]
        .map(|name| Detached::start(&state, &mut state.run(name, &["-d"], "exec sleep 100")))
        .into();
    let mut command = state.vmon();
    command.args(["restart", "a", "b"]).stdout(fs::File::create("/dev/full").unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    for sandbox in &first {
        assert!(said.contains(&format!("vmon: {} runs, with pid ", sandbox.name)), "{said}");
        let column = |what| state.run_column(&sandbox.name, what).unwrap();
        assert_eq!(column("state"), "RUNNING");
        let supervisor = column("supervisor_pid").parse().unwrap();
        let _stopped_with_the_test = Detached { name: sandbox.name.clone(), pid: 0, supervisor };
    }
}

#[test]
fn root_does_not_run_what_another_users_record_says() {
    if !common::is_root() {
        eprintln!("skipped: only root can give a record away");
        return;
    }
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    std::os::unix::fs::chown(state.db(), Some(65534), None).unwrap();
    let output = state.vmon().args(["restart", "web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another user (uid 65534)"), "{said}");
    assert!(common::is_alive(sandbox.pid), "nothing was stopped");
}
