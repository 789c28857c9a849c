//! The observer against a real database: locked, broken, replaced, and with a connection that lingers.

mod restarts;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use chrono::Utc;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::child::{Command, ExitStatus};
use crate::monitor::{End, Identity, Outcome, Phase, Reason, Sandbox};
use crate::registry::{Run, RunStatus};

/// The answer to a transition that is written and does not end the run.
const WRITTEN: Progress = Progress::Later(KEEP_CONNECTION);

struct Fixture {
    dir: TempDir,
    registry: Registry,
}

impl Fixture {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let registry = Registry::open(dir.path().join("sandbox.db")).unwrap();
        Self { dir, registry }
    }

    /// An observer that gives up at the first failure after the end.
    fn impatient(&self) -> RegistryObserver {
        let mut observer = self.registry.observer();
        observer.spool_after = Duration::ZERO;
        observer
    }

    fn locked(&self) -> Connection {
        let lock = Connection::open(self.registry.path()).unwrap();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        lock
    }

    fn spooled(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("run")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_string_lossy().ends_with(".end.json")).collect()
    }

    /// The files that are reserved.
    fn reserved(&self) -> Vec<PathBuf> {
        let directory = spool::reserved(&self.dir.path().join("run"));
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn only_run(&self) -> Run {
        let mut runs = self.registry.runs().unwrap();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.remove(0)
    }
}

fn claim(observer: &mut RegistryObserver, command: Option<&Command>) -> Claim {
    let sandbox = Sandbox::new("web", "/log").unwrap();
    let supervisor = Identity::current();
    let starting = Starting {
        sandbox: &sandbox,
        command,
        supervisor: &supervisor,
        at: Utc::now(),
        restarts: 0,
        socket: None,
    };
    observer.claim(&starting)
}

fn running() -> Transition {
    Transition::Running { at: Utc::now(), child: Identity::current() }
}

fn exited() -> Transition {
    let outcome = Outcome::Ended { status: ExitStatus::Code(7), reason: Reason::Exited };
    let end = End { bytes_logged: 5, ..End::new(outcome) };
    Transition::Stopped { at: Utc::now(), end }
}

/// A run whose end is in a file and nowhere else.
fn spool(fixture: &Fixture) {
    let mut observer = fixture.impatient();
    let granted = claim(&mut observer, Some(&Command::new("true")));
    assert!(matches!(granted, Claim::Granted), "{granted:?}");
    assert_eq!(observer.transition(&running()), WRITTEN);
    let _lock = fixture.locked();
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(fixture.spooled().len(), 1);
}

#[test]
fn an_end_is_not_spooled_before_the_timeout() {
    let fixture = Fixture::new();
    let mut observer = fixture.registry.observer();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    let _lock = fixture.locked();
    assert!(matches!(observer.transition(&exited()), Progress::Later(_)));
    assert!(matches!(observer.retry(), Progress::Later(_)));
    assert_eq!(fixture.spooled().len(), 0);
}

#[test]
fn a_spooled_end_is_private_and_taken_in_by_the_next_reader() {
    let fixture = Fixture::new();
    spool(&fixture);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&fixture.dir.path().join("run")), 0o700);
    assert_eq!(mode(&fixture.spooled()[0]), 0o600);

    let run = fixture.only_run();
    assert_eq!((run.state, run.exit_code), (Some(Phase::Stopped), Some(7)));
    assert_eq!((run.pid, run.bytes_logged), (Some(std::process::id()), Some(5)));
    assert_eq!(fixture.spooled().len(), 0);
}

#[test]
fn a_spooled_end_is_taken_in_by_the_next_claim_which_it_lets_through() {
    let fixture = Fixture::new();
    spool(&fixture);
    let next = claim(&mut fixture.registry.observer(), Some(&Command::new("true")));
    assert!(matches!(next, Claim::Granted), "{next:?}");
    assert_eq!(fixture.spooled().len(), 0);
    let runs = fixture.registry.runs().unwrap();
    let states: Vec<_> = runs.iter().map(|run| (run.state, run.exit_code)).collect();
    assert_eq!(states, [(Some(Phase::Stopped), Some(7)), (Some(Phase::Starting), None)]);
}

