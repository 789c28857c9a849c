//! Labels: given to `vmon run`, and shown by the commands that list.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::common::{Detached, State, one_line};

/// The output of a command that succeeds and has nothing to report.
#[track_caller]
fn printed(state: &State, args: &[&str]) -> String {
    let output = state.vmon().args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn objects(state: &State, args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&printed(state, args)).unwrap()
}

#[test]
fn labels_are_shown_wherever_a_run_is() {
    let state = State::new();
    let options = ["-d", "--label", "app=old", "-l", "app=\"a\\=b", "-l=ja=日本", "--label=empty"];
    let _web = Detached::start(&state, &mut state.run("web", &options, "exec sleep 100"));
    let expected = json!({ "app": "\"a\\=b", "ja": "日本", "empty": "" });
    let spec: Value = serde_json::from_str(&state.run_column("web", "spec").unwrap()).unwrap();
    assert_eq!(spec["labels"], expected);
    for args in [
        &["ps", "--json"][..],
        &["history", "web", "--json"],
        &["stats", "--json"],
        &["inspect", "web"],
    ] {
        assert_eq!(objects(&state, args)[0]["labels"], expected, "{args:?}");
    }
    assert_eq!(objects(&state, &["inspect", "web"])[0]["spec"]["labels"], expected);
    let format = "{labels.app}|{labels.empty}|{labels.other}|{labels}";
    let line = printed(&state, &["ps", "--format", format]);
    assert_eq!(line, format!("\"a\\=b||-|{expected}\n"));
}

#[test]
fn a_label_that_is_not_allowed_is_a_usage_error() {
    let state = State::new();
    let long = format!("app={}", "x".repeat(4097));
    for (label, why) in [
        ("", "must not be empty"),
        ("=x", "must not be empty"),
        ("two words=x", "letters, digits"),
        ("app=a\nb", "control character '\\n'"),
        ("app=\u{1b}[1m", "control character"),
        (&long, "at most 4096"),
    ] {
        let output = state.run("web", &["--label", label], "true").output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{label:?}");
        assert!(one_line(&output).contains(why), "{label:?}: {}", one_line(&output));
    }
    let many: Vec<String> =
        (0..17).map(|key| format!("--label={key}={}", "x".repeat(4090))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let output = state.run("web", &many, "true").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(one_line(&output).contains("at most 65536 (--label)"), "{}", one_line(&output));
    assert_eq!(printed(&state, &["ps", "--all", "--format", "names"]), "");
}

#[test]
fn a_record_without_labels_or_with_others_is_read() {
    let state = State::new();
    for (name, change) in [
        ("a", "json_remove(spec, '$.labels')"),
        ("b", "json_set(spec, '$.labels', json('[1]'))"),
        (
            "c",
            "json_set(spec, '$.labels', json('{\"two words\": \"x\", \"n\": 1, \"s\": \"a\\nb\", \"ok\": \"v\"}'))",
        ),
    ] {
        state.ran(name, &["--label", "app=web"], "true");
        let db = Connection::open(state.db()).unwrap();
        let changed = db.execute(
            &format!(
                "UPDATE vmon_runs SET spec = {change} WHERE id = (SELECT max(id) FROM vmon_runs)"
            ),
            [],
        );
        assert_eq!(changed, Ok(1));
    }
    let db = Connection::open(state.db()).unwrap();
    db.execute_batch(
        "INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths) VALUES ('foreign', 'Sandboxfile', '', 'STOPPED', 0, 0, '')",
    )
    .unwrap();
    let runs = objects(&state, &["ps", "--all", "--json"]);
    let mut labels: Vec<(&str, &Value)> =
        runs.iter().map(|run| (run["name"].as_str().unwrap(), &run["labels"])).collect();
    labels.sort_by_key(|(name, _)| *name);
    let (none, one) = (json!({}), json!({ "ok": "v" }));
    assert_eq!(labels, [("a", &none), ("b", &none), ("c", &one), ("foreign", &Value::Null)]);
}
