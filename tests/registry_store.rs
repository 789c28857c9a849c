//! The registry against a real SQLite, driven as a monitor drives it, without a child of vmon's.

#![cfg(feature = "registry")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use tempfile::TempDir;
use vmon::child::{Command, ExitStatus, Signal, SpawnError};
use vmon::monitor::{
    Claim, End, Forward, Identity, Observer, Outcome, Progress, Reason, Rootfs, Sandbox,
    StartError, Starting, Transition,
};
use vmon::registry::{Registry, RegistryError, RegistryObserver, Run, Status};

/// The ecosystem's tables as the seed's migrations make them.
const SEED_SCHEMA: &str = "
CREATE TABLE sandboxes (id INTEGER PRIMARY KEY, name TEXT NOT NULL, config_file TEXT NOT NULL,
    config_last_modified DATETIME NOT NULL, status TEXT NOT NULL, supervisor_pid INTEGER NOT NULL,
    microvm_pid INTEGER NOT NULL, rootfs_paths TEXT NOT NULL, group_id INTEGER, group_ip TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL, subnet TEXT NOT NULL,
    reach TEXT NOT NULL, full_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE sandbox_metrics (id INTEGER PRIMARY KEY, sandbox_id INTEGER NOT NULL,
    timestamp DATETIME DEFAULT CURRENT_TIMESTAMP, cpu_usage_percent REAL,
    memory_usage_bytes INTEGER, disk_usage_bytes INTEGER);
";

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join("state/sandbox.db")
    }

    fn registry(&self) -> Registry {
        Registry::open(self.db()).unwrap()
    }

    fn sqlite(&self) -> Connection {
        Connection::open(self.db()).unwrap()
    }

    /// A connection that keeps every other writer out until it is dropped.
    fn locked(&self) -> Connection {
        let lock = self.sqlite();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        lock
    }

    fn seed(&self, rows: &str) {
        fs::create_dir_all(self.db().parent().unwrap()).unwrap();
        let seed = self.sqlite();
        seed.execute_batch(SEED_SCHEMA).unwrap();
        seed.execute_batch(rows).unwrap();
    }

    fn count(&self, sql: &str) -> i64 {
        self.sqlite().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn text(&self, sql: &str) -> String {
        self.sqlite().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// A start and what follows it, by a supervisor that may be somebody else.
struct Life {
    sandbox: Sandbox,
    command: Option<Command>,
    supervisor: Identity,
    at: DateTime<Utc>,
}

impl Life {
    fn of(name: &str) -> Self {
        Self {
            sandbox: Sandbox::new(name, "Sandboxfile", "/var/log/vmon").unwrap(),
            command: Some(Command::new("sh").args(["-c", "exit 7"])),
            supervisor: Identity::current(),
            at: time("2026-11-23T17:02:03.123456Z"),
        }
    }

    fn handed_over(mut self) -> Self {
        self.command = None;
        self
    }

    fn under(mut self, supervisor: Identity) -> Self {
        self.supervisor = supervisor;
        self
    }

    fn starting(&self) -> Starting<'_> {
        let Self { sandbox, command, supervisor, at } = self;
        Starting {
            sandbox,
            command: command.as_ref(),
            supervisor,
            at: *at,
            restarts: 0,
            socket: None,
        }
    }

    /// Asks until the claim is no longer late, as the monitor's timer does.
    fn claim(&self, observer: &mut RegistryObserver) -> Claim {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match observer.claim(&self.starting()) {
                Claim::Later(delay, _) if Instant::now() < deadline => thread::park_timeout(delay),
                claim => return claim,
            }
        }
    }

    fn granted(&self, observer: &mut RegistryObserver) {
        let claim = self.claim(observer);
        assert!(matches!(claim, Claim::Granted), "{claim:?}");
    }
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn running() -> Transition {
    let child = Identity { pid: 4242, start: 77, ..Identity::current() };
    Transition::Running { at: time("2026-11-23T17:02:04Z"), child }
}

fn stopping() -> Transition {
    Transition::Stopping { at: time("2026-11-23T17:02:05Z") }
}

fn stopped(outcome: Outcome) -> Transition {
    let end = End { outcome, bytes_logged: 1000, bytes_dropped: 10 };
    Transition::Stopped { at: time("2026-11-23T17:02:06.5Z"), end }
}

fn exited(code: i32) -> Transition {
    stopped(Outcome::Ended { status: ExitStatus::Code(code), reason: Reason::Exited })
}

/// Tells a transition and retries, as the monitor's timer does, until it is written.
fn told(observer: &mut RegistryObserver, transition: &Transition) {
    let mut progress = observer.transition(transition);
    while let Progress::Later(delay) = progress {
        thread::park_timeout(delay);
        progress = observer.retry();
    }
}

/// A process that runs until it is killed.
struct Supervisor(std::process::Child);

impl Supervisor {
    fn start() -> Self {
        let mut cat = std::process::Command::new("cat");
        Self(cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn identity(&self) -> Identity {
        Identity::of(self.0.id()).unwrap()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn only(registry: &Registry) -> Run {
    let runs = registry.runs().unwrap();
    let [run] = <[Run; 1]>::try_from(runs).unwrap();
    run
}

#[test]
fn each_transition_leaves_the_right_rows() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut life = Life::of("web");
    life.sandbox = life
        .sandbox
        .rootfs(Rootfs::Overlayfs(vec!["/lower".into(), "/upper".into()]))
        .config_last_modified(time("2026-01-02T03:04:05Z"));
    let mut observer = registry.observer();

    life.granted(&mut observer);
    let sandbox = "SELECT name || '|' || config_file || '|' || config_last_modified || '|' ||
        status || '|' || (supervisor_pid = 0) || '|' || microvm_pid || '|' || rootfs_paths FROM sandboxes";
    let head = "web|Sandboxfile|2026-01-02T03:04:05.000000Z";
    let paths = "overlayfs:/lower:/upper";
    assert_eq!(fixture.text(sandbox), format!("{head}|STOPPED|0|0|{paths}"));
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.status, run.pid), ("STARTING", Status::Running, None));
    assert_eq!(fixture.text("SELECT started_at FROM vmon_runs"), "2026-11-23T17:02:03.123456Z");

    told(&mut observer, &running());
    assert_eq!(fixture.text(sandbox), format!("{head}|RUNNING|0|4242|{paths}"));
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.status, run.pid), ("RUNNING", Status::Running, Some(4242)));
    assert_eq!(run.running_at, Some(time("2026-11-23T17:02:04Z")));

    told(&mut observer, &stopping());
    assert_eq!(only(&registry).state, "STOPPING");

    let status = ExitStatus::Signal(Signal::TERM);
    let at = time("2026-11-23T17:02:06Z");
    told(&mut observer, &Transition::Draining { at, status });
    assert_eq!(only(&registry).state, "STOPPING");

    told(&mut observer, &stopped(Outcome::Ended { status, reason: Reason::Stopped }));
    assert_eq!(fixture.text(sandbox), format!("{head}|STOPPED|0|4242|{paths}"));
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.status), ("STOPPED", Status::Stopped));
    assert_eq!(
        (run.exit_code, run.signal, run.reason.as_deref()),
        (None, Some(15), Some("stopped"))
    );
    assert_eq!((run.bytes_logged, run.bytes_dropped), (Some(1000), Some(10)));
    assert_eq!(run.ended_at, Some(time("2026-11-23T17:02:06.5Z")));
    assert_eq!(run.rootfs_paths, paths);
    assert_eq!(run.supervisor, Some(std::process::id()));
}

