//! What a sandbox waits for is visible: in `ps`, `inspect` and `stats`, in the word of `stop`, and in
//! one warning of its supervisor.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::cgroups::cgroup;
use crate::common::held::lock;
use crate::common::tmpfs::{Tmpfs, skip};
use crate::common::{self, Detached, Process, State, copy_program, eventually, is_root, wait};

const NOBODY: u32 = 65534;

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The object of the only sandbox in the output of a command.
#[track_caller]
fn only(command: &mut Command) -> Value {
    let list: Value = serde_json::from_str(&output(command)).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list:#}");
    list[0].clone()
}

/// The reason for which the only sandbox waits for this, if it does.
fn reason(state: &State, kind: &str) -> Option<String> {
    let list: Value = serde_json::from_str(&output(state.vmon().args(["ps", "--json"]))).unwrap();
    let mut waits = list[0]["waits"].as_array()?.iter();
    Some(waits.find(|wait| wait["kind"] == kind)?["reason"].as_str().unwrap().to_owned())
}

#[track_caller]
fn wait_for_reason(state: &State, kind: &str) -> String {
    eventually(&format!("it waits for {kind}"), || reason(state, kind).is_some());
    reason(state, kind).unwrap()
}

#[test]
fn a_full_disk_that_holds_a_sandbox_up_is_shown_by_every_command_that_shows_the_sandbox() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let filler = disk.fill_up_to(0);
    let options = ["-d", "--log-dir", disk.path().to_str().unwrap()];
    let mut run = state.run("web", &options, "echo hello; exec sleep 600");
    let web = Detached::start(&state, &mut run);
    let why = wait_for_reason(&state, "log");
    assert!(why.contains("No space left") && why.contains("web.log"), "{why}");
    let inspected = only(state.vmon().args(["inspect", "web"]));
    let measured = only(state.vmon().args(["stats", "--json"]));
    for waits in [&inspected["waits"], &inspected["live"]["waits"], &measured["waits"]] {
        assert_eq!((&waits[0]["kind"], &waits[0]["reason"]), (&"log".into(), &why.clone().into()));
        let since = waits[0]["since"].as_str().unwrap();
        assert!(since >= inspected["running_at"].as_str().unwrap(), "{since}");
    }
    for command in ["ps", "stats"] {
        let table = output(state.vmon().arg(command));
        let (header, row) = table.split_once('\n').unwrap();
        assert!(header.ends_with("WAITS FOR"), "{table}");
        assert!(row.contains(&format!("log: {why}, for ")), "{table}");
    }
    fs::remove_file(filler).unwrap();
    eventually("the log is written", || reason(&state, "log").is_none());
    assert!(!output(state.vmon().arg("ps")).contains("WAITS FOR"));
    // The warning was about the disk that its own log is on.
    let said = disk.path().join("Sandboxfile/web@supervisor.log");
    web.signal(Signal::SIGTERM);
    eventually("the warning is in its log", || {
        fs::read_to_string(&said).unwrap_or_default().contains(&why)
    });
}

#[test]
fn a_stop_says_at_once_that_it_waits_for_a_full_disk() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let filler = disk.fill_up_to(0);
    let options = ["-d", "--log-dir", disk.path().to_str().unwrap()];
    let mut run = state.run("web", &options, "echo hello; exec sleep 600");
    let _web = Detached::start(&state, &mut run);
    wait_for_reason(&state, "log");
    let (mut stop, said) = stop(state.vmon().args(["stop", "web"]));
    assert!(said.contains("Sandboxfile/web waits for its log: cannot write"), "{said}");
    eventually("it is shown as drained", || {
        output(state.vmon().args(["ps"])).lines().any(|row| row.contains("DRAINING  -  "))
    });
    fs::remove_file(filler).unwrap();
    assert!(wait(&mut stop).success());
}

/// Starts a `vmon stop`, and returns the first line of its messages.
fn stop(command: &mut Command) -> (Process, String) {
    let mut stop = Process::spawn(command.stderr(Stdio::piped()));
    let mut said = String::new();
    BufReader::new(stop.stderr.take().unwrap()).read_line(&mut said).unwrap();
    (stop, said)
}

#[test]
fn a_drain_that_waits_for_a_reader_is_shown() {
    let state = State::new();
    let mut run = state.run("web", &[], "head -c 131072 /dev/zero");
    let mut web = Process::spawn(run.stdout(Stdio::piped()));
    let why = wait_for_reason(&state, "reader");
    assert!(why.contains("does not read"), "{why}");
    drop(web.stdout.take());
    assert!(wait(&mut web).success());
}

#[test]
fn a_record_that_is_late_is_shown() {
    let state = State::new();
    let mut run = state.run("web", &["-d"], "trap '' TERM; echo up; while :; do sleep 0.1; done");
    let web = Detached::start(&state, &mut run);
    state.wait_for_log("web", b"up");
    let locked = lock(&state);
    web.signal(Signal::SIGTERM);
    let why = wait_for_reason(&state, "record");
    assert!(why.contains("locked"), "{why}");
    drop(locked);
    eventually("the record is written", || reason(&state, "record").is_none());
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPING"));
}

