//! A run as JSON, for `ps`, `history` and `inspect`.

use serde_json::{Value, json};
use vmon::monitor::{Labels, Phase, Reason};
use vmon::registry::{Run, RunStatus};

use super::live::{self, Answer};
use super::output::{merged, stamp, word};
use super::{consoles, waits};

/// The keys of [`run_object`].
pub const RUN_KEYS: [&str; 20] = [
    "id",
    "name",
    "config_file",
    "state",
    "status",
    "pid",
    "supervisor_pid",
    "host",
    "started_at",
    "running_at",
    "ended_at",
    "exit_code",
    "signal",
    "reason",
    "bytes_logged",
    "bytes_dropped",
    "consoles",
    "rootfs_paths",
    "labels",
    "waits",
];

/// The states of a run on record.
pub const STATES: [Phase; 5] =
    [Phase::Starting, Phase::Running, Phase::Stopping, Phase::Restarting, Phase::Stopped];

/// The state on record, limited to [`STATES`]. A run whose supervisor is dead has stopped.
pub fn state(run: &Run) -> Phase {
    match run.status {
        RunStatus::Stopped => Phase::Stopped,
        RunStatus::Running => {
            run.state.filter(|state| STATES.contains(state)).unwrap_or(Phase::Running)
        }
    }
}

/// The labels of a run; `None` if it is of another program.
pub fn labels(run: &Run) -> Option<&Labels> {
    run.spec.as_ref().map(|spec| &spec.sandbox.labels)
}

/// Labels as a JSON object; null if they are not known.
pub fn labels_object(labels: Option<&Labels>) -> Value {
    let object = |labels: &Labels| {
        labels.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
    };
    labels.map(object).unwrap_or_default()
}

/// A run, with what its supervisor has answered.
pub fn run_object(run: &Run, answer: &Answer) -> Value {
    let live = json!({ "consoles": consoles::of(run, answer), "waits": waits::of(run, answer) });
    merged(recorded(run), live)
}

/// The same for each run; supervisors are asked at the same time.
pub fn run_objects(runs: &[&Run]) -> Vec<Value> {
    runs.iter().zip(live::answers(runs)).map(|(run, answer)| run_object(run, &answer)).collect()
}

/// What is on record of a run, without the keys that its supervisor answers.
pub fn recorded(run: &Run) -> Value {
    json!({
        "id": run.id,
        "name": run.name,
        "config_file": run.config_file,
        "state": run.state.map(Phase::as_str),
        "status": word(run.status),
        "pid": run.pid,
        "supervisor_pid": run.supervisor,
        "host": run.host,
        "started_at": run.started_at.map(stamp),
        "running_at": run.running_at.map(stamp),
        "ended_at": run.ended_at.map(stamp),
        "exit_code": run.exit_code,
        "signal": run.signal,
        "reason": run.reason.map(Reason::as_str),
        "bytes_logged": run.bytes_logged,
        "bytes_dropped": run.bytes_dropped,
        "rootfs_paths": run.rootfs_paths,
        "labels": labels_object(labels(run)),
    })
}
