//! The record in the OpenMetrics text format, for a textfile collector. Each sandbox is represented
//! by its current run, or its last one.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use vmon::control::Status as Live;
use vmon::registry::{Run, Status};
use vmon::usage::Usage;

use super::super::live;
use super::super::processes::ProcessSnapshot;
use super::super::report::printable;
use super::super::select::Recorded;

/// The states of a run on record.
const STATES: [&str; 6] = ["STARTING", "RUNNING", "STOPPING", "DRAINING", "RESTARTING", "STOPPED"];

/// A metric family of OpenMetrics.
struct Family {
    name: &'static str,
    kind: Kind,
    /// The unit, which is the last part of the name.
    unit: Option<&'static str>,
    help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Info,
    StateSet,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }

    /// The suffix of a sample's name.
    fn suffix(self) -> &'static str {
        match self {
            Self::Gauge | Self::StateSet => "",
            Self::Counter => "_total",
            Self::Info => "_info",
        }
    }
}

const fn family(
    kind: Kind,
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
) -> Family {
    Family { name, kind, unit, help }
}

const INFO: Family = family(Kind::Info, "vmon_sandbox", None, "The sandbox's last run.");
const STATE: Family = family(Kind::StateSet, "vmon_sandbox_state", None, "The state of that run.");

/// The value of a number, if known.
type Value = fn(&Subject<'_>) -> Option<String>;

const NUMBERS: [(Family, Value); 10] = [
    (
        family(
            Kind::Gauge,
            "vmon_sandbox_start_time_seconds",
            Some("seconds"),
            "When the command was started, in seconds since 1970.",
        ),
        |subject| subject.run.running_at.map(seconds),
    ),
    (
        family(
            Kind::Gauge,
            "vmon_sandbox_end_time_seconds",
            Some("seconds"),
            "When the run ended, in seconds since 1970.",
        ),
        |subject| subject.run.ended_at.map(seconds),
    ),
    (
        family(
            Kind::Counter,
            "vmon_sandbox_restarts",
            None,
            "Earlier runs of the same supervisor.",
        ),
        |subject| {
            let live = subject.live.as_ref().map(|live| live.restarts.to_string());
            live.or_else(|| Some(subject.sandbox.restarts().to_string()))
        },
    ),
    (
        family(
            Kind::Counter,
            "vmon_sandbox_cpu_seconds",
            Some("seconds"),
            "CPU time of the processes of the run.",
        ),
        |subject| subject.usage.map(|usage| format!("{:.6}", usage.cpu.as_secs_f64())),
    ),
    (
        family(
            Kind::Gauge,
            "vmon_sandbox_memory_bytes",
            Some("bytes"),
            "Resident memory of the processes of the run.",
        ),
        |subject| subject.usage.map(|usage| usage.resident.to_string()),
    ),
    (family(Kind::Gauge, "vmon_sandbox_processes", None, "Processes of the run."), |subject| {
        subject.usage.map(|usage| usage.processes.to_string())
    }),
    (family(Kind::Gauge, "vmon_sandbox_threads", None, "Threads of these processes."), |subject| {
        subject.usage.map(|usage| usage.threads.to_string())
    }),
    (
        family(
            Kind::Counter,
            "vmon_sandbox_logged_bytes",
            Some("bytes"),
            "Output of the run that was written to the log.",
        ),
        |subject| {
            let live = subject.live.as_ref().map(|live| live.bytes_logged);
            live.or(subject.run.bytes_logged).map(|bytes| bytes.to_string())
        },
    ),
    (
        family(
            Kind::Counter,
            "vmon_sandbox_dropped_bytes",
            Some("bytes"),
            "Output of the run that was dropped for some sink.",
        ),
        |subject| {
            let live = subject.live.as_ref().map(|live| live.bytes_dropped);
            live.or(subject.run.bytes_dropped).map(|bytes| bytes.to_string())
        },
    ),
    (
        family(
            Kind::Gauge,
            "vmon_sandbox_last_exit_code",
            None,
            "Exit code of the last ended run, or 128 plus the signal number.",
        ),
        |subject| subject.sandbox.runs().iter().find_map(exit_code).map(|code| code.to_string()),
    ),
];

/// The data for the samples of one sandbox.
struct Subject<'a> {
    sandbox: &'a Recorded,
    run: &'a Run,
    /// The supervisor's status, while it is running and replies.
    live: Option<Live>,
    usage: Option<Usage>,
}

