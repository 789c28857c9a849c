//! Lists and reports as JSON.

use std::collections::HashMap;

use serde_json::{Value, json};
use vmon::host::Listed;
use vmon::monitor::{Report, SandboxId};

pub fn list(sandboxes: &[Listed]) -> Value {
    let sandbox = |it: &Listed| {
        json!({
            "id": it.id.to_bits(),
            "name": it.name.as_str(),
            "config_file": it.config_file.as_str(),
            "state": it.phase.as_str(),
            "pid": it.pid,
        })
    };
    sandboxes.iter().map(sandbox).collect()
}

pub fn report(id: SandboxId, report: &Report) -> Value {
    let waits = report.waits.iter();
    let waits = waits.map(|wait| json!({ "kind": wait.kind.as_str(), "reason": wait.reason }));
    json!({
        "id": id.to_bits(),
        "name": report.name.as_str(),
        "config_file": report.config_file.as_str(),
        "state": report.phase.as_str(),
        "pid": report.child.as_ref().map(|child| child.pid),
        "labels": report.labels.iter().collect::<HashMap<_, _>>(),
        "restarts": report.restarts,
        "tty": report.tty,
        "log": report.log.as_ref().map(|path| path.to_string_lossy()),
        "bytes_logged": report.bytes_logged,
        "bytes_dropped": report.bytes_dropped,
        "sessions": report.sessions.len(),
        "waits": waits.collect::<Value>(),
    })
}
