//! The registry against a real SQLite: claims, transitions, and many of them at once.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::lives::*;
use crate::common::own_test;
use chrono::Utc;
use vmon::child::{Command, ExitStatus, Signal, SpawnError};
use vmon::monitor::{
    Claim, Forward, Identity, Liveness, Observer, Outcome, Phase, Progress, Reason, Rootfs,
    StartError, Transition,
};
use vmon::registry::{Location, Registry, RunStatus};

#[test]
fn each_transition_updates_the_rows() {
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
    assert_eq!((run.state, run.status, run.pid), (Some(Phase::Starting), RunStatus::Running, None));
    assert_eq!(fixture.text("SELECT started_at FROM vmon_runs"), "2026-11-23T17:02:03.123456Z");

    write_transition(&mut observer, &running());
    assert_eq!(fixture.text(sandbox), format!("{head}|RUNNING|0|4242424|{paths}"));
    let run = only(&registry);
    assert_eq!(
        (run.state, run.status, run.pid),
        (Some(Phase::Running), RunStatus::Running, Some(4242424))
    );
    assert_eq!(run.running_at, Some(time("2026-11-23T17:02:04Z")));

    write_transition(&mut observer, &stopping());
    assert_eq!(only(&registry).state, Some(Phase::Stopping));

    let status = ExitStatus::Signal(Signal::TERM);
    let at = time("2026-11-23T17:02:06Z");
    write_transition(&mut observer, &Transition::Draining { at, status });
    assert_eq!(only(&registry).state, Some(Phase::Stopping));

    write_transition(&mut observer, &stopped(Outcome::Ended { status, reason: Reason::Stopped }));
    assert_eq!(fixture.text(sandbox), format!("{head}|STOPPED|0|4242424|{paths}"));
    let run = only(&registry);
    assert_eq!((run.state, run.status), (Some(Phase::Stopped), RunStatus::Stopped));
    assert_eq!((run.exit_code, run.signal, run.reason), (None, Some(15), Some(Reason::Stopped)));
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
        .stop_signal(Signal::INT)
        .stop_timeout(Duration::from_millis(2500))
        .label("app", "shop")
        .unwrap();
    life.granted(&mut fixture.registry().observer());

    let text = fixture.text("SELECT spec FROM vmon_runs");
    assert!(!text.contains("s3cret") && !text.contains("TOKEN"), "{text}");
    let spec: serde_json::Value = serde_json::from_str(&text).unwrap();
    let none = serde_json::Value::Null;
    let mut expected = serde_json::json!({
        "version": 3, "command": ["qemu", "-M", "microvm"], "directory": "/srv", "tty": false,
        "rootfs": { "native": "/srv/root" }, "log_dir": "/var/log/vmon", "log_max_size": 10 << 20,
        "log_max_files": 1, "log_max_age_seconds": none, "log_rotate_every_seconds": none,
        "log_total_size": none, "log_rotate_command": none, "log_format": "raw",
        "log_index": true, "log_rate": none, "log_burst": none, "over_rate": none,
        "on_log_error": "pause", "forward": "drop", "stdin": "null", "consoles": [],
        "interactive": none, "stop_signal": "SIGINT", "stop_timeout_seconds": 2.5, "restart": "no",
        "max_duration_seconds": none, "idle_timeout_seconds": none, "leave_descendants": false,
        "labels": { "app": "shop" },
        "cgroup": none, "keep_runs": 1000, "journal": false, "log_off": false, "stop_command": none, "options": none,
    });
    for attribute in [
        "gid",
        "groups",
        "oom_score_adj",
        "preserve_fds",
        "term",
        "tty_size",
        "uid",
        "ulimits",
        "umask",
    ] {
        expected[attribute] = none.clone();
    }
    assert_eq!(spec, expected);
}

#[test]
fn a_run_that_could_not_start_is_recorded_as_start_failed() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    let source = std::io::ErrorKind::NotFound.into();
    let error = StartError::Spawn(SpawnError::NotFound { program: "nothing".into(), source });
    write_transition(&mut observer, &stopped(Outcome::NotStarted(error.into())));
    let run = only(&registry);
    assert_eq!((run.state, run.exit_code, run.pid), (Some(Phase::Stopped), Some(127), None));
    assert_eq!(run.reason, Some(Reason::StartFailed));
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "STOPPED");
}