#[test]
fn the_spec_has_command_and_options_and_never_the_environment() {
    let fixture = Fixture::new();
    let mut life = Life::of("web");
    life.command = Some(
        Command::new("qemu").args(["-M", "microvm"]).env("TOKEN", "s3cret").current_dir("/srv"),
    );
    life.sandbox = life
        .sandbox
        .rootfs(Rootfs::Native("/srv/root".into()))
        .forward(Forward::Drop)
        .stop_with(Signal::INT, Duration::from_millis(2500));
    life.granted(&mut fixture.registry().observer());

    let text = fixture.text("SELECT spec FROM vmon_runs");
    assert!(!text.contains("s3cret") && !text.contains("TOKEN"), "{text}");
    let spec: serde_json::Value = serde_json::from_str(&text).unwrap();
    let none = serde_json::Value::Null;
    let expected = serde_json::json!({
        "version": 2, "command": ["qemu", "-M", "microvm"], "directory": "/srv", "tty": false,
        "rootfs": { "native": "/srv/root" }, "log_dir": "/var/log/vmon", "log_max_size": 10 << 20,
        "log_max_files": 1, "on_log_error": "pause", "forward": "drop", "stdin": "null",
        "stop_signal": "SIGINT", "stop_timeout_seconds": 2.5, "restart": "no",
        "max_duration_seconds": none, "idle_timeout_seconds": none, "leave_descendants": false,
        "cgroup": none, "options": none,
    });
    assert_eq!(spec, expected);
}

