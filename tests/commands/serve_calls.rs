//! The interface `io.vmon.Host`, with raw messages and with clients of other projects.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::hosted::{Hosted, call, call_with};
use crate::common::{self, Detached, contains, eventually, is_gone};

/// The parameters of a start.
fn start(name: &str, script: &str) -> Value {
    json!({ "name": name, "spec": { "command": ["sh", "-c", script] } })
}

#[track_caller]
fn ok(reply: &Value) -> &Value {
    assert!(reply.get("error").is_none(), "{reply}");
    &reply["parameters"]
}

#[test]
fn a_sandbox_is_started_listed_stopped_and_waited_for() {
    let host = Hosted::start();
    let mut raw = host.raw();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done";
    let started = raw.ask(call("Start", start("web", script)));
    let id = ok(&started)["id"].as_u64().unwrap();
    assert_eq!(ok(&started)["config_file"], "Sandboxfile");
    host.state.wait_for_log("web", b"up\n");
    let listed = raw.ask(call("List", json!({ "state": "RUNNING", "name": "web" })));
    assert_eq!(ok(&listed)["sandboxes"][0]["id"], id);
    let none = raw.ask(call("List", json!({ "state": "STOPPING" })));
    assert_eq!(ok(&none)["sandboxes"], json!([]));
    let inspected = raw.ask(call("Inspect", json!({ "name": "web", "id": id })));
    assert_eq!(ok(&inspected)["status"]["bytes_logged"], 3);
    // Its reply comes before those of later calls.
    raw.send(call("Wait", json!({ "name": "web" })) + "\0");
    raw.send(call("List", json!({})) + "\0");
    let mut other = host.raw();
    ok(&other.ask(call("Stop", json!({ "name": "web", "timeout": 60_000 }))));
    let ended = raw.next().unwrap();
    assert_eq!(
        (&ok(&ended)["exit_code"], &ok(&ended)["end"]["reason"]),
        (&json!(3), &json!("stopped"))
    );
    assert_eq!(ok(&raw.next().unwrap())["sandboxes"], json!([]));
    // Also for a client that asks later.
    let late = other.ask(call("Wait", json!({ "name": "web", "id": id })));
    assert_eq!(late, ended);
    let gone = other.ask(call("Stop", json!({ "name": "web" })));
    assert_eq!(gone["error"], "io.vmon.Host.NoSuchSandbox");
    host.end(Signal::SIGTERM);
}

