//! The record with a database that is locked, old or busy: it may be late, it is never wrong, and
//! the child is not affected.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rusqlite::Connection;
use serde_json::Value;

use crate::common::held::{ENDS, Held, Reader, brief, lock, look, ps, spooled};
use crate::common::{State, code, contains, eventually, one_line, own_test, seed, signal, wait};

// A database that another process has locked.

/// Not a test by itself: the host of the next one, which runs it in a process of its own.
#[test]
#[ignore = "the host that a_locked_database_does_not_delay_other_sandboxes_of_the_reactor starts"]
fn host() {
    let Some(directory) = std::env::var_os("VMON_TEST_HOST") else { return };
    host::run(Path::new(&directory));
}

/// A library host with a session on a PTY and neighbours that come and go on its reactor.
mod host {
    use super::{Arc, AtomicBool, BufRead, BufReader, Ordering, Path, fs};
    use vmon::child::{ChildIo, Command};
    use vmon::monitor::{Forward, Input, Monitor, Sandbox, Transition};
    use vmon::reactor::Reactor;
    use vmon::registry::Registry;

    fn sandbox(directory: &Path, name: &str) -> Sandbox {
        Sandbox::new(name, directory.join("log")).unwrap().forward(Forward::Off)
    }

    /// Tells of transitions on stderr.
    fn teller(name: &'static str) -> impl FnMut(&Transition) {
        move |transition| {
            let word = format!("{transition:?}");
            let word = word.split([' ', '{']).next().unwrap_or_default();
            eprintln!("<{name} {word}>");
        }
    }

    fn script(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    pub fn run(directory: &Path) {
        let registry = Registry::open(directory.join("sandbox.db")).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let session = sandbox(directory, "session").forward(Forward::Block).input(Input::Forward);
        Monitor::builder(session)
            .observer(registry.observer())
            .observer(teller("session"))
            .spawn(&mut reactor, Command::new("cat").pty(true));
        let early = format!("read x < {}; exit 7", directory.join("early").display());
        Monitor::builder(sandbox(directory, "early"))
            .observer(registry.observer())
            .observer(teller("early"))
            .spawn(&mut reactor, script(&early));

        let go = Arc::new(AtomicBool::new(false));
        let (start, waker, fifo) =
            (Arc::clone(&go), reactor.waker().unwrap(), directory.join("go"));
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(fs::File::open(fifo).unwrap()).read_line(&mut line).unwrap();
            start.store(true, Ordering::SeqCst);
            waker.wake().unwrap();
        });
        while !reactor.is_done() {
            reactor.poll_once(None).unwrap();
            if go.swap(false, Ordering::SeqCst) {
                neighbours(directory, &registry, &mut reactor);
            }
        }
        eprintln!("<host done>");
    }

    /// One that is handed over, and one that has to wait for its claim.
    #[expect(clippy::zombie_processes, reason = "the monitor reaps what is handed over")]
    fn neighbours(directory: &Path, registry: &Registry, reactor: &mut Reactor<Monitor>) {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo handed; exit 9"])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().map(Into::into);
        Monitor::builder(sandbox(directory, "handed"))
            .observer(registry.observer())
            .observer(teller("handed"))
            .start(reactor, child.id(), ChildIo::Piped { stdin: None, stdout, stderr: None })
            .unwrap();
        Monitor::builder(sandbox(directory, "late"))
            .observer(registry.observer())
            .observer(teller("late"))
            .spawn(reactor, script("exit 8"));
    }
}