#[test]
fn a_run_that_could_not_start_is_recorded_as_such() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    let error = SpawnError::NotFound { program: "nothing".to_owned() };
    told(&mut observer, &stopped(Outcome::NotStarted(StartError::Spawn(error))));
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.exit_code, run.pid), ("STOPPED", Some(127), None));
    assert_eq!(run.reason.as_deref(), Some("start-failed"));
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "STOPPED");
}

#[test]
fn a_name_comes_free_with_the_end_and_keeps_its_row() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for code in 0..3 {
        let mut observer = registry.observer();
        Life::of("web").granted(&mut observer);
        told(&mut observer, &running());
        told(&mut observer, &exited(code));
    }
    let codes: Vec<_> = registry.runs().unwrap().iter().map(|run| run.exit_code).collect();
    assert_eq!(codes, [Some(0), Some(1), Some(2)]);
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes"), 1);
}

#[test]
fn the_name_of_a_live_supervisor_is_taken_and_a_dead_ones_is_taken_over() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let supervisor = Supervisor::start();
    let pid = supervisor.identity().pid;
    let mut first = registry.observer();
    Life::of("web").under(supervisor.identity()).granted(&mut first);
    told(&mut first, &running());

    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Taken { supervisor } if supervisor == pid), "{claim:?}");
    Life::of("other").granted(&mut registry.observer());

    supervisor.kill();
    let lost = registry.runs().unwrap().swap_remove(0);
    assert_eq!((lost.state.as_str(), lost.status), ("RUNNING", Status::Stopped));
    assert_eq!(lost.reason.as_deref(), Some("supervisor-lost"));
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs WHERE state = 'STOPPED'"), 0);

    Life::of("web").granted(&mut registry.observer());
    let lost = registry.runs().unwrap().swap_remove(0);
    assert_eq!((lost.state.as_str(), lost.reason.as_deref()), ("STOPPED", Some("supervisor-lost")));
    assert!(lost.ended_at.is_some());
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE name = 'web'"), 1);
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE status = 'RUNNING'"), 0);
}

#[test]
fn a_supervisor_of_another_pid_namespace_is_never_judged_dead() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let elsewhere = Identity { pid: 2, pid_namespace: Some(1), ..Identity::current() };
    Life::of("web").under(elsewhere).granted(&mut registry.observer());
    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Taken { supervisor: 2 }), "{claim:?}");
    assert_eq!(only(&registry).status, Status::Running);
}

#[test]
fn a_locked_database_delays_claim_and_transitions_without_waiting() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let life = Life::of("web");
    let mut observer = registry.observer();

    let lock = fixture.locked();
    let began = Instant::now();
    assert!(matches!(observer.claim(&life.starting()), Claim::Later(delay, _)
        if delay <= Duration::from_millis(50)));
    for _ in 0..10 {
        let claim = observer.claim(&life.starting());
        assert!(matches!(claim, Claim::Later(delay, _) if delay <= Duration::from_millis(500)));
    }
    drop(lock);
    life.granted(&mut observer);
    let lock = fixture.locked();
    for transition in [running(), stopping(), exited(3)] {
        assert!(matches!(observer.transition(&transition), Progress::Later(_)));
    }
    assert!(matches!(observer.retry(), Progress::Later(delay) if delay <= Duration::from_secs(1)));
    // Far less than one of SQLite's own busy timeouts of five seconds, however loaded we are.
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(only(&registry).state, "STARTING");

    drop(lock);
    assert_eq!(observer.retry(), Progress::Done);
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.exit_code, run.pid), ("STOPPED", Some(3), Some(4242)));
    assert_eq!(run.running_at, Some(time("2026-11-23T17:02:04Z")));
    assert_eq!(observer.retry(), Progress::Done);
}

