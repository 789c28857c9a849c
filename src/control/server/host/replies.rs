//! The replies of `io.vmon.Host`.

use serde_json::{Value, json};

use super::super::super::value::int;
use super::super::super::view;
use crate::monitor::{End, Labels, Name, Phase, Report, Transition, labels_json};

/// The namespace and the name of a sandbox, and its number in this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) id: u32,
    pub(crate) config_file: &'a Name,
    pub(crate) name: &'a Name,
}

/// The reply of `Start`.
pub(crate) fn started(Named { id, config_file, name }: Named<'_>, pid: u32) -> Value {
    json!({ "id": id, "config_file": config_file.as_str(), "name": name.as_str(), "pid": pid })
}

/// One sandbox in the reply of `List`.
pub(crate) fn listed(
    Named { id, config_file, name }: Named<'_>,
    labels: &Labels,
    phase: Phase,
    pid: Option<u32>,
) -> Value {
    json!({
        "id": id,
        "config_file": config_file.as_str(),
        "name": name.as_str(),
        "labels": labels_json::write(labels),
        "state": phase.as_str(),
        "pid": pid,
    })
}

/// The reply of `Inspect`.
pub(crate) fn inspected(id: u32, report: &Report) -> Value {
    json!({ "id": id, "status": view::status(report) })
}

/// The reply of `Wait`.
pub(crate) fn ended(id: u32, end: &End) -> Value {
    json!({ "id": id, "exit_code": int(end.exit_code().into()), "end": view::end(end) })
}

/// An event of `Watch`.
pub(crate) fn event(Named { id, config_file, name }: Named<'_>, transition: &Transition) -> Value {
    let (mut event, _) = view::transition(transition);
    if let Some(event) = event.as_object_mut() {
        event.insert("id".into(), id.into());
        event.insert("config_file".into(), config_file.as_str().into());
        event.insert("name".into(), name.as_str().into());
    }
    event
}