#[test]
fn a_locked_database_does_not_delay_other_sandboxes_of_the_reactor() {
    let state = State::new();
    for fifo in ["go", "early"] {
        mkfifo(&state.file(fifo), Mode::S_IRWXU).unwrap();
    }
    let mut command = own_test(module_path!(), "host");
    command.env("VMON_TEST_HOST", state.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut host = command.spawn().unwrap();
    let mut input = host.stdin.take().unwrap();
    let mut output = Reader::new(host.stdout.take().unwrap());
    let mut events = Reader::new(host.stderr.take().unwrap());
    let mut trip = |number: u32| {
        let sent = Instant::now();
        writeln!(input, "ping {number}").unwrap();
        // Once by the terminal's echo, once by cat.
        output.wait_for(&format!("ping {number}\r\n"));
        output.wait_for(&format!("ping {number}\r\n"));
        sent.elapsed()
    };
    trip(0);
    state.wait_for_status("early", "RUNNING");
    state.wait_for_status("session", "RUNNING");

    let held = lock(&state);
    // A neighbour ends, one is handed over, runs and ends, and one asks for a claim.
    fs::write(state.file("early"), "\n").unwrap();
    fs::write(state.file("go"), "\n").unwrap();
    let mut longest = Duration::ZERO;
    for number in 1..=100 {
        longest = longest.max(trip(number));
    }
    // In whatever order.
    eventually("both neighbours end", || {
        let ended = |name: &str| contains(&events.seen, format!("<{name} Stopped>").as_bytes());
        (ended("early") && ended("handed")) || !events.read_some()
    });
    for number in 101..=200 {
        longest = longest.max(trip(number));
    }
    // SQLite's own shortest wait for a lock that vmon could have asked for is far above.
    assert!(longest < Duration::from_secs(2), "a round trip took {longest:?}");
    assert!(!contains(&events.seen, b"<late Running>"), "started without a claim");
    drop(held);

    eventually("the one that waited runs and ends", || {
        contains(&events.seen, b"<late Stopped>") || !events.read_some()
    });
    drop(input);
    events.wait_for("<host done>");
    assert_eq!(code(wait(&mut host)), 0);
    // Late ends may have been spooled where this took long.
    ps(&state, &["--all"]);
    assert_eq!(
        look(&state, ENDS),
        [
            "early STOPPED STOPPED 7 - exited",
            "handed STOPPED STOPPED 9 - exited",
            "late STOPPED STOPPED 8 - exited",
            "session STOPPED STOPPED 0 - exited",
        ]
    );
    assert!(spooled(&state).is_empty());
}

#[test]
fn a_lock_that_outlasts_the_timeout_refuses_the_start() {
    let state = State::new();
    wait(&mut state.run("x", &[], "exit 0").spawn().unwrap());
    let log = state.log("x");
    let held = lock(&state);
    let started = state.file("started");
    let asked = Instant::now();
    let script = format!("echo out; touch {}", started.display());
    let output = state.run("x", &[], &script).output().unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(4_900), "it gave up too early");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(one_line(&output).contains("locked"), "{output:?}");
    assert!(!started.exists());
    assert_eq!(state.log("x"), log);
    drop(held);
    assert_eq!(look(&state, ENDS).len(), 1);
}

#[test]
fn a_lock_that_is_released_in_time_only_delays_the_start() {
    let state = State::new();
    wait(&mut state.run("x", &[], "exit 0").spawn().unwrap());
    let held = lock(&state);
    let mut run = Held::spawn(&state, "y", &["--log-level", "debug"], "exit 3");
    run.errors.wait_for("the start waits");
    drop(held);
    state.wait_for_status("y", "RUNNING");
    assert_eq!(run.finish(), 3);
}

#[test]
fn an_end_under_a_lock_is_spooled_and_taken_in_by_ps() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    let held = lock(&state);
    assert_eq!(run.finish(), 3);
    assert_eq!(look(&state, ENDS), ["x RUNNING RUNNING - - -"]);
    let files = spooled(&state);
    assert_eq!(files.len(), 1, "{}", String::from_utf8_lossy(&run.errors.seen));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&files[0]), mode(&state.file("run"))), (0o600, 0o700));
    assert_eq!(state.log("x"), b"begun\nover\n");
    drop(held);

    assert_eq!(brief(&ps(&state, &["--all"])), ["x STOPPED 3 exited"]);
    assert_eq!(look(&state, ENDS), ["x STOPPED STOPPED 3 - exited"]);
    assert!(spooled(&state).is_empty());
}

#[test]
fn a_lock_during_the_run_delays_the_record_and_nothing_else() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    let held = lock(&state);
    run.release();
    // The end could not be written: vmon reports that, and waits.
    run.errors.wait_for("late");
    assert_eq!(state.log("x"), b"begun\nover\n");
    drop(held);
    assert_eq!(run.finish(), 3);
    assert_eq!(look(&state, ENDS), ["x STOPPED STOPPED 3 - exited"]);
    assert!(spooled(&state).is_empty());
}

#[test]
fn a_stop_under_a_lock_stops_the_child() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 3");
    let held = lock(&state);
    let pid = look(&state, "SELECT CAST(pid AS TEXT) FROM vmon_runs").remove(0);
    signal(&run.vmon, Signal::SIGTERM);
    eventually("the child is reaped", || !Path::new(&format!("/proc/{pid}")).exists());
    drop(held);
    assert_eq!(run.finish(), 143);
    assert_eq!(look(&state, ENDS), ["x STOPPED STOPPED - 15 stopped"]);
}

// Many at once, and databases of others.

