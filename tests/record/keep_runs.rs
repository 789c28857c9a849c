//! `--keep-runs`: old runs leave the record, unless their output is in the log.

use crate::common::State;
use crate::common::held::look;

fn ids(state: &State) -> Vec<String> {
    look(state, "SELECT CAST(id AS TEXT) FROM vmon_runs ORDER BY id")
}

fn logged(state: &State, run: &str) -> String {
    let output = state.vmon().args(["logs", "--run", run, "web"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "run {run}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_stays_on_record_as_long_as_its_output_is_in_the_log() {
    for format in ["raw", "cri", "json"] {
        let state = State::new();
        let options = ["--keep-runs", "2", "--log-max-size", "300", "--log-format", format];
        for run in 1..=24 {
            // A third of them is silent.
            let script =
                if run % 3 == 0 { "true".into() } else { format!("echo run {run} {:040}", 0) };
            state.ran("web", &options, &script);
        }
        let all = state.vmon().args(["logs", "web"]).output().unwrap().stdout;
        let all = String::from_utf8(all).unwrap();
        let runs = ids(&state);
        let found: String = runs.iter().map(|run| logged(&state, run)).collect();
        assert_eq!(found, all, "{format}: {runs:?}");
        // It was rotated, and the first runs have left.
        assert!(!all.contains("run 1 ") && runs[0] != "1", "{format}: {all}");
        assert!(all.lines().count() > 2, "{format}: {all}");
        assert!(runs.len() < 20, "{format}: {runs:?}");
    }
}

#[test]
fn a_restarted_command_keeps_no_more_runs_than_asked_for() {
    let state = State::new();
    state.ran("web", &["--keep-runs", "1", "--restart", "on-failure:2"], "exit 7");
    assert_eq!(ids(&state), ["3"]);
}
