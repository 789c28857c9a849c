//! Reconciliation of the record: lost supervisors and the processes that they leave, and what is
//! never changed.

#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::lives::{
    Fixture, Life, Supervisor, exited, only, restarting, running, write_transition,
};
use crate::common::{Detached, State, eventually, is_alive, lives, signal, wait};
use chrono::Utc;
use nix::sys::signal::Signal;
use vmon::monitor::{Claim, Identity, Observer, Phase, Reason, Transition};
use vmon::registry::{Lost, Registry, Run, RunStatus};

/// A child with a family: two that ignore what can be ignored, one in a group of its own.
const FAMILY: &str =
    "trap '' TERM HUP INT; sleep 1000 & sh -mc 'sleep 1000 & wait' & echo up; wait";

/// The live processes of a session.
fn session(leader: u32) -> Vec<u32> {
    let member = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.nth(3) == Some(&leader.to_string()) && is_alive(*pid)
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(member).collect()
}

/// `vmon run` of the family, RUNNING on record, and the child's pid.
fn family(state: &State, name: &str) -> (Child, u32) {
    let supervisor = state.run(name, &[], FAMILY).stdout(Stdio::null()).spawn().unwrap();
    state.wait_for_log(name, b"up");
    state.wait_for_status(name, "RUNNING");
    let pid = state.run_column(name, "pid").unwrap().parse().unwrap();
    eventually("the family is complete", || session(pid).len() == 4);
    (supervisor, pid)
}

fn registry(state: &State) -> Registry {
    Registry::open_existing(state.db()).unwrap().unwrap()
}

fn names(lost: &[Lost]) -> Vec<&str> {
    lost.iter().map(|lost| lost.run.name.as_str()).collect()
}

/// As a test compares them.
fn end(run: &Run) -> (&str, Option<i32>, Option<&str>) {
    (run.state.unwrap().as_str(), run.exit_code, run.reason.map(Reason::as_str))
}

#[test]
fn a_lost_supervisor_is_recorded_and_the_session_of_its_child_is_killed() {
    let state = State::new();
    let (mut supervisor, pid) = family(&state, "web");
    signal(&supervisor, Signal::SIGKILL);
    wait(&mut supervisor);
    let lost = registry(&state).reconcile().unwrap();
    assert_eq!(session(pid), [0_u32; 0]);
    assert_eq!(names(&lost), ["web"]);
    assert!(lost[0].ended >= 3 && lost[0].leftovers.is_none(), "{lost:?}");
    assert_eq!(state.run_column("web", "state").unwrap(), "STOPPED");
    assert_eq!(state.run_column("web", "reason").unwrap(), "supervisor-lost");
    assert!(state.run_column("web", "ended_at").is_some());
    assert_eq!(state.sandbox_column("web", "status").unwrap(), "STOPPED");
    assert_eq!(registry(&state).reconcile().unwrap(), []);
}

