//! The record in the OpenMetrics text format, for a textfile collector. Each sandbox is represented
//! by its current run, or its last one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use vmon::control::Status as Live;
use vmon::monitor::Labels;
use vmon::registry::Run;
use vmon::usage::Usage;

use self::Kind::{Counter, Gauge};
use super::super::live::{self, Answer};
use super::super::messages::printable;
use super::super::output::exit_code;
use super::super::record::Recorded;
use super::super::run_object::{STATES, labels, state};
use super::super::usage::ProcessSnapshot;

/// A metric family of OpenMetrics.
struct Family<'a> {
    kind: Kind,
    name: &'a str,
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

const INFO: Family<'_> =
    Family { kind: Kind::Info, name: "vmon_sandbox", help: "The sandbox's last run." };
const LABELS: Family<'_> =
    Family { kind: Kind::Info, name: "vmon_sandbox_labels", help: "The sandbox's labels." };
const STATE: Family<'_> =
    Family { kind: Kind::StateSet, name: "vmon_sandbox_state", help: "The state of that run." };

/// A family with one number for each sandbox, if that is known. The name is without its prefix.
type Number = (Kind, &'static str, &'static str, fn(&Subject<'_>) -> Option<String>);

const NUMBERS: [Number; 11] = [
    (Gauge, "start_time_seconds", "When the command was started, in seconds since 1970.", |of| {
        of.run.running_at.map(seconds)
    }),
    (Gauge, "end_time_seconds", "When the run ended, in seconds since 1970.", |of| {
        of.run.ended_at.map(seconds)
    }),
    (Counter, "restarts", "Earlier runs of the same supervisor.", |of| {
        let live = of.live.as_ref().map(|live| live.restarts.to_string());
        live.or_else(|| Some(of.sandbox.restarts().to_string()))
    }),
    (Gauge, "waits", "How many things hold the sandbox up: see 'vmon inspect'.", |of| {
        of.live.as_ref().map(|live| live.waits.len().to_string())
    }),
    (Counter, "cpu_seconds", "CPU time of the processes of the run.", |of| {
        of.usage.map(|usage| format!("{:.6}", usage.cpu.as_secs_f64()))
    }),
    (Gauge, "memory_bytes", "Resident memory of the processes of the run.", |of| {
        of.usage.map(|usage| usage.resident.to_string())
    }),
    (Gauge, "processes", "Processes of the run.", |of| {
        of.usage.map(|usage| usage.processes.to_string())
    }),
    (Gauge, "threads", "Threads of these processes.", |of| {
        of.usage.map(|usage| usage.threads.to_string())
    }),
    (Counter, "logged_bytes", "Output of the run that was written to the log.", |of| {
        let live = of.live.as_ref().map(|live| live.bytes_logged);
        live.or(of.run.bytes_logged).map(|bytes| bytes.to_string())
    }),
    (Counter, "dropped_bytes", "Output of the run that was dropped for some sink.", |of| {
        let live = of.live.as_ref().map(|live| live.bytes_dropped);
        live.or(of.run.bytes_dropped).map(|bytes| bytes.to_string())
    }),
    (
        Gauge,
        "last_exit_code",
        "Exit code of the last ended run, or 128 plus the signal number.",
        |of| of.sandbox.runs().iter().find_map(exit_code).map(|code| code.to_string()),
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
    fn new(
        sandbox: &'a Recorded,
        run: &'a Run,
        answer: Answer,
        processes: &ProcessSnapshot,
    ) -> Self {
        Self {
            sandbox,
            run,
            live: answer.and_then(Result::ok),
            usage: sandbox.running().and_then(|run| processes.usage(run).ok()),
        }
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
    let runs: Vec<(&Recorded, &Run)> =
        sandboxes.iter().filter_map(|sandbox| Some((*sandbox, sandbox.latest()?))).collect();
    let answers = live::answers(&runs.iter().map(|(_, run)| *run).collect::<Vec<_>>());
    let subjects: Vec<Subject<'_>> = runs
        .into_iter()
        .zip(answers)
        .map(|((sandbox, run), answer)| Subject::new(sandbox, run, answer, &processes))
        .collect();
    let mut text = String::new();
    INFO.head(&mut text);
    for subject in &subjects {
        INFO.sample(&mut text, subject, &info(subject.run), "1");
    }
    LABELS.head(&mut text);
    for subject in &subjects {
        let labels = labels(subject.run).map(label_pairs).unwrap_or_default();
        let labels: Vec<(&str, String)> =
            labels.iter().map(|(name, value)| (name.as_str(), (*value).to_owned())).collect();
        LABELS.sample(&mut text, subject, &labels, "1");
    }
    STATE.head(&mut text);
    for subject in &subjects {
        let now = state(subject.run);
        for state in STATES {
            let is = if state == now { "1" } else { "0" };
            STATE.sample(&mut text, subject, &[(STATE.name, state.to_string())], is);
        }
    }
    for (kind, name, help, value) in NUMBERS {
        let name = &format!("{}_{name}", INFO.name);
        let family = Family { kind, name, help };
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

impl Family<'_> {
    fn head(&self, text: &mut String) {
        let Self { kind, name, help } = self;
        // Writing to a String does not fail.
        let _ = writeln!(text, "# TYPE {name} {}", kind.word());
        // The unit is the last part of the name.
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)) {
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
        ("reason", run.reason.map(|reason| reason.to_string()).unwrap_or_default()),
    ]
}

/// The labels of a sandbox under names that the format allows, as kube-state-metrics makes them:
/// `label_` and the key with `_` for each other character. Where several keys would get the same
/// name, each has `_conflict` and a number behind it, in the order of the keys.
fn label_pairs(labels: &Labels) -> Vec<(String, &str)> {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name = |key: &str| format!("label_{}", key.chars().map(allowed).collect::<String>());
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for (key, _) in labels.iter() {
        *count.entry(name(key)).or_default() += 1;
    }
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let pair = |(key, value)| {
        let name = name(key);
        if count.get(&name) == Some(&1) {
            return (name, value);
        }
        let number = numbers.entry(name.clone()).or_default();
        loop {
            *number += 1;
            let numbered = format!("{name}_conflict{number}");
            // It may be the name of another label.
            if !count.contains_key(&numbered) {
                return (numbered, value);
            }
        }
    };
    labels.iter().map(pair).collect()
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
    fn the_names_of_labels_are_allowed_and_differ() {
        let mut labels = Labels::default();
        for (value, key) in ["a-b", "a.b", "a_b", "a_b_conflict2", "App/x", "9"].iter().enumerate()
        {
            labels.insert(*key, value.to_string()).unwrap();
        }
        let pairs = label_pairs(&labels);
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let expected = [
            ("label_9", "5"),
            ("label_App_x", "4"),
            ("label_a_b_conflict1", "0"),
            ("label_a_b_conflict3", "1"),
            ("label_a_b_conflict4", "2"),
            ("label_a_b_conflict2", "3"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn an_empty_exposition_has_the_head_of_each_family_and_the_end() {
        let text = exposition(&[]);
        assert!(text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }
}
