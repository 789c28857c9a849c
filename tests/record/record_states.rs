//! A database that is locked, full, read-only or replaced for seconds while a child runs and ends:
//! the transitions are recorded afterwards, or spooled and imported.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};

use crate::common::held::{Held, Reader, brief, ps, spooled};
use crate::common::tmpfs::Tmpfs;
use crate::common::{self, State, code, each, eventually, signal, wait};

/// How long a state is held: several of an observer's attempts.
const SECONDS: Duration = Duration::from_secs(2);

/// A state of the database that is undone when this is dropped.
enum Hold<'a> {
    Locked(Connection),
    Full(PathBuf),
    ReadOnly(&'a Tmpfs),
    /// By something else; the files that were there, by the name that they have now and their own.
    Replaced(Vec<(PathBuf, PathBuf)>),
}

impl<'a> Hold<'a> {
    fn locked(disk: &Path) -> Self {
        let lock = Connection::open(disk.join("sandbox.db")).unwrap();
        lock.busy_timeout(common::TIMEOUT).unwrap();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Self::Locked(lock)
    }

    fn read_only(disk: &'a Tmpfs) -> Self {
        // Refused while the supervisor has a file open for writing.
        eventually("the file system is read-only", || disk.remount("ro"));
        Self::ReadOnly(disk)
    }

    fn replaced(disk: &Path) -> Self {
        let names = ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"].into_iter();
        let path = |name: &str| disk.join(name);
        let files: Vec<_> = names
            .filter(|name| path(name).exists())
            .map(|name| (path(&format!("aside-{name}")), path(name)))
            .collect();
        for (aside, file) in &files {
            fs::rename(file, aside).unwrap();
        }
        fs::write(path("sandbox.db"), common::noise(20_000, 1)).unwrap();
        Self::Replaced(files)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        match self {
            Self::Locked(lock) => lock.execute_batch("ROLLBACK").unwrap(),
            Self::Full(filler) => fs::remove_file(filler).unwrap(),
            Self::ReadOnly(disk) => assert!(disk.remount("rw")),
            Self::Replaced(files) => {
                for (from, to) in files {
                    fs::rename(from, to).unwrap();
                }
            }
        }
    }
}

/// A run that a file ends, its database on a small file system.
struct Run<'a> {
    state: &'a State,
    db: PathBuf,
    held: Held,
}

impl<'a> Run<'a> {
    fn start(state: &'a State, disk: &Path, name: &str) -> Self {
        let go = state.file(&format!("{name}.go"));
        let script = format!(
            "trap 'echo asked' TERM; echo begun; until [ -e {} ]; do sleep 0.02; done; exit 3",
            go.display()
        );
        let db = disk.join("sandbox.db");
        let options =
            ["--db", db.to_str().unwrap(), "--stop-timeout", "1000", "--log-level", "info"];
        let mut command = state.run(name, &options, &script);
        let mut vmon = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = Reader::new(vmon.stderr.take().unwrap());
        let run = Self { state, db, held: Held { vmon, errors } };
        state.wait_for_log(name, b"begun");
        run.wait_for("RUNNING");
        state.wait_for_closed_db(run.held.vmon.id());
        run
    }

    fn wait_for(&self, wanted: &str) {
        let sql = "SELECT state FROM vmon_runs ORDER BY id DESC LIMIT 1";
        eventually(wanted, || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let db = Connection::open_with_flags(&self.db, flags);
            let row = db.and_then(|db| db.query_row(sql, [], |row| row.get::<_, String>(0)));
            row.is_ok_and(|state| state == wanted)
        });
    }

    fn end(&self, name: &str) {
        fs::write(self.state.file(&format!("{name}.go")), "").unwrap();
    }

    fn ps(&self) -> Vec<String> {
        brief(&ps(self.state, &["--all", "--db", self.db.to_str().unwrap()]))
    }
}

/// What is tried on a disk of its own, whose database the second argument does something to.
type Trial = for<'a> fn(&Path, &dyn Fn() -> Hold<'a>);

/// Both together: most of their time they wait.
const TRIALS: [Trial; 2] = [what_is_late_arrives, what_can_not_wait_is_spooled];

/// The state of a run whose database is on this disk.
fn state_on(disk: &Path) -> State {
    let state = State::new();
    // The spooled ends have a disk that is not full.
    fs::create_dir(state.file("run")).unwrap();
    symlink(state.file("run"), disk.join("run")).unwrap();
    state
}

/// Holds the state twice: during the run, and from before the end for less than the patience.
fn what_is_late_arrives<'a>(disk: &Path, hold: &dyn Fn() -> Hold<'a>) {
    let state = state_on(disk);
    let mut run = Run::start(&state, disk, "first");

    let held = hold();
    signal(&run.held.vmon, Signal::SIGTERM);
    state.wait_for_log("first", b"asked");
    run.held.errors.wait_for("late");
    thread::sleep(SECONDS);
    drop(held);
    run.wait_for("STOPPING");
    run.held.errors.wait_for("up to date again");
    state.wait_for_closed_db(run.held.vmon.id());

    let held = hold();
    run.end("first");
    // The end is late, or on a full disk in the spool directory at once.
    run.held.errors.wait_for("error=");
    thread::sleep(SECONDS);
    drop(held);
    assert_eq!(code(wait(&mut run.held.vmon)), 3);
    assert_eq!(run.ps(), ["first STOPPED 3 stopped"]);
    assert!(state.log("first").starts_with(b"begun\n"));
}

/// Holds the state from before the end for longer than the patience.
fn what_can_not_wait_is_spooled<'a>(disk: &Path, hold: &dyn Fn() -> Hold<'a>) {
    let state = state_on(disk);
    let mut run = Run::start(&state, disk, "second");
    let held = hold();
    run.end("second");
    assert_eq!(code(wait(&mut run.held.vmon)), 3);
    assert_eq!(spooled(&state).len(), 1);
    drop(held);
    assert_eq!(run.ps(), ["second STOPPED 3 exited"]);
    assert!(spooled(&state).is_empty());
    assert!(state.log("second").starts_with(b"begun\n"));
}

#[test]
fn what_happens_while_the_database_is_locked_is_on_record_afterwards() {
    each(&TRIALS, |trial| {
        let disk = tempfile::tempdir().unwrap();
        trial(disk.path(), &|| Hold::locked(disk.path()));
    });
}

#[test]
fn what_happens_while_the_disk_is_full_is_on_record_afterwards() {
    each(&TRIALS, |trial| {
        let Some(disk) = Tmpfs::new("size=1m") else { return };
        trial(disk.path(), &|| Hold::Full(disk.fill_up_to(0)));
    });
}

#[test]
fn what_happens_while_the_file_system_is_read_only_is_on_record_afterwards() {
    each(&TRIALS, |trial| {
        let Some(disk) = Tmpfs::new("size=1m") else { return };
        trial(disk.path(), &|| Hold::read_only(&disk));
    });
}

#[test]
fn what_happens_while_something_else_is_in_its_place_is_on_record_afterwards() {
    each(&TRIALS, |trial| {
        let disk = tempfile::tempdir().unwrap();
        trial(disk.path(), &|| Hold::replaced(disk.path()));
    });
}