#[test]
fn a_late_claim_of_a_handed_over_child_is_written_with_what_came_since() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let life = Life::of("vm").handed_over();
    let mut observer = registry.observer();
    let lock = fixture.locked();
    assert!(matches!(observer.claim(&life.starting()), Claim::Later(..)));
    assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    drop(lock);
    assert_eq!(observer.retry(), Progress::Done);
    assert_eq!(only(&registry).state, "RUNNING");
    // Asked once more, as its timer may be under way.
    life.granted(&mut observer);
    told(&mut observer, &exited(0));
    life.granted(&mut observer);
    assert_eq!(only(&registry).state, "STOPPED");
}

#[test]
fn a_late_claim_whose_name_went_to_another_is_given_up() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    let lock = fixture.locked();
    assert!(matches!(observer.claim(&Life::of("vm").handed_over().starting()), Claim::Later(..)));
    drop(lock);
    let supervisor = Supervisor::start();
    Life::of("vm").under(supervisor.identity()).granted(&mut registry.observer());
    assert_eq!(observer.transition(&running()), Progress::Done);
    assert_eq!(observer.transition(&exited(0)), Progress::Done);
    let run = only(&registry);
    assert_eq!((run.supervisor, run.state.as_str()), (Some(supervisor.0.id()), "STARTING"));
    supervisor.kill();
}

#[test]
fn a_claim_that_was_never_granted_leaves_nothing() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    let lock = fixture.locked();
    assert!(matches!(observer.claim(&Life::of("web").starting()), Claim::Later(..)));
    let failed = StartError::Claim("too late".to_owned());
    let end = stopped(Outcome::NotStarted(failed));
    assert_eq!(observer.transition(&end), Progress::Done);
    drop(lock);
    assert_eq!(registry.runs().unwrap(), []);
}

#[test]
fn opening_never_waits_and_a_later_access_makes_the_schema() {
    let fixture = Fixture::new();
    fixture.seed("");
    let lock = fixture.locked();
    let began = Instant::now();
    let registry = fixture.registry();
    assert!(began.elapsed() < Duration::from_secs(4));
    drop(lock);
    assert_eq!(fixture.count("SELECT count(*) FROM sqlite_master WHERE name = 'vmon_runs'"), 0);
    Life::of("web").granted(&mut registry.observer());
    assert_eq!(fixture.text("SELECT value FROM vmon_meta WHERE key = 'schema_version'"), "1");
    assert_eq!(fixture.text("PRAGMA journal_mode"), "wal");
}

#[test]
fn readers_are_not_blocked_by_an_exclusive_transaction() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    Life::of("web").granted(&mut registry.observer());
    let _lock = fixture.locked();
    assert_eq!(only(&registry).name, "web");
}

