//! `vmon ps`: the runs in the record, as a table or as JSON. It changes nothing that runs.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use vmon::child::Signal;
use vmon::registry::{Registry, Run, Status};

use super::shared::SharedArgs;
use super::{Failure, reason, tell};

const HEADER: [&str; 8] =
    ["NAME", "CONFIG", "STATUS", "PID", "SUPERVISOR", "STARTED", "ENDED", "EXIT"];

/// List what runs, newest first
///
/// Times in the table are local. EXIT is the exit code, or the signal that ended the command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --json, an array of objects, newest first, null where a value is not known:
  id, name, config_file, state, status, pid, supervisor_pid, started_at, running_at, ended_at,
  exit_code, signal, reason, bytes_logged, bytes_dropped, rootfs_paths
Times are RFC 3339, in UTC; a signal is its number.")]
pub struct PsArgs {
    #[command(flatten)]
    pub shared: SharedArgs,

    /// Also list every run that is over
    #[arg(long)]
    all: bool,

    /// An array of objects instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub fn ps(args: &PsArgs) -> Result<u8, Failure> {
    let places = args.shared.places()?;
    let mut runs = match Registry::open_existing(&places.db.path)? {
        Some(registry) => registry.runs()?,
        None => Vec::new(),
    };
    if !args.all {
        runs.retain(|run| run.status == Status::Running);
    }
    runs.sort_by_key(|run| std::cmp::Reverse((run.started_at, run.id)));
    let list = if args.json { json_list(&runs) } else { table(&runs) };
    tell::stdout(list.as_bytes()).map_err(|error| Failure::Output(reason(&error)))?;
    Ok(0)
}

fn table(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    for run in runs {
        table.add_row(row(run));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // Without the padding at the ends of lines.
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn row(run: &Run) -> [String; 8] {
    // Another program may have written the database: nothing of it steers a terminal.
    let text = |text: &str| tell::printable(text).into_owned();
    [
        text(&run.name),
        text(&run.config_file),
        word(run.status).to_owned(),
        or_dash(run.pid),
        or_dash(run.supervisor),
        or_dash(run.started_at.map(short)),
        or_dash(run.ended_at.map(short)),
        exit(run.exit_code, run.signal),
    ]
}

/// The ecosystem's words.
fn word(status: Status) -> &'static str {
    match status {
        Status::Running => "RUNNING",
        Status::Stopped => "STOPPED",
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn short(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The code, else the signal by name, as one word.
fn exit(code: Option<i32>, signal: Option<i32>) -> String {
    let name = |number| match Signal::from_number(number).map(|signal| signal.to_string()) {
        Some(name) if name.starts_with("SIG") => name,
        // A real-time signal, or one of another system.
        _ => format!("SIG{number}"),
    };
    or_dash(code.map(|code| code.to_string()).or_else(|| signal.map(name)))
}

fn json_list(runs: &[Run]) -> String {
    let objects = Value::Array(runs.iter().map(object).collect());
    format!("{objects:#}\n")
}

fn object(run: &Run) -> Value {
    let time = |time: Option<DateTime<Utc>>| {
        time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
    };
    json!({
        "id": run.id,
        "name": run.name,
        "config_file": run.config_file,
        "state": run.state,
        "status": word(run.status),
        "pid": run.pid,
        "supervisor_pid": run.supervisor,
        "started_at": time(run.started_at),
        "running_at": time(run.running_at),
        "ended_at": time(run.ended_at),
        "exit_code": run.exit_code,
        "signal": run.signal,
        "reason": run.reason,
        "bytes_logged": run.bytes_logged,
        "bytes_dropped": run.bytes_dropped,
        "rootfs_paths": run.rootfs_paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_is_the_code_or_the_signal_in_one_word() {
        assert_eq!(exit(Some(7), None), "7");
        assert_eq!(exit(None, Some(Signal::TERM.number())), "SIGTERM");
        assert_eq!(exit(None, Some(1000)), "SIG1000");
        assert_eq!(exit(None, None), "-");
    }

    #[test]
    fn an_empty_list_is_a_header_or_an_empty_array() {
        assert_eq!(table(&[]), format!("{}\n", HEADER.join("  ")));
        assert_eq!(json_list(&[]), "[]\n");
    }
}