#[test]
fn sandboxes_are_listed_by_their_labels() {
    let host = Hosted::start();
    let mut raw = host.raw();
    for (name, labels) in [("a", json!({ "app": "x", "tier": "" })), ("b", json!({ "app": "y" }))] {
        let spec = json!({ "command": ["sleep", "1000"], "labels": labels });
        ok(&raw.ask(call("Start", json!({ "name": name, "spec": spec }))));
    }
    host.started("c", &["--label", "app=x"], "exec sleep 1000");
    let mut named = |labels: &[&str]| {
        let listed = raw.ask(call("List", json!({ "labels": labels })));
        let listed = ok(&listed)["sandboxes"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            listed.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names.concat()
    };
    let found = [&["app=x"][..], &["app"], &["app=x", "tier"], &["tier="], &["z"]].map(&mut named);
    assert_eq!(found, ["ac", "abc", "a", "a", ""]);
    let listed = raw.ask(call("List", json!({ "name": "b" })));
    assert_eq!(ok(&listed)["sandboxes"][0]["labels"], json!({ "app": "y" }));
    host.end(Signal::SIGTERM);
}

#[test]
fn a_kill_ends_the_command_by_default() {
    let host = Hosted::start();
    let mut raw = host.raw();
    ok(&raw.ask(call("Start", start("web", "exec sleep 1000"))));
    ok(&raw.ask(call("Kill", json!({ "name": "web", "signal": "CONT" }))));
    ok(&raw.ask(call("Kill", json!({ "name": "web" }))));
    let ended = raw.ask(call("Wait", json!({ "name": "web" })));
    assert_eq!((&ok(&ended)["exit_code"], &ok(&ended)["end"]["signal"]), (&json!(137), &json!(9)));
    host.end(Signal::SIGTERM);
}

#[test]
fn a_terminal_is_attached_and_resized() {
    let host = Hosted::start();
    let mut raw = host.raw();
    let script = "trap 'stty size' WINCH; echo up; while :; do read line && echo got $line; done";
    let spec = json!({ "command": ["sh", "-c", script], "tty": true });
    ok(&raw.ask(call("Start", json!({ "name": "tty", "spec": spec }))));
    host.state.wait_for_log("tty", b"up");
    let wrong =
        raw.ask(call_with("upgrade", "Attach", json!({ "name": "tty", "stream": "stderr" })));
    assert_eq!(wrong["error"], "io.vmon.Host.NoSuchStream");
    let attached = raw.ask(call_with("upgrade", "Attach", json!({ "name": "tty", "tail": 2 })));
    assert_eq!(ok(&attached)["stream"], "tty");
    let session = &ok(&attached)["session"];
    raw.send(b"x\n");
    host.state.wait_for_log("tty", b"got x");
    let size = json!({ "name": "tty", "session": session, "rows": 33, "columns": 77 });
    let mut other = host.raw();
    ok(&other.ask(call("Resize", size)));
    host.state.wait_for_log("tty", b"33 77");
    ok(&other.ask(call("Resize", json!({ "name": "tty", "rows": 34, "columns": 78 }))));
    host.state.wait_for_log("tty", b"34 78");
    let status = other.ask(call("Inspect", json!({ "name": "tty" })));
    assert_eq!(ok(&status)["status"]["sessions"].as_array().unwrap().len(), 1);
    host.end(Signal::SIGTERM);
    let mut rest = Vec::new();
    raw.stream().read_to_end(&mut rest).unwrap();
}

#[test]
fn events_of_all_sandboxes_are_watched_and_resumed() {
    let host = Hosted::start();
    let (mut watch, mut raw) = (host.raw(), host.raw());
    let first = watch.ask(call_with("more", "Watch", json!({})));
    assert_eq!((&ok(&first)["event"], &first["continues"]), (&Value::Null, &json!(true)));
    ok(&raw.ask(call("Start", start("a", "exit 4"))));
    ok(&raw.ask(call("Wait", json!({ "name": "a" }))));
    ok(&raw.ask(call("Start", start("b", "exit 5"))));
    ok(&raw.ask(call("Wait", json!({ "name": "b" }))));
    let mut replies: Vec<Value> = Vec::new();
    while replies.len() < 6 {
        replies.push(ok(&watch.next().unwrap()).clone());
    }
    let seen = |reply: &Value| {
        let event = &reply["event"];
        format!("{} {}", event["name"].as_str().unwrap(), event["state"].as_str().unwrap())
    };
    let all: Vec<String> = replies.iter().map(seen).collect();
    let expected = ["a RUNNING", "a DRAINING", "a STOPPED", "b RUNNING", "b DRAINING", "b STOPPED"];
    assert_eq!(all, expected);
    assert_eq!(replies[2]["event"]["end"]["exit_code"], 4);
    let mut resumed = host.raw();
    let after = json!({ "after": replies[1]["cursor"] });
    assert_eq!(ok(&resumed.ask(call_with("more", "Watch", after)))["event"], Value::Null);
    for expected in &replies[2..] {
        assert_eq!(ok(&resumed.next().unwrap()), expected);
    }
    let unknown = raw.ask(call_with("more", "Watch", json!({ "after": "x-1" })));
    assert_eq!(unknown["error"], "io.vmon.Host.UnknownCursor");
    host.end(Signal::SIGTERM);
}

#[test]
fn a_slow_watcher_counts_what_it_has_missed_and_delays_nothing() {
    let host = Hosted::start();
    let mut watch = host.raw();
    watch.ask(call_with("more", "Watch", json!({})));
    let mut raw = host.raw();
    // More bytes than the socket's buffer and the kept events together: each has the program.
    let program = format!("/{}", "x".repeat(4000));
    let spec = json!({ "command": [program], "log_index": false });
    let started = 200;
    for _ in 0..started {
        let answer = raw.ask(call("Start", json!({ "name": "x", "spec": spec })));
        assert_eq!(answer["error"], "io.vmon.Host.NotStarted");
    }
    let (mut events, mut missed) = (0, 0);
    while events + missed < started {
        let reply = watch.next().unwrap();
        missed += ok(&reply)["missed"].as_u64().unwrap();
        events += u64::from(!reply["parameters"]["event"].is_null());
    }
    assert_eq!(events + missed, started);
    assert!(missed > 0, "{events}");
    host.end(Signal::SIGTERM);
}

#[test]
fn an_impossible_call_is_a_named_error() {
    let host = Hosted::start();
    let mut raw = host.raw();
    let command = json!({ "command": ["true"] });
    for (call, error) in [
        (call("Nothing", json!({})), "MethodNotFound"),
        (call("Watch", json!({})), "ExpectedMore"),
        (call("Attach", json!({ "name": "x" })), "ExpectedUpgrade"),
        (call_with("upgrade", "Attach", json!({ "name": "x" })), "NoSuchSandbox"),
        (call("Stop", json!({ "name": "../x" })), "NoSuchSandbox"),
        (call("Inspect", json!({ "name": "x", "id": -1 })), "InvalidParameter"),
        (call("Wait", json!({ "name": "x" })), "NoSuchSandbox"),
        (call("Start", json!({ "name": "../x", "spec": command })), "InvalidParameter"),
        (call("Start", json!({ "name": "x", "spec": { "comand": ["x"] } })), "InvalidParameter"),
        (call("Start", json!({ "name": "x", "spec": {} })), "InvalidParameter"),
        (call("Start", json!({ "name": "x", "spec": command, "y": 1 })), "InvalidParameter"),
        (call("List", json!({ "state": "running" })), "InvalidParameter"),
    ] {
        let answer = raw.ask(&call);
        let name = answer["error"].as_str().unwrap_or_else(|| panic!("{call}: {answer}"));
        assert_eq!(name.rsplit('.').next(), Some(error), "{call}: {answer}");
    }
    for (key, value) in [("forward", "block"), ("stdin", "forward")] {
        let spec = json!({ "command": ["true"], key: value });
        let answer = raw.ask(call("Start", json!({ "name": "x", "spec": spec })));
        let message = answer["parameters"]["message"].as_str().unwrap();
        assert!(message.contains(key), "{answer}");
    }
    host.end(Signal::SIGTERM);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let host = Hosted::start();
    let mut raw = host.raw();
    ok(&raw.ask(call("Start", start("web", "exec sleep 1000"))));
    let count = || std::fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    ok(&raw.ask(call("List", json!({}))));
    let before = count();
    for _ in 0..3 {
        let mut waiting = host.raw();
        waiting.send(call("Wait", json!({ "name": "web" })) + "\0");
    }
    let mut half_closed = host.raw();
    half_closed.send(call("Wait", json!({ "name": "web" })) + "\0");
    half_closed.stream().shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the others are closed", || count() == before + 1);
    ok(&raw.ask(call("Stop", json!({ "name": "web" }))));
    assert_eq!(ok(&half_closed.next().unwrap())["exit_code"], 143);
    host.end(Signal::SIGTERM);
}

#[test]
fn oneway_calls_have_their_effect_and_no_reply() {
    let host = Hosted::start();
    let mut raw = host.raw();
    raw.send(call_with("oneway", "Start", start("web", "exec sleep 1000")) + "\0");
    raw.send(call_with("oneway", "Wait", json!({ "name": "web" })) + "\0");
    raw.send(call_with("oneway", "Nothing", json!({})) + "\0");
    eventually("it runs", || {
        let listed = raw.ask(call("List", json!({ "state": "RUNNING" })));
        !ok(&listed)["sandboxes"].as_array().unwrap().is_empty()
    });
    host.end(Signal::SIGTERM);
}

#[test]
fn an_independent_varlink_library_drives_a_host() {
    let Some(mut python) = common::python() else { return };
    let host = Hosted::start();
    let script = r#"
import sys, varlink
client = varlink.Client("unix:" + sys.argv[1])
assert set(client.get_interfaces()) == {"org.varlink.service", "io.vmon.Host"}
members = set(client.get_interface("io.vmon.Host").members)
assert {"Start", "List", "Inspect", "Stop", "Kill", "Wait", "Resize", "Attach", "Watch"} <= members
with client.open("io.vmon.Host") as host, client.open("io.vmon.Host") as other:
    watch = other.Watch(_more=True)
    assert next(watch).get("event") is None
    command = ["sh", "-c", "echo $A; trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"]
    started = host.Start(name="web", spec={"command": command}, environment=["A=b", "PATH=/usr/bin:/bin"])
    assert started["name"] == "web" and started["pid"] > 0, started
    event = next(watch)["event"]
    assert event["state"] == "RUNNING" and event["child"]["pid"] == started["pid"], event
    listed = host.List()["sandboxes"]
    assert [it["name"] for it in listed] == ["web"], listed
    try:
        host.Kill(name="web", signal="NOPE")
        raise SystemExit("no error")
    except varlink.VarlinkError as error:
        assert error.error() == "io.vmon.Host.InvalidSignal", error
    while host.Inspect(name="web")["status"]["bytes_logged"] < 5:
        pass
    host.Stop(name="web", timeout=60000)
    ended = host.Wait(name="web", id=started["id"])
    assert ended["exit_code"] == 3 and ended["end"]["reason"] == "stopped", ended
    states = [next(watch)["event"]["state"] for _ in range(3)]
    assert states == ["STOPPING", "DRAINING", "STOPPED"], states
print("all well")
"#;
    let output = python.args(["-c", script]).arg(&host.socket).output().unwrap();
    assert!(contains(&output.stdout, b"all well"), "{output:?}");
    assert!(host.state.log("web").starts_with(b"b\nup\n"));
    host.end(Signal::SIGTERM);
}

#[test]
fn a_stopping_host_starts_nothing_and_kills_at_a_second_signal() {
    let host = Hosted::start();
    let mut raw = host.raw();
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let started = raw.ask(call("Start", start("web", stubborn)));
    let pid = u32::try_from(ok(&started)["pid"].as_u64().unwrap()).unwrap();
    host.state.wait_for_log("web", b"up\n");
    common::signal(&host.process, Signal::SIGTERM);
    eventually("it stops", || {
        let listed = raw.ask(call("List", json!({ "state": "STOPPING" })));
        !ok(&listed)["sandboxes"].as_array().unwrap().is_empty()
    });
    let refused = raw.ask(call("Start", start("late", "true")));
    assert_eq!(refused["error"], "io.vmon.Host.NotStarted");
    ok(&raw.ask(call("Kill", json!({ "name": "web" }))));
    let mut host = host;
    assert_eq!(common::wait(&mut host.process).code(), Some(0));
    assert!(is_gone(pid));
    raw.stream().write_all(b"x").unwrap_err();
}

#[test]
fn a_start_that_finds_its_name_taken_leaves_no_end_and_no_event() {
    let host = Hosted::start();
    let elsewhere = Detached::start(
        &host.state,
        host.state.vmon().args(["run", "-d", "--name", "web", "sleep", "1000"]),
    );
    let (mut watch, mut raw) = (host.raw(), host.raw());
    ok(&watch.ask(call_with("more", "Watch", json!({}))));
    let taken = raw.ask(call("Start", start("web", "true")));
    assert_eq!(taken["error"], "io.vmon.Host.NotStarted");
    let waited = raw.ask(call("Wait", json!({ "name": "web" })));
    assert_eq!(waited["error"], "io.vmon.Host.NoSuchSandbox");
    ok(&raw.ask(call("Start", start("other", "exec sleep 1000"))));
    assert_eq!(ok(&watch.next().unwrap())["event"]["name"], "other");
    drop(elsewhere);
    host.end(Signal::SIGTERM);
}

#[test]
fn paths_of_a_start_are_those_of_the_record() {
    let host = Hosted::start();
    let link = host.state.file("link");
    std::os::unix::fs::symlink(host.state.path(), &link).unwrap();
    let mut raw = host.raw();
    let slash = format!("{}/", host.state.path().display());
    for (name, state_dir) in [("a", slash.as_str()), ("b", link.to_str().unwrap())] {
        let spec = json!({ "command": ["sh", "-c", "echo up"], "log_dir": "mine" });
        let db = link.join("sandbox.db");
        let paths = json!({ "name": name, "spec": spec, "state_dir": state_dir, "db": db });
        ok(&raw.ask(call("Start", paths)));
        ok(&raw.ask(call("Wait", json!({ "name": name }))));
    }
    assert!(host.state.file("mine").is_dir());
    host.end(Signal::SIGTERM);
}
