//! Removal of sandboxes from the record, and metrics.

use crate::common::lives::*;
use chrono::Utc;
use vmon::monitor::{Claim, Identity, Rootfs};
use vmon::registry::{Registry, Removal, RunStatus, Sample};

fn sample(cpu: f64) -> Sample {
    let mut sample = Sample::new(time("2026-11-23T17:02:05.25Z"));
    sample.cpu_usage_percent = Some(cpu);
    sample.memory_usage_bytes = Some(4096);
    sample
}

/// A whole life, over at `ended`, a time of 2026-11-23.
fn life(registry: &Registry, name: &str) {
    let mut observer = registry.observer();
    let mut life = Life::of(name);
    life.at = Utc::now();
    life.granted(&mut observer);
    write_transition(&mut observer, &running());
    write_transition(&mut observer, &exited(0));
}

#[test]
fn only_a_stopped_sandbox_is_removed_with_its_runs_and_metrics() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for name in ["web", "web", "db"] {
        life(&registry, name);
    }
    for name in ["web", "db"] {
        assert!(registry.add_metrics("Sandboxfile", name, &sample(1.5)).unwrap());
    }
    let mut seen = 0;
    let removal = registry
        .remove_with("Sandboxfile", "web", |runs| {
            seen = runs.len();
            true
        })
        .unwrap();
    let Removal::Removed(runs) = removal else { panic!("{removal:?}") };
    assert_eq!((runs.len(), seen), (2, 2));
    assert_eq!(runs[0].log_path().unwrap().to_str(), Some("/var/log/vmon/Sandboxfile/web.log"));
    assert_eq!(only(&registry).name, "db");
    assert_eq!(fixture.text("SELECT group_concat(name) FROM sandboxes"), "db");
    assert_eq!(fixture.count("SELECT count(*) FROM sandbox_metrics"), 1);
    assert_eq!(registry.remove("Sandboxfile", "web").unwrap(), Removal::Unknown);
    assert_eq!(registry.remove("Other", "db").unwrap(), Removal::Unknown);
}

#[test]
fn a_live_sandbox_is_not_removed() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let supervisor = std::process::id();
    let mut observer = registry.observer();
    let web = Life::of("web");
    web.granted(&mut observer);
    for transition in [running(), stopping(), restarting(1)] {
        write_transition(&mut observer, &transition);
        let removal = registry.remove("Sandboxfile", "web").unwrap();
        assert_eq!(removal, Removal::Live { supervisor });
        assert_eq!(registry.prune(Utc::now()).unwrap(), []);
    }
    write_transition(&mut observer, &exited(1));
    assert!(matches!(registry.remove("Sandboxfile", "web").unwrap(), Removal::Removed(_)));
}

#[test]
fn the_name_is_held_until_the_callback_of_a_removal_returns() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    life(&registry, "web");
    let removal = registry.remove_with("Sandboxfile", "web", |_| {
        let claim =
            vmon::monitor::Observer::claim(&mut registry.observer(), &Life::of("web").starting());
        assert!(matches!(claim, Claim::Later(..)), "{claim:?}");
        true
    });
    assert!(matches!(removal.unwrap(), Removal::Removed(_)));
}

#[test]
fn a_sandbox_stays_on_record_if_the_callback_fails() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for name in ["web", "web", "db"] {
        life(&registry, name);
    }
    let removal = registry.remove_with("Sandboxfile", "web", |_| false).unwrap();
    assert_eq!(removal, Removal::Kept);
    let pruned = registry.prune_with(Utc::now(), |pruned| pruned.name == "db").unwrap();
    assert_eq!(pruned.iter().map(|pruned| pruned.name.as_str()).collect::<Vec<_>>(), ["db"]);
    let names: Vec<_> = registry.runs().unwrap().into_iter().map(|run| run.name).collect();
    assert_eq!(names, ["web", "web"]);
}

#[test]
fn a_live_program_of_the_ecosystem_keeps_its_sandbox() {
    let fixture = Fixture::new();
    let theirs = Supervisor::start();
    let pid = theirs.0.id();
    fixture.seed(&format!(
        "INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths)
         VALUES ('old', 'Sandboxfile', '2025-01-01', 'RUNNING', {pid}, 4242424, 'native:/x')"
    ));
    let registry = fixture.registry();
    let removal = registry.remove("Sandboxfile", "old").unwrap();
    assert_eq!(removal, Removal::Live { supervisor: pid });
    theirs.kill();
    assert_eq!(registry.prune(Utc::now()).unwrap(), []);
    assert_eq!(registry.remove("Sandboxfile", "old").unwrap(), Removal::Removed(Vec::new()));
}

