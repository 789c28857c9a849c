//! What holds sandboxes up, as their supervisors report it: for `ps`, `history`, `inspect`, `stats`
//! and `stop`.

use chrono::Utc;
use serde_json::{Value, json};
use vmon::control::ClientError;
use vmon::monitor::Wait;
use vmon::registry::{Run, RunStatus};

use super::live::Answer;
use super::output::{duration, stamp, table};

/// The header of the column, which a table has only if there is something to show.
pub const HEADER: &str = "WAITS FOR";

/// What a run waits for, as JSON; null if that is not known.
pub fn of(run: &Run, answer: &Answer) -> Value {
    match answer {
        Some(Ok(status)) => json(&status.waits),
        None if run.status == RunStatus::Stopped => json!([]),
        None | Some(Err(_)) => Value::Null,
    }
}

/// As JSON.
pub fn json(waits: &[Wait]) -> Value {
    let object = |wait: &Wait| json!({ "kind": wait.kind.as_str(), "reason": wait.reason, "since": stamp(wait.since) });
    waits.iter().map(object).collect()
}

/// In a table.
pub fn cell(answer: &Answer) -> String {
    match answer {
        Some(Ok(status)) => status.waits.iter().map(text).collect::<Vec<_>>().join("; "),
        Some(Err(ClientError::Timeout(_))) => {
            "supervisor: it does not answer, and may be suspended".to_owned()
        }
        Some(Err(_)) | None => String::new(),
    }
}

/// In words.
pub fn text(wait: &Wait) -> String {
    let waited = Utc::now().signed_duration_since(wait.since).to_std().unwrap_or_default();
    format!("{}: {}, for {}", wait.kind, wait.reason, duration(waited))
}

/// A table whose rows end with what [`cell`] returns. Without any the column is left out.
pub fn table_with_waits<R: IntoIterator<Item = String>>(
    header: impl IntoIterator<Item = &'static str>,
    rows: impl IntoIterator<Item = (R, String)>,
) -> String {
    let rows: Vec<(R, String)> = rows.into_iter().collect();
    if rows.iter().all(|(_, waits)| waits.is_empty()) {
        return table(header, rows.into_iter().map(|(row, _)| row));
    }
    let rows = rows.into_iter().map(|(row, waits)| row.into_iter().chain([waits]));
    table(header.into_iter().chain([HEADER]), rows)
}
