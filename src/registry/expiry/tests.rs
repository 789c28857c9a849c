//! Which runs stay, by the ends of runs that a monitor reports.

use chrono::Utc;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::child::{Command, ExitStatus};
use crate::monitor::{Claim, End, Identity, Observer, Outcome, Reason, Sandbox};
use crate::monitor::{Starting, Transition};
use crate::registry::Registry;

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

    fn sandbox(&self, keep_runs: u32) -> Sandbox {
        Sandbox::new("web", self.dir.path().join("log")).unwrap().keep_runs(keep_runs)
    }

    /// A run with this many bytes of output, which has rotated the log so that `current` is the number
    /// of its next generation and `oldest` the lowest one.
    fn run(&self, sandbox: &Sandbox, bytes: u64, rotated: Option<(u64, u64)>) {
        let mut end =
            End::new(Outcome::Ended { status: ExitStatus::Code(0), reason: Reason::Exited });
        end.bytes_logged = bytes;
        let log = sandbox.log_path();
        end.rotated = rotated
            .into_iter()
            .map(|(current, oldest)| KeptGenerations { log: log.clone(), current, oldest })
            .collect();
        let (supervisor, command) = (Identity::current(), Command::new("true"));
        let mut starting = Starting::new(sandbox, &supervisor, Utc::now());
        starting.command = Some(&command);
        let mut observer = self.registry.observer();
        let claim = observer.claim(&starting);
        assert!(matches!(claim, Claim::Granted), "{claim:?}");
        observer.transition(&Transition::Stopped { at: Utc::now(), end });
    }

    fn ids(&self) -> Vec<i64> {
        self.registry.runs().unwrap().into_iter().filter_map(|run| run.id).collect()
    }
}

#[test]
fn as_many_runs_without_output_stay_as_the_sandbox_keeps() {
    let fixture = Fixture::new();
    // No more than a claim reads at one place: others are read at a random one.
    for (keep, left) in [(0, 1..=8), (3, 7..=9), (3, 8..=10), (1, 11..=11)] {
        let runs = if keep == 0 { 8 } else { 1 };
        (0..runs).for_each(|_| fixture.run(&fixture.sandbox(keep), 0, None));
        assert_eq!(fixture.ids(), left.collect::<Vec<_>>(), "{keep}");
    }
}

#[test]
fn a_claim_removes_a_few_runs_of_many() {
    let fixture = Fixture::new();
    (0..60).for_each(|_| fixture.run(&fixture.sandbox(0), 0, None));
    fixture.run(&fixture.sandbox(10), 0, None);
    let left = fixture.ids().len();
    let at_most = 2 * usize::try_from(ROWS).unwrap();
    assert!((61 - at_most..61).contains(&left), "{left}");
}

#[test]
fn a_run_stays_until_the_generations_that_it_can_have_written_are_gone() {
    let fixture = Fixture::new();
    let sandbox = fixture.sandbox(1);
    // 1 to 3 write to generation 1; 3 rotates it.
    fixture.run(&sandbox, 5, None);
    fixture.run(&sandbox, 5, None);
    fixture.run(&sandbox, 5, Some((2, 1)));
    // Without output.
    fixture.run(&sandbox, 0, None);
    assert_eq!(fixture.ids(), [1, 2, 3, 4]);
    fixture.run(&sandbox, 5, None);
    fixture.run(&sandbox, 5, None);
    assert_eq!(fixture.ids(), [1, 2, 3, 5, 6]);
    // Generation 1 is removed: 1 and 2 are gone, and 3 has written to generation 2 as well.
    fixture.run(&sandbox, 5, Some((3, 2)));
    fixture.run(&sandbox, 5, None);
    assert_eq!(fixture.ids(), [3, 5, 6, 7, 8]);
    fixture.run(&sandbox, 5, Some((5, 4)));
    fixture.run(&sandbox, 5, None);
    // How often 9 has rotated the log is not known.
    assert_eq!(fixture.ids(), [7, 8, 9, 10]);
}

#[test]
fn runs_with_a_log_in_another_directory_stay_and_do_not_keep_others() {
    let fixture = Fixture::new();
    let elsewhere = Sandbox::new("web", "/nowhere").unwrap().keep_runs(1);
    (0..20).for_each(|_| fixture.run(&elsewhere, 5, None));
    let sandbox = fixture.sandbox(1);
    let mut number = 1;
    // The rows to read are chosen at random.
    for _ in 0..40 {
        number += 1;
        fixture.run(&sandbox, 5, Some((number, number)));
    }
    let ids = fixture.ids();
    assert_eq!(ids[..20], (1..=20).collect::<Vec<_>>());
    assert!(ids.len() < 45, "{ids:?}");
}

#[test]
fn a_run_with_output_in_the_log_of_a_console_stays() {
    let fixture = Fixture::new();
    let sandbox = fixture.sandbox(1);
    fixture.run(&sandbox, 5, Some((2, 2)));
    let db = Connection::open(fixture.registry.path()).unwrap();
    db.execute_batch(
        "CREATE TABLE vmon_consoles (run_id, name, bytes_logged, bytes_dropped);
         INSERT INTO vmon_consoles VALUES (1, 'serial', 7, 0)",
    )
    .unwrap();
    fixture.run(&sandbox, 5, Some((3, 3)));
    fixture.run(&sandbox, 5, Some((4, 4)));
    fixture.run(&sandbox, 5, Some((5, 5)));
    assert_eq!(fixture.ids(), [1, 3, 4]);
    db.execute_batch("DELETE FROM vmon_consoles").unwrap();
    fixture.run(&sandbox, 5, None);
    assert_eq!(fixture.ids(), [4, 5]);
}

#[test]
fn a_lost_run_stays_until_a_later_run_shows_that_its_output_is_gone() {
    let fixture = Fixture::new();
    let sandbox = fixture.sandbox(1);
    fixture.run(&sandbox, 5, None);
    let db = Connection::open(fixture.registry.path()).unwrap();
    // As the command's, with the options that it adds.
    let lose = "UPDATE vmon_runs SET bytes_logged = NULL,
        spec = replace(spec, '\"options\":null', '\"options\":{}')";
    db.execute_batch(lose).unwrap();
    fixture.run(&sandbox, 5, None);
    fixture.run(&sandbox, 5, Some((2, 1)));
    fixture.run(&sandbox, 5, None);
    assert_eq!(fixture.ids(), [1, 2, 3, 4]);
    fixture.run(&sandbox, 5, Some((3, 2)));
    fixture.run(&sandbox, 5, None);
    assert_eq!(fixture.ids(), [3, 4, 5, 6]);
}

#[test]
fn a_claim_reads_no_more_rows_than_it_may_remove() {
    let fixture = Fixture::new();
    let db = Connection::open(fixture.registry.path()).unwrap();
    db.execute_batch(TABLE).unwrap();
    for sql in [NEWEST, OLDEST, CANDIDATES, FIRST_LEFT, HIGHEST_LEFT] {
        let steps = schema::plan(&db, sql);
        assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{steps:?}");
    }
}