#[test]
fn a_run_that_comes_on_record_late_has_its_place_by_number_whatever_the_clock_says() {
    let fixture = Fixture::new();
    let sandbox = Sandbox::new("web", "/log").unwrap();
    let now = Identity::current();
    // The supervisors in their order; the clock was set back by an hour between them.
    let supervisors = [
        (Identity { start: now.start - 2, ..now.clone() }, Utc::now() + chrono::Duration::hours(1)),
        (Identity { start: now.start - 1, ..now }, Utc::now()),
    ];
    let run = |observer: &mut RegistryObserver, number: usize| {
        let (supervisor, at) = &supervisors[number];
        let starting = Starting {
            sandbox: &sandbox,
            command: None,
            supervisor,
            at: *at,
            restarts: 0,
            socket: None,
        };
        observer.claim(&starting);
        observer.transition(&exited());
    };
    let lock = fixture.locked();
    run(&mut fixture.impatient(), 0);
    drop(lock);
    let path = fixture.spooled().remove(0);
    let content = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    run(&mut fixture.registry.observer(), 1);
    fs::write(&path, content).unwrap();
    let runs = fixture.registry.runs().unwrap();
    let starts: Vec<_> =
        runs.iter().map(|run| (run.id, run.supervisor_identity.as_ref().unwrap().start)).collect();
    let [first, second] = [0, 1].map(|number| supervisors[number].0.start);
    assert_eq!(starts, [(Some(1), first), (Some(2), second)]);
    let latest = fixture.registry.latest().unwrap();
    assert_eq!(latest[0].id, Some(2));
}

#[test]
fn a_spooled_end_that_is_taken_in_twice_is_one_run() {
    let fixture = Fixture::new();
    spool(&fixture);
    let path = fixture.spooled().remove(0);
    let content = fs::read(&path).unwrap();
    let once = fixture.only_run();
    fs::write(&path, content).unwrap();
    assert_eq!(fixture.only_run(), once);
}

#[test]
fn a_run_whose_claim_was_never_written_is_spooled_and_taken_in_whole() {
    let fixture = Fixture::new();
    let mut observer = fixture.impatient();
    let lock = fixture.locked();
    assert!(matches!(claim(&mut observer, None), Claim::Later(..)));
    assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    assert_eq!(observer.transition(&exited()), Progress::Done);
    drop(lock);
    let run = fixture.only_run();
    assert_eq!(
        (run.name.as_str(), run.state, run.exit_code),
        ("web", Some(Phase::Stopped), Some(7))
    );
    assert!(run.running_at.is_some());
}

#[test]
fn what_is_spooled_for_another_database_stays() {
    let fixture = Fixture::new();
    spool(&fixture);
    let other = Registry::open(fixture.dir.path().join("other.db")).unwrap();
    assert_eq!(other.runs().unwrap(), []);
    assert_eq!(fixture.spooled().len(), 1);
}

