//! `vmon inspect`, `vmon history` and `vmon stats`.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    self, CONFIG, Process, State, Terminal, code, contains, eventually, signal, wait,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A sandbox that runs until the end of the test.
struct Running(Child);

impl Running {
    fn start(state: &State, name: &str, options: &[&str], script: &str) -> Self {
        let mut command = state.run(name, options, script);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        state.wait_for_status(name, "RUNNING");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        common::signal(&self.0, Signal::SIGTERM);
        wait(&mut self.0);
    }
}

fn vmon(state: &State, args: &[&str]) -> Output {
    state.vmon().args(args).output().unwrap()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Asserts that stderr is one line that contains these words.
#[track_caller]
fn has_message(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("vmon: "), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word} in {stderr}");
    }
}

#[test]
fn inspect_shows_the_run_its_spec_and_its_log() {
    let state = State::new();
    state.ran("web", &["--log-max-size", "4K", "--log-max-files", "3"], "seq 4000; exit 3");
    let output = vmon(&state, &["inspect", "web"]);
    assert_eq!(output.status.code(), Some(0));
    let list = json_of(&output);
    let web = &list[0];
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(web["name"], "web");
    assert_eq!(web["config_file"], CONFIG);
    assert_eq!(web["state"], "STOPPED");
    assert_eq!(web["exit_code"], 3);
    assert_eq!(web["runs"], 1);
    assert_eq!(web["spec"]["command"], json!(["sh", "-c", "seq 4000; exit 3"]));
    assert_eq!(web["live"], Value::Null);
    assert_eq!(web["live_error"], "it is not running");
    let log = &web["log"];
    assert_eq!(log["path"], state.log_path("web").to_str().unwrap());
    let generations = state.generations("web");
    let listed: Vec<PathBuf> = log["generations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|generation| generation["path"].as_str().unwrap().into())
        .collect();
    assert_eq!(listed, generations);
    let size = |entry: &Value| entry["size"].as_u64().unwrap();
    let all = size(log) + log["generations"].as_array().unwrap().iter().map(size).sum::<u64>();
    assert_eq!(all, state.whole_log("web").len() as u64);
}

#[test]
fn inspect_queries_the_supervisor_of_a_running_sandbox() {
    let state = State::new();
    let _web = Running::start(&state, "web", &[], "echo hello; exec sleep 600");
    state.wait_for_log("web", b"hello\n");
    let list = json_of(&vmon(&state, &["inspect", "web"]));
    let live = &list[0]["live"];
    assert_eq!(live["state"], "RUNNING", "{list:#}");
    assert_eq!(live["pid"], list[0]["pid"]);
    assert_eq!(live["bytes_logged"], 6);
    assert_eq!(live["sessions"], json!([]));
    assert_eq!(list[0]["live_error"], Value::Null);
    assert_eq!(list[0]["usage"]["processes"], 1);
    assert!(list[0]["usage"]["memory_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_stopped_supervisor_blocks_neither_inspect_nor_ps_and_both_say_so() {
    let state = State::new();
    let web = Running::start(&state, "web", &[], "exec sleep 600");
    common::signal(&web.0, Signal::SIGSTOP);
    eventually("the supervisor is stopped", || common::process_state(web.0.id()) == Some('T'));
    let (output, listed) = (vmon(&state, &["inspect", "web"]), vmon(&state, &["ps"]));
    common::signal(&web.0, Signal::SIGCONT);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("supervisor: it does not answer"), "{listed}");
    let list = json_of(&output);
    assert_eq!(list[0]["live"], Value::Null);
    assert!(list[0]["live_error"].as_str().unwrap().contains("does not answer"), "{list:#}");
    assert_eq!(list[0]["status"], "RUNNING");
}

#[test]
fn an_unknown_name_is_reported_and_the_others_are_processed() {
    let state = State::new();
    state.ran("web", &[], "true");
    for command in ["inspect", "history"] {
        let output = vmon(&state, &[command, "unknown", "web", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        has_message(&output, &["'unknown'"]);
        assert_eq!(json_of(&output)[0]["name"], "web", "{command}");
    }
}

#[test]
fn without_a_database_every_name_is_unknown() {
    let state = State::new();
    for command in ["inspect", "history", "stats", "rm"] {
        let output = vmon(&state, &[command, "web"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        has_message(&output, &["'web'"]);
    }
    assert!(!state.db().exists());
}

#[test]
fn a_name_of_several_configs_is_an_error_that_lists_them() {
    let state = State::new();
    state.ran("web", &["--config-file", "b"], "exit 2");
    state.ran("web", &["--config-file", "a"], "exit 1");
    let output = vmon(&state, &["inspect", "web"]);
    assert_eq!(output.status.code(), Some(1));
    has_message(&output, &["a/web, b/web"]);
    let list = json_of(&vmon(&state, &["inspect", "b/web", "a/web", "b/web"]));
    let codes: Vec<_> = list.as_array().unwrap().iter().map(|run| &run["exit_code"]).collect();
    assert_eq!(codes, [2, 1]);
}

#[test]
fn history_has_every_run_of_a_sandbox_newest_first() {
    let state = State::new();
    for exit in [1, 2, 3] {
        state.ran("web", &[], &format!("exit {exit}"));
    }
    state.ran("db", &[], "true");
    let list = json_of(&vmon(&state, &["history", "web", "--json"]));
    let codes: Vec<_> = list.as_array().unwrap().iter().map(|run| &run["exit_code"]).collect();
    assert_eq!(codes, [3, 2, 1]);
    let table = String::from_utf8(vmon(&state, &["history", "web"]).stdout).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(1).unwrap().contains("exited"), "{table}");
}

#[test]
fn stats_measure_the_whole_tree() {
    let state = State::new();
    let script = "sleep 600 & sleep 600 & echo hello; while :; do :; done";
    let _web = Running::start(&state, "web", &[], script);
    state.wait_for_log("web", b"hello\n");
    let _db = Running::start(&state, "db", &[], "exec sleep 600");
    let list = json_of(&vmon(&state, &["stats", "web", "db", "--json"]));
    let (web, db) = (&list[0], &list[1]);
    assert_eq!((&web["name"], &db["name"]), (&json!("web"), &json!("db")));
    assert_eq!((&web["processes"], &db["processes"]), (&json!(3), &json!(1)), "{list:#}");
    assert_eq!(web["bytes_logged"], 6);
    assert!(web["cpu_percent"].as_f64().unwrap() > db["cpu_percent"].as_f64().unwrap());
    for key in ["memory_bytes", "threads", "uptime_seconds"] {
        assert!(web[key].as_f64().unwrap() > 0.0, "{key}: {list:#}");
    }
    let table = String::from_utf8(vmon(&state, &["stats"]).stdout).unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
}

#[test]
fn stats_of_a_stopped_sandbox_are_an_error_only_if_it_is_named() {
    let state = State::new();
    state.ran("web", &[], "true");
    let output = vmon(&state, &["stats", "web"]);
    assert_eq!(output.status.code(), Some(1));
    has_message(&output, &["web is not running"]);
    let output = vmon(&state, &["stats", "--json"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"[]\n"[..]));
}

#[test]
fn stats_with_watch_redraw_on_a_terminal() {
    let state = State::new();
    let _web = Running::start(&state, "web", &[], "exec sleep 600");
    let mut terminal = Terminal::spawn(state.vmon().args(["stats", "--watch"]));
    for _ in 0..2 {
        terminal.wait_for("\x1b[HNAME");
        terminal.wait_for("web");
        terminal.wait_for("\x1b[J");
    }
    terminal.send("\x03");
    assert_eq!(code(wait(&mut terminal.child)), 0);
}

#[test]
fn stats_with_watch_append_on_a_pipe_and_end_with_its_reader() {
    use std::io::{BufRead, BufReader};
    let state = State::new();
    let _web = Running::start(&state, "web", &[], "exec sleep 600");
    let mut command = state.vmon();
    let mut child =
        command.args(["stats", "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let list: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(list[0]["name"], "web");
    }
    drop(lines);
    assert_eq!(code(wait(&mut child)), 0);
}

#[test]
fn a_signal_ends_stats_that_wait_for_a_supervisor() {
    let state = State::new();
    let _web = Running::start(&state, "web", &[], "exec sleep 600");
    // One that does not answer.
    let path = state.file("mute.sock");
    let mute = UnixListener::bind(&path).unwrap();
    let db = rusqlite::Connection::open(state.db()).unwrap();
    db.execute("UPDATE vmon_runs SET socket = ?1", [path.to_str().unwrap()]).unwrap();
    drop(db);
    let mut stats = Process::spawn(state.vmon().args(["stats", "--watch"]).stdout(Stdio::piped()));
    let (mut asked, _) = mute.accept().unwrap();
    let mut byte = [0];
    asked.read_exact(&mut byte).unwrap();
    let begun = Instant::now();
    signal(&stats, Signal::SIGTERM);
    assert_eq!(code(wait(&mut stats)), 0);
    // It waits for two seconds.
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn control_characters_in_the_database_are_escaped_on_a_terminal() {
    let state = State::new();
    state.ran("web", &[], "true");
    let db = rusqlite::Connection::open(state.db()).unwrap();
    // Both forms of a control sequence introducer.
    let name = "x\u{1b}[2J\u{9b}2J\ny";
    db.execute("UPDATE sandboxes SET name = ?1", [name]).unwrap();
    drop(db);
    for args in [
        &["ps", "--all"][..],
        &["ps", "--all", "--format", "names"],
        &["ps", "--all", "--format", "{name}"],
        &["history", name],
        &["inspect", name],
        &["inspect", "x\u{1b}[2J\nz"],
        &["ps", "--all", "--json"],
        &["rm", "--logs", name],
    ] {
        let output = vmon(&state, args);
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let control = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(control), "{args:?}: {text:?}");
        }
    }
}

#[test]
fn labels_of_openmetrics_are_exact_in_a_file_and_escaped_on_a_terminal() {
    let state = State::new();
    state.ran("web", &[], "true");
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let name = "x\u{1b}[2J\u{9b}2J";
    db.execute("UPDATE sandboxes SET name = ?1", [name]).unwrap();
    drop(db);
    let args = ["ps", "--all", "--format", "openmetrics"];
    let output = vmon(&state, &args);
    assert!(contains(&output.stdout, format!("name=\"{name}\"").as_bytes()));
    let mut terminal = Terminal::spawn(state.vmon().args(args));
    assert_eq!(terminal.finish(), 0);
    let seen = String::from_utf8(terminal.seen.clone()).unwrap();
    assert!(seen.contains("name=\"x\\u{1b}[2J\\u{9b}2J\""), "{seen:?}");
    assert!(!seen.contains(['\u{1b}', '\u{9b}']) && seen.ends_with("# EOF\r\n"), "{seen:?}");
}

#[test]
fn a_full_stdout_is_reported_with_exit_code_1() {
    let state = State::new();
    state.ran("web", &[], "true");
    for args in [
        &["ps"][..],
        &["inspect", "web"],
        &["history", "web"],
        &["stats"],
        &["man"],
        &["completions", "bash"],
        &["prune"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = state.vmon().args(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        has_message(&output, &["No space left"]);
    }
}

/// Collects the keys of a JSON value at any depth, except below `options`.
fn keys(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        Value::Object(object) => {
            for (key, value) in object {
                found.push(key.clone());
                if key != "options" {
                    keys(value, found);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_of_json_is_documented() {
    let state = State::new();
    state.ran("web", &["--log-max-size", "4K"], "seq 4000");
    let _web = Running::start(&state, "web", &[], "exec sleep 600");
    let documented = fs::read_to_string(format!("{}/../docs/json.md", env!("CARGO_MANIFEST_DIR")));
    let documented = documented.unwrap();
    for args in
        [&["ps", "--json"][..], &["inspect", "web"], &["stats", "--json"], &["prune", "--json"]]
    {
        let mut found = Vec::new();
        keys(&json_of(&vmon(&state, args)), &mut found);
        assert!(!found.is_empty());
        for key in found {
            assert!(documented.contains(&format!("`{key}`")), "{key} of {args:?}");
        }
    }
}