#[test]
fn fifty_supervisors_at_once_leave_fifty_correct_rows() {
    let state = State::new();
    let fifo = state.file("gate");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    // All end together, when the gate that they have open closes.
    let mut runs: Vec<_> = (0..50)
        .map(|number| {
            let script = format!("exec <{}; echo open; cat; exit {number}", fifo.display());
            let mut command = state.run(&format!("vm-{number:02}"), &[], &script);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let gate = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    // A reader takes no lock that a writer would have to wait for.
    eventually("all run", || {
        let running = "SELECT count(*) || '' FROM sandboxes WHERE status = 'RUNNING'";
        state.db().exists()
            && std::panic::catch_unwind(|| look(&state, running)).is_ok_and(|rows| rows == ["50"])
    });
    for number in 0..50 {
        state.wait_for_log(&format!("vm-{number:02}"), b"open\n");
    }
    drop(gate);
    for (number, run) in runs.iter_mut().enumerate() {
        assert_eq!(code(wait(run)), number as i32);
        let mut errors = String::new();
        run.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        // On a busy machine a record may be a second late, which is reported.
        let late = |line: &str| line.starts_with("vmon: warn: the record is late");
        assert!(errors.lines().all(late), "of vm-{number:02}: {errors}");
    }
    let expected: Vec<_> =
        (0..50).map(|number| format!("vm-{number:02} STOPPED STOPPED {number} - exited")).collect();
    assert_eq!(look(&state, ENDS), expected);
    assert_eq!(look(&state, "SELECT count(*) || '' FROM sandboxes"), ["50"]);
    assert!(spooled(&state).is_empty());
}

/// What a database of the seed's has in its tables.
const SEED_ROWS: &str = "
INSERT INTO groups VALUES (3, 'g', '10.0.0.0/24', 'local', '{}', '2025-01-01', '2025-01-02');
INSERT INTO sandbox_metrics VALUES (5, 1, '2025-01-01', 1.5, 2, 3);
INSERT INTO sandboxes VALUES
    (1, 'web', 'Sandboxfile', '2025-01-01T00:00:00+00:00', 'STOPPED', 11, 12, 'native:/web', 3,
        '10.0.0.2', '2025-01-01', '2025-01-02'),
    (2, 'old', 'Sandboxfile', '2025-01-01T00:00:00+00:00', 'RUNNING', 0, 0, 'overlayfs:/a:/b', 3,
        '10.0.0.3', '2025-01-01', '2025-01-02');
";

#[test]
fn a_database_of_the_seeds_is_read_and_kept() {
    let state = State::new();
    Connection::open(state.db())
        .unwrap()
        .execute_batch(&[seed::SEED_SCHEMA, SEED_ROWS].concat())
        .unwrap();
    // 'old' is RUNNING by its row, under a pid that no process has.
    assert_eq!(ps(&state, &[]), Vec::<Value>::new());
    let all = ps(&state, &["--all"]);
    assert_eq!(brief(&all), ["old STOPPED null -", "web STOPPED null -"]);
    assert!(all.iter().any(|run| run["rootfs_paths"] == "overlayfs:/a:/b"));

    let options = ["--native-rootfs", "/new", "--config-last-modified", "2026-01-02T03:04:05Z"];
    assert_eq!(code(wait(&mut state.run("web", &options, "exit 7").spawn().unwrap())), 7);
    assert_eq!(
        look(
            &state,
            "SELECT id || ' ' || name || ' ' || status || ' ' || rootfs_paths || ' ' ||
            group_id || ' ' || group_ip || ' ' || created_at FROM sandboxes ORDER BY id"
        ),
        [
            "1 web STOPPED native:/new 3 10.0.0.2 2025-01-01",
            "2 old RUNNING overlayfs:/a:/b 3 10.0.0.3 2025-01-01",
        ]
    );
    let modified = "SELECT config_last_modified FROM sandboxes WHERE id = 1";
    assert!(look(&state, modified)[0].starts_with("2026-01-02T03:04:05"));
    assert_eq!(
        look(&state, "SELECT name || subnet || modified_at FROM groups"),
        ["g10.0.0.0/242025-01-02"]
    );
    assert_eq!(
        look(&state, "SELECT id || ' ' || cpu_usage_percent FROM sandbox_metrics"),
        ["5 1.5"]
    );
    assert_eq!(brief(&ps(&state, &["--all"])), ["old STOPPED null -", "web STOPPED 7 exited"]);
}

#[test]
fn a_name_that_a_live_program_of_the_ecosystem_runs_is_refused() {
    let state = State::new();
    let db = Connection::open(state.db()).unwrap();
    db.execute_batch(&[seed::SEED_SCHEMA, SEED_ROWS].concat()).unwrap();
    let pid = std::process::id();
    db.execute("UPDATE sandboxes SET supervisor_pid = ?1 WHERE id = 2", [pid]).unwrap();
    drop(db);
    let output = state.run("old", &[], "exit 0").output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(one_line(&output).contains(&pid.to_string()));
    assert_eq!(brief(&ps(&state, &[])), ["old RUNNING null -"]);
}

// The output of `ps`.

#[test]
fn ps_lists_running_ended_and_lost_sandboxes_correctly() {
    let state = State::new();
    wait(&mut state.run("ended", &[], "exit 7").spawn().unwrap());
    wait(&mut state.run("signalled", &[], "kill -9 $$").spawn().unwrap());
    wait(
        &mut state
            .run("nothing", &["--cwd", "/"], "exec 2>&-; exec /no/such/program")
            .spawn()
            .unwrap(),
    );
    let mut lost = Held::running(&state, "lost", &[], "exit 0");
    lost.vmon.kill().unwrap();
    wait(&mut lost.vmon);
    let mut running = Held::running(&state, "running", &[], "exit 0");

    assert_eq!(brief(&ps(&state, &[])), ["running RUNNING null -"]);
    assert_eq!(
        brief(&ps(&state, &["--all"])),
        [
            "ended STOPPED 7 exited",
            "lost STOPPED null supervisor-lost",
            "nothing STOPPED 127 exited",
            "running RUNNING null -",
            "signalled STOPPED null signalled",
        ]
    );
    let one = ps(&state, &[]).remove(0);
    assert_eq!(one["supervisor_pid"], running.vmon.id());
    assert_eq!(one["pid"].to_string(), state.run_column("running", "pid").unwrap());
    assert_eq!(one["config_file"], "Sandboxfile");

    let table = |options: &[&str]| {
        let output = state.vmon().arg("ps").args(options).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let short = table(&[]);
    assert_eq!(short.lines().count(), 2, "{short}");
    assert!(short.starts_with("NAME "), "{short}");
    let row = short.lines().nth(1).unwrap().split_ascii_whitespace().collect::<Vec<_>>();
    assert_eq!(row[..3], ["running", "Sandboxfile", "RUNNING"]);
    assert_eq!(row[4], running.vmon.id().to_string());
    let long = table(&["--all"]);
    assert_eq!(long.lines().count(), 6, "{long}");
    let of = |name: &str| long.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(of("ended").ends_with(" 7") && of("signalled").ends_with(" SIGKILL"), "{long}");
    assert!(of("lost").contains(" STOPPED ") && of("lost").ends_with(" -"), "{long}");
    assert_eq!(running.finish(), 0);
}

#[test]
fn ps_reads_while_another_program_writes() {
    let state = State::new();
    let mut run = Held::running(&state, "x", &[], "exit 0");
    let held = lock(&state);
    assert_eq!(brief(&ps(&state, &[])), ["x RUNNING null -"]);
    drop(held);
    assert_eq!(run.finish(), 0);
}

#[test]
fn ps_without_a_database_creates_nothing() {
    let state = State::new();
    assert_eq!(ps(&state, &["--all"]), Vec::<Value>::new());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_write_ahead_log_left_by_a_crash_is_used() {
    let state = State::new();
    let script = "echo begun; exec sleep 1000";
    let mut crashed = state.run("x", &["--no-forward"], script).spawn().unwrap();
    // By eye only: a reader of the database would tidy up.
    eventually("it runs", || !state.log("x").is_empty());
    eventually("its RUNNING is written", || {
        let wal = fs::read(state.file("sandbox.db-wal")).unwrap_or_default();
        contains(&wal, b"RUNNING")
    });
    crashed.kill().unwrap();
    wait(&mut crashed);

    let copy = State::new();
    for name in ["sandbox.db", "sandbox.db-wal"] {
        fs::copy(state.file(name), copy.file(name)).unwrap();
    }
    let bare = fs::read(copy.db()).unwrap();
    assert!(!contains(&bare, b"RUNNING"), "the log alone has it");
    assert_eq!(brief(&ps(&copy, &["--all"])), ["x STOPPED null supervisor-lost"]);
    assert_eq!(code(wait(&mut copy.run("x", &[], "exit 4").spawn().unwrap())), 4);
    assert_eq!(
        look(&copy, ENDS),
        ["x STOPPED STOPPED - - supervisor-lost", "x STOPPED STOPPED 4 - exited"]
    );
}

#[test]
fn the_database_is_private_and_in_wal_mode() {
    let state = State::new();
    wait(&mut state.run("x", &[], "exit 0").spawn().unwrap());
    assert_eq!(look(&state, "SELECT journal_mode FROM pragma_journal_mode"), ["wal"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state.db()), 0o600);
    let wal = state.file("sandbox.db-wal");
    assert!(!wal.exists() || mode(&wal) == 0o600);
}