#[test]
fn a_database_of_the_seed_is_read_and_kept() {
    let fixture = Fixture::new();
    fixture.seed(&format!(
        "INSERT INTO groups (name, subnet, reach) VALUES ('g', '10.0.0.0/24', 'local');
         INSERT INTO sandbox_metrics (sandbox_id, memory_usage_bytes) VALUES (7, 4096);
         INSERT INTO sandboxes VALUES
            (7, 'old', 'Sandboxfile', '2025-01-01T00:00:00+00:00', 'RUNNING', 2147483647, 12, 'native:/r', 3, '10.0.0.2', '2025-01-01 00:00:00', '2025-01-01 00:00:00'),
            (8, 'live', 'Sandboxfile', '2025-01-01T00:00:00+00:00', 'RUNNING', {parent}, 13, 'native:/r', NULL, NULL, '2025-01-01 00:00:00', '2025-01-01 00:00:00')",
        parent = std::os::unix::process::parent_id(),
    ));
    // A reader adds nothing to it.
    let reader = Registry::open_existing(fixture.db()).unwrap().unwrap();
    let seen = |registry: &Registry| {
        let runs = registry.runs().unwrap();
        runs.into_iter().map(|run| (run.name, run.status, run.pid)).collect::<Vec<_>>()
    };
    let old = ("old".to_owned(), Status::Stopped, Some(12));
    let live = ("live".to_owned(), Status::Running, Some(13));
    assert_eq!(seen(&reader), [old, live.clone()]);
    assert_eq!(fixture.count("SELECT count(*) FROM sqlite_master WHERE name LIKE 'vmon%'"), 0);

    let registry = fixture.registry();
    let claim = Life::of("live").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Taken { .. }), "{claim:?}");
    let mut observer = registry.observer();
    Life::of("old").granted(&mut observer);
    told(&mut observer, &running());
    let row =
        "SELECT id || '|' || status || '|' || microvm_pid || '|' || group_id || '|' || group_ip ||
        '|' || created_at || '|' || (modified_at > created_at) FROM sandboxes WHERE name = 'old'";
    assert_eq!(fixture.text(row), "7|RUNNING|4242|3|10.0.0.2|2025-01-01 00:00:00|1");
    let old = ("old".to_owned(), Status::Running, Some(4242));
    assert_eq!(seen(&registry), [old, live]);
    assert_eq!(fixture.count("SELECT count(*) FROM groups"), 1);
    assert_eq!(fixture.count("SELECT memory_usage_bytes FROM sandbox_metrics"), 4096);
}

#[test]
fn of_fifty_claims_of_one_name_exactly_one_is_granted() {
    let fixture = Fixture::new();
    let barrier = Barrier::new(50);
    let granted = thread::scope(|scope| {
        let claims: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let mut life = Life::of("web");
                    life.at = Utc::now();
                    life.claim(&mut fixture.registry().observer())
                })
            })
            .collect();
        let claims = claims.into_iter().map(|claim| claim.join().unwrap());
        claims.fold((0, 0), |(granted, taken), claim| match claim {
            Claim::Granted => (granted + 1, taken),
            Claim::Taken { .. } => (granted, taken + 1),
            claim => panic!("{claim:?}"),
        })
    });
    assert_eq!(granted, (1, 49));
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes"), 1);
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs"), 1);
}

#[test]
fn fifty_lives_at_once_leave_fifty_right_rows() {
    let fixture = Fixture::new();
    let barrier = Barrier::new(50);
    thread::scope(|scope| {
        for number in 0..50 {
            let (barrier, fixture) = (&barrier, &fixture);
            scope.spawn(move || {
                barrier.wait();
                let mut observer = fixture.registry().observer();
                Life::of(&format!("vm-{number}")).granted(&mut observer);
                told(&mut observer, &running());
                told(&mut observer, &exited(number));
            });
        }
    });
    let mut runs = fixture.registry().runs().unwrap();
    runs.sort_by_key(|run| run.exit_code);
    assert_eq!(runs.len(), 50);
    for (number, run) in (0..).zip(&runs) {
        assert_eq!((run.name.as_str(), run.exit_code), (&*format!("vm-{number}"), Some(number)));
        assert_eq!((run.state.as_str(), run.pid), ("STOPPED", Some(4242)));
    }
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE status = 'STOPPED'"), 50);
    assert_eq!(fixture.text("PRAGMA integrity_check"), "ok");
}