impl<'a> Subject<'a> {
    fn new(sandbox: &'a Recorded, processes: &ProcessSnapshot) -> Option<Self> {
        let running = sandbox.running();
        Some(Self {
            sandbox,
            run: sandbox.latest()?,
            live: running.and_then(|run| live::status(run).ok()),
            usage: running.and_then(|run| processes.usage(run).ok()),
        })
    }
}

/// The exposition for a terminal. Labels come from the database, which another program may have
/// written, and the format does not escape control characters. They are escaped here, so this is
/// not what a collector should read.
pub fn shown(sandboxes: &[&Recorded]) -> String {
    let text = exposition(sandboxes);
    // Newlines in labels are escaped already.
    text.lines().flat_map(|line| [printable(line), "\n".into()]).collect()
}

/// The complete exposition, with its end mark.
pub fn exposition(sandboxes: &[&Recorded]) -> String {
    let processes = ProcessSnapshot::new();
    let subjects: Vec<Subject<'_>> =
        sandboxes.iter().filter_map(|sandbox| Subject::new(sandbox, &processes)).collect();
    let mut text = String::new();
    INFO.head(&mut text);
    for subject in &subjects {
        INFO.sample(&mut text, subject, &info(subject.run), "1");
    }
    STATE.head(&mut text);
    for subject in &subjects {
        let now = state(subject.run);
        for state in STATES {
            let is = if state == now { "1" } else { "0" };
            STATE.sample(&mut text, subject, &[(STATE.name, state.to_owned())], is);
        }
    }
    for (family, value) in &NUMBERS {
        family.head(&mut text);
        for subject in &subjects {
            if let Some(value) = value(subject) {
                family.sample(&mut text, subject, &[], &value);
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

impl Family {
    fn head(&self, text: &mut String) {
        let Self { name, kind, unit, help } = self;
        // Writing to a String does not fail.
        let _ = writeln!(text, "# TYPE {name} {}", kind.word());
        if let Some(unit) = unit {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name} {help}");
    }

    fn sample(
        &self,
        text: &mut String,
        subject: &Subject<'_>,
        labels: &[(&str, String)],
        value: &str,
    ) {
        let Recorded { name, config_file, .. } = subject.sandbox;
        let mut pairs =
            vec![format!("name={}", quoted(name)), format!("config_file={}", quoted(config_file))];
        pairs.extend(labels.iter().map(|(label, value)| format!("{label}={}", quoted(value))));
        let pairs = pairs.join(",");
        let _ = writeln!(text, "{}{}{{{pairs}}} {value}", self.name, self.kind.suffix());
    }
}

fn info(run: &Run) -> Vec<(&'static str, String)> {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    vec![
        ("run", number(run.id)),
        ("pid", number(run.pid.map(i64::from))),
        ("supervisor_pid", number(run.supervisor.map(i64::from))),
        ("rootfs_paths", run.rootfs_paths.clone()),
        ("reason", run.reason.clone().unwrap_or_default()),
    ]
}

/// The state, limited to [`STATES`].
fn state(run: &Run) -> &str {
    match run.status {
        Status::Stopped => "STOPPED",
        Status::Running if STATES.contains(&run.state.as_str()) => &run.state,
        Status::Running => "RUNNING",
    }
}

fn exit_code(run: &Run) -> Option<i32> {
    run.exit_code.or_else(|| run.signal.map(|signal| 128_i32.saturating_add(signal)))
}

fn seconds(time: DateTime<Utc>) -> String {
    // To the microsecond, like the record, and never in exponential notation.
    let micros = time.timestamp_micros();
    format!("{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))
}

/// Quotes a label's value, with the three escapes that the format defines.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_escaped() {
        assert_eq!(quoted("a\\b\"c\nd"), "\"a\\\\b\\\"c\\nd\"");
    }

    #[test]
    fn an_empty_exposition_has_the_head_of_each_family_and_the_end() {
        let text = exposition(&[]);
        assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }
}