#[test]
fn the_next_run_of_a_lost_name_starts_when_no_process_of_the_last_is_left() {
    let state = State::new();
    let (mut supervisor, pid) = family(&state, "web");
    signal(&supervisor, Signal::SIGKILL);
    wait(&mut supervisor);
    // The leader dies with its supervisor; the others would see the next run begin.
    let script = format!(
        "for p in /proc/[0-9]*; do read -r line < $p/stat && echo \"$line\"; done | \
        sed 's/.*) //' | awk '$1 != \"Z\" && $4 == {pid}' | wc -l"
    );
    let output = state.run("web", &[], &script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
    assert_eq!(session(pid), [0_u32; 0]);
    let runs = registry(&state).runs().unwrap();
    let ends: Vec<_> = runs.iter().map(end).collect();
    assert_eq!(
        ends,
        [("STOPPED", None, Some("supervisor-lost")), ("STOPPED", Some(0), Some("exited"))]
    );
}

#[test]
fn a_live_supervisor_is_left_alone_when_fifty_reconcile_at_once() {
    let state = State::new();
    let (mut live, live_pid) = family(&state, "live");
    let families: Vec<_> = (0..3).map(|number| family(&state, &format!("lost-{number}"))).collect();
    let pids: Vec<u32> = families.iter().map(|(_, pid)| *pid).collect();
    for (mut supervisor, _) in families {
        signal(&supervisor, Signal::SIGKILL);
        wait(&mut supervisor);
    }
    let (barrier, over) = (Barrier::new(51), AtomicBool::new(false));
    thread::scope(|scope| {
        // Sandboxes start and stop meanwhile, each as its own supervisor reports it.
        scope.spawn(|| {
            let registry = registry(&state);
            barrier.wait();
            for number in 0.. {
                let mut observer = registry.observer();
                Life::of(&format!("short-{number}")).granted(&mut observer);
                write_transition(&mut observer, &running());
                write_transition(&mut observer, &exited(3));
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let reconcilers: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    registry(&state).reconcile().unwrap()
                })
            })
            .collect();
        let found: Vec<_> = reconcilers.into_iter().map(|one| one.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        for lost in found {
            assert!(lost.iter().all(|lost| lost.run.name.starts_with("lost-")), "{lost:?}");
        }
    });
    assert!(pids.into_iter().all(|pid| session(pid).is_empty()));
    assert_eq!(session(live_pid).len(), 4);
    for run in registry(&state).runs().unwrap() {
        match run.name.as_str() {
            "live" => assert_eq!(end(&run), ("RUNNING", None, None)),
            name if name.starts_with("lost") => {
                assert_eq!(end(&run), ("STOPPED", None, Some("supervisor-lost")));
            }
            _ => assert_eq!(end(&run), ("STOPPED", Some(3), Some("exited"))),
        }
    }
    assert_eq!(state.sandbox_column("live", "status").unwrap(), "RUNNING");
    signal(&live, Signal::SIGKILL);
    wait(&mut live);
    assert_eq!(names(&registry(&state).reconcile().unwrap()), ["live"]);
}

/// A run of this supervisor, with a child that is a live process of another program.
fn recorded(fixture: &Fixture, supervisor: Identity, child: Identity) {
    let mut observer = fixture.registry().observer();
    Life::of("web").under(supervisor).granted(&mut observer);
    write_transition(&mut observer, &Transition::Running { at: Utc::now(), child });
}

#[test]
fn after_a_reboot_nothing_is_signalled() {
    let fixture = Fixture::new();
    let stranger = Supervisor::start();
    let before = Identity { boot_id: "an-earlier-one".to_owned(), ..Identity::current() };
    recorded(&fixture, before, stranger.identity());
    let lost = fixture.registry().reconcile().unwrap();
    assert_eq!((names(&lost), lost[0].ended), (vec!["web"], 0));
    assert_eq!(end(&only(&fixture.registry())), ("STOPPED", None, Some("supervisor-lost")));
    assert!(is_alive(stranger.0.id()));
    stranger.kill();
}

#[test]
fn a_reused_pid_is_neither_the_supervisor_nor_the_child() {
    let fixture = Fixture::new();
    let (stranger, other) = (Supervisor::start(), Supervisor::start());
    let earlier = |identity: Identity| Identity { start: identity.start - 1, ..identity };
    recorded(&fixture, earlier(stranger.identity()), earlier(other.identity()));
    assert_eq!(names(&fixture.registry().reconcile().unwrap()), ["web"]);
    assert_eq!(only(&fixture.registry()).status, RunStatus::Stopped);
    assert!(is_alive(stranger.0.id()) && is_alive(other.0.id()));
    stranger.kill();
    other.kill();
}

#[test]
fn a_lost_child_that_its_host_has_started_in_its_own_session_is_ended_alone() {
    let fixture = Fixture::new();
    let (host, other) = (Supervisor::start(), Supervisor::start());
    // What the environment of a command begins with (docs/security.md).
    let Identity { pid, start, .. } = host.identity();
    let at = Life::of("web").at.timestamp_micros();
    let mut child = Supervisor::with("VMON_RUN", &format!("{pid}.{start}.{at}"));
    recorded(&fixture, host.identity(), child.identity());
    host.kill();
    // The child is ours here, so that it is a zombie until it is waited for.
    let lost = fixture.registry().reconcile().unwrap();
    assert_eq!((names(&lost), lost[0].ended), (vec!["web"], 1));
    wait(&mut child.0);
    assert!(is_alive(other.0.id()));
    other.kill();
}

#[test]
fn a_process_without_proof_is_not_killed_and_keeps_the_run_open() {
    let fixture = Fixture::new();
    let (host, child) = (Supervisor::start(), Supervisor::start());
    recorded(&fixture, host.identity(), child.identity());
    host.kill();
    let lost = fixture.registry().reconcile().unwrap();
    assert_eq!((names(&lost), lost[0].ended), (vec!["web"], 0));
    let leftovers = lost[0].leftovers.as_deref().unwrap();
    assert!(leftovers.contains(&format!("pid {}", child.0.id())), "{leftovers}");
    assert!(is_alive(child.0.id()));
    assert_eq!(only(&fixture.registry()).state, Some(Phase::Running));
    // Nor does a claim of the name.
    let mut observer = fixture.registry().observer();
    let next = Life { at: Utc::now(), ..Life::of("web") };
    match observer.claim(&next.starting()) {
        Claim::Later(_, reason) => assert!(reason.to_string().contains("does not prove")),
        claim => panic!("{claim:?}"),
    }
    assert!(is_alive(child.0.id()));
    child.kill();
    assert!(fixture.registry().reconcile().unwrap()[0].leftovers.is_none());
    next.granted(&mut observer);
}

#[test]
fn a_supervisor_of_another_pid_namespace_is_left_alone() {
    let fixture = Fixture::new();
    let elsewhere = Identity { pid_namespace: Some(1), pid: u32::MAX >> 2, ..Identity::current() };
    recorded(&fixture, elsewhere.clone(), elsewhere);
    assert_eq!(fixture.registry().reconcile().unwrap(), []);
    assert_eq!(end(&only(&fixture.registry())), ("RUNNING", None, None));
}

#[test]
fn a_supervisor_that_is_lost_between_two_runs_leaves_the_end_of_the_first() {
    let fixture = Fixture::new();
    let supervisor = Supervisor::start();
    let mut observer = fixture.registry().observer();
    Life::of("web").under(supervisor.identity()).granted(&mut observer);
    write_transition(&mut observer, &running());
    write_transition(&mut observer, &restarting(7));
    let before = only(&fixture.registry());
    assert_eq!(end(&before), ("RESTARTING", Some(7), Some("exited")));
    assert_eq!(fixture.registry().reconcile().unwrap(), []);
    supervisor.kill();
    assert_eq!(names(&fixture.registry().reconcile().unwrap()), ["web"]);
    let after = only(&fixture.registry());
    assert_eq!(end(&after), ("STOPPED", Some(7), Some("exited")));
    assert_eq!(after.ended_at, before.ended_at);
}

#[test]
fn a_supervisor_that_is_lost_while_it_drains_leaves_the_exit_code() {
    let state = State::new();
    // Ignored before there is a second process: one that gets the signal first would end.
    let script = "trap '' TERM; (while :; do echo more; sleep 0.01; done) & exit 7";
    let mut supervisor = state
        .run("web", &["--stop-timeout", "1000"], script)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the exit code is on record", || {
        state.run_column("web", "exit_code").as_deref() == Some("7")
    });
    assert_eq!(state.run_column("web", "state").unwrap(), "RUNNING");
    let pid = state.run_column("web", "pid").unwrap().parse().unwrap();
    signal(&supervisor, Signal::SIGKILL);
    wait(&mut supervisor);
    assert_eq!(names(&registry(&state).reconcile().unwrap()), ["web"]);
    assert_eq!(session(pid), [0_u32; 0]);
    let runs = registry(&state).runs().unwrap();
    assert_eq!(end(&runs[0]), ("STOPPED", Some(7), Some("supervisor-lost")));
}