#[test]
fn a_state_or_reason_of_a_later_version_is_read_as_none_and_the_run_as_unfinished() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    Life::of("web").granted(&mut registry.observer());
    let db = rusqlite::Connection::open(fixture.db()).unwrap();
    db.execute("UPDATE vmon_runs SET state = 'PAUSED', reason = 'by-request'", []).unwrap();
    let run = only(&registry);
    assert_eq!((run.state, run.reason, run.status), (None, None, RunStatus::Running));
}

#[test]
fn a_name_comes_free_with_the_end_and_keeps_its_row() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for code in 0..3 {
        let mut observer = registry.observer();
        Life::of("web").granted(&mut observer);
        write_transition(&mut observer, &running());
        write_transition(&mut observer, &exited(code));
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
    write_transition(&mut first, &running());

    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Taken { supervisor } if supervisor == pid), "{claim:?}");
    Life::of("other").granted(&mut registry.observer());

    supervisor.kill();
    let lost = registry.runs().unwrap().swap_remove(0);
    assert_eq!((lost.state, lost.status), (Some(Phase::Running), RunStatus::Stopped));
    assert_eq!(lost.reason, Some(Reason::SupervisorLost));
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs WHERE state = 'STOPPED'"), 0);

    Life::of("web").granted(&mut registry.observer());
    let lost = registry.runs().unwrap().swap_remove(0);
    assert_eq!((lost.state, lost.reason), (Some(Phase::Stopped), Some(Reason::SupervisorLost)));
    assert!(lost.ended_at.is_some());
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE name = 'web'"), 1);
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes WHERE status = 'RUNNING'"), 0);
}

#[test]
fn a_supervisor_of_another_pid_namespace_without_a_lock_is_dead_only_if_the_user_says_so() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let elsewhere = Identity { pid: 2, pid_namespace: Some(1), ..Identity::current() };
    Life::of("web").under(elsewhere).granted(&mut registry.observer());
    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Held { .. }), "{claim:?}");
    assert_eq!(registry.reconcile().unwrap(), []);
    let run = only(&registry);
    assert_eq!((run.status, run.liveness), (RunStatus::Running, Some(Liveness::Unknown)));
    assert_eq!(run.location, Some(Location::OtherNamespace));
    assert!(registry.close_unproven(&run).unwrap());
    let run = only(&registry);
    assert_eq!((run.state, run.reason), (Some(Phase::Stopped), Some(Reason::SupervisorLost)));
    Life::of("web").granted(&mut registry.observer());
}

#[test]
fn a_supervisor_without_a_boot_id_and_a_lock_is_not_taken_for_dead() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    // As where only a part of /proc is mounted, in a process that could take no lock.
    let unknown = Identity { pid: 2, boot_id: String::new(), ..Identity::current() };
    Life::of("web").under(unknown).granted(&mut registry.observer());
    let claim = Life::of("web").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Held { .. }), "{claim:?}");
    assert_eq!(registry.reconcile().unwrap(), []);
    let run = only(&registry);
    assert_eq!((run.status, run.liveness), (RunStatus::Running, Some(Liveness::Unknown)));
    assert_eq!(run.location, Some(Location::Here));
}

#[test]
fn the_run_of_a_supervisor_that_lives_is_not_closed_on_the_word_of_the_user() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    assert!(!registry.close_unproven(&only(&registry)).unwrap());
    assert_eq!(only(&registry).state, Some(Phase::Starting));
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
    assert_eq!(only(&registry).state, Some(Phase::Starting));

    drop(lock);
    assert_eq!(observer.retry(), Progress::Done);
    let run = only(&registry);
    assert_eq!((run.state, run.exit_code, run.pid), (Some(Phase::Stopped), Some(3), Some(4242424)));
    assert_eq!(run.running_at, Some(time("2026-11-23T17:02:04Z")));
    assert_eq!(observer.retry(), Progress::Done);
}