#[test]
fn pruning_removes_older_runs_and_sandboxes_without_runs() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    // All end at one time; the later one of `web` is moved beyond it.
    for name in ["web", "db"] {
        life(&registry, name);
    }
    life(&registry, "web");
    fixture
        .sqlite()
        .execute("UPDATE vmon_runs SET ended_at = '2026-11-24T00:00:00.000000Z' WHERE id = 3", [])
        .unwrap();
    assert_eq!(registry.prune(time("2026-11-23T17:00:00Z")).unwrap(), []);
    let pruned = registry.prune(time("2026-11-23T18:00:00Z")).unwrap();
    let listed: Vec<_> =
        pruned.iter().map(|one| (one.name.as_str(), one.runs.len(), one.whole)).collect();
    assert_eq!(listed, [("web", 1, false), ("db", 1, true)]);
    assert_eq!(only(&registry).id, Some(3));
    assert_eq!(fixture.count("SELECT count(*) FROM sandboxes"), 1);
}

#[test]
fn the_latest_sample_of_each_sandbox_is_read_back() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    assert!(!registry.add_metrics("Sandboxfile", "web", &sample(1.0)).unwrap());
    life(&registry, "web");
    let mut newer = sample(0.0);
    newer.cpu_usage_percent = None;
    for sample in [sample(250.5), newer] {
        assert!(registry.add_metrics("Sandboxfile", "web", &sample).unwrap());
    }
    let web = only(&registry).sandbox_id;
    assert_eq!(registry.latest_metrics().unwrap(), [(web, newer)]);
    // What another program writes there, by the column's default or as RFC 3339.
    for timestamp in ["2026-11-23 17:02:05", "2026-11-23T17:02:05Z"] {
        let sql = "INSERT INTO sandbox_metrics (sandbox_id, timestamp) VALUES (?1, ?2)";
        fixture.sqlite().execute(sql, (web, timestamp)).unwrap();
        let latest = registry.latest_metrics().unwrap();
        assert_eq!(latest[0].1.at, time("2026-11-23T17:02:05Z"));
    }
}

#[test]
fn a_sample_never_waits_for_a_lock() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    life(&registry, "web");
    let _lock = fixture.locked();
    let error = registry.add_metrics("Sandboxfile", "web", &sample(1.0)).unwrap_err();
    assert!(error.is_passing(), "{error}");
}

#[test]
fn the_latest_run_of_a_sandbox_is_the_one_in_progress_or_the_last_started() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    for name in ["web", "db", "web"] {
        life(&registry, name);
    }
    let mut observer = registry.observer();
    let mut last = Life::of("db");
    last.at = Utc::now();
    last.granted(&mut observer);
    // A run that the clock dates before the others.
    fixture
        .sqlite()
        .execute_batch(
            "INSERT INTO vmon_runs (sandbox_id, state, boot_id, supervisor_pid, supervisor_start,
                started_at, spec)
             SELECT sandbox_id, 'STOPPED', boot_id, 1, 1, '2020-01-01T00:00:00.000000Z', spec
             FROM vmon_runs WHERE id = 3",
        )
        .unwrap();
    let latest = registry.latest().unwrap();
    let ids: Vec<_> = latest.iter().map(|run| (run.name.as_str(), run.id, run.status)).collect();
    assert_eq!(ids, [("db", Some(4), RunStatus::Running), ("web", Some(5), RunStatus::Stopped)]);
}

#[test]
fn a_run_is_read_back_with_its_socket_identities_and_options() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut life = Life::of("web");
    life.socket = Some("/run/vmon/web.sock".into());
    life.sandbox = life.sandbox.rootfs(Rootfs::Native("/srv".into()));
    let options = serde_json::json!({ "pid_file": "/run/web.pid" });
    let mut observer = registry.observer().options(options.clone());
    life.granted(&mut observer);
    write_transition(&mut observer, &running());
    let run = only(&registry);
    assert_eq!(run.socket, life.socket);
    assert_eq!(run.supervisor_identity, Some(Identity::current()));
    assert_eq!(run.child, Some(Identity { pid: 4242424, start: 77, ..Identity::current() }));
    let spec = run.spec.unwrap();
    assert_eq!((&spec.options, spec.exact), (&options, true));
    let command = spec.command.unwrap();
    assert_eq!(
        (command.get_program(), command.get_args()),
        ("sh".as_ref(), &["-c".into(), "exit 7".into()][..])
    );
    assert_eq!(spec.sandbox, life.sandbox);
}
