//! The record with a database that can't be written: read-only, full, broken, replaced. The child
//! is not affected, and the end is recorded or spooled.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, OpenFlags};

use crate::common::held::{ENDS, Held, brief, lock, look, ps, spooled};
use crate::common::tmpfs::{Tmpfs, skip};
use crate::common::{self, State, eventually, is_root, one_line, wait};

// A database that can't be written.

#[test]
fn a_database_that_can_not_be_written_refuses_the_start() {
    if is_root() {
        return skip("root may write everything");
    }
    let state = State::new();
    wait(&mut state.run("x", &[], "exit 0").spawn().unwrap());
    drop(Connection::open(state.db()).unwrap().execute_batch("PRAGMA journal_mode=DELETE"));
    fs::set_permissions(state.db(), fs::Permissions::from_mode(0o400)).unwrap();
    let started = state.file("started");
    let output = state.run("x", &[], &format!("touch {}", started.display())).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(one_line(&output).contains("sandbox.db"));
    assert!(!started.exists());
}

#[test]
fn a_database_that_becomes_read_only_does_not_touch_the_child() {
    if is_root() {
        return skip("root may write everything");
    }
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    let all = ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"].map(|name| state.file(name));
    let set_mode = |mode| {
        for file in all.iter().filter(|file| file.exists()) {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set_mode(0o400);
    assert_eq!(run.finish(), 3);
    assert_eq!(state.log("x"), b"begun\nover\n");
    assert_eq!(spooled(&state).len(), 1, "{}", String::from_utf8_lossy(&run.errors.seen));
    set_mode(0o600);
    assert_eq!(brief(&ps(&state, &["--all"])), ["x STOPPED 3 exited"]);
}

#[test]
fn a_state_directory_that_becomes_read_only_does_not_touch_the_child() {
    if is_root() {
        return skip("root may write everything");
    }
    let state = State::new();
    let logs = state.file("elsewhere");
    let mut run = Held::running(&state, "x", &["--log-dir", logs.to_str().unwrap()], "exit 3");
    let set_mode = |mode| {
        fs::set_permissions(state.path(), fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o500);
    let code = run.finish();
    set_mode(0o700);
    assert_eq!(code, 3);
    assert_eq!(fs::read(logs.join("Sandboxfile/x.log")).unwrap(), b"begun\nover\n");
    // Written, or lost and said so: never pretended.
    let errors = String::from_utf8_lossy(&run.errors.seen).into_owned();
    let recorded = brief(&ps(&state, &["--all"])) == ["x STOPPED 3 exited"];
    assert!(recorded || errors.contains("lost"), "{errors}");
}

#[test]
fn a_trigger_of_another_program_that_uses_json_functions_works() {
    let state = State::new();
    assert_eq!(state.run("first", &[], "exit 0").status().unwrap().code(), Some(0));
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute_batch(
        "CREATE TABLE seen (status TEXT);
         CREATE TRIGGER watch AFTER UPDATE ON sandboxes BEGIN
             INSERT INTO seen VALUES (json_extract(json_object('status', new.status), '$.status'));
         END;",
    )
    .unwrap();
    assert_eq!(state.run("x", &[], "exit 3").status().unwrap().code(), Some(3));
    assert_eq!(state.run_column("x", "exit_code").as_deref(), Some("3"));
    let last = db.query_row("SELECT status FROM seen ORDER BY rowid DESC LIMIT 1", [], |row| {
        row.get::<_, String>(0)
    });
    assert_eq!(last.unwrap(), "STOPPED");
}

#[test]
fn a_broken_database_refuses_the_start() {
    let state = State::new();
    fs::write(state.db(), common::noise(20_000, 1)).unwrap();
    let started = state.file("started");
    let output = state.run("x", &[], &format!("touch {}", started.display())).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(one_line(&output).contains("not an SQLite database"));
    assert!(!started.exists());
    assert_eq!(fs::read(state.db()).unwrap(), common::noise(20_000, 1), "left as it was");
}

#[test]
fn a_database_that_breaks_during_the_run_does_not_touch_the_child() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    let backup = state.file("backup.db");
    let sql = format!("VACUUM INTO '{}'", backup.display());
    Connection::open(state.db()).unwrap().execute_batch(&sql).unwrap();
    for name in ["sandbox.db-wal", "sandbox.db-shm"] {
        let _ = fs::remove_file(state.file(name));
    }
    fs::write(state.db(), common::noise(20_000, 1)).unwrap();
    assert_eq!(run.finish(), 3);
    assert_eq!(state.log("x"), b"begun\nover\n");
    assert_eq!(spooled(&state).len(), 1, "{}", String::from_utf8_lossy(&run.errors.seen));
    // The end is written once the database works again.
    fs::rename(&backup, state.db()).unwrap();
    assert_eq!(brief(&ps(&state, &["--all"])), ["x STOPPED 3 exited"]);
}

#[test]
fn a_state_directory_that_is_removed_during_the_run_is_created_again() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    for name in ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"] {
        let _ = fs::remove_file(state.file(name));
    }
    fs::remove_dir_all(state.file("log")).unwrap();
    assert_eq!(run.finish(), 3);
    assert_eq!(look(&state, ENDS), ["x STOPPED STOPPED 3 - exited"]);
    let mode = fs::metadata(state.db()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_full_disk_delays_the_record_and_nothing_else() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    let db = disk.path().join("sandbox.db");
    let mut run = Held::spawn(&state, "x", &["--db", db.to_str().unwrap()], "exit 3");
    let column = |sql: &str| -> Option<String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(&db, flags).ok()?;
        db.query_row(sql, [], |row| row.get(0)).ok()
    };
    let sql = "SELECT state || ifnull(exit_code, '-') FROM vmon_runs";
    eventually("it runs", || column(sql).as_deref() == Some("RUNNING-"));
    wait_for_reserved(&disk, 1);
    let filler = disk.fill_up_to(0);
    run.release();
    run.errors.wait_for("spool directory");
    assert_eq!(state.log("x"), b"begun\nover\n");
    assert_eq!(run.finish(), 3);
    let listed = ["--all", "--db", db.to_str().unwrap()];
    // The database has no room for the end, which is read from the spool directory.
    assert_eq!(brief(&ps(&state, &listed)), ["x STOPPED 3 exited"]);
    assert_eq!(column(sql).as_deref(), Some("RUNNING-"));
    fs::remove_file(filler).unwrap();
    assert_eq!(brief(&ps(&state, &listed)), ["x STOPPED 3 exited"]);
    assert_eq!(column(sql).as_deref(), Some("STOPPED3"));
}

