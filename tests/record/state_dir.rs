//! A state directory that was moved, copied, mounted or linked to leads to its own files: logs,
//! control sockets and spooled ends.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::held::{Held, lock, spooled};
use crate::common::{CONFIG, Detached, State, eventually, is_alive, is_root};
use serde_json::Value;

/// `vmon` with another state directory than that of the environment.
fn vmon(state_dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmon"));
    command.args(args).arg("--state-dir").arg(state_dir);
    command.env("VMON_STATE_DIR", "/nonexistent").env("VMON_RUNTIME_DIR", "/nonexistent");
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

#[track_caller]
fn stdout(output: Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn inspect(state_dir: &Path, name: &str) -> Value {
    let objects: Value =
        serde_json::from_str(&stdout(vmon(state_dir, &["inspect", name]))).unwrap();
    objects[0].clone()
}

#[track_caller]
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn sqlite(state_dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(state_dir.join("sandbox.db")).unwrap()
}

fn path(value: &Value) -> PathBuf {
    value.as_str().unwrap_or_default().into()
}

fn log(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("log").join(CONFIG).join(format!("{name}.log"))
}

/// The exit code as `vmon history` and others print it.
fn exit_code(state_dir: &Path, name: &str) -> Value {
    let runs: Value =
        serde_json::from_str(&stdout(vmon(state_dir, &["history", name, "--json"]))).unwrap();
    runs[0]["exit_code"].clone()
}

/// Whether all that reads a log reads the one in this state directory.
#[track_caller]
fn assert_reads_its_own(state_dir: &Path, text: &str) {
    let timing = state_dir.join("script");
    let script = timing.to_str().unwrap();
    for args in [
        &["logs", "web"][..],
        &["logs", "web", "--run", "1"],
        &["replay", "web", "--max-idle", "0"],
        &["export", "web", "--to", "json"],
    ] {
        let said = stdout(vmon(state_dir, args));
        assert!(said.contains(text), "{args:?}: {said:?}");
    }
    stdout(vmon(state_dir, &["export", "web", "--to", "scriptreplay", "-o", script]));
    assert!(fs::read_to_string(&timing).unwrap().contains(text));
    let web = inspect(state_dir, "web");
    assert_eq!(path(&web["spec"]["log_dir"]), state_dir.join("log"));
    assert_eq!(path(&web["log"]["path"]), log(state_dir, "web"));
    let socket = state_dir.join("run").join(CONFIG).join("web.sock");
    assert_eq!(path(&web["socket"]), socket);
    assert_eq!(web["spec"]["options"].get("runtime-dir"), None);
    let console = state_dir.join("log").join(CONFIG).join("web@serial.log");
    assert_eq!(path(&web["consoles"][0]["log"]), console);
}

#[test]
fn a_copy_and_a_moved_state_directory_lead_to_their_own_logs() {
    let (state, other) = (State::new(), State::new());
    // Records have their times in them; an index would tell that the log is another one.
    let options = ["--console", "serial=pty", "--log-format", "cri", "--log-index", "off"];
    state.ran("web", &options, "echo of-a");
    let (copied, moved) = (other.path().join("copied"), other.path().join("moved"));
    copy(state.path(), &copied);
    let text = fs::read_to_string(log(&copied, "web")).unwrap();
    fs::write(log(&copied, "web"), text.replace("of-a", "of-b")).unwrap();
    assert_reads_its_own(state.path(), "of-a");
    assert_reads_its_own(&copied, "of-b");
    fs::rename(state.path(), &moved).unwrap();
    assert_reads_its_own(&moved, "of-a");
    assert!(!state.path().exists());
}

#[test]
fn a_restart_after_a_move_uses_the_state_directory_in_use() {
    let (state, other) = (State::new(), State::new());
    state.ran("web", &[], "echo ran; sleep 0.01");
    let moved = other.path().join("moved");
    fs::rename(state.path(), &moved).unwrap();
    sqlite(&moved)
        .execute_batch("UPDATE vmon_runs SET spec = replace(spec, 'sleep 0.01', 'sleep 600')")
        .unwrap();
    stdout(vmon(&moved, &["restart", "web"]));
    let web = inspect(&moved, "web");
    assert_eq!(web["status"], "RUNNING");
    assert_eq!(path(&web["socket"]), moved.join("run").join(CONFIG).join("web.sock"));
    eventually("it prints", || fs::read_to_string(log(&moved, "web")).unwrap() == "ran\nran\n");
    stdout(vmon(&moved, &["stop", "web"]));
    assert!(!state.path().exists(), "{:?}", fs::read_dir(state.path()));
}

#[test]
fn a_sandbox_whose_state_directory_was_moved_while_it_runs_is_reached() {
    let (state, other) = (State::new(), State::new());
    let web = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 600"));
    let moved = other.path().join("moved");
    fs::rename(state.path(), &moved).unwrap();
    assert_eq!(inspect(&moved, "web")["live"]["pid"], web.pid);
    let output = vmon(&moved, &["stop", "web"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!is_alive(web.pid));
}

#[test]
fn a_database_elsewhere_leads_to_the_state_directory_that_is_given() {
    let (state, other) = (State::new(), State::new());
    let db = other.file("of.db");
    let options = ["--db", db.to_str().unwrap()];
    state.ran("web", &options, "echo hello");
    let moved = other.path().join("moved");
    fs::rename(state.path(), &moved).unwrap();
    let said = stdout(vmon(&moved, &["logs", "web", options[0], options[1]]));
    assert_eq!(said, "hello\n");
}

#[test]
fn a_path_outside_the_state_directory_is_recorded_absolute() {
    let (state, other) = (State::new(), State::new());
    let (logs, run) = (other.file("logs"), other.file("run"));
    let options = ["--log-dir", logs.to_str().unwrap(), "--runtime-dir", run.to_str().unwrap()];
    state.ran("web", &options, "echo hello");
    let moved = other.path().join("moved");
    fs::rename(state.path(), &moved).unwrap();
    assert_eq!(stdout(vmon(&moved, &["logs", "web"])), "hello\n");
    let web = inspect(&moved, "web");
    assert_eq!(path(&web["spec"]["log_dir"]), logs);
    assert_eq!(path(&web["spec"]["options"]["runtime-dir"]), run);
    assert_eq!(path(&web["socket"]), run.join(CONFIG).join("web.sock"));
}

#[test]
fn a_recorded_path_that_leads_out_of_the_state_directory_is_ignored_with_a_warning() {
    let state = State::new();
    state.ran("web", &[], "echo hello");
    state.ran("db", &[], "echo hello");
    sqlite(state.path())
        .execute_batch(
            "UPDATE vmon_runs SET spec = json_set(spec, '$.log_dir', 'x/../../log') WHERE id = 1;
             UPDATE vmon_runs SET socket = '../web.sock' WHERE id = 2",
        )
        .unwrap();
    let output = vmon(state.path(), &["ps", "--all", "--format", "names"]);
    assert_eq!(output.status.code(), Some(0));
    let mut names: Vec<&str> = str::from_utf8(&output.stdout).unwrap().lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["db", "web"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let warnings = ["log_dir=x/../../log", "socket=../web.sock"];
    assert!(warnings.iter().all(|warning| said.contains(warning)), "{said}");
    let output = vmon(state.path(), &["inspect", "web", "db"]);
    let objects: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&objects[0]["spec"], &objects[1]["socket"]), (&Value::Null, &Value::Null));
}

/// A run that has exited with 7 in the state directory, and whose end is in a file.
fn state_with_a_spooled_end() -> State {
    let state = State::new();
    let mut run = Held::running(&state, "web", &[], "exit 7");
    let held = lock(&state);
    assert_eq!(run.finish(), 7);
    drop(held);
    assert_eq!(spooled(&state).len(), 1);
    state
}

/// Whether the end in `run/` is in the database afterwards, with the exit code.
#[track_caller]
fn assert_taken_in(state_dir: &Path) {
    let said = stdout(vmon(state_dir, &["ps", "-a", "--format", "{name} {status} {exit_code}"]));
    assert_eq!(said, "web STOPPED 7\n", "{}", state_dir.display());
    assert_eq!(vmon(state_dir, &["wait", "web"]).stdout, b"7\n");
    assert_eq!(exit_code(state_dir, "web"), 7);
    let left = fs::read_dir(state_dir.join("run")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".end.json")), "{left:?}");
}

