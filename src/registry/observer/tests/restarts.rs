//! A command that is started again: one transaction from run to run, whatever the database does.

use super::*;

/// The claim of the run with this number, 0 for the first.
fn claim_again(observer: &mut RegistryObserver, restarts: u32) -> Claim {
    let sandbox = Sandbox::new("web", "/log").unwrap();
    let (supervisor, command) = (Identity::current(), Command::new("true"));
    let (command, at) = (Some(&command), Utc::now());
    let starting = Starting {
        sandbox: &sandbox,
        command,
        supervisor: &supervisor,
        at,
        restarts,
        socket: None,
    };
    observer.claim(&starting)
}

fn restarting(code: i32) -> Transition {
    let outcome = Outcome::Ended { status: ExitStatus::Code(code), reason: Reason::Exited };
    let end = End { bytes_logged: 5, ..End::new(outcome) };
    Transition::Restarting { at: Utc::now(), end, after: Duration::from_millis(100) }
}

fn states(fixture: &Fixture) -> Vec<(Option<Phase>, Option<i32>)> {
    let runs = fixture.registry.runs().unwrap();
    runs.into_iter().map(|run| (run.state, run.exit_code)).collect()
}

fn is(state: Phase, code: Option<i32>) -> (Option<Phase>, Option<i32>) {
    (Some(state), code)
}

fn is_taken(fixture: &Fixture) -> bool {
    let claim = claim(&mut fixture.registry.observer(), Some(&Command::new("true")));
    matches!(claim, Claim::Taken { .. })
}

/// Claimed and running.
fn first(mut observer: RegistryObserver) -> RegistryObserver {
    assert!(matches!(claim_again(&mut observer, 0), Claim::Granted));
    assert_eq!(observer.transition(&running()), WRITTEN);
    observer
}

#[test]
fn a_run_that_another_follows_keeps_the_name_until_the_next_claim_closes_it() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    assert_eq!(observer.transition(&restarting(1)), WRITTEN);
    assert_eq!(states(&fixture), [is(Phase::Restarting, Some(1))]);
    let db = Connection::open(fixture.registry.path()).unwrap();
    let status = || -> String {
        db.query_row("SELECT status FROM sandboxes", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(status(), "STOPPED");
    assert!(is_taken(&fixture));
    assert!(matches!(claim_again(&mut observer, 1), Claim::Granted));
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(1)), is(Phase::Starting, None)]);
    assert!(is_taken(&fixture));
    assert_eq!(observer.transition(&running()), WRITTEN);
    assert_eq!(status(), "RUNNING");
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(1)), is(Phase::Stopped, Some(7))]);
}

#[test]
fn a_stop_while_it_waits_to_be_started_again_is_the_end_with_the_same_end() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    assert_eq!(observer.transition(&restarting(7)), WRITTEN);
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(7))]);
    assert!(!is_taken(&fixture));
}

#[test]
fn ends_that_wait_for_a_lock_are_written_in_order_with_the_run_that_goes_on() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    let lock = fixture.locked();
    for number in 1..=3 {
        let code = i32::try_from(number).unwrap();
        assert!(matches!(observer.transition(&restarting(code)), Progress::Later(_)));
        assert!(matches!(claim_again(&mut observer, number), Claim::Later(..)));
        assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    }
    drop(lock);
    assert_eq!(observer.retry(), WRITTEN);
    let ended = [1, 2, 3].map(|code| is(Phase::Stopped, Some(code)));
    let mut expected = ended.to_vec();
    expected.push(is(Phase::Running, None));
    assert_eq!(states(&fixture), expected);
    assert!(is_taken(&fixture));
    assert_eq!(fixture.spooled().len(), 0);
}

