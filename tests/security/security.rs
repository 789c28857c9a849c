//! What `docs/security.md` guarantees: vmon does not act on a record, a file or a socket that
//! another user could have written.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{
    self, Detached, Process, State, code, copy_program, each, eventually, is_alive, is_root, wait,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use vmon::monitor::Identity;

/// Another user than the one that runs the tests.
const OTHER: u32 = 65534;

/// A state directory of the user [`OTHER`], and a `vmon` that this user can run.
struct Theirs {
    scratch: tempfile::TempDir,
}

impl Theirs {
    /// `None`, which skips the test with a message, without the rights of root.
    fn new() -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: only root can be two users");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let theirs = Self { scratch };
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(theirs.scratch.path(), open.clone()).unwrap();
        // The checkout may lie where only root can go.
        copy_program(env!("CARGO_BIN_EXE_vmon"), &theirs.program());
        fs::set_permissions(theirs.program(), open).unwrap();
        fs::create_dir(theirs.state()).unwrap();
        chown(theirs.state(), Some(OTHER), Some(OTHER)).unwrap();
        fs::set_permissions(theirs.state(), fs::Permissions::from_mode(0o700)).unwrap();
        Some(theirs)
    }

    fn program(&self) -> PathBuf {
        self.scratch.path().join("vmon")
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn db(&self) -> PathBuf {
        self.state().join("sandbox.db")
    }

    fn own_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// That user's `vmon`.
    fn vmon(&self, args: &[&str]) -> Command {
        let mut command = Self::own_command(self.program());
        command.args(args).env("VMON_STATE_DIR", self.state()).env_remove("XDG_STATE_HOME");
        command.current_dir("/");
        command
    }

    /// Root's.
    fn roots_vmon(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmon"));
        command.args(args).env("VMON_STATE_DIR", self.state()).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Changes their database, as they could.
    fn sql(&self, sql: &str) -> String {
        let mut sqlite = Self::own_command("sqlite3");
        let output = sqlite.arg(self.db()).arg(sql).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A run whose supervisor was killed, `web`, still RUNNING on record.
    fn lost(&self) {
        let output =
            self.vmon(&["run", "-d", "--name", "web", "--", "sleep", "1000"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let supervisor: i32 = self.sql("SELECT supervisor_pid FROM vmon_runs").parse().unwrap();
        let child: u32 = self.sql("SELECT pid FROM vmon_runs").parse().unwrap();
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
        eventually("both are gone", || !is_alive(child) && !is_alive(supervisor as u32));
    }

    /// Makes the record name this process as the child of `web`.
    fn forge(&self, victim: &Process) {
        let Identity { pid, start, .. } = Identity::of(victim.id()).unwrap();
        self.sql(&format!("UPDATE vmon_runs SET pid = {pid}, pid_start = {start}"));
    }

    /// What the environment of a command of that run begins with.
    fn marker(&self) -> String {
        let run = "supervisor_pid || '.' || supervisor_start";
        let [run, at]: [String; 2] =
            [run, "started_at"].map(|column| self.sql(&format!("SELECT {column} FROM vmon_runs")));
        let at = chrono::DateTime::parse_from_rfc3339(&at).unwrap().timestamp_micros();
        format!("{run}.{at}")
    }

    fn state_column(&self) -> String {
        self.sql("SELECT state FROM vmon_runs ORDER BY id DESC LIMIT 1")
    }
}

fn sleeper() -> Process {
    Process::spawn(Command::new("sleep").arg("1000").stdin(Stdio::null()))
}

/// As the other user, with this in its environment.
fn others_sleeper(marker: Option<&str>) -> Process {
    let mut command = Theirs::own_command("sleep");
    if let Some(marker) = marker {
        command.env("VMON_RUN", marker);
    }
    let process = Process::spawn(command.arg("1000"));
    // setpriv(1) has become it.
    eventually("it sleeps", || {
        fs::read(format!("/proc/{}/cmdline", process.id())).unwrap_or_default()
            == b"sleep\x001000\0"
    });
    process
}

/// Every command that acts on a record.
const ACTING: [&[&str]; 8] = [
    &["ps", "--all"],
    &["stop", "web"],
    &["kill", "web"],
    &["wait", "web"],
    &["restart", "web"],
    &["rm", "--force", "web"],
    &["prune"],
    &["logs", "web"],
];

#[test]
fn a_forged_record_makes_root_kill_no_process_that_its_owner_could_not_kill() {
    // Side by side: some of the commands wait for the process to end.
    each(&ACTING, |args| {
        let Some(theirs) = Theirs::new() else { return };
        theirs.lost();
        // With the marker too: what is missing is the right to kill it.
        let mut marked = Command::new("sleep");
        let roots = Process::spawn(marked.arg("1000").env("VMON_RUN", theirs.marker()));
        let unmarked = others_sleeper(None);
        for victim in [&roots, &unmarked] {
            if theirs.sql("SELECT count(*) FROM vmon_runs") == "0" {
                theirs.lost();
            }
            theirs.forge(victim);
            theirs.roots_vmon(args);
            assert!(is_alive(victim.id()), "{args:?}");
        }
    });
}

#[test]
fn root_ends_what_a_lost_run_of_another_user_has_left_with_that_users_rights() {
    let Some(theirs) = Theirs::new() else { return };
    theirs.lost();
    let mut left = others_sleeper(Some(&theirs.marker()));
    theirs.forge(&left);
    let output = theirs.roots_vmon(&["ps", "--all"]);
    assert!(output.status.success(), "{output:?}");
    wait(&mut left.0);
    assert_eq!(theirs.state_column(), "STOPPED");
    for file in ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"] {
        if let Ok(metadata) = fs::metadata(theirs.state().join(file)) {
            assert_eq!(metadata.uid(), OTHER, "{file}");
        }
    }
}

#[test]
fn reading_another_users_record_changes_nothing_and_prints_one_line() {
    let Some(theirs) = Theirs::new() else { return };
    theirs.lost();
    // This process is the reader's own, and proves what a record could ask for.
    let victim = others_sleeper(Some(&theirs.marker()));
    theirs.forge(&victim);
    // A reader other than root: the record becomes root's, and every user may read it.
    theirs.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    for file in fs::read_dir(theirs.state()).unwrap() {
        let path = file.unwrap().path();
        chown(&path, Some(0), Some(0)).unwrap();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    chown(theirs.state(), Some(0), Some(0)).unwrap();
    fs::set_permissions(theirs.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = theirs.vmon(&["ps", "--all"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = common::one_line(&output);
    assert!(said.contains("belongs to uid 0") && said.contains("only read"), "{said}");
    for args in ACTING {
        theirs.vmon(args).output().unwrap();
        assert!(is_alive(victim.id()), "{args:?}");
    }
    let db = rusqlite::Connection::open(theirs.db()).unwrap();
    let states: String =
        db.query_row("SELECT group_concat(state) FROM vmon_runs", [], |row| row.get(0)).unwrap();
    assert_eq!(states, "RUNNING");
}

#[test]
fn a_record_of_another_user_reaches_no_socket_of_the_reader() {
    let Some(theirs) = Theirs::new() else { return };
    // A sandbox of the other user, and a record of root's that claims it.
    let output =
        theirs.vmon(&["run", "-d", "--name", "web", "--", "sleep", "1000"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let child: u32 = theirs.sql("SELECT pid FROM vmon_runs").parse().unwrap();
    let forged = State::new();
    let copy = Command::new("cp").arg("-a").arg(theirs.state()).arg(forged.file("state")).status();
    assert!(copy.unwrap().success());
    for path in [forged.file("state"), forged.file("state/sandbox.db")] {
        chown(&path, Some(0), Some(0)).unwrap();
    }
    for path in ["sandbox.db-wal", "sandbox.db-shm"] {
        let _ = chown(forged.file("state").join(path), Some(0), Some(0));
    }
    let socket = theirs.state().join("run/Sandboxfile/web.sock");
    let db = rusqlite::Connection::open(forged.file("state/sandbox.db")).unwrap();
    db.execute("UPDATE vmon_runs SET socket = ?1", [socket.to_str().unwrap()]).unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(db);
    for path in [forged.path().to_owned(), forged.file("state")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for file in fs::read_dir(forged.file("state")).unwrap() {
        let path = file.unwrap().path();
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for args in [&["stop", "web"][..], &["kill", "web"], &["rm", "-f", "web"], &["attach", "web"]] {
        let mut command = theirs.vmon(args);
        let output = command.env("VMON_STATE_DIR", forged.file("state")).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        assert!(is_alive(child), "{args:?}: {output:?}");
    }
    assert!(theirs.vmon(&["stop", "web"]).status().unwrap().success());
}

#[test]
fn root_starts_nothing_on_another_users_record() {
    let Some(theirs) = Theirs::new() else { return };
    theirs.lost();
    let output = theirs.roots_vmon(&["run", "--name", "new", "--", "touch", "/no/such"]);
    assert_eq!(output.status.code(), Some(125));
    let said = common::one_line(&output);
    assert!(said.contains("belongs to uid 65534") && said.contains("as that user"), "{said}");
    assert_eq!(theirs.sql("SELECT count(*) FROM sandboxes"), "1");
}

/// A run of ours that has lost its supervisor, on record as `web`.
fn lost(state: &State) {
    let sandbox = Detached::start(state, &mut state.run("web", &["-d"], "exec sleep 1000"));
    sandbox.signal(Signal::SIGKILL);
    eventually("both are gone", || !is_alive(sandbox.pid) && !is_alive(sandbox.supervisor));
}

fn forge(state: &State, column: &str, value: &str) {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute(&format!("UPDATE vmon_runs SET {column} = ?1"), [value]).unwrap();
}

#[test]
fn a_process_without_the_marker_of_the_run_is_signalled_by_nothing() {
    let state = State::new();
    lost(&state);
    let victim = sleeper();
    let Identity { pid, start, .. } = Identity::of(victim.id()).unwrap();
    forge(&state, "pid", &pid.to_string());
    forge(&state, "pid_start", &start.to_string());
    for args in ACTING.into_iter().chain([&["run", "--name", "web", "--", "true"][..]]) {
        let output = state.vmon().args(args).output().unwrap();
        assert!(is_alive(victim.id()), "{args:?}: {output:?}");
    }
    // A supervisor that lives and serves no socket is one only if the child is its own.
    let supervisor = Identity::current();
    forge(&state, "supervisor_pid", &supervisor.pid.to_string());
    forge(&state, "supervisor_start", &supervisor.start.to_string());
    for args in [["stop", "web"], ["kill", "web"]] {
        let output = state.vmon().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("is not proven to belong to it"), "{said}");
    }
    assert!(is_alive(victim.id()));
}

#[test]
fn a_record_in_a_place_that_others_can_write_to_is_only_read() {
    let state = State::new();
    lost(&state);
    for (path, mode) in
        [(state.path().to_owned(), 0o770), (state.db(), 0o606), (state.file("run"), 0o702)]
    {
        let private = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = state.vmon().args(["ps", "--all"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = common::one_line(&output);
        let way_out = format!("chmod go-w {}", path.canonicalize().unwrap().display());
        assert!(said.contains(&way_out), "{said}");
        for args in [&["rm", "web"][..], &["prune"], &["restart", "web"]] {
            let output = state.vmon().args(args).output().unwrap();
            assert_ne!(output.status.code(), Some(0), "{args:?} {output:?}");
        }
        let claim = state.run("web", &[], "true").output().unwrap();
        assert_eq!(claim.status.code(), Some(125), "{claim:?}");
        assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
        fs::set_permissions(&path, private).unwrap();
    }
    assert!(state.vmon().args(["ps", "--all"]).output().unwrap().stderr.is_empty());
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
}

#[test]
fn a_recorded_cgroup_without_a_process_of_the_run_is_not_killed() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut roots = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let root = roots.find_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let directory = root.map(|root| root.join(format!("vmon-test-{}-forged", std::process::id())));
    let victim = sleeper();
    let Some(directory) = directory.filter(|directory| {
        fs::create_dir(directory).is_ok()
            && fs::write(directory.join("cgroup.procs"), victim.id().to_string()).is_ok()
    }) else {
        eprintln!("SKIPPED: no cgroup v2 here that could be used");
        return;
    };
    let state = State::new();
    lost(&state);
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let sql = "UPDATE vmon_runs SET spec = json_set(spec, '$.cgroup', ?1)";
    db.execute(sql, [directory.to_str().unwrap()]).unwrap();
    drop(db);
    assert!(state.vmon().args(["ps", "--all"]).output().unwrap().status.success());
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
    assert!(is_alive(victim.id()));
    drop(victim);
    eventually("the cgroup can be removed", || fs::remove_dir(&directory).is_ok());
}

#[test]
fn a_view_in_place_of_a_table_is_refused_and_an_endless_query_is_interrupted() {
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)";
    for name in ["vmon_runs", "VMON_RUNS", "sandboxes", "vmon_meta"] {
        let state = State::new();
        state.ran("web", &[], "true");
        let db = rusqlite::Connection::open(state.db()).unwrap();
        db.execute_batch(&format!(
            "ALTER TABLE {name} RENAME TO away; CREATE VIEW {name} AS {endless} SELECT * FROM n, away"
        ))
        .unwrap();
        drop(db);
        for args in [&["ps", "--all"][..], &["run", "--name", "x", "--", "true"]] {
            let output = state.vmon().args(args).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let said = common::one_line(&output);
            assert!(
                said.to_lowercase().contains(&format!("{} is not a table", name.to_lowercase()))
            );
        }
    }
    let state = State::new();
    state.ran("web", &[], "true");
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute_batch(&format!(
        "CREATE TRIGGER t AFTER INSERT ON sandboxes BEGIN
            SELECT count(*) FROM ({endless} SELECT x FROM n); END"
    ))
    .unwrap();
    drop(db);
    let output = state.run("other", &[], "true").output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = common::one_line(&output);
    assert!(said.contains("step limit"), "{said}");
}

#[test]
fn a_fifo_beside_the_database_blocks_no_command() {
    for companion in ["-journal", "-wal", "-shm", ""] {
        let state = State::new();
        state.ran("web", &[], "true");
        let path = PathBuf::from(format!("{}{companion}", state.db().display()));
        let _ = fs::remove_file(&path);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        for args in [&["ps"][..], &["stop", "web"], &["run", "--", "true"]] {
            let output = state.vmon().args(args).output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
            let said = common::one_line(&output);
            let named = format!("sandbox.db{companion} is a FIFO or socket");
            assert!(said.contains(&named), "{said}");
        }
    }
}

#[test]
fn a_failed_lock_of_shared_memory_does_not_block_the_event_loop() {
    if !common::has("strace") {
        eprintln!("SKIPPED: needs strace");
        return;
    }
    let state = State::new();
    state.ran("web", &[], "true");
    // An open connection keeps the file.
    let reader = rusqlite::Connection::open(state.db()).unwrap();
    reader.query_row("SELECT count(*) FROM vmon_runs", [], |_| Ok(())).unwrap();
    // SQLite's locks of readers: bytes 123 to 127 of the file (walformat.html).
    let shm =
        fs::File::options().read(true).write(true).open(state.file("sandbox.db-shm")).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 123,
        l_len: 5,
        l_pid: 0,
    };
    fcntl(&shm, FcntlArg::F_SETLK(&lock)).unwrap();
    let trace = state.file("trace");
    let run = state.run("other", &[], "true");
    let mut strace = Command::new("strace");
    strace.arg("-o").arg(&trace).args(["-e", "trace=nanosleep,clock_nanosleep,fcntl"]);
    strace.arg(run.get_program()).args(run.get_args()).env("VMON_STATE_DIR", state.path());
    let output = strace.output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(common::contains(&output.stderr, b"locked"), "{output:?}");
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("F_SETLK"), "{trace}");
    assert!(!trace.contains("sleep"), "{trace}");
}

#[test]
fn a_fifo_beside_the_database_does_not_prevent_a_stop() {
    each(&["-journal", "-wal", "-shm"], |companion| {
        let state = State::new();
        let script = "trap 'echo asked; exit 7' TERM; echo up; while :; do sleep 0.05; done";
        let mut run = state.run("web", &[], script).stdout(Stdio::null()).spawn().unwrap();
        state.wait_for_log("web", b"up");
        state.wait_for_status("web", "RUNNING");
        state.wait_for_closed_db(run.id());
        let path = PathBuf::from(format!("{}{companion}", state.db().display()));
        let _ = fs::remove_file(&path);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        common::signal(&run, Signal::SIGTERM);
        assert_eq!(code(wait(&mut run)), 7);
        assert!(common::contains(&state.log("web"), b"asked"));
        // Its end waits in a file, and is taken in when SQLite can be used again.
        fs::remove_file(&path).unwrap();
        state.vmon().args(["ps", "--all"]).output().unwrap();
        assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("7"), "{companion}");
    });
}

#[test]
fn temporary_files_of_a_killed_supervisor_are_removed_with_its_run() {
    let claim = |state: &State| drop(state.run("web", &[], "true").output().unwrap());
    let command = |state: &State| drop(state.vmon().arg("ps").output().unwrap());
    for close in [claim, command] as [fn(&State); 2] {
        let state = State::new();
        lost(&state);
        let pid: u32 = state.run_column("web", "supervisor_pid").unwrap().parse().unwrap();
        let (sockets, spool) = (state.file("run/Sandboxfile"), state.file("run"));
        let left = [sockets.join(format!(".{pid:x}-0")), spool.join(format!(".spill-{pid}-0"))];
        drop(std::os::unix::net::UnixListener::bind(&left[0]).unwrap());
        fs::write(&left[1], "{}").unwrap();
        // Those of another process, which may live.
        let others = [sockets.join(".1-0"), spool.join(".spill-1-0")];
        drop(std::os::unix::net::UnixListener::bind(&others[0]).unwrap());
        fs::write(&others[1], "{}").unwrap();
        close(&state);
        assert!(left.iter().all(|path| !path.exists()), "{left:?}");
        assert!(others.iter().all(|path| path.exists()), "{others:?}");
    }
}

#[test]
fn the_directory_of_spooled_ends_may_be_a_link_of_the_owners() {
    let state = State::new();
    fs::create_dir(state.file("elsewhere")).unwrap();
    fs::set_permissions(state.file("elsewhere"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(state.file("elsewhere"), state.file("run")).unwrap();
    lost(&state);
    assert!(state.vmon().args(["ps", "--all"]).output().unwrap().stderr.is_empty());
    assert_eq!(state.run_column("web", "state").as_deref(), Some("STOPPED"));
    assert!(Path::new(&state.file("elsewhere")).join("Sandboxfile").is_dir());
}