/// What each process of the next test does; without its variable, nothing.
#[test]
fn one_life_in_a_process_of_its_own() {
    let Some(db) = std::env::var_os("VMON_TEST_REGISTRY") else { return };
    let registry = Registry::open(db).unwrap();
    let mut observer = registry.observer();
    Life::of(&format!("vm-{}", std::process::id())).granted(&mut observer);
    told(&mut observer, &running());
    told(&mut observer, &exited(0));
    let claim = Life::of("wanted").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Granted | Claim::Taken { .. }), "{claim:?}");
    // Whoever has it keeps it until all others have asked.
    println!("{}", if matches!(claim, Claim::Granted) { "mine" } else { "taken" });
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn fifty_processes_at_once_leave_fifty_right_rows_and_one_has_the_name_all_want() {
    let fixture = Fixture::new();
    let mut processes: Vec<_> = (0..50)
        .map(|_| {
            let mut process = std::process::Command::new(std::env::current_exe().unwrap());
            process.args(["--exact", "one_life_in_a_process_of_its_own", "--nocapture"]);
            process.env("VMON_TEST_REGISTRY", fixture.db());
            process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let granted = processes.iter_mut().filter_map(|process| {
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines();
        let answer = |line: &String| line.ends_with("mine") || line.ends_with("taken");
        lines.map(Result::unwrap).find(answer).unwrap().ends_with("mine").then_some(())
    });
    assert_eq!(granted.count(), 1);
    for mut process in processes {
        drop(process.stdin.take());
        assert!(process.wait().unwrap().success());
    }
    let ended = "SELECT count(*) FROM vmon_runs WHERE state = 'STOPPED' AND exit_code = 0";
    assert_eq!(fixture.count(ended), 50);
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs"), 51);
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE status = 'STOPPED'"), 51);
    assert_eq!(fixture.text("PRAGMA integrity_check"), "ok");
}

#[test]
fn directories_are_0700_and_all_files_0600() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    Life::of("web").granted(&mut registry.observer());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = fixture.dir.path().join("state");
    assert_eq!(mode(&state), 0o700);
    let mut names: Vec<_> =
        fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["sandbox.db", "sandbox.db-shm", "sandbox.db-wal"]);
    for name in names {
        assert_eq!(mode(&state.join(&name)), 0o600, "{name:?}");
    }
}

#[test]
fn a_reader_creates_nothing() {
    let fixture = Fixture::new();
    assert!(Registry::open_existing(fixture.db()).unwrap().is_none());
    fs::create_dir(fixture.dir.path().join("state")).unwrap();
    assert!(Registry::open_existing(fixture.db()).unwrap().is_none());
    assert_eq!(fs::read_dir(fixture.dir.path().join("state")).unwrap().count(), 0);
}

#[test]
fn what_is_no_database_is_a_clear_error_and_stays_as_it_is() {
    let fixture = Fixture::new();
    let path = |name: &str| fixture.dir.path().join(name);
    let error = |name: &str| {
        let error = Registry::open(path(name)).unwrap_err();
        assert!(error.to_string().contains(path(name).to_str().unwrap()), "{error}");
        error
    };
    let text = "not a database, but long enough to have the header of one\n".repeat(100);
    fs::write(path("text"), &text).unwrap();
    assert!(matches!(error("text"), RegistryError::NotADatabase { .. }));
    assert_eq!(fs::read_to_string(path("text")).unwrap(), text);

    fs::create_dir(path("dir")).unwrap();
    assert!(matches!(error("dir"), RegistryError::NotAFile { kind: "a directory", .. }));

    std::os::unix::fs::symlink(path("elsewhere"), path("link")).unwrap();
    assert!(matches!(error("link"), RegistryError::NotAFile { kind: "a symbolic link", .. }));
    assert!(!path("elsewhere").exists());

    assert!(matches!(error("text/sandbox.db"), RegistryError::System { .. }));
}

#[test]
fn a_directory_that_is_a_link_is_followed() {
    let fixture = Fixture::new();
    let (real, link) = (fixture.dir.path().join("state"), fixture.dir.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let registry = Registry::open(link.join("sandbox.db")).unwrap();
    Life::of("web").granted(&mut registry.observer());
    assert!(fixture.db().exists());
}

#[test]
fn a_newer_schema_is_a_clear_error_and_refuses_a_claim() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    fixture.sqlite().execute("UPDATE vmon_meta SET value = '7'", []).unwrap();
    let error = Registry::open(fixture.db()).unwrap_err();
    assert!(matches!(error, RegistryError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("schema version 7"), "{error}");
    assert!(matches!(registry.runs(), Err(RegistryError::Newer { .. })));
    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Refused(_)), "{claim:?}");
    // A child that runs already is not refused: its end may still find a place.
    let claim = registry.observer().claim(&Life::of("vm").handed_over().starting());
    assert!(matches!(claim, Claim::Later(..)), "{claim:?}");
}