#[test]
fn a_spooled_end_is_taken_in_wherever_the_state_directory_is_by_then() {
    let (state, other) = (state_with_a_spooled_end(), State::new());
    let at = |name: &str| other.path().join(name);
    for name in ["copied", "linked", "mounted"] {
        copy(state.path(), &at(name));
    }
    assert_taken_in(&at("copied"));
    fs::rename(at("linked"), at("real")).unwrap();
    symlink(at("real"), at("linked")).unwrap();
    assert_taken_in(&at("linked"));
    fs::create_dir(at("mount")).unwrap();
    let mounts = || Command::new("mount").arg("--bind").args([at("mounted"), at("mount")]).status();
    if is_root() && mounts().is_ok_and(|status| status.success()) {
        fs::rename(at("mounted"), at("behind")).unwrap();
        assert_taken_in(&at("mount"));
        let unmounted = Command::new("umount").arg(at("mount")).status().unwrap();
        assert!(unmounted.success());
    } else {
        // Past the capture of libtest.
        let _ = writeln!(std::io::stderr(), "SKIPPED the bind mount: it takes root and its rights");
    }
    fs::rename(state.path(), at("moved")).unwrap();
    assert_taken_in(&at("moved"));
}

#[test]
fn a_skipped_end_is_reported_once_and_an_end_of_another_database_is_not() {
    let state = State::new();
    state.ran("web", &[], "exit 7");
    fs::create_dir_all(state.file("run")).unwrap();
    let end = |name: &str, version: u32, database: &str| {
        let content = serde_json::json!({ "version": version, "database": database });
        fs::write(state.file("run").join(format!("{name}.end.json")), content.to_string()).unwrap();
    };
    fs::write(state.file("other.db"), "").unwrap();
    end("neighbours", 1, "/old/place/other.db");
    end("newer", 2, "/old/place/sandbox.db");
    end("orphan", 1, "/old/place/gone.db");
    end("cut", 1, "/old/place/sandbox.db");
    symlink(state.db(), state.file("run/link.end.json")).unwrap();
    let mut expected = vec![
        ("newer", "version 2"),
        ("orphan", "gone.db, which does not exist"),
        ("cut", "truncated"),
        ("link", "not a regular file"),
    ];
    if is_root() {
        end("foreign", 1, "/old/place/sandbox.db");
        let foreign = state.file("run/foreign.end.json");
        std::os::unix::fs::chown(foreign, Some(65534), None).unwrap();
        expected.push(("foreign", "it belongs to uid 65534"));
    }
    let output = vmon(state.path(), &["ps", "-a", "--format", "{name} {exit_code}"]);
    assert_eq!(output.stdout, b"web 7\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (name, why) in expected {
        let path = state.file("run").join(format!("{name}.end.json"));
        let line = said.lines().find(|line| line.contains(path.to_str().unwrap())).unwrap();
        assert!(line.starts_with("vmon: warn: can't import") && line.contains(why), "{line}");
    }
}

#[test]
fn a_path_longer_than_sqlite_opens_is_one_line_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let mut long = scratch.path().to_owned();
    while long.as_os_str().len() < 500 {
        long.push("x".repeat(100));
    }
    for command in [["run", "--", "true"].as_slice(), &["run", "-d", "--", "true"]] {
        let mut vmon = Command::new(env!("CARGO_BIN_EXE_vmon"));
        vmon.env("VMON_STATE_DIR", &long).env_remove("VMON_RUNTIME_DIR").args(command);
        let output = vmon.stdin(std::process::Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{command:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("bytes, and SQLite opens one of 504 at most"), "{stderr}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "{command:?}");
    }
}