#[test]
fn a_sandbox_that_another_program_runs_since_is_left_as_it_is() {
    let fixture = Fixture::new();
    let (supervisor, theirs) = (Supervisor::start(), Supervisor::start());
    recorded(&fixture, supervisor.identity(), Identity { start: 1, ..supervisor.identity() });
    supervisor.kill();
    let sql = "UPDATE sandboxes SET supervisor_pid = ?1, microvm_pid = 77";
    fixture.sqlite().execute(sql, [theirs.0.id()]).unwrap();
    assert_eq!(names(&fixture.registry().reconcile().unwrap()), ["web"]);
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "RUNNING");
    theirs.kill();
}

#[test]
fn reconcile_creates_nothing_without_a_database() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", fixture.db().display()));
    }
    assert_eq!(registry.reconcile().unwrap(), []);
    assert!(!fixture.db().exists());
}

#[test]
fn reconcile_does_not_wait_for_a_writer_if_no_run_is_lost() {
    let fixture = Fixture::new();
    let mut observer = fixture.registry().observer();
    Life::of("web").granted(&mut observer);
    let lock = fixture.sqlite();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(fixture.registry().reconcile().unwrap(), []);
}

/// So many runs of this process on record that to read them takes a while.
fn crowd(state: &State) {
    let Identity { pid, start, boot_id, pid_namespace } = Identity::current();
    let namespace = pid_namespace.unwrap();
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
        INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths)
            SELECT 'other-' || i, 'Sandboxfile', '', 'STOPPED', 0, 0, '' FROM n;
        INSERT INTO vmon_runs (sandbox_id, state, boot_id, pid_namespace, supervisor_pid,
            supervisor_start, started_at, spec)
            SELECT id, 'STARTING', '{boot_id}', {namespace}, {pid}, {start}, '', '{{}}'
            FROM sandboxes WHERE name LIKE 'other-%';"
    );
    rusqlite::Connection::open(state.db()).unwrap().execute_batch(&rows).unwrap();
}