#[test]
fn a_database_removed_or_replaced_while_a_child_runs_is_made_right() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    told(&mut observer, &running());
    fs::remove_dir_all(fixture.dir.path().join("state")).unwrap();
    told(&mut observer, &stopping());
    let run = only(&registry);
    assert_eq!((run.state.as_str(), run.pid), ("STOPPING", Some(4242)));
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "RUNNING");

    // The file alone is removed, with its log left behind, and the run's number goes to another.
    fs::remove_file(fixture.db()).unwrap();
    Life::of("other").granted(&mut registry.observer());
    told(&mut observer, &exited(5));
    let runs = registry.runs().unwrap();
    let told: Vec<_> = runs.iter().map(|run| (run.name.as_str(), run.exit_code)).collect();
    assert_eq!(told, [("other", None), ("web", Some(5))]);
    assert_eq!(fixture.text("SELECT status FROM sandboxes WHERE name = 'web'"), "STOPPED");
}

#[test]
fn an_end_that_comes_late_leaves_another_programs_sandbox_alone() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    told(&mut observer, &running());
    let parent = std::os::unix::process::parent_id();
    fixture.sqlite().execute("UPDATE sandboxes SET supervisor_pid = ?1", [parent]).unwrap();
    told(&mut observer, &exited(0));
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "RUNNING");
    let runs = registry.runs().unwrap();
    assert_eq!(runs.iter().map(|run| run.id.is_some()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_log_is_checkpointed_before_it_grows_without_end() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let wal = fixture.dir.path().join("state/sandbox.db-wal");
    let mut largest = 0;
    for number in 0..200 {
        let mut observer = registry.observer();
        Life::of(&format!("vm-{number}")).granted(&mut observer);
        told(&mut observer, &running());
        told(&mut observer, &exited(0));
        largest = largest.max(fs::metadata(&wal).unwrap().len());
    }
    assert!(largest < 512 << 10, "{largest}");
    assert_eq!(registry.runs().unwrap().len(), 200);
}

#[test]
fn a_log_that_outlives_a_crash_is_a_part_of_the_database() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    Life::of("web").granted(&mut registry.observer());
    fs::remove_file(fixture.dir.path().join("state/sandbox.db-shm")).unwrap();
    assert_eq!(only(&registry).name, "web");
}

#[test]
fn a_database_that_can_not_be_written_is_read_as_far_as_that_goes() {
    let fixture = Fixture::new();
    Life::of("web").granted(&mut fixture.registry().observer());
    // The last connection of another program takes the log and the shared memory with it.
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs"), 1);
    let state = fixture.dir.path().join("state");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(&fixture.db(), 0o400).unwrap();
    mode(&state, 0o500).unwrap();
    let registry = Registry::open_existing(fixture.db()).unwrap().unwrap();
    let run = only(&registry);
    // Permissions do not bind root, who may write it all the same.
    let opened = Registry::open(fixture.db());
    mode(&state, 0o700).unwrap();
    assert_eq!(run.name, "web");
    if !nix::unistd::geteuid().is_root() {
        assert!(matches!(opened, Err(RegistryError::ReadOnly { .. })), "{opened:?}");
    }
}

#[test]
fn a_live_program_that_took_over_a_lost_run_of_ours_keeps_the_sandbox() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut lost = registry.observer();
    Life::of("web").granted(&mut lost);
    told(&mut lost, &running());
    // Our supervisor is gone without a word, and the other program has the row.
    fixture.sqlite().execute("UPDATE vmon_runs SET supervisor_start = 1", []).unwrap();
    let parent = std::os::unix::process::parent_id();
    fixture.sqlite().execute("UPDATE sandboxes SET supervisor_pid = ?1", [parent]).unwrap();
    let mut next = registry.observer();
    let claim = Life::of("web").claim(&mut next);
    assert!(matches!(claim, Claim::Taken { supervisor } if supervisor == parent), "{claim:?}");
}