#[test]
fn rubbish_among_the_spooled_ends_does_no_harm() {
    let fixture = Fixture::new();
    spool(&fixture);
    let path = |name: &str| fixture.dir.path().join("run").join(name);
    fs::write(path("cut.end.json"), "{\"version\": 1, \"name\":").unwrap();
    fs::create_dir(path("dir.end.json")).unwrap();
    nix::unistd::mkfifo(&path("fifo.end.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("link.end.json")).unwrap();
    assert_eq!(fixture.only_run().exit_code, Some(7));
    assert_eq!(fixture.spooled().len(), 4);
}

#[test]
fn a_database_that_breaks_while_the_child_runs_delays_the_record_and_no_more() {
    let fixture = Fixture::new();
    let mut observer = fixture.impatient();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    let files = ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"];
    let path = |name: &str| fixture.dir.path().join(name);
    for name in files {
        fs::remove_file(path(name)).unwrap();
    }
    fs::write(path("sandbox.db"), "no database, but as long as the header of one. ".repeat(99))
        .unwrap();
    assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    assert!(matches!(observer.retry(), Progress::Later(_)));
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert!(fixture.registry.runs().is_err());
    assert_eq!(fixture.spooled().len(), 1);
    // Moved away, as the message says.
    fs::remove_file(path("sandbox.db")).unwrap();
    assert_eq!(fixture.only_run().exit_code, Some(7));
}

#[test]
fn a_monitor_does_not_wait_for_an_end_that_can_not_be_spooled() {
    let fixture = Fixture::new();
    fs::write(fixture.dir.path().join("run"), "not a directory").unwrap();
    let mut observer = fixture.impatient();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    let _lock = fixture.locked();
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(observer.retry(), Progress::Done);
}

/// How many descriptors of the database this process has open.
#[cfg(target_os = "linux")]
fn descriptors(fixture: &Fixture) -> usize {
    let is_db = |path: PathBuf| path == fixture.registry.path();
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    // Descriptors of other tests come and go.
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| is_db(path.clone()))
        .count()
}

/// The descriptors of this process for the lock of this record's supervisors.
#[cfg(target_os = "linux")]
fn locks(fixture: &Fixture) -> usize {
    let lock = fixture.dir.path().canonicalize().unwrap().join("run/.supervisors.lock");
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| *path == lock)
        .count()
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_has_one_lock_for_all_its_runs_until_the_last_one_has_ended() {
    let fixture = Fixture::new();
    let again = Registry::open(fixture.registry.path()).unwrap();
    let mut observers = [fixture.registry.observer(), again.observer()];
    for (observer, name) in observers.iter_mut().zip(["a", "b"]) {
        let sandbox = Sandbox::new(name, "/log").unwrap();
        let supervisor = Identity::current();
        let starting = Starting::new(&sandbox, &supervisor, Utc::now());
        // Threads of other tests may have the list of locks for a moment: then the lock is another.
        loop {
            assert!(matches!(observer.claim(&starting), Claim::Granted));
            if locks(&fixture) == 1 {
                break;
            }
            assert_eq!(observer.transition(&exited()), Progress::Done);
        }
    }
    assert_eq!(observers[0].transition(&exited()), Progress::Done);
    assert_eq!(locks(&fixture), 1);
    assert_eq!(observers[1].transition(&exited()), Progress::Done);
    assert_eq!(locks(&fixture), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn the_connection_of_a_claim_serves_the_transition_that_follows_and_no_more() {
    let fixture = Fixture::new();
    let mut observer = fixture.registry.observer();
    assert_eq!(descriptors(&fixture), 0);
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(descriptors(&fixture), 1);
    assert_eq!(observer.transition(&running()), WRITTEN);
    assert_eq!(descriptors(&fixture), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_registry_opened_for_a_start_keeps_its_connection_until_nothing_has_come_for_a_moment() {
    let mut fixture = Fixture::new();
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    assert_eq!(descriptors(&fixture), 1);
    let mut observer = fixture.registry.observer();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(observer.transition(&running()), Progress::Later(KEEP_CONNECTION));
    assert_eq!(descriptors(&fixture), 1);
    assert_eq!(observer.retry(), Progress::Done);
    assert_eq!(descriptors(&fixture), 0);
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(descriptors(&fixture), 0);
    assert_eq!(fixture.only_run().exit_code, Some(7));
}

#[test]
#[cfg(target_os = "linux")]
fn the_connection_of_a_name_that_is_taken_serves_the_next_claim() {
    let mut fixture = Fixture::new();
    let mut first = fixture.registry.observer();
    assert!(matches!(claim(&mut first, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(first.transition(&running()), WRITTEN);
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    let taken = claim(&mut fixture.registry.observer(), Some(&Command::new("true")));
    assert!(matches!(taken, Claim::Taken { .. }), "{taken:?}");
    assert_eq!(descriptors(&fixture), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_registry_that_keeps_its_connection_lends_it_to_all_observers() {
    let mut fixture = Fixture::new();
    fixture.registry = fixture.registry.clone().keep_connection();
    assert_eq!(descriptors(&fixture), 0);
    let mut observers = [fixture.registry.observer(), fixture.registry.observer()];
    assert!(matches!(claim(&mut observers[0], Some(&Command::new("true"))), Claim::Granted));
    assert!(matches!(claim(&mut observers[1], Some(&Command::new("true"))), Claim::Taken { .. }));
    for (transition, expected) in [(running(), WRITTEN), (exited(), Progress::Done)] {
        assert_eq!(observers[0].transition(&transition), expected);
        assert_eq!(descriptors(&fixture), 1);
    }
    assert!(matches!(claim(&mut observers[1], Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(descriptors(&fixture), 1);
    drop(observers);
    assert_eq!(fixture.registry.runs().unwrap().len(), 2);
    fixture.registry = Registry::open(fixture.registry.path()).unwrap();
    assert_eq!(descriptors(&fixture), 0);
}

#[test]
fn a_view_that_replaces_a_table_while_the_connection_is_kept_is_refused() {
    let mut fixture = Fixture::new();
    fixture.registry = fixture.registry.clone().keep_connection();
    let mut observer = fixture.registry.observer();
    let other = Connection::open(fixture.registry.path()).unwrap();
    // What is written from now on overwrites the log, which keeps its size.
    let grow = "CREATE TABLE filler AS SELECT zeroblob(100000); PRAGMA wal_checkpoint(PASSIVE)";
    other.execute_batch(grow).unwrap();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    other.execute_batch("DROP TABLE groups; CREATE VIEW groups AS SELECT 1").unwrap();
    assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    other.execute_batch("DROP VIEW groups; CREATE TABLE groups (id)").unwrap();
    assert_eq!(observer.retry(), WRITTEN);
    assert_eq!(fixture.only_run().state, Some(Phase::Running));
}

#[test]
fn a_database_that_is_removed_while_its_connection_is_kept_gets_the_record_anew() {
    let mut fixture = Fixture::new();
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    let mut observer = fixture.registry.observer();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(observer.transition(&running()), Progress::Later(KEEP_CONNECTION));
    for name in ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"] {
        fs::remove_file(fixture.dir.path().join(name)).unwrap();
    }
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(fixture.only_run().exit_code, Some(7));
}

#[test]
fn a_kept_connection_does_not_write_to_a_log_that_was_removed() {
    let mut fixture = Fixture::new();
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    let mut observer = fixture.registry.observer();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(observer.transition(&running()), Progress::Later(KEEP_CONNECTION));
    for name in ["sandbox.db-wal", "sandbox.db-shm"] {
        fs::remove_file(fixture.dir.path().join(name)).unwrap();
    }
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(fixture.only_run().exit_code, Some(7));
}

/// Claimed and running, its connection still open.
fn started(fixture: &mut Fixture) -> RegistryObserver {
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    let mut observer = fixture.registry.observer();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(observer.transition(&running()), Progress::Later(KEEP_CONNECTION));
    observer
}

fn truncate(path: &std::path::Path) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

#[test]
fn a_kept_connection_survives_truncation_of_its_log_and_index() {
    for suffix in ["-wal", "-shm"] {
        let mut fixture = Fixture::new();
        let mut observer = started(&mut fixture);
        truncate(&fixture.dir.path().join(format!("sandbox.db{suffix}")));
        assert!(matches!(observer.transition(&exited()), Progress::Done | Progress::Later(_)));
        drop(observer);
        assert_eq!(fixture.only_run().exit_code, Some(7), "{suffix}");
    }
}

#[test]
fn a_kept_connection_does_not_take_a_restored_database_for_a_damaged_one() {
    let mut fixture = Fixture::new();
    let backup = fixture.dir.path().join("backup.db");
    drop(Registry::open(&backup).unwrap());
    let other = Connection::open(&backup).unwrap();
    other
        .execute_batch(
            "CREATE TABLE theirs(x); INSERT INTO theirs SELECT value FROM
                 (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n
                  WHERE value < 3000) SELECT value FROM n);",
        )
        .unwrap();
    let checkpoint = |db: &Connection| {
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    checkpoint(&other);
    checkpoint(&Connection::open(fixture.registry.path()).unwrap());
    fixture.registry = Registry::open_for_start(fixture.registry.path()).unwrap();
    // Over the same file, as cp(1) does it.
    fs::copy(&backup, fixture.registry.path()).unwrap();
    let mut observer = fixture.registry.observer();
    let claimed = claim(&mut observer, Some(&Command::new("true")));
    assert!(matches!(claimed, Claim::Granted), "{claimed:?}");
    let rows = Connection::open(fixture.registry.path()).unwrap();
    let theirs: u32 = rows.query_row("SELECT count(*) FROM theirs", [], |row| row.get(0)).unwrap();
    assert_eq!(theirs, 3000);
}

#[test]
fn a_kept_connection_follows_to_a_database_that_was_renamed_over_its_own() {
    let mut fixture = Fixture::new();
    let mut observer = started(&mut fixture);
    let other = fixture.dir.path().join("other.db");
    drop(Registry::open(&other).unwrap());
    let copy = Connection::open(&other).unwrap();
    copy.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(copy);
    fs::rename(&other, fixture.registry.path()).unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(fixture.dir.path().join(format!("sandbox.db{suffix}"))).unwrap();
    }
    assert!(matches!(observer.transition(&exited()), Progress::Done | Progress::Later(_)));
    drop(observer);
    assert_eq!(fixture.only_run().exit_code, Some(7));
}

/// A run of which no transition has come for a moment.
fn settled(fixture: &Fixture) -> RegistryObserver {
    let mut observer = fixture.impatient();
    assert!(matches!(claim(&mut observer, Some(&Command::new("true"))), Claim::Granted));
    assert_eq!(observer.transition(&running()), Progress::Later(KEEP_CONNECTION));
    assert_eq!(observer.retry(), Progress::Done);
    observer
}

#[test]
fn room_for_the_end_is_reserved_while_a_run_lasts_but_not_for_a_short_one() {
    let fixture = Fixture::new();
    let mut observer = settled(&fixture);
    let [reserved] = fixture.reserved().try_into().unwrap();
    let metadata = fs::metadata(&reserved).unwrap();
    assert!(metadata.len() >= 4096 && metadata.permissions().mode() & 0o777 == 0o600);
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(fixture.reserved().len(), 0);

    let mut short = fixture.registry.observer();
    assert!(matches!(claim(&mut short, Some(&Command::new("true"))), Claim::Granted));
    short.transition(&running());
    assert_eq!(short.transition(&exited()), Progress::Done);
    assert_eq!(fixture.reserved().len(), 0);
}

#[test]
fn an_end_is_spooled_into_what_was_reserved() {
    use std::os::unix::fs::MetadataExt;

    let fixture = Fixture::new();
    let mut observer = settled(&fixture);
    let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
    let reserved = inode(&fixture.reserved()[0]);
    let lock = fixture.locked();
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(fixture.spooled().iter().map(inode).collect::<Vec<_>>(), [reserved]);
    drop((observer, lock));
    assert_eq!(fixture.only_run().exit_code, Some(7));
    assert_eq!((fixture.spooled().len(), fixture.reserved().len()), (0, 0));
}

#[test]
fn an_end_that_can_not_be_taken_in_yet_is_read_with_its_run() {
    let fixture = Fixture::new();
    let mut observer = settled(&fixture);
    let _lock = fixture.locked();
    assert_eq!(observer.transition(&exited()), Progress::Done);
    fixture.registry.timed_out.store(true, std::sync::atomic::Ordering::Relaxed);
    let run = fixture.only_run();
    assert_eq!((run.state, run.exit_code), (Some(Phase::Stopped), Some(7)));
    assert_eq!((run.status, run.reason), (RunStatus::Stopped, Some(Reason::Exited)));
    assert_eq!((run.bytes_logged, run.bytes_dropped), (Some(5), Some(0)));
    assert!(run.ended_at >= run.running_at && run.running_at.is_some());
    assert_eq!(fixture.spooled().len(), 1);
}