#[test]
fn a_supervisor_that_ends_while_it_is_checked_is_not_lost() {
    let state = State::new();
    assert!(state.run("web", &[], "true").status().unwrap().success());
    crowd(&state);
    let over = AtomicBool::new(false);
    let registry = registry(&state);
    thread::scope(|scope| {
        let readers = [
            scope.spawn(|| {
                let lost = |run: &Run| run.reason == Some(Reason::SupervisorLost);
                let mut seen = 0;
                while !over.load(Ordering::Relaxed) {
                    seen += registry.runs().unwrap().iter().filter(|run| lost(run)).count();
                }
                seen
            }),
            scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Relaxed) {
                    seen += registry.reconcile().unwrap().len();
                }
                seen
            }),
        ];
        for _ in 0..20 {
            let options = ["--leave-descendants"];
            assert!(state.run("web", &options, "exit 0").status().unwrap().success());
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(readers.map(|reader| reader.join().unwrap()), [0, 0]);
    });
}

#[test]
fn a_run_that_the_clock_dates_before_an_earlier_one_is_the_last() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for (at, code) in [("2026-11-23T17:02:09Z", 9), ("2026-11-23T17:02:03Z", 3)] {
        let mut observer = registry.observer();
        Life { at: lives::time(at), ..Life::of("web") }.granted(&mut observer);
        write_transition(&mut observer, &exited(code));
    }
    let codes = |runs: Vec<Run>| runs.iter().map(|run| run.exit_code).collect::<Vec<_>>();
    assert_eq!(codes(registry.runs().unwrap()), [Some(9), Some(3)]);
    assert_eq!(codes(registry.latest().unwrap()), [Some(3)]);
}

#[test]
fn a_run_whose_end_waits_in_a_file_is_not_lost() {
    let fixture = Fixture::new();
    let (registry, supervisor) = (fixture.registry(), Supervisor::start());
    let mut observer = registry.observer();
    Life::of("web").under(supervisor.identity()).granted(&mut observer);
    write_transition(&mut observer, &running());
    let lock = fixture.locked();
    write_transition(&mut observer, &exited(3));
    supervisor.kill();
    // While the database is locked, the file is not imported, and the run is not closed without it.
    assert_eq!(registry.reconcile().unwrap(), []);
    drop(lock);
    assert_eq!(end(&only(&registry)), ("STOPPED", Some(3), Some("exited")));
}

#[test]
fn a_supervisor_in_another_time_namespace_is_not_taken_for_a_lost_one() {
    let shifted = ["-T", "--boottime", "100000"];
    let possible = StdCommand::new("unshare").args(shifted).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no time namespace can be made here");
        return;
    }
    let state = State::new();
    let mut command = StdCommand::new("unshare");
    command.args(shifted).arg(env!("CARGO_BIN_EXE_vmon"));
    command.args(["run", "-d", "--name", "shifted", "--", "sleep", "1000"]);
    command.env("VMON_STATE_DIR", state.path()).stdin(Stdio::null());
    let sandbox = Detached::start(&state, &mut command);
    let list = state.vmon().args(["ps", "--format", "names"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&list.stdout).lines().count(), 1);
    assert!(is_alive(sandbox.pid));
    let stop = state.vmon().args(["stop", "shifted"]).output().unwrap();
    assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    assert_eq!(state.run_column("shifted", "reason").as_deref(), Some("stopped"));
}
