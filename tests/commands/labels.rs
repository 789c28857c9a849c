//! Labels: given to `vmon run`, shown by the commands that list, and used by `--filter`.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::common::{Detached, State, is_alive, one_line};

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

/// The names that `vmon ps --all` lists with these filters, sorted.
#[track_caller]
fn listed(state: &State, filters: &[&str]) -> Vec<String> {
    let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
    let args: Vec<&str> = ["ps", "--all", "--format", "names"].into_iter().chain(filters).collect();
    let mut names: Vec<String> = printed(state, &args).lines().map(str::to_owned).collect();
    names.sort();
    names
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
    assert_eq!(listed(&state, &[]), [] as [String; 0]);
}

#[test]
fn runs_are_listed_by_their_labels_names_and_states() {
    let state = State::new();
    state.ran("a", &["--label", "app=web", "--label", "tier=1"], "true");
    state.ran("b", &["--label", "app=a=b", "--label", "tier="], "true");
    state.ran("c", &[], "true");
    let options = ["-d", "--config-file", "other", "--label", "app=web"];
    let _a = Detached::start(&state, &mut state.run("a", &options, "exec sleep 100"));
    let (a, other) = ("Sandboxfile/a", "other/a");
    for (filters, expected) in [
        (&["label=app"][..], &["b", a, other][..]),
        (&["label=app=web"], &[a, other]),
        (&["label=app=a=b"], &["b"]),
        (&["label=app=a"], &[]),
        (&["label=tier="], &["b"]),
        (&["label=app=web", "label=tier"], &[a]),
        (&["label=app=web", "label=app=a=b"], &[]),
        (&["label!=app"], &["c"]),
        (&["label=app", "label!=app=web"], &["b"]),
        (&["name=a"], &[a, other]),
        (&["name=other/a", "name=c"], &["c", other]),
        (&["name=a", "label=tier"], &[a]),
        (&["status=running"], &[other]),
        (&["status=Stopped", "status=running", "label=app=web"], &[a, other]),
        (&["status=stopped", "name=a"], &[a]),
    ] {
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(listed(&state, filters), expected, "{filters:?}");
    }
    let line = |args: &[&str]| {
        let args: Vec<&str> = [&["ps", "--format", "{config_file}/{name}"], args].concat();
        printed(&state, &args)
    };
    assert_eq!(line(&["--filter", "label=app"]), "other/a\n");
    // Ended runs that are asked for need no --all.
    assert_eq!(line(&["--filter", "status=stopped", "--filter", "name=a"]), "Sandboxfile/a\n");
    let table = printed(&state, &["ps", "--filter", "label=nothing"]);
    assert_eq!(table.lines().count(), 1, "{table}");
    assert_eq!(printed(&state, &["ps", "--json", "--filter", "label=nothing"]), "[]\n");
}

#[test]
fn an_invalid_filter_is_a_usage_error() {
    let state = State::new();
    for (args, why) in [
        (&["ps", "--filter", "app=web"][..], "label=KEY[=VALUE]"),
        (&["ps", "--filter", "label="], "no key of a label"),
        (&["ps", "--filter", "status=exited"], "stopping, restarting, stopped"),
        (&["events", "--filter", "name=web"], "label!=KEY[=VALUE]"),
        (&["prune", "--filter", "status=stopped"], "label!=KEY[=VALUE]"),
        (&["stop", "web", "--filter", "label=a"], "cannot be used with"),
        (&["stop"], "NAME"),
        (&["rm"], "NAME"),
        (&["restart"], "NAME"),
    ] {
        let output = state.vmon().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        assert!(one_line(&output).contains(why), "{args:?}: {}", one_line(&output));
    }
}