/// The command with all of its state on this disk.
fn on(disk: &Tmpfs, state: &State) -> Command {
    let mut vmon = state.vmon();
    vmon.env("VMON_STATE_DIR", disk.path());
    vmon
}

/// Waits until room is reserved for the ends of this many runs.
fn wait_for_reserved(disk: &Tmpfs, runs: usize) {
    let reserved = disk.path().join("run/.reserved");
    eventually("room for the ends is reserved", || {
        fs::read_dir(&reserved).is_ok_and(|entries| entries.count() == runs)
    });
}

#[test]
fn a_stop_with_all_of_the_state_on_a_full_disk_succeeds_and_its_end_is_on_record() {
    let Some(disk) = Tmpfs::new("size=2m") else { return };
    let state = State::new();
    let vmon = |args: &[&str]| on(&disk, &state).args(args).output().unwrap();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let started = vmon(&["run", "-d", "--name", "web", "--", "sh", "-c", script]);
    assert!(started.status.success(), "{started:?}");
    wait_for_reserved(&disk, 1);
    let log = disk.path().join("log/Sandboxfile/web.log");
    eventually("it is up", || fs::read(&log).is_ok_and(|log| log == b"up\n"));
    let filler = disk.fill_up_to(0);
    let stopped = vmon(&["stop", "web"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    let waited = vmon(&["wait", "web"]);
    assert_eq!(waited.stdout, b"7\n", "{waited:?}");
    fs::remove_file(filler).unwrap();
    let ps = vmon(&["ps", "--all", "--format", "{status} {exit_code} {reason}"]);
    assert_eq!(ps.stdout, b"STOPPED 7 stopped\n", "{ps:?}");
    let sql = "SELECT state || exit_code FROM vmon_runs";
    let db = Connection::open(disk.path().join("sandbox.db")).unwrap();
    assert_eq!(db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "STOPPED7");
    assert_eq!(fs::read_dir(disk.path().join("run/.reserved")).unwrap().count(), 0);
}

#[test]
fn each_end_of_a_command_that_is_started_again_on_a_full_disk_is_kept() {
    let Some(disk) = Tmpfs::new("size=2m") else { return };
    let state = State::new();
    let vmon = |args: &[&str]| on(&disk, &state).args(args).output().unwrap();
    let script = "trap 'exit 9' HUP; trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let run = ["run", "-d", "--name", "web", "--restart", "always", "--", "sh", "-c", script];
    let started = vmon(&run);
    assert!(started.status.success(), "{started:?}");
    wait_for_reserved(&disk, 1);
    let log = disk.path().join("log/Sandboxfile/web.log");
    // The shell may log that a signal has ended its own child.
    let ups = || fs::read_to_string(&log).map(|log| log.lines().filter(|it| *it == "up").count());
    let is_up = |times| eventually("it is up", || ups().is_ok_and(|ups| ups == times));
    is_up(1);
    let filler = disk.fill_up_to(0);
    for times in [2, 3] {
        let killed = vmon(&["kill", "-s", "HUP", "web"]);
        assert!(killed.status.success(), "{killed:?}");
        is_up(times);
    }
    let stopped = vmon(&["stop", "web"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    let waited = vmon(&["wait", "web"]);
    assert_eq!(waited.stdout, b"7\n", "{waited:?}");
    let ends = || {
        let history = vmon(&["history", "web", "--json"]);
        let runs: Vec<serde_json::Value> = serde_json::from_slice(&history.stdout).unwrap();
        let end = |run: &serde_json::Value| {
            format!("{} {} {}", run["id"], run["exit_code"], run["state"].as_str().unwrap())
        };
        runs.iter().map(end).collect::<Vec<_>>()
    };
    let expected = ["3 7 STOPPED", "2 9 STOPPED", "1 9 STOPPED"];
    assert_eq!(ends(), expected);
    let spooled = || {
        let entries = fs::read_dir(disk.path().join("run")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".end.json")).count()
    };
    assert_eq!(spooled(), 1);
    fs::remove_file(filler).unwrap();
    assert_eq!(ends(), expected);
    assert_eq!(spooled(), 0);
}

#[test]
fn a_sandbox_is_listed_and_stopped_while_the_disk_has_no_room_for_the_index_of_the_record() {
    let Some(disk) = Tmpfs::new("size=2m") else { return };
    let state = State::new();
    let vmon = |args: &[&str]| on(&disk, &state).args(args).output().unwrap();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let started = vmon(&["run", "-d", "--name", "web", "--", "sh", "-c", script]);
    assert!(started.status.success(), "{started:?}");
    wait_for_reserved(&disk, 1);
    let log = disk.path().join("log/Sandboxfile/web.log");
    eventually("it is up", || fs::read(&log).is_ok_and(|log| log == b"up\n"));
    // As SQLite truncates it when it is opened by a process that is alone.
    let index = fs::OpenOptions::new().write(true).open(disk.path().join("sandbox.db-shm"));
    index.unwrap().set_len(0).unwrap();
    let filler = disk.fill_up_to(0);
    let refused = vmon(&["run", "--name", "other", "--", "true"]);
    assert!(one_line(&refused).contains("no space is left"), "{refused:?}");
    let ps = || vmon(&["ps", "--all", "--format", "{name} {status} {exit_code}"]).stdout;
    // Several at once, none of which waits for another that waits for it.
    let list = || on(&disk, &state).arg("ps").stdout(Stdio::null()).spawn().unwrap();
    let mut lists: Vec<_> = (0..8).map(|_| list()).collect();
    assert!(lists.iter_mut().all(|list| wait(list).success()));
    assert_eq!(ps(), b"web RUNNING -\n");
    let stopped = vmon(&["stop", "web"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_eq!(ps(), b"web STOPPED 7\n");
    fs::remove_file(filler).unwrap();
    assert_eq!(ps(), b"web STOPPED 7\n");
    let sql = "SELECT state || exit_code FROM vmon_runs";
    let db = Connection::open(disk.path().join("sandbox.db")).unwrap();
    assert_eq!(db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "STOPPED7");
}

#[test]
fn a_stop_succeeds_while_a_lost_run_of_another_sandbox_can_not_be_closed() {
    let Some(disk) = Tmpfs::new("size=2m") else { return };
    let state = State::new();
    let vmon = |args: &[&str]| on(&disk, &state).args(args).output().unwrap();
    for (number, name) in ["web", "lost"].into_iter().enumerate() {
        let started = vmon(&["run", "-d", "--name", name, "--", "sleep", "300"]);
        assert!(started.status.success(), "{started:?}");
        wait_for_reserved(&disk, number + 1);
    }
    let sql = "SELECT supervisor_pid FROM sandboxes WHERE name = 'lost'";
    // One that could write would remove the files beside the database when it is closed.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(disk.path().join("sandbox.db"), flags).unwrap();
    let supervisor: i32 = db.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(db);
    disk.fill_up_to(0);
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    let stopped = vmon(&["stop", "web"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    let errors = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(errors.contains("no space is left"), "{errors}");
    let waited = vmon(&["wait", "web"]);
    assert_eq!(waited.stdout, b"143\n", "{waited:?}");
}

#[test]
fn a_full_disk_refuses_the_start() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let state = State::new();
    disk.fill_up_to(0);
    let db = disk.path().join("sandbox.db");
    let started = state.file("started");
    let script = format!("touch {}", started.display());
    let options = ["--db", db.to_str().unwrap()];
    let output = state.run("x", &options, &script).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(one_line(&output).contains("space"), "{output:?}");
    assert!(!started.exists());
}

#[test]
fn a_command_waits_for_a_locked_database_once() {
    let state = State::new();
    let mut run = Held::running(&state, "web", &[], "");
    let locked = lock(&state);
    assert_eq!(run.finish(), 0);
    assert_eq!(spooled(&state).len(), 1);
    let began = Instant::now();
    let output = state.vmon().args(["ps", "--all"]).output().unwrap();
    // Five seconds each for the spooled end, once more for it and for the lost run were fifteen.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(0));
    assert!(one_line(&output).contains("spooled ends can't be imported yet"));
    drop(locked);
    assert_eq!(brief(&ps(&state, &["--all"])), ["web STOPPED 0 exited"]);
}