#[test]
fn a_late_claim_of_a_handed_over_child_is_written_with_later_transitions() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let life = Life::of("vm").handed_over();
    let mut observer = registry.observer();
    let lock = fixture.locked();
    assert!(matches!(observer.claim(&life.starting()), Claim::Later(..)));
    assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    drop(lock);
    assert!(matches!(observer.retry(), Progress::Later(_)), "to reserve room for the end");
    assert_eq!(only(&registry).state, Some(Phase::Running));
    assert_eq!(observer.retry(), Progress::Done);
    // Asked once more, as its timer may be under way.
    life.granted(&mut observer);
    write_transition(&mut observer, &exited(0));
    life.granted(&mut observer);
    assert_eq!(only(&registry).state, Some(Phase::Stopped));
}

#[test]
fn a_late_claim_of_a_name_that_is_taken_is_abandoned() {
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
    assert_eq!((run.supervisor, run.state), (Some(supervisor.0.id()), Some(Phase::Starting)));
    supervisor.kill();
}

#[test]
fn a_claim_that_was_never_granted_leaves_no_row() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    let lock = fixture.locked();
    assert!(matches!(observer.claim(&Life::of("web").starting()), Claim::Later(..)));
    let failed = StartError::Claim("too late".into());
    let end = stopped(Outcome::NotStarted(failed.into()));
    assert_eq!(observer.transition(&end), Progress::Done);
    drop(lock);
    assert_eq!(registry.runs().unwrap(), []);
}

#[test]
fn opening_never_waits_and_a_later_access_creates_the_schema() {
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
    let old = ("old".to_owned(), RunStatus::Stopped, Some(12));
    let live = ("live".to_owned(), RunStatus::Running, Some(13));
    assert_eq!(seen(&reader), [old, live.clone()]);
    assert_eq!(fixture.count("SELECT count(*) FROM sqlite_master WHERE name LIKE 'vmon%'"), 0);

    let registry = fixture.registry();
    let claim = Life::of("live").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Taken { .. }), "{claim:?}");
    let mut observer = registry.observer();
    Life::of("old").granted(&mut observer);
    write_transition(&mut observer, &running());
    let row =
        "SELECT id || '|' || status || '|' || microvm_pid || '|' || group_id || '|' || group_ip ||
        '|' || created_at || '|' || (modified_at > created_at) FROM sandboxes WHERE name = 'old'";
    assert_eq!(fixture.text(row), "7|RUNNING|4242424|3|10.0.0.2|2025-01-01 00:00:00|1");
    let old = ("old".to_owned(), RunStatus::Running, Some(4242424));
    assert_eq!(seen(&registry), [old, live]);
    assert_eq!(fixture.count("SELECT count(*) FROM groups"), 1);
    assert_eq!(fixture.count("SELECT memory_usage_bytes FROM sandbox_metrics"), 4096);
}

#[test]
fn exactly_one_of_fifty_claims_of_one_name_is_granted() {
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
fn fifty_concurrent_runs_leave_fifty_correct_rows() {
    let fixture = Fixture::new();
    let barrier = Barrier::new(50);
    thread::scope(|scope| {
        for number in 0..50 {
            let (barrier, fixture) = (&barrier, &fixture);
            scope.spawn(move || {
                barrier.wait();
                let mut observer = fixture.registry().observer();
                Life::of(&format!("vm-{number}")).granted(&mut observer);
                write_transition(&mut observer, &running());
                write_transition(&mut observer, &exited(number));
            });
        }
    });
    let mut runs = fixture.registry().runs().unwrap();
    runs.sort_by_key(|run| run.exit_code);
    assert_eq!(runs.len(), 50);
    for (number, run) in (0..).zip(&runs) {
        assert_eq!((run.name.as_str(), run.exit_code), (&*format!("vm-{number}"), Some(number)));
        assert_eq!((run.state, run.pid), (Some(Phase::Stopped), Some(4242424)));
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
    write_transition(&mut observer, &running());
    write_transition(&mut observer, &exited(0));
    let claim = Life::of("wanted").claim(&mut registry.observer());
    assert!(matches!(claim, Claim::Granted | Claim::Taken { .. }), "{claim:?}");
    // Whoever has it keeps it until all others have asked.
    println!("{}", if matches!(claim, Claim::Granted) { "mine" } else { "taken" });
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn fifty_concurrent_processes_leave_correct_rows_and_one_gets_the_contested_name() {
    let fixture = Fixture::new();
    let mut processes: Vec<_> = (0..50)
        .map(|_| {
            let mut process = own_test(module_path!(), "one_life_in_a_process_of_its_own");
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
