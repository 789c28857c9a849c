//! Files of the registry: their modes, errors for files that are not a database, and replacement
//! of the database during a run.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::lives::*;
use crate::common::tmpfs::Tmpfs;
use vmon::monitor::{Claim, Observer, Phase, Progress};
use vmon::registry::{Registry, RegistryError};

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
    assert_eq!(names, ["run", "sandbox.db", "sandbox.db-shm", "sandbox.db-wal"]);
    assert_eq!(mode(&state.join("run")), 0o700);
    let lock = Some("run/.supervisors.lock").filter(|_| cfg!(target_os = "linux"));
    for name in ["sandbox.db", "sandbox.db-shm", "sandbox.db-wal"].into_iter().chain(lock) {
        assert_eq!(mode(&state.join(name)), 0o600, "{name:?}");
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
fn a_file_that_is_not_a_database_is_an_error_and_is_not_changed() {
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
fn an_error_of_the_system_keeps_its_number() {
    let fixture = Fixture::new();
    fs::write(fixture.dir.path().join("text"), "").unwrap();
    let error = Registry::open(fixture.dir.path().join("text/sandbox.db")).unwrap_err();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.raw_os_error(), Some(nix::errno::Errno::EEXIST as i32));
}

#[test]
fn a_symbolic_link_to_the_directory_is_followed() {
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
fn a_database_removed_or_replaced_while_a_child_runs_is_recreated() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    write_transition(&mut observer, &running());
    fs::remove_dir_all(fixture.dir.path().join("state")).unwrap();
    write_transition(&mut observer, &stopping());
    let run = only(&registry);
    assert_eq!((run.state, run.pid), (Some(Phase::Stopping), Some(4242424)));
    assert_eq!(fixture.text("SELECT status FROM sandboxes"), "RUNNING");

    // The file alone is removed, with its log left behind, and the run's number goes to another.
    fs::remove_file(fixture.db()).unwrap();
    Life::of("other").granted(&mut registry.observer());
    write_transition(&mut observer, &exited(5));
    let runs = registry.runs().unwrap();
    let listed: Vec<_> = runs.iter().map(|run| (run.name.as_str(), run.exit_code)).collect();
    assert_eq!(listed, [("other", None), ("web", Some(5))]);
    assert_eq!(fixture.text("SELECT status FROM sandboxes WHERE name = 'web'"), "STOPPED");
}

#[test]
fn an_end_that_comes_late_leaves_another_programs_sandbox_alone() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    write_transition(&mut observer, &running());
    let parent = std::os::unix::process::parent_id();
    fixture.sqlite().execute("UPDATE sandboxes SET supervisor_pid = ?1", [parent]).unwrap();
    write_transition(&mut observer, &exited(0));
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
        write_transition(&mut observer, &running());
        write_transition(&mut observer, &exited(0));
        largest = largest.max(fs::metadata(&wal).unwrap().len());
    }
    assert!(largest < 512 << 10, "{largest}");
    assert_eq!(registry.runs().unwrap().len(), 200);
}

#[test]
fn a_write_ahead_log_left_by_a_crash_is_part_of_the_database() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    Life::of("web").granted(&mut registry.observer());
    fs::remove_file(fixture.dir.path().join("state/sandbox.db-shm")).unwrap();
    assert_eq!(only(&registry).name, "web");
}

#[test]
fn a_read_only_database_is_readable_without_a_write_ahead_log() {
    let fixture = Fixture::new();
    Life::of("web").granted(&mut fixture.registry().observer());
    // The last connection of another program takes the log and the shared memory with it.
    assert_eq!(fixture.count("SELECT count(*) FROM vmon_runs"), 1);
    let state = fixture.dir.path().join("state");
    assert!(!state.join("sandbox.db-wal").exists() && !state.join("sandbox.db-shm").exists());
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(&fixture.db(), 0o400).unwrap();
    mode(&state, 0o500).unwrap();
    let registry = Registry::open_existing(fixture.db()).unwrap().unwrap();
    let run = only(&registry);
    // Permissions do not bind root, which can write it.
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
    write_transition(&mut lost, &running());
    // Our supervisor is gone without a word, and the other program has the row.
    fixture.sqlite().execute("UPDATE vmon_runs SET supervisor_start = 1", []).unwrap();
    let parent = std::os::unix::process::parent_id();
    fixture.sqlite().execute("UPDATE sandboxes SET supervisor_pid = ?1", [parent]).unwrap();
    let mut next = registry.observer();
    let claim = Life::of("web").claim(&mut next);
    assert!(matches!(claim, Claim::Taken { supervisor } if supervisor == parent), "{claim:?}");
}

#[test]
fn an_end_on_a_full_disk_is_written_at_once_to_what_was_reserved() {
    let Some(disk) = Tmpfs::new("size=1m") else { return };
    let registry = Registry::open(disk.path().join("sandbox.db")).unwrap();
    let mut observer = registry.observer();
    Life::of("web").granted(&mut observer);
    // Also waits for the moment without a transition, after which room is reserved.
    write_transition(&mut observer, &running());
    let filler = disk.fill_up_to(0);
    assert_eq!(observer.transition(&exited(3)), Progress::Done);
    fs::remove_file(filler).unwrap();
    assert_eq!(only(&registry).exit_code, Some(3));
}
