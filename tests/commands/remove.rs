//! `vmon rm` and `vmon prune`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::inject::clock;
use crate::common::{self, Detached, State, eventually, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn vmon(state: &State, args: &[&str]) -> Output {
    state.vmon().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The sandboxes on record.
fn names(state: &State) -> Vec<String> {
    let output = vmon(state, &["ps", "--all", "--format", "names"]);
    let mut names: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[test]
fn a_sandbox_is_removed_with_all_its_runs_and_its_log_is_kept() {
    let state = State::new();
    state.ran("web", &[], "echo 1");
    state.ran("web", &[], "echo 2");
    state.ran("db", &[], "true");
    let output = vmon(&state, &["rm", "web"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert_eq!(names(&state), ["db"]);
    assert_eq!(state.run_column("web", "id"), None);
    assert_eq!(state.log("web"), b"1\n2\n");
    assert_eq!(vmon(&state, &["rm", "web"]).status.code(), Some(1));
}

#[test]
fn logs_are_removed_only_with_their_sandbox() {
    let state = State::new();
    let options = ["--log-max-size", "4K", "--log-max-files", "3"];
    for name in ["web", "web2", "web.log"] {
        state.ran(name, &options, "seq 4000");
    }
    let logs = state.logs();
    let mine = ["web@supervisor.log", "web@supervisor.log.00000001", "web.log.00000002.gz"];
    let others = ["web.log.x", "web.log.00000001.log", "web-notes", "web2@supervisor.log"];
    for file in mine.iter().chain(&others) {
        fs::write(logs.join(file), "x").unwrap();
    }
    let before = files(&logs);
    let output = vmon(&state, &["rm", "--logs", "web"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let digits = |file: &str| file.bytes().all(|byte| byte.is_ascii_digit());
    let goes = |file: &&String| {
        let log = file.strip_suffix(".idx").unwrap_or(file);
        log == "web.log" || mine.contains(&log) || log.strip_prefix("web.log.").is_some_and(digits)
    };
    let expected: Vec<String> = before.iter().filter(|file| !goes(file)).cloned().collect();
    assert_eq!(files(&logs), expected);
    assert!(expected.contains(&"web.log.log".to_owned()) && expected.len() < before.len() - 3);
}

#[test]
fn removal_of_logs_follows_no_symbolic_link() {
    let state = State::new();
    state.ran("web", &[], "echo hello");
    state.ran("out", &["--config-file", "linked"], "echo hello");
    let kept = state.file("kept");
    fs::write(&kept, "kept").unwrap();
    let logs = state.logs();
    std::os::unix::fs::symlink(&kept, logs.join("web.log.00000001")).unwrap();
    // The directory of a config is replaced by a symbolic link.
    let linked = state.path().join("log/linked");
    fs::rename(&linked, state.file("moved")).unwrap();
    std::os::unix::fs::symlink(state.file("moved"), &linked).unwrap();
    assert_eq!(vmon(&state, &["rm", "--logs", "web"]).status.code(), Some(0));
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    assert!(!state.log_path("web").exists());
    let output = vmon(&state, &["rm", "--logs", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("linked"), "{}", stderr(&output));
    assert_eq!(files(&state.file("moved")), ["out.log", "out.log.idx"]);
}

#[test]
fn logs_without_a_record_are_removed_by_name() {
    let state = State::new();
    for (name, config) in [("web", "a"), ("web", "b"), ("db", "a"), ("kept", "a")] {
        state.ran(name, &["--config-file", config], "echo hello");
    }
    let log = |path: &str| state.path().join("log").join(path);
    fs::write(log("a/db@serial.log"), "x").unwrap();
    fs::write(log("a/db-notes"), "x").unwrap();
    assert!(vmon(&state, &["rm", "a/web", "b/web", "db"]).status.success());
    let output = vmon(&state, &["rm", "--logs", "web", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a/web, b/web"), "{}", stderr(&output));
    assert!(stderr(&output).contains("'nothing'"), "{}", stderr(&output));
    assert!(log("a/web.log").exists());
    let output = vmon(&state, &["rm", "--logs", "b/web", "db"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(!log("b").exists());
    assert_eq!(
        files(&log("a")),
        ["db-notes", "kept.log", "kept.log.idx", "web.log", "web.log.idx"]
    );
    assert_eq!(names(&state), ["kept"]);
    // Without any record.
    fs::remove_file(state.db()).unwrap();
    assert_eq!(vmon(&state, &["rm", "--logs", "web"]).status.code(), Some(0));
    assert!(!log("a/web.log").exists());
}

#[test]
fn prune_removes_logs_without_a_record_once_they_are_old() {
    let state = State::new();
    for name in ["web", "old", "kept"] {
        state.ran(name, &[], "echo hello");
    }
    assert!(vmon(&state, &["rm", "web", "old"]).status.success());
    for suffix in ["log", "log.idx"] {
        let file = fs::File::open(state.logs().join(format!("old.{suffix}"))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    let output = vmon(&state, &["prune", "--logs", "--older-than", "1h", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["logs"], serde_json::json!(["Sandboxfile/old"]));
    // A clock that is ten years ahead makes no log old.
    let mut ahead = state.vmon();
    ahead.args(["prune", "--logs", "--older-than", "720h"]);
    clock(&mut ahead, 315_360_000, None);
    assert_eq!(ahead.output().unwrap().status.code(), Some(0));
    let all = ["kept.log", "kept.log.idx", "web.log", "web.log.idx"];
    assert_eq!(files(&state.logs()), all);
    let output = vmon(&state, &["prune", "--logs"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "removed 1 sandbox and 1 run, and the logs of 1 sandbox not on record\n");
    assert_eq!(files(&state.logs()), [""; 0]);
}

#[test]
fn a_log_without_a_record_that_is_written_or_may_be_foreign_stays() {
    let (state, other) = (State::new(), State::new());
    let logs = state.path().join("log");
    let log_dir = logs.to_str().unwrap();
    let web = Detached::start(
        &other,
        &mut other.run("web", &["-d", "--log-dir", log_dir], "echo hello; exec sleep 1000"),
    );
    eventually("the log has the output", || {
        fs::read(state.log_path("web")).is_ok_and(|log| log == b"hello\n")
    });
    // Another state directory's, which is running.
    let output = vmon(&state, &["prune", "--logs"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    let output = vmon(&state, &["rm", "--logs", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a running supervisor writes"), "{}", stderr(&output));
    assert!(state.log_path("web").exists());
    drop(web);

    // A file of another program, and links.
    let elsewhere = State::new();
    let foreign = elsewhere.path().join("nginx");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("access.log"), "x").unwrap();
    std::os::unix::fs::symlink(&foreign, logs.join("linked")).unwrap();
    std::os::unix::fs::symlink(foreign.join("access.log"), logs.join("Sandboxfile/link.log"))
        .unwrap();
    let dir = elsewhere.path().to_str().unwrap();
    let output = vmon(&state, &["rm", "--logs", "--log-dir", dir, "nginx/access"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("remove it yourself"), "{}", stderr(&output));
    for name in ["linked/access", "link"] {
        assert_eq!(vmon(&state, &["rm", "--logs", name]).status.code(), Some(1), "{name}");
    }
    assert!(vmon(&state, &["prune", "--logs"]).status.success());
    assert_eq!(files(&foreign), ["access.log"]);
}

/// Sets the log directory of the runs on record, as an earlier vmon or another program could.
fn record_log_dir(db: &Path, log_dir: &Path) {
    let db = rusqlite::Connection::open(db).unwrap();
    let sql = "UPDATE vmon_runs SET spec = json_set(spec, '$.log_dir', ?1, '$.version', 2)";
    db.execute(sql, [log_dir.to_str().unwrap()]).unwrap();
}

/// Both commands that remove logs, for this state directory.
fn removals<'a>(state_dir: &'a Path, name: &'a str) -> [Vec<&'a str>; 2] {
    let place = ["--logs", "--state-dir", state_dir.to_str().unwrap()];
    [[&["rm", name][..], &place].concat(), [&["prune"][..], &place].concat()]
}

#[test]
fn a_log_outside_the_state_directory_is_removed_only_with_log_dir() {
    let (state, elsewhere) = (State::new(), State::new());
    state.ran("main", &["--config-file", "postgresql"], "echo hello");
    let database = elsewhere.path().join("log/postgresql");
    fs::create_dir_all(&database).unwrap();
    fs::write(database.join("main.log"), "of a database\n").unwrap();
    fs::write(database.join("main.log.1"), "as logrotate names it\n").unwrap();
    record_log_dir(&state.db(), &elsewhere.file("log"));
    for removal in removals(state.path(), "main") {
        for more in [&[][..], &["--log-dir", state.path().to_str().unwrap()]] {
            let output = vmon(&state, &[&removal, more].concat());
            assert_eq!(output.status.code(), Some(1));
            let line = common::one_line(&output);
            let dir = elsewhere.file("log").canonicalize().unwrap();
            assert!(line.contains("postgresql/main"), "{line}");
            assert!(line.contains(&format!("--log-dir {} ", dir.display())), "{line}");
            assert_eq!(files(&database), ["main.log", "main.log.1"]);
            assert_eq!(names(&state), ["main"]);
        }
    }
    // Without --logs, the directory of the log does not matter.
    let missing = vmon(&state, &["rm", "main", "--logs", "--log-dir", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(125));
    assert_eq!(vmon(&state, &["rm", "main", "--log-dir", "/"]).status.code(), Some(125));
    let above = elsewhere.path().to_str().unwrap();
    let output = vmon(&state, &["prune", "--logs", "--log-dir", above]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert_eq!(files(&database), ["main.log.1"]);
    assert!(names(&state).is_empty());
}

#[test]
fn a_log_directory_linked_out_of_the_state_directory_is_outside() {
    let (state, elsewhere) = (State::new(), State::new());
    state.ran("web", &[], "echo hello");
    let moved = elsewhere.file("moved");
    fs::rename(state.file("log"), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, state.file("log")).unwrap();
    let output = vmon(&state, &["rm", "--logs", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(common::one_line(&output).contains("--log-dir"));
    assert_eq!(files(&moved.join("Sandboxfile")), ["web.log", "web.log.idx"]);
    let output = vmon(&state, &["rm", "--logs", "web", "--log-dir", moved.to_str().unwrap()]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(files(&moved).is_empty());
}

#[test]
fn a_sandbox_whose_log_can_not_be_removed_is_not_stopped() {
    let (state, elsewhere) = (State::new(), State::new());
    let options = ["-d", "--log-dir", elsewhere.path().to_str().unwrap()];
    let web = Detached::start(&state, &mut state.run("web", &options, "exec sleep 600"));
    let output = vmon(&state, &["rm", "--force", "--logs", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(common::one_line(&output).contains("--log-dir"));
    assert!(common::is_alive(web.pid));
}

#[test]
fn the_log_of_a_running_sandbox_is_kept_whatever_another_record_says() {
    let (state, other) = (State::new(), State::new());
    let options = ["--console", "serial=pty"];
    state.ran("web", &options, "echo first");
    let (new, old) = (other.file("new"), other.file("old"));
    for copy in [&new, &old] {
        let copied = Command::new("cp").arg("-a").args([state.path(), copy]).status().unwrap();
        assert!(copied.success());
    }
    record_log_dir(&old.join("sandbox.db"), &state.file("log"));
    let script = "echo second; exec sleep 600";
    let _web =
        Detached::start(&state, &mut state.run("web", &[&options[..], &["-d"]].concat(), script));
    state.wait_for_log("web", b"second\n");
    let before = files(&state.logs());
    assert!(before.contains(&"web@serial.log".to_owned()), "{before:?}");
    let live = state.file("log");
    for removal in removals(&old, "web") {
        let output = vmon(&state, &[&removal[..], &["--log-dir", live.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(1));
        let line = common::one_line(&output);
        assert!(line.contains("a running supervisor writes") && line.contains("web.log"), "{line}");
    }
    let left =
        vmon(&state, &["ps", "-a", "--format", "names", "--state-dir", old.to_str().unwrap()]);
    assert_eq!(left.stdout, b"web\n");
    // A sandbox whose record leads to its own logs has them removed.
    let [removal, _] = removals(&new, "web");
    let output = vmon(&state, &removal);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(files(&new.join("log")).is_empty());
    assert_eq!(files(&state.logs()), before);
    assert_eq!(state.log("web"), b"first\nsecond\n");
}

#[test]
fn a_log_that_is_rotated_continuously_is_never_removed() {
    let (state, other) = (State::new(), State::new());
    let options = ["--log-max-size", "4K", "--log-max-files", "3", "--log-rate", "1M/s"];
    state.ran("web", &options, "seq 100");
    let copy = other.file("copy");
    let copied = Command::new("cp").arg("-a").args([state.path(), &copy]).status().unwrap();
    assert!(copied.success());
    record_log_dir(&copy.join("sandbox.db"), &state.file("log"));
    let options = [&options[..], &["-d"]].concat();
    let _web =
        Detached::start(&state, &mut state.run("web", &options, "while :; do seq 9999; done"));
    eventually("it is rotated", || !state.generations("web").is_empty());
    let [removal, _] = removals(&copy, "web");
    let removal = [&removal[..], &["--log-dir", state.path().to_str().unwrap()]].concat();
    for _ in 0..100 {
        let output = vmon(&state, &removal);
        assert_eq!(output.status.code(), Some(1));
        assert!(common::one_line(&output).contains("a running supervisor writes"));
    }
}

#[test]
fn the_log_of_a_sandbox_that_waits_for_a_restart_is_kept() {
    let (state, other) = (State::new(), State::new());
    for (name, options) in [("web", &[][..]), ("db", &["--log-rotate-command", "true"])] {
        state.ran(name, options, "true");
    }
    let copy = other.file("copy");
    let copied = Command::new("cp").arg("-a").args([state.path(), &copy]).status().unwrap();
    assert!(copied.success());
    record_log_dir(&copy.join("sandbox.db"), &state.file("log"));
    let mut runs = Vec::new();
    for (name, options) in [("web", &[][..]), ("db", &["--log-rotate-command", "true"])] {
        // The delay doubles from one run to the next, up to 30 s.
        let options = [&["--restart", "always"][..], options].concat();
        let run = state.run(name, &options, "true").stdout(Stdio::null()).spawn().unwrap();
        runs.push(common::Process(run));
    }
    for name in ["web", "db"] {
        for _ in 0..3 {
            eventually("it waits", || {
                state.run_column(name, "state").as_deref() == Some("RESTARTING")
            });
            let [removal, _] = removals(&copy, name);
            let removal = [&removal[..], &["--log-dir", state.path().to_str().unwrap()]].concat();
            let output = vmon(&state, &removal);
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            assert!(state.log_path(name).exists());
        }
    }
}

/// The pid of the running rotate command.
fn wait_for_a_rotate_command(state: &State) -> u32 {
    let note = state.logs().join("web.log.todo");
    let mut pid = None;
    eventually("a rotate command runs", || {
        let note = fs::read_to_string(&note).unwrap_or_default();
        pid = note.split(' ').nth(2).and_then(|pid| pid.parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

#[test]
fn no_lock_on_a_log_outlives_its_supervisor() {
    let state = State::new();
    let options = ["-d", "--log-max-size", "4K", "--log-rotate-command", "exec sleep 600 #"];
    let web = Detached::start(&state, &mut state.run("web", &options, "seq 2000; exec sleep 600"));
    state.wait_for_log("web", b"2000\n");
    let rotating = wait_for_a_rotate_command(&state);
    let lock = || fs::File::open(state.log_path("web")).unwrap().try_lock();
    assert!(lock().is_err());
    web.signal(Signal::SIGKILL);
    eventually("the supervisor has ended", || !common::is_alive(web.supervisor));
    assert!(common::is_alive(rotating));
    lock().unwrap();
    kill(Pid::from_raw(rotating as i32), Signal::SIGKILL).unwrap();
}

#[test]
fn logs_are_removed_right_after_a_stop_while_a_rotate_command_runs() {
    let state = State::new();
    let options = ["-d", "--log-max-size", "4K", "--log-rotate-command", "exec sleep 5 #"];
    let _web = Detached::start(&state, &mut state.run("web", &options, "seq 2000; exec sleep 600"));
    state.wait_for_log("web", b"2000\n");
    wait_for_a_rotate_command(&state);
    assert_eq!(vmon(&state, &["stop", "web"]).status.code(), Some(0));
    let output = vmon(&state, &["rm", "--logs", "web"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(files(&state.logs()).is_empty(), "{:?}", files(&state.logs()));
}

#[test]
fn an_invalid_name_of_another_program_leads_to_no_file() {
    let state = State::new();
    state.ran("web", &[], "true");
    let outside = state.file("outside.log");
    fs::write(&outside, "kept").unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE sandboxes SET config_file = '..', name = 'outside'", []).unwrap();
    drop(db);
    let output = vmon(&state, &["rm", "--logs", "outside"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(fs::read(&outside).unwrap(), b"kept");
}

#[test]
fn a_running_sandbox_is_removed_only_with_force() {
    let state = State::new();
    let mut web = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    state.ran("db", &[], "true");
    let output = vmon(&state, &["rm", "web", "db"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--force") && stderr(&output).lines().count() == 1);
    assert_eq!(names(&state), ["web"]);
    assert!(common::is_alive(web.id()));
    let output = vmon(&state, &["rm", "--force", "--logs", "web"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    wait(&mut web);
    assert_eq!(names(&state), [] as [String; 0]);
    assert!(!state.log_path("web").exists());
}

#[test]
fn prune_removes_ended_runs_and_prints_their_number() {
    let state = State::new();
    state.ran("a", &[], "echo a");
    state.ran("a", &[], "echo a");
    state.ran("b", &[], "echo b");
    let mut web = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    let old = vmon(&state, &["prune", "--older-than", "1h"]);
    assert_eq!(String::from_utf8(old.stdout).unwrap(), "removed 0 sandboxes and 0 runs\n");
    let output = vmon(&state, &["prune"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "removed 2 sandboxes and 3 runs\n");
    assert_eq!(names(&state), ["web"]);
    assert_eq!(state.log("a"), b"a\na\n");
    common::signal(&web, nix::sys::signal::Signal::SIGTERM);
    wait(&mut web);
}

#[test]
fn prune_with_logs_keeps_running_sandboxes() {
    let state = State::new();
    state.ran("web", &[], "echo first");
    state.ran("gone", &[], "echo gone");
    let mut web = state.run("web", &[], "echo second; exec sleep 600").spawn().unwrap();
    state.wait_for_log("web", b"second\n");
    let output = vmon(&state, &["prune", "--logs", "--json"]);
    let pruned: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        pruned,
        serde_json::json!({ "sandboxes": ["Sandboxfile/gone"], "runs": 2, "logs": [] })
    );
    assert_eq!(files(&state.logs()), ["web.log", "web.log.idx"]);
    assert_eq!(state.log("web"), b"first\nsecond\n");
    common::signal(&web, nix::sys::signal::Signal::SIGTERM);
    wait(&mut web);
}

#[test]
fn prune_without_a_database_is_no_error_and_creates_none() {
    let state = State::new();
    let output = vmon(&state, &["prune"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!state.db().exists());
}
