//! Commands that list runs read them page by page.

use std::collections::BTreeSet;

use crate::common::State;
use rusqlite::Connection;
use serde_json::Value;

const RUNS: i64 = 600;

/// A sandbox with many runs on record, between those of another one.
fn many_runs() -> State {
    let state = State::new();
    state.ran("other", &[], "true");
    state.ran("web", &["--keep-runs", "0"], "true");
    let db = Connection::open(state.db()).unwrap();
    let columns =
        "sandbox_id, state, boot_id, pid_namespace, supervisor_pid, supervisor_start, pid,
        pid_start, started_at, running_at, ended_at, exit_code, reason, bytes_logged,
        bytes_dropped, spec";
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {RUNS})
         INSERT INTO vmon_runs ({columns}) SELECT {columns} FROM n, vmon_runs r WHERE r.id = 2"
    );
    db.execute_batch(&sql).unwrap();
    state.ran("other", &[], "exit 4");
    // Another program's.
    db.execute_batch(
        "INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths) VALUES ('foreign', 'Sandboxfile', '', 'STOPPED', 0, 0, '')",
    )
    .unwrap();
    state
}

fn printed(state: &State, arguments: &[&str]) -> String {
    let output = state.vmon().args(arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ids(array: &str) -> Vec<Option<i64>> {
    let array: Vec<Value> = serde_json::from_str(array).unwrap();
    array.iter().map(|run| run["id"].as_i64()).collect()
}

#[test]
fn all_pages_of_runs_are_listed_newest_first() {
    let state = many_runs();
    let of_web: Vec<i64> = (2..=RUNS + 2).rev().collect();
    let history = printed(&state, &["history", "web"]);
    let mut lines = history.lines();
    assert!(lines.next().unwrap().starts_with("NAME  CONFIG       RUN  STATE"), "{history}");
    let numbers: Vec<i64> =
        lines.map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, of_web);
    let columns: BTreeSet<usize> =
        history.lines().skip(1).map(|line| line.find("STOPPED").unwrap()).collect();
    assert_eq!(columns.len(), 1, "{columns:?}");
    let known = |ids: Vec<i64>| ids.into_iter().map(Some).collect::<Vec<_>>();
    assert_eq!(ids(&printed(&state, &["history", "web", "--json"])), known(of_web.clone()));

    let mut all = known([vec![RUNS + 3], of_web, vec![1]].concat());
    all.push(None);
    assert_eq!(ids(&printed(&state, &["ps", "-a", "--json"])), all);
    assert_eq!(printed(&state, &["ps", "-a"]).lines().count(), all.len() + 1);
    let template = printed(&state, &["ps", "-a", "--format", "{id}"]);
    let number = |id: &Option<i64>| id.map_or_else(|| "-\n".into(), |id| format!("{id}\n"));
    assert_eq!(template, all.iter().map(number).collect::<String>());
}

#[test]
fn a_list_without_runs_is_its_header_or_an_empty_array() {
    let state = State::new();
    assert_eq!(printed(&state, &["ps", "-a"]).lines().count(), 1);
    assert_eq!(printed(&state, &["ps", "-a", "--json"]), "[]\n");
    state.ran("web", &[], "true");
    assert_eq!(printed(&state, &["ps"]).lines().count(), 1);
    let json = printed(&state, &["history", "web", "--json"]);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, format!("{value:#}\n"));
}
