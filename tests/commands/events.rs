//! `vmon events`: every start and every end is reported, and nothing else.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::inject::faults;
use crate::common::{self, Detached, State, code, eventually, wait};
use chrono::DateTime;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

/// A running `vmon events --json`.
struct Events {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    /// Starts it. Returns when events are being reported.
    fn follow(state: &State, args: &[&str]) -> Self {
        let mut command = state.vmon();
        command.args(["events", "--json"]).args(args).stdout(Stdio::piped());
        Self::started_in(state, command)
    }

    fn started_in(state: &State, mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The first event reported is that of a marker, which starts afterwards.
        let mut marker = marker(state).spawn().unwrap();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(first["name"].as_str().unwrap().starts_with("marker"), "{first}");
        common::signal(&marker, Signal::SIGTERM);
        wait(&mut marker);
        Self { child, lines }
    }

    /// Returns the events up to the first that satisfies the condition, without those of markers.
    fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
            if event["name"].as_str().unwrap().starts_with("marker") {
                continue;
            }
            events.push(event);
            if is_last(events.last().unwrap()) {
                return events;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs short sandboxes one after the other, until it is killed.
fn marker(state: &State) -> Command {
    let mut command = Command::new("sh");
    let script = r#"trap 'exit 0' TERM; while :; do "$0" run --name marker --label watched=marker true; done"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_vmon")]).env("VMON_STATE_DIR", state.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn words(events: &[Value]) -> Vec<(&str, &str)> {
    let word = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    events
        .iter()
        .map(|event| (word(event, "name").leak() as &str, word(event, "event").leak() as &str))
        .collect()
}

fn is_end(event: &Value) -> bool {
    event["event"] == "stopped"
}

#[test]
fn a_short_run_is_reported_from_its_start_to_its_end() {
    let state = State::new();
    state.ran("before", &[], "true");
    let mut events = Events::follow(&state, &["before", "web", "marker"]);
    state.ran("web", &[], "echo hello; exit 3");
    let reported = events.until(is_end);
    assert_eq!(words(&reported), [("web", "starting"), ("web", "running"), ("web", "stopped")]);
    let end = reported.last().unwrap();
    assert_eq!((&end["reason"], &end["exit_code"]), (&"exited".into(), &3.into()));
    assert_eq!(end["bytes_logged"], 6);
    for event in &reported {
        assert_eq!(event["run"].to_string(), state.run_column("web", "id").unwrap());
    }
    assert_eq!(end["time"], state.run_column("web", "ended_at").unwrap().as_str());
    assert_eq!(reported[1]["pid"].to_string(), state.run_column("web", "pid").unwrap());
}

#[test]
fn no_start_and_no_end_of_many_is_missed() {
    let state = State::new();
    let mut events = Events::follow(&state, &["web", "other", "last", "marker"]);
    for run in 0..20 {
        state.ran(if run % 2 == 0 { "web" } else { "other" }, &[], &format!("exit {run}"));
    }
    state.ran("last", &[], "true");
    let reported = events.until(|event| event["name"] == "last" && is_end(event));
    let ends: Vec<_> = reported.iter().filter(|event| is_end(event)).collect();
    let codes: Vec<i64> = ends.iter().map(|end| end["exit_code"].as_i64().unwrap()).collect();
    assert_eq!(codes, (0..20).chain([0]).collect::<Vec<_>>());
    let count = |word: &str| reported.iter().filter(|event| event["event"] == word).count();
    assert_eq!((count("starting"), count("running"), count("stopped")), (21, 21, 21));
    let times: Vec<&str> = reported.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn events_have_the_labels_of_their_sandbox_and_are_selected_by_them() {
    let state = State::new();
    let mut events = Events::follow(&state, &["--filter", "label=watched"]);
    state.ran("web", &[], "true");
    state.ran("web", &["--label", "watched=yes", "--label", "app=x"], "true");
    // Removed before that was read, the run would have no further event than its end.
    let mut reported = events.until(is_end);
    let removed = state.vmon().args(["rm", "web"]).status().unwrap();
    assert!(removed.success());
    reported.extend(events.until(|event| event["event"] == "removed"));
    let expected = ["starting", "running", "stopped", "removed"].map(|event| ("web", event));
    assert_eq!(words(&reported), expected);
    for event in &reported {
        assert_eq!(event["labels"], serde_json::json!({ "app": "x", "watched": "yes" }));
    }
}

#[test]
fn only_the_selected_sandboxes_are_reported() {
    let state = State::new();
    let mut events = Events::follow(&state, &["a/web", "marker"]);
    state.ran("web", &["--config-file", "b"], "true");
    state.ran("db", &["--config-file", "a"], "true");
    state.ran("web", &["--config-file", "a"], "true");
    let reported = events.until(is_end);
    assert_eq!(reported.len(), 3, "{reported:?}");
    assert!(reported.iter().all(|event| event["config_file"] == "a"));
}

#[test]
fn a_restart_is_the_end_of_one_run_and_the_start_of_the_next() {
    let state = State::new();
    let mut events = Events::follow(&state, &["web", "marker"]);
    state.ran("web", &["--restart", "on-failure:1"], "exit 7");
    let reported = events.until(is_end);
    let expected =
        ["starting", "running", "restarting", "starting", "running", "stopped"].map(|w| ("web", w));
    assert_eq!(words(&reported), expected);
    assert_eq!(reported[2]["exit_code"], 7);
    assert_ne!(reported[0]["run"], reported[3]["run"]);
}

#[test]
fn a_restart_is_reported_with_its_count_and_the_time_of_the_next_start() {
    let state = State::new();
    let gate = state.file("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let mut events = Events::follow(&state, &["web", "marker"]);
    let script = format!("read line < {}; exit 7", gate.display());
    let mut web = state.run("web", &["--restart", "on-failure:2"], &script).spawn().unwrap();
    let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    for count in 0..2 {
        fs::write(&gate, "go\n").unwrap();
        let reported = events.until(|event| event["event"] == "restarting");
        let (restart, others) = reported.split_last().unwrap();
        // The next run may have started by now; it waits.
        assert_eq!(restart["restarts"], count, "{restart}");
        assert!(time(&restart["restart_at"]) > time(&restart["time"]), "{restart}");
        let is_without = |it: &Value| it["restarts"].is_null() && it["restart_at"].is_null();
        assert!(others.iter().all(is_without), "{others:?}");
    }
    fs::write(&gate, "go\n").unwrap();
    events.until(is_end);
    wait(&mut web);
}

#[test]
fn runs_of_a_sandbox_that_was_removed_and_started_again_are_all_reported() {
    let state = State::new();
    let mut events = Events::follow(&state, &[]);
    for code in 1..=3 {
        state.ran("web", &[], &format!("exit {code}"));
    }
    let web = events.until(|event| event["exit_code"] == 3);
    let first = web[0]["run"].as_i64().unwrap();
    // Suspended while it reads, it would keep the registry locked.
    #[cfg(target_os = "linux")]
    eventually("events waits without a timeout", || waits_for_ever(events.child.id()));
    // While it is suspended, the last numbers on record are used again.
    common::signal(&events.child, Signal::SIGSTOP);
    assert!(state.vmon().args(["rm", "web"]).status().unwrap().success());
    state.ran("db", &[], "exit 4");
    state.ran("db", &[], "exit 5");
    common::signal(&events.child, Signal::SIGCONT);
    let mut reported = events.until(|event| event["exit_code"] == 5);
    assert!(state.vmon().args(["rm", "db"]).status().unwrap().success());
    reported.extend(events.until(|event| event["name"] == "db" && event["event"] == "removed"));
    let run = |code| {
        let end = reported.iter().find(|event| event["exit_code"] == code).unwrap();
        (end["name"].as_str().unwrap(), end["run"].as_i64().unwrap())
    };
    assert_eq!((run(4), run(5)), (("db", first), ("db", first + 1)));
    let mut words = words(&reported);
    words.sort_unstable();
    let of_db = ["removed", "running", "running", "starting", "starting", "stopped", "stopped"];
    let expected = of_db.map(|word| ("db", word)).into_iter().chain([("web", "removed")]);
    assert_eq!(words, expected.collect::<Vec<_>>());
}

/// The arguments of the poll(2) or ppoll(2) that a process waits in, without a timeout.
#[cfg(target_os = "linux")]
fn waits_for_ever(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let words: Vec<&str> = call.split(' ').collect();
    let is = |number: nix::libc::c_long| words.first() == Some(&number.to_string().as_str());
    #[cfg(target_arch = "x86_64")]
    if is(nix::libc::SYS_poll) {
        return words[3].ends_with("ffffffff");
    }
    is(nix::libc::SYS_ppoll) && words[3] == "0x0"
}

#[cfg(target_os = "linux")]
#[test]
fn events_waits_without_a_timeout_while_nothing_happens() {
    let state = State::new();
    let run = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 1000"));
    let mut events = Events::follow(&state, &[]);
    eventually("events waits without a timeout", || waits_for_ever(events.child.id()));
    run.signal(Signal::SIGKILL);
    let reported = events.until(is_end);
    assert_eq!(reported.last().unwrap()["reason"], "supervisor-lost", "{reported:?}");
    eventually("events waits without a timeout", || waits_for_ever(events.child.id()));
}

#[cfg(target_os = "linux")]
#[test]
fn where_files_can_not_be_watched_events_says_so_once_and_polls() {
    let state = State::new();
    let mut command = state.vmon();
    command.args(["events", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    faults(&mut command, &[format!("inotify_init1 {}", nix::libc::EMFILE)]);
    let mut events = Events::started_in(&state, command);
    state.ran("web", &[], "exit 3");
    state.ran("web", &[], "exit 4");
    let reported = events.until(|event| event["exit_code"] == 4);
    assert_eq!(reported.len(), 6, "{reported:?}");
    common::signal(&events.child, Signal::SIGTERM);
    let mut said = String::new();
    events.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("can't watch files") && said.contains("250 ms"), "{said}");
}

#[test]
fn a_killed_supervisor_is_reported_as_lost() {
    let state = State::new();
    let mut web = state.run("web", &[], "exec sleep 600").spawn().unwrap();
    state.wait_for_status("web", "RUNNING");
    let mut events = Events::follow(&state, &["web", "marker"]);
    web.kill().unwrap();
    web.wait().unwrap();
    let reported = events.until(is_end);
    assert_eq!(reported.last().unwrap()["reason"], "supervisor-lost", "{reported:?}");
}

#[test]
fn a_removal_is_reported() {
    let state = State::new();
    state.ran("web", &[], "true");
    let mut events = Events::follow(&state, &["web", "marker"]);
    assert!(state.vmon().args(["rm", "web"]).status().unwrap().success());
    let reported = events.until(|event| event["event"] == "removed");
    assert_eq!(words(&reported), [("web", "removed")]);
}

#[test]
fn a_database_created_later_is_followed() {
    let state = State::new();
    // The markers create it.
    let mut events = Events::follow(&state, &[]);
    state.ran("web", &[], "true");
    let reported = events.until(is_end);
    assert_eq!(reported.len(), 3, "{reported:?}");
}

#[test]
fn a_signal_or_a_closed_stdout_ends_events_without_a_message() {
    let state = State::new();
    for signal in [Some(Signal::SIGTERM), Some(Signal::SIGINT), None] {
        let mut events = Events::follow(&state, &[]);
        match signal {
            Some(signal) => common::signal(&events.child, signal),
            None => {
                let (reader, _) = std::io::pipe().unwrap();
                drop(reader);
                let mut command = state.vmon();
                let (reader, writer) = std::io::pipe().unwrap();
                let mut child = command.arg("events").stdout(writer).spawn().unwrap();
                drop(command);
                drop(reader);
                assert_eq!(code(wait(&mut child)), 0);
                continue;
            }
        }
        assert_eq!(code(wait(&mut events.child)), 0, "{signal:?}");
    }
}
