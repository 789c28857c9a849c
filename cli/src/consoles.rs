//! The consoles of a run as JSON, for `ps`, `history` and `inspect`.

use serde_json::{Value, json};
use vmon::control::ConsoleStatus;
use vmon::logfile::names;
use vmon::monitor::Console as Wanted;
use vmon::registry::Run;

use super::live::Answer;

/// The consoles of a run with their byte counts: from its supervisor if that has answered, else from
/// the record.
pub fn of(run: &Run, answer: &Answer) -> Value {
    let Some(spec) = run.spec.as_ref() else { return json!([]) };
    if !spec.sandbox.consoles.is_empty()
        && let Some(Ok(status)) = answer
    {
        return status.consoles.iter().map(live).collect();
    }
    let object = |name: &str, wanted: Option<&Wanted>| {
        let bytes = run.consoles.iter().find(|bytes| bytes.name == name);
        json!({
            "name": name,
            // A console without a description was passed by a host as an open descriptor.
            "kind": wanted.map_or("descriptor", Wanted::kind),
            "path": wanted.and_then(Wanted::path).map(|path| path.to_string_lossy()),
            "state": null,
            "log": log(run, name),
            "bytes_logged": bytes.map(|bytes| bytes.bytes_logged),
            "bytes_dropped": bytes.map(|bytes| bytes.bytes_dropped),
            "opened": null,
        })
    };
    let is_wanted = |name: &str| spec.sandbox.consoles.iter().any(|it| it.name().as_str() == name);
    let others = run.consoles.iter().filter(|bytes| !is_wanted(&bytes.name));
    let wanted = spec.sandbox.consoles.iter().map(|it| object(it.name().as_str(), Some(it)));
    wanted.chain(others.map(|bytes| object(&bytes.name, None))).collect()
}

/// A console as the supervisor reports it.
pub fn live(console: &ConsoleStatus) -> Value {
    json!({
        "name": console.name,
        "kind": console.kind,
        "path": console.path.as_ref().map(|path| path.to_string_lossy()),
        "state": console.state.as_str(),
        "log": console.log.as_ref().map(|path| path.to_string_lossy()),
        "bytes_logged": console.bytes_logged,
        "bytes_dropped": console.bytes_dropped,
        "opened": console.opened,
    })
}

fn log(run: &Run, console: &str) -> Option<String> {
    let sandbox = &run.spec.as_ref()?.sandbox;
    if sandbox.log_off {
        return None;
    }
    let directory = sandbox.log_dir.join(&run.config_file);
    let file = directory.join(names::log(&names::further(&run.name, console)));
    Some(file.to_string_lossy().into_owned())
}
