//! `vmon ps` in all its formats.

use std::io::Write;
use std::process::Stdio;

use crate::common::{self, CONFIG, Detached, State, code, eventually, python, wait};

/// The output of `vmon ps` with `args`.
fn ps(state: &State, args: &[&str]) -> String {
    let output = state.vmon().arg("ps").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a sandbox to its end.
fn ran(state: &State, name: &str, options: &[&str], script: &str) -> i32 {
    code(wait(&mut state.run(name, options, script).stderr(Stdio::null()).spawn().unwrap()))
}

#[test]
fn a_template_gives_a_line_a_run() {
    let state = State::new();
    ran(&state, "a", &[], "exit 3");
    ran(&state, "b", &[], "kill -9 $$");
    let lines = ps(&state, &["--all", "--format", "{{{name}}}\\t{exit_code}|{signal}|{reason}"]);
    assert_eq!(lines, "{b}\t-|9|signalled\n{a}\t3|-|exited\n");
    assert_eq!(ps(&state, &["--format", "{name}"]), "");
}

#[test]
fn commands_read_only_the_runs_that_they_show() {
    let state = State::new();
    for name in ["a", "b", "b"] {
        ran(&state, name, &[], "exit 3");
    }
    let sleeping = state.vmon().args(["run", "-d", "--name", "c", "--", "sleep", "1000"]).status();
    assert!(sleeping.unwrap().success());
    // No command can read a value of this size.
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let broken = db.execute("UPDATE vmon_runs SET spec = zeroblob(20000000) WHERE id = 2", []);
    assert_eq!(broken.unwrap(), 1);
    assert_eq!(ps(&state, &["--format", "{name}"]), "c\n");
    for (args, expected) in [
        (["stop", "c"], 0),
        (["wait", "b"], 0),
        (["history", "a"], 0),
        (["inspect", "a"], 0),
        (["rm", "a"], 0),
        (["history", "b"], 125),
        (["ps", "--all"], 125),
    ] {
        let output = state.vmon().args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn a_crash_loop_is_shown_as_restarting_with_the_time_of_its_next_start() {
    let state = State::new();
    let mut run = state.vmon();
    run.args(["run", "-d", "--name", "loop", "--restart", "always", "--", "false"]);
    let _loop = Detached::start(&state, &mut run);
    let mut rows = 0;
    eventually("it is between two runs", || {
        let table = ps(&state, &[]);
        let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        if row.get(2) == Some(&"RESTARTING") {
            // The process that has ended is not shown as one that runs.
            assert_eq!(row.get(3), Some(&"-"), "{table}");
            rows += 1;
        }
        rows == 5
    });
    eventually("the supervisor names the time", || {
        let output = state.vmon().args(["inspect", "loop"]).output().unwrap();
        let objects: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let live = &objects[0]["live"];
        let restart_at = live["restart_at"].as_str().unwrap_or_default();
        live["state"] == "RESTARTING" && restart_at > live["started_at"].as_str().unwrap()
    });
}

#[test]
fn an_unknown_field_is_a_usage_error_that_lists_the_fields() {
    let state = State::new();
    for (format, needle) in [("{nmae}", "config_file, state, status"), ("csv", "openmetrics")] {
        let output = state.vmon().args(["ps", "--format", format]).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(needle) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn names_are_listed_once_in_the_form_other_commands_accept() {
    let state = State::new();
    ran(&state, "web", &["--config-file", "a"], "true");
    ran(&state, "web", &["--config-file", "b"], "true");
    ran(&state, "db", &[], "true");
    ran(&state, "db", &[], "true");
    assert_eq!(ps(&state, &["--all", "--format", "names"]), "db\nb/web\na/web\n");
    assert_eq!(ps(&state, &["--format", "names"]), "");
}

#[test]
fn a_field_of_a_template_is_that_of_json() {
    let state = State::new();
    ran(&state, "a", &[], "true");
    let list: serde_json::Value = serde_json::from_str(&ps(&state, &["--all", "--json"])).unwrap();
    assert_eq!(ps(&state, &["--all", "--format", "json"]), format!("{list:#}\n"));
    for (key, value) in list[0].as_object().unwrap() {
        let line = ps(&state, &["--all", "--format", &format!("{{{key}}}")]);
        match value {
            serde_json::Value::Null => assert_eq!(line, "-\n", "{key}"),
            serde_json::Value::String(text) => assert_eq!(line, format!("{text}\n"), "{key}"),
            other => assert_eq!(line, format!("{other}\n"), "{key}"),
        }
    }
}

/// Prints each sample that the reference parser finds, as a line of JSON.
const PARSE: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(json.dumps([family.type, family.unit, sample.name, sample.labels, sample.value]))
"#;

/// The samples of an exposition: type, unit, name, labels and value. `None` without the parser.
fn parsed(exposition: &str) -> Option<Vec<serde_json::Value>> {
    let mut parser =
        python()?.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "no OpenMetrics:\n{exposition}");
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The value of the only sample of `name` for the sandbox, with this label if given.
#[track_caller]
fn sample(
    samples: &[serde_json::Value],
    name: &str,
    sandbox: &str,
    label: Option<(&str, &str)>,
) -> f64 {
    let found: Vec<_> = samples
        .iter()
        .filter(|sample| sample[2] == name && sample[3]["name"] == sandbox)
        .filter(|sample| label.is_none_or(|(label, value)| sample[3][label] == value))
        .collect();
    assert_eq!(found.len(), 1, "{name} of {sandbox}: {found:?} in {samples:?}");
    found[0][4].as_f64().unwrap()
}

#[test]
fn openmetrics_is_accepted_by_an_independent_parser() {
    let state = State::new();
    ran(&state, "done", &["--native-rootfs", "/a \"b\\\nc"], "echo hello; exit 3");
    let mut running = state.run("up", &[], "sleep 600").spawn().unwrap();
    state.wait_for_status("up", "RUNNING");
    let exposition = ps(&state, &["--all", "--format", "openmetrics"]);
    let started = state.run_column("up", "running_at").unwrap();
    common::signal(&running, nix::sys::signal::Signal::SIGTERM);
    wait(&mut running);
    assert!(exposition.ends_with("# EOF\n"));
    let Some(samples) = parsed(&exposition) else { return };
    let quoted = Some(("rootfs_paths", "native:/a \"b\\\nc"));
    assert_eq!(sample(&samples, "vmon_sandbox_info", "done", quoted), 1.0);
    let state_is = |sandbox, state| {
        sample(&samples, "vmon_sandbox_state", sandbox, Some(("vmon_sandbox_state", state)))
    };
    assert_eq!([state_is("done", "STOPPED"), state_is("done", "RUNNING")], [1.0, 0.0]);
    assert_eq!([state_is("up", "STOPPED"), state_is("up", "RUNNING")], [0.0, 1.0]);
    let number = |name, sandbox| sample(&samples, name, sandbox, None);
    assert_eq!(number("vmon_sandbox_last_exit_code", "done"), 3.0);
    assert_eq!(number("vmon_sandbox_logged_bytes_total", "done"), 6.0);
    assert_eq!(number("vmon_sandbox_dropped_bytes_total", "done"), 0.0);
    assert_eq!(number("vmon_sandbox_restarts_total", "up"), 0.0);
    let started = chrono::DateTime::parse_from_rfc3339(&started).unwrap();
    let start = number("vmon_sandbox_start_time_seconds", "up");
    assert!((start - started.timestamp_micros() as f64 / 1e6).abs() < 1e-5, "{start}");
}

#[test]
fn labels_are_on_a_metric_of_their_own_under_names_that_the_format_allows() {
    let state = State::new();
    let labels = ["org.example/app=\"a\\", "a-b=1", "a.b=2", "ja=日本"];
    let options: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
    ran(&state, "web", &options, "true");
    ran(&state, "bare", &[], "true");
    let exposition = ps(&state, &["--all", "--format", "openmetrics"]);
    let Some(samples) = parsed(&exposition) else { return };
    let labels_of = |sandbox: &str| {
        let name = "vmon_sandbox_labels_info";
        let mut found = samples.iter().filter(|it| it[2] == name && it[3]["name"] == sandbox);
        found.next().unwrap()[3].clone()
    };
    let expected = serde_json::json!({
        "name": "web", "config_file": CONFIG, "label_org_example_app": "\"a\\",
        "label_a_b_conflict1": "1", "label_a_b_conflict2": "2", "label_ja": "日本",
    });
    assert_eq!(labels_of("web"), expected);
    assert_eq!(labels_of("bare"), serde_json::json!({ "name": "bare", "config_file": CONFIG }));
    assert_eq!(exposition.matches("label_ja").count(), 1);
    let filtered = ps(&state, &["--all", "--format", "openmetrics", "--filter", "label=ja"]);
    assert!(filtered.contains("\"web\"") && !filtered.contains("bare"), "{filtered}");
}

#[test]
fn openmetrics_of_an_empty_record_is_valid() {
    let exposition = ps(&State::new(), &["--format", "openmetrics"]);
    if let Some(samples) = parsed(&exposition) {
        assert!(samples.is_empty());
    }
}

#[test]
fn without_all_only_running_sandboxes_are_measured() {
    let state = State::new();
    ran(&state, "done", &[], "true");
    let exposition = ps(&state, &["--format", "openmetrics"]);
    assert!(!exposition.contains("done"), "{exposition}");
    assert!(ps(&state, &["--all", "--format", "openmetrics"]).contains(CONFIG));
}
