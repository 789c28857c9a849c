//! Messages from other programs, of both sides of a connection.

use serde_json::{Value, json};

use super::call::Call;
use super::view::{Status, WatchEvent};
use crate::fuzz::{mutate, rounds};

const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[[[[",
    b"null",
    b"\"parameters\":",
    b"\"method\":",
    b"\"more\":true",
    b"\\ud800",
    b"\xff",
    b"1e999",
    b"\"2026-01-01T00:00:00Z\"",
];

#[test]
fn any_call_is_read_or_refused() {
    let calls = [
        &br#"{"method":"io.vmon.Monitor.GetStatus","parameters":{}}"#[..],
        br#"{"method":"io.vmon.Monitor.Stop","parameters":{"timeout_ms":10000},"oneway":true}"#,
        br#"{"method":"io.vmon.Monitor.Attach","upgrade":true,"parameters":{"read_only":false,"tail":7,"stream":"stdout","console":null}}"#,
        br#"{"method":"io.vmon.Monitor.Watch","more":true,"parameters":null}"#,
    ];
    rounds(|random| {
        let mut message = random.choice(calls).unwrap().to_vec();
        mutate(random, &mut message, WORDS);
        if let Ok(call) = Call::read(&message, 0) {
            assert!(!call.method.is_empty() && call.parameters.len() <= 16);
            let is_flat = |value: &Value| match value {
                Value::Array(list) => list.is_empty(),
                value => !value.is_object(),
            };
            assert!(call.parameters.values().all(is_flat));
        }
    });
}

#[test]
fn any_reply_is_read_or_refused() {
    let process = json!({ "pid": 7, "start": 9, "boot_id": "b", "pid_namespace": 3 });
    let end = json!({
        "reason": "exited", "exit_code": 7, "signal": null, "message": null, "bytes_logged": 3,
        "bytes_dropped": 0,
    });
    let status = json!({
        "name": "web", "config_file": "Sandboxfile",
        "labels": { "app": "web", "empty": "" }, "state": "RUNNING", "supervisor": process,
        "child": process, "started_at": "2026-01-01T00:00:00Z",
        "running_at": "2026-01-01T00:00:00Z", "restarts": 1, "restart_at": null, "tty": true,
        "log": "/log", "bytes_logged": 3, "bytes_dropped": 0,
        "consoles": [{
            "name": "c", "kind": "pty", "path": "/p", "state": "open", "log": "/l", "bytes_logged": 1,
            "bytes_dropped": 0, "opened": 1,
        }],
        "sessions": [{ "session": 1, "stream": "console", "console": "c", "read_only": false, "missed": 0 }],
        "waits": [{ "kind": "log", "reason": "full", "since": "2026-01-01T00:00:00Z" }],
        "end": end,
    });
    let event = json!({
        "state": "STOPPED", "at": "2026-01-01T00:00:00Z", "child": process, "end": end,
        "restart_in": 100,
    });
    assert_eq!(Status::read(&status).unwrap().labels.len(), 2);
    WatchEvent::read(&event).unwrap();
    // From other versions.
    for labels in [json!(null), json!([1]), json!({ "a b": "x", "app": 1, "": "" })] {
        let mut status = status.clone();
        status["labels"] = labels;
        assert!(Status::read(&status).unwrap().labels.is_empty());
    }
    let replies = [status.to_string(), event.to_string()];
    rounds(|random| {
        let mut reply = random.choice(&replies).unwrap().clone().into_bytes();
        mutate(random, &mut reply, WORDS);
        if let Ok(value) = serde_json::from_slice(&reply) {
            let _ = (Status::read(&value), WatchEvent::read(&value));
        }
    });
}