#[test]
fn a_console_that_is_not_there_yet_is_shown() {
    let state = State::new();
    let path = state.file("serial.sock");
    let console = format!("serial=unix:{}", path.display());
    let mut run = state.run("web", &["-d", "--console", &console], "exec sleep 600");
    let _web = Detached::start(&state, &mut run);
    let why = wait_for_reason(&state, "console");
    assert_eq!(why, format!("serial: nothing listens at {}", path.display()));
    eventually("the supervisor says so", || {
        let said = state.logs().join("web@supervisor.log");
        fs::read_to_string(said).unwrap_or_default().contains("is not there yet")
    });
}

/// A program that takes another user's id: of that user's, with the set-uid bit. `None` where this
/// process can't make one.
fn set_uid_program(state: &State) -> Option<PathBuf> {
    if !is_root() || !common::has("setpriv") {
        skip("needs root and setpriv(1)");
        return None;
    }
    let path = state.file("become-root");
    copy_program("/usr/bin/setpriv", &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    Some(path)
}

#[test]
fn a_stop_of_a_command_that_can_not_be_signalled_says_why_and_so_does_ps() {
    let state = State::new();
    let Some(program) = set_uid_program(&state) else { return };
    let vmon = state.file("vmon");
    copy_program(env!("CARGO_BIN_EXE_vmon"), &vmon);
    fs::set_permissions(&vmon, fs::Permissions::from_mode(0o755)).unwrap();
    chown(state.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&vmon);
        command.env("VMON_STATE_DIR", state.path()).env_remove("XDG_STATE_HOME");
        command.args(args).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        command
    };
    let program = program.to_str().unwrap();
    let mut run = as_nobody(&["run", "-d", "--name", "web", "--stop-timeout", "100ms", "--"]);
    // Another process of its group can be signalled, so kill(2) of the group succeeds.
    let script = "setpriv --reuid 65534 sh -c 'echo up; exec sleep 600' & exec sleep 600";
    run.args([program, "--ruid", "0", "--euid", "0", "sh", "-c", script]);
    let web = Detached::start(&state, &mut run);
    state.wait_for_log("web", b"up");
    let (mut stop, said) = stop(&mut as_nobody(&["stop", "web"]));
    let expected = format!("pid {}: can't send SIGTERM: Operation not permitted", web.pid);
    assert!(said.contains(&expected), "{said}");
    let shown = || only(&mut as_nobody(&["ps", "--json"]))["waits"][0].clone();
    eventually("SIGKILL was tried", || {
        let wait = shown();
        assert_eq!(wait["kind"], "command", "{wait:#}");
        wait["reason"].as_str().unwrap().contains("can't send SIGKILL: Operation not permitted")
    });
    kill(Pid::from_raw(web.pid as i32), Signal::SIGKILL).unwrap();
    assert!(wait(&mut stop).success());
    assert_eq!(state.run_column("web", "reason").as_deref(), Some("killed"));
}

/// A command that acts on SIGTERM itself. In a frozen cgroup of v2 the default action still works.
const HANDLES_TERM: &str = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";

/// Freezes a cgroup.
fn freeze(directory: &Path) {
    fs::write(directory.join("cgroup.freeze"), "1").unwrap();
    eventually("it is frozen", || {
        let events = fs::read_to_string(directory.join("cgroup.events")).unwrap();
        events.contains("frozen 1")
    });
}

#[test]
fn a_stop_thaws_the_cgroup_of_the_sandbox() {
    let Some(directory) = cgroup("thawed") else { return };
    let state = State::new();
    let options = ["-d", "--stop-timeout", "60s", "--cgroup", directory.to_str().unwrap()];
    let _web = Detached::start(&state, &mut state.run("web", &options, HANDLES_TERM));
    state.wait_for_log("web", b"up");
    freeze(&directory);
    output(state.vmon().args(["stop", "web"]));
    assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("3"));
}

#[test]
fn a_stop_names_the_frozen_cgroup_that_it_does_not_thaw() {
    let Some(directory) = cgroup("foreign") else { return };
    let state = State::new();
    let options = ["-d", "--stop-timeout", "60s"];
    let web = Detached::start(&state, &mut state.run("web", &options, HANDLES_TERM));
    state.wait_for_log("web", b"up");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("cgroup.procs"), web.pid.to_string()).unwrap();
    freeze(&directory);
    let (mut stop, said) = stop(state.vmon().args(["stop", "web"]));
    let frozen = format!("pid {}: it is frozen by the cgroup {}", web.pid, directory.display());
    assert!(said.contains(&frozen), "{said}");
    assert_eq!(reason(&state, "command"), Some(frozen));
    fs::write(directory.join("cgroup.freeze"), "0").unwrap();
    assert!(wait(&mut stop).success());
    assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("3"));
    fs::remove_dir(&directory).unwrap();
}