#[test]
fn one_of_a_thousand_sandboxes_is_found_by_its_label() {
    let state = State::new();
    state.ran("web", &["--label", "number=0"], "true");
    let db = Connection::open(state.db()).unwrap();
    let columns = "state, boot_id, pid_namespace, supervisor_pid, supervisor_start, pid, pid_start,
        started_at, running_at, ended_at, exit_code, reason, bytes_logged, bytes_dropped";
    db.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)
         INSERT INTO sandboxes (name, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths)
         SELECT name || '-' || i, config_file, config_last_modified, status, supervisor_pid,
            microvm_pid, rootfs_paths FROM n, sandboxes;
         INSERT INTO vmon_runs (sandbox_id, spec, {columns})
         SELECT s.new, json_set(spec, '$.labels.number', substr(s.name, 5)), {columns}
            FROM (SELECT id AS new, name FROM sandboxes WHERE name <> 'web') s, vmon_runs"
    ))
    .unwrap();
    assert_eq!(listed(&state, &[]).len(), 1001);
    assert_eq!(listed(&state, &["label=number"]).len(), 1001);
    assert_eq!(listed(&state, &["label=number=777"]), ["web-777"]);
    assert_eq!(listed(&state, &["label!=number=777"]).len(), 1000);
    printed(&state, &["rm", "--filter", "label=number=777"]);
    assert_eq!(listed(&state, &["label=number=777"]), [] as [String; 0]);
    printed(&state, &["prune", "--filter", "label!=number=778"]);
    assert_eq!(listed(&state, &[]), ["web-778"]);
}

#[test]
fn sandboxes_are_stopped_restarted_and_removed_by_their_labels() {
    let state = State::new();
    let start = |name: &str, label: &str| {
        let options = ["-d", "--label", label];
        Detached::start(&state, &mut state.run(name, &options, "exec sleep 100"))
    };
    let (a, b, c) = (start("a", "app=web"), start("b", "app=web"), start("c", "app=db"));
    assert_eq!(printed(&state, &["stop", "--filter", "label=app=none"]), "");
    printed(&state, &["stop", "--filter", "label=app=web"]);
    assert_eq!([&a, &b, &c].map(|it| is_alive(it.pid)), [false, false, true]);
    let filters = ["--filter", "label=app=web", "--filter", "name=b"];
    let answer = printed(&state, &[&["restart"], &filters[..]].concat());
    let again = Detached::of(&state, &answer);
    assert_eq!(again.name, "b");
    assert_eq!(listed(&state, &["status=running", "label=app=web"]), ["b"]);
    // A running sandbox is refused as by name.
    let output = state.vmon().args(["rm", "--filter", "label=app"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 2), "{said}");
    assert_eq!(listed(&state, &[]), ["b", "c"]);
    printed(&state, &["rm", "--force", "--logs", "--filter", "label=app=web"]);
    assert_eq!((listed(&state, &[]), is_alive(again.pid)), (vec!["c".to_owned()], false));
    assert_eq!((state.log_path("a").exists(), state.log_path("b").exists()), (true, false));
    assert!(is_alive(c.pid));
}

#[test]
fn the_labels_of_the_last_run_decide_what_is_pruned() {
    let state = State::new();
    state.ran("a", &["--label", "ci=old"], "true");
    state.ran("a", &[], "true");
    state.ran("b", &[], "true");
    state.ran("b", &["--label", "ci"], "true");
    state.ran("left", &["--label", "ci"], "true");
    printed(&state, &["rm", "left"]);
    let pruned = printed(&state, &["prune", "--logs", "--filter", "label=ci", "--json"]);
    let pruned: Value = serde_json::from_str(&pruned).unwrap();
    assert_eq!(pruned, json!({ "sandboxes": ["Sandboxfile/b"], "runs": 2, "logs": [] }));
    assert_eq!(listed(&state, &[]), ["a"]);
    let logs = ["a", "b", "left"].map(|name| state.log_path(name).exists());
    assert_eq!(logs, [true, false, true]);
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
    assert_eq!(listed(&state, &["label=ok"]), ["c"]);
    assert_eq!(listed(&state, &["label!=ok"]), ["a", "b", "foreign"]);
    assert_eq!(listed(&state, &["label=two words"]), [] as [String; 0]);
    // What other programs have recorded is not removed because it has no labels.
    printed(&state, &["rm", "--filter", "label!=ok"]);
    assert_eq!(listed(&state, &[]), ["c", "foreign"]);
}
