//! What `docs/security.md` guarantees for root with the record of another user, and for the readers
//! of a record.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, Detached, Process, State, copy_program, eventually, is_alive, is_root};
use nix::sys::signal::Signal;
use vmon::monitor::Identity;
use vmon::registry::{Registry, RegistryError};

/// Another user than the one that runs the tests.
const OTHER: u32 = 65534;

#[test]
fn root_starts_nothing_in_a_directory_of_another_user_and_makes_no_file_there() {
    if !is_root() {
        eprintln!("SKIPPED: only root can be two users");
        return;
    }
    let state = State::new();
    for with_database in [false, true] {
        if with_database {
            chown(state.path(), Some(0), Some(0)).unwrap();
            state.ran("web", &[], "true");
        }
        chown(state.path(), Some(OTHER), Some(OTHER)).unwrap();
        let output = state.run("new", &[], "true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let said = common::one_line(&output);
        assert!(said.contains("belongs to uid 65534") && said.contains("as that user"), "{said}");
        assert_eq!(state.db().exists(), with_database);
        let refused = Registry::open(state.db()).unwrap_err();
        assert!(matches!(refused, RegistryError::Foreign { owner: OTHER, .. }), "{refused}");
    }
    // The files are root's own, but the other user could have put them there.
    let registry = Registry::open_existing(state.db()).unwrap().unwrap();
    assert!(registry.runs().unwrap().iter().all(|run| !run.trusted));
    chown(state.path(), Some(0), Some(0)).unwrap();
    assert!(registry.runs().unwrap().iter().all(|run| run.trusted));
}

#[test]
fn root_of_a_user_namespace_reads_a_record_of_a_user_that_it_can_not_become() {
    let state = State::new();
    state.ran("web", &[], "true");
    if !is_root() {
        eprintln!("SKIPPED: only root can be two users");
        return;
    }
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(state.path(), 0o755);
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", state.db().display());
        if fs::exists(&path).unwrap() {
            mode(path.as_ref(), 0o644);
        }
    }
    let program = state.file("vmon");
    copy_program(env!("CARGO_BIN_EXE_vmon"), &program);
    mode(&program, 0o755);
    let namespace = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-r"]);
        command.current_dir("/").env("VMON_STATE_DIR", state.path()).stdin(Stdio::null());
        command
    };
    if !namespace().arg("true").status().unwrap().success() {
        eprintln!("SKIPPED: no user namespace here for an ordinary user");
        return;
    }
    let output = namespace().arg(&program).args(["ps", "--all"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(common::contains(&output.stdout, b"web"), "{output:?}");
}

#[test]
fn no_process_is_signalled_for_a_run_of_a_record_that_others_could_have_written() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 1000"));
    state.wait_for_status("web", "RUNNING");
    let private = fs::metadata(state.db()).unwrap().permissions();
    fs::set_permissions(state.db(), fs::Permissions::from_mode(0o602)).unwrap();
    let registry = Registry::open_existing(state.db()).unwrap().unwrap();
    let run = registry.runs().unwrap().pop().unwrap();
    let kill = vmon::child::Signal::KILL;
    for refused in [run.signal_child(kill), run.signal_supervisor(kill)] {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
    assert!(is_alive(sandbox.pid) && is_alive(sandbox.supervisor));
    fs::set_permissions(state.db(), private).unwrap();
    let run = registry.runs().unwrap().pop().unwrap();
    // In the middle of execve(2) a process has no environment.
    eventually("it is signalled", || run.signal_child(kill).is_ok());
    state.wait_for_status("web", "STOPPED");
}

#[test]
fn a_stop_does_not_succeed_while_what_a_lost_run_may_have_left_still_runs() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 1000"));
    sandbox.signal(Signal::SIGKILL);
    eventually("both are gone", || !is_alive(sandbox.pid) && !is_alive(sandbox.supervisor));
    // A command that has hidden its environment looks the same.
    let unproven = Process::spawn(Command::new("sleep").arg("1000").stdin(Stdio::null()));
    let Identity { pid, start, .. } = Identity::of(unproven.id()).unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let sql = "UPDATE vmon_runs SET pid = ?1, pid_start = ?2";
    db.execute(sql, [i64::from(pid), i64::try_from(start).unwrap()]).unwrap();
    db.execute("UPDATE sandboxes SET microvm_pid = ?1", [pid]).unwrap();
    drop(db);
    for command in ["stop", "wait"] {
        let begin = Instant::now();
        let output = state.vmon().args([command, "web"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let why = format!("can't {command} Sandboxfile/web");
        assert!(said.contains(&why.replace("wait", "wait for")), "{said}");
        assert!(said.contains(&format!("still runs: pid {pid}")), "{said}");
        // Nothing is waited for that no further look can change.
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    }
    drop(unproven);
    let output = state.vmon().args(["stop", "web"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
}

/// Changes the record of a sandbox that has ended, and returns what `ps` prints of it.
fn ps_of(sql: &str) -> String {
    let state = State::new();
    state.ran("web", &[], "true");
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute_batch(sql).unwrap();
    drop(db);
    let output = state.vmon().args(["ps", "--all"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    common::one_line(&output)
}

#[test]
fn a_record_can_not_make_its_reader_use_unbounded_memory() {
    let long = "UPDATE vmon_runs SET spec = CAST(zeroblob(20000000) AS TEXT)";
    let said = ps_of(long);
    assert!(said.contains("too big"), "{said}");
    let generated = "ALTER TABLE vmon_runs ADD COLUMN more TEXT AS (hex(zeroblob(300000000)))";
    let said = ps_of(generated);
    assert!(said.contains("vmon_runs has a generated column"), "{said}");
}

#[test]
fn a_virtual_table_is_detected_by_its_definition() {
    let said = ps_of(
        "PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = 'CREATE VIRTUAL TABLE sandbox_metrics USING some(x)'
            WHERE name = 'sandbox_metrics'",
    );
    assert!(said.contains("sandbox_metrics is not a table"), "{said}");
}

#[test]
fn root_reads_a_long_record_of_another_user() {
    if !is_root() {
        eprintln!("SKIPPED: only root can be two users");
        return;
    }
    let state = State::new();
    state.ran("web", &[], "true");
    let db = rusqlite::Connection::open(state.db()).unwrap();
    // Enough that SQLite sorts them in a temporary file.
    let columns = "sandbox_id, state, boot_id, supervisor_pid, supervisor_start, started_at, spec";
    db.execute_batch(&format!(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 10000)
        INSERT INTO vmon_runs ({columns})
            SELECT {columns} FROM (SELECT * FROM vmon_runs LIMIT 1), n;
        PRAGMA wal_checkpoint(TRUNCATE)"
    ))
    .unwrap();
    drop(db);
    for file in fs::read_dir(state.path()).unwrap() {
        chown(file.unwrap().path(), Some(OTHER), Some(OTHER)).unwrap();
    }
    chown(state.path(), Some(OTHER), Some(OTHER)).unwrap();
    let registry = Registry::open_existing(state.db()).unwrap().unwrap();
    assert_eq!(registry.runs().unwrap().len(), 10_001);
}

/// Leaves `db` as a writer that died in the middle of a transaction over several databases: with a
/// hot journal that names this super-journal (fileformat2.html, "the rollback journal").
fn die_in_a_transaction(db: &Path, super_journal: &Path) {
    let journal = PathBuf::from(format!("{}-journal", db.display()));
    let connection = rusqlite::Connection::open(db).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 2; CREATE TABLE filler (bytes); BEGIN;
            WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 200)
            INSERT INTO filler SELECT zeroblob(3000) FROM n; UPDATE sandboxes SET group_ip = 'x'",
        )
        .unwrap();
    let (half, mut log) = (fs::read(db).unwrap(), fs::read(&journal).unwrap());
    connection.execute_batch("ROLLBACK").unwrap();
    drop(connection);
    let name = super_journal.to_str().unwrap().as_bytes();
    let lock_page = 0x4000_0000_u32 / 4096 + 1;
    let sum: u32 = name.iter().copied().map(u32::from).sum();
    log.extend(lock_page.to_be_bytes());
    log.extend(name);
    log.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    log.extend(sum.to_be_bytes());
    log.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(db, half).unwrap();
    fs::write(journal, log).unwrap();
    let [ours, other] = [db.to_str().unwrap(), "/no/such/other.db"];
    fs::write(super_journal, format!("{other}-journal\0{ours}-journal\0")).unwrap();
}

#[test]
fn a_rollback_succeeds_and_removes_no_file_that_its_journal_names() {
    let state = State::new();
    state.ran("web", &[], "true");
    let db = state.db().canonicalize().unwrap();
    let super_journal = db.with_file_name("other.db-mj0A1B2C900");
    die_in_a_transaction(&db, &super_journal);
    let output = state.run("next", &[], "true").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(super_journal.exists());
    let connection = rusqlite::Connection::open(&db).unwrap();
    let count = "SELECT (SELECT count(*) FROM filler) + count(group_ip) FROM sandboxes";
    assert_eq!(connection.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
}

#[test]
fn files_of_another_user_beside_the_database_are_not_read_as_part_of_it() {
    if !is_root() {
        eprintln!("SKIPPED: only root can be two users");
        return;
    }
    for companion in ["-wal", "-shm", "-journal"] {
        let state = State::new();
        state.ran("web", &[], "true");
        let planted = PathBuf::from(format!("{}{companion}", state.db().display()));
        if !planted.exists() {
            fs::write(&planted, "").unwrap();
        }
        let before = fs::read(&planted).unwrap();
        chown(&planted, Some(OTHER), Some(OTHER)).unwrap();
        for args in [&["run", "--name", "new", "--", "true"][..], &["ps"]] {
            let output = state.vmon().args(args).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let said = common::one_line(&output);
            let why = format!("sandbox.db{companion} belongs to uid {OTHER}");
            assert!(said.contains(&why), "{said}");
        }
        assert!(fs::read(&planted).unwrap() == before, "{companion}");
    }
}

#[test]
fn no_command_is_executed_from_a_record_in_a_directory_that_others_can_write_to() {
    let state = State::new();
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 1000"));
    let private = fs::metadata(state.path()).unwrap().permissions();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let output = state.vmon().args(["restart", "web"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = common::one_line(&output);
    assert!(said.contains("other users can write to") && said.contains("chmod go-w"), "{said}");
    assert!(is_alive(sandbox.pid));
    // To call the socket of a supervisor of our own executes nothing.
    assert!(state.vmon().args(["stop", "web"]).output().unwrap().status.success());
    fs::set_permissions(state.path(), private).unwrap();
    assert!(state.vmon().args(["restart", "web"]).output().unwrap().status.success());
    assert!(state.vmon().args(["stop", "web"]).output().unwrap().status.success());
}