#[test]
fn ends_that_have_waited_are_spooled_and_each_is_recorded_once() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.impatient());
    let lock = fixture.locked();
    for number in 1..=20 {
        let code = i32::try_from(number).unwrap();
        assert!(matches!(observer.transition(&restarting(code)), Progress::Later(_)));
        assert!(matches!(claim_again(&mut observer, number), Claim::Later(..)));
        assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    }
    // As if the supervisor were lost now, all of them are in files.
    assert!(fixture.spooled().len() >= 20, "{:?}", fixture.spooled());
    drop(lock);
    assert_eq!(observer.retry(), WRITTEN);
    let mut expected: Vec<_> = (1..=20).map(|code| is(Phase::Stopped, Some(code))).collect();
    expected.push(is(Phase::Running, None));
    assert_eq!(states(&fixture), expected);
    assert_eq!(fixture.spooled().len(), 0);
}

#[test]
fn an_end_in_a_file_does_not_free_the_name_while_its_supervisor_lives() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.impatient());
    let lock = fixture.locked();
    assert!(matches!(observer.transition(&restarting(1)), Progress::Later(_)));
    assert_eq!(fixture.spooled().len(), 1);
    drop(lock);
    // Another command takes it in before the supervisor has written it.
    assert_eq!(states(&fixture), [is(Phase::Restarting, Some(1))]);
    assert!(is_taken(&fixture));
    assert!(matches!(claim_again(&mut observer, 1), Claim::Granted));
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(1)), is(Phase::Starting, None)]);
}

#[test]
fn an_end_that_is_taken_in_late_does_not_open_what_is_closed() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.impatient());
    let lock = fixture.locked();
    assert!(matches!(observer.transition(&restarting(1)), Progress::Later(_)));
    let path = fixture.spooled().remove(0);
    let content = fs::read(&path).unwrap();
    drop(lock);
    assert!(matches!(claim_again(&mut observer, 1), Claim::Granted));
    fs::write(&path, content).unwrap();
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(1)), is(Phase::Starting, None)]);
    assert_eq!(fixture.spooled().len(), 0);
}

#[test]
fn a_database_that_is_replaced_between_two_runs_gets_both() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    assert_eq!(observer.transition(&restarting(1)), WRITTEN);
    for name in ["sandbox.db", "sandbox.db-wal", "sandbox.db-shm"] {
        fs::remove_file(fixture.dir.path().join(name)).unwrap();
    }
    assert!(matches!(claim_again(&mut observer, 1), Claim::Granted));
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(1)), is(Phase::Starting, None)]);
}

#[test]
fn a_drain_that_takes_longer_than_a_moment_leaves_the_exit_code_on_record() {
    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    let status = ExitStatus::Code(7);
    let draining = Transition::Draining { at: Utc::now(), status };
    assert!(matches!(observer.transition(&draining), Progress::Later(_)));
    assert_eq!(states(&fixture), [is(Phase::Running, None)]);
    assert_eq!(observer.retry(), WRITTEN);
    assert_eq!(states(&fixture), [is(Phase::Running, Some(7))]);
    assert_eq!(observer.transition(&exited()), Progress::Done);
    assert_eq!(states(&fixture), [is(Phase::Stopped, Some(7))]);
}

#[test]
fn ends_that_wait_for_the_last_one_go_with_it_into_what_was_reserved() {
    use std::os::unix::fs::MetadataExt;

    let fixture = Fixture::new();
    let mut observer = first(fixture.registry.observer());
    assert_eq!(observer.retry(), Progress::Done);
    let inode = |path: &PathBuf| fs::metadata(path).unwrap().ino();
    let reserved = inode(&fixture.reserved()[0]);
    let lock = fixture.locked();
    for number in 1..=3 {
        let code = i32::try_from(number).unwrap();
        assert!(matches!(observer.transition(&restarting(code)), Progress::Later(_)));
        assert!(matches!(claim_again(&mut observer, number), Claim::Later(..)));
        assert!(matches!(observer.transition(&running()), Progress::Later(_)));
    }
    assert!(matches!(observer.transition(&exited()), Progress::Later(_)));
    drop(observer);
    assert_eq!(fixture.spooled().iter().map(inode).collect::<Vec<_>>(), [reserved]);
    drop(lock);
    let expected = [1, 2, 3, 7].map(|code| is(Phase::Stopped, Some(code)));
    assert_eq!(states(&fixture), expected);
    assert_eq!((fixture.spooled().len(), fixture.reserved().len()), (0, 0));
}
