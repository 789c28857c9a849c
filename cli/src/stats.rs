//! `vmon stats`: shows the resource usage of running sandboxes.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use vmon::registry::Run;
use vmon::terminal::Terminal;
use vmon::usage::Usage;

use super::interruptible_wait::{InterruptibleWait, WaitResult};
use super::live::Answer;
use super::outcome::Outcome;
use super::output::{duration, json_line, merged, or_dash, print, print_json, stamp};
use super::record::{AnyNames, Record};
use super::run_object::{labels, labels_object};
use super::shared_args::SharedArgs;
use super::usage::{self, ProcessSnapshot};
use super::{Failure, live, messages, waits};

const HEADER: [&str; 10] = [
    "NAME",
    "CONFIG",
    "CPU",
    "MEMORY",
    "THREADS",
    "PROCESSES",
    "READ",
    "WRITTEN",
    "UPTIME",
    "LOGGED",
];

/// Time over which the first CPU figure is measured.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two lists.
const INTERVAL: Duration = Duration::from_secs(1);

/// Display resource usage of running sandboxes
///
/// Measures the command and its descendants, or its cgroup if it has one. CPU is measured over half
/// a second, or with --watch since the previous list; 100 % is one CPU.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
MEMORY is resident memory. READ and WRITTEN are bytes read from and written to storage. WAITS FOR is
what holds a sandbox up, if anything does.

With --json, an array of objects, with --watch one on each line; a value that is not known is null:
  time, name, config_file, run, pid, cpu_percent, cpu_seconds, memory_bytes, threads, processes,
  read_bytes, written_bytes, uptime_seconds, bytes_logged, bytes_dropped, labels, waits, error

Examples:
  vmon stats              all running sandboxes
  vmon stats web --watch  every second, until Ctrl-C")]
pub struct StatsArgs {
    #[command(flatten)]
    names: AnyNames,

    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,

    /// Print a new list each second, until SIGINT or SIGTERM, or until the reader closes stdout
    #[arg(long, short)]
    watch: bool,
}

/// Prints one list, or with --watch one each second.
pub fn stats(args: StatsArgs, shared: &SharedArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut samples = Samples::default();
    let runs = running(&args, shared, outcome)?;
    let processes = ProcessSnapshot::new();
    runs.iter().for_each(|run| samples.take(run, &processes));
    if !args.watch {
        std::thread::sleep(FIRST_INTERVAL);
        return show(&args, &samples.figures(&runs), outcome);
    }
    let interruptible = InterruptibleWait::new().map_err(Failure::SetUp)?;
    if interruptible.wait(FIRST_INTERVAL) == WaitResult::Quit {
        return Ok(());
    }
    if let Some(figures) = interruptible.while_blocked(|| samples.figures(&runs)) {
        show(&args, &figures, outcome)?;
    }
    while interruptible.wait(INTERVAL) == WaitResult::Continue {
        // Names that select nothing have been reported.
        let mut now = outcome.silent();
        let figures = interruptible
            .while_blocked(|| running(&args, shared, &mut now).map(|runs| samples.figures(&runs)));
        let Some(figures) = figures else { break };
        show(&args, &figures?, &now)?;
    }
    Ok(())
}

/// The current runs of the selected sandboxes, or of all.
fn running(
    args: &StatsArgs,
    shared: &SharedArgs,
    outcome: &mut Outcome,
) -> Result<Vec<Run>, Failure> {
    let record = Record::latest(shared)?;
    let mut runs = Vec::new();
    for sandbox in record.select_or_all(&args.names.names, outcome) {
        match sandbox.running() {
            Some(run) => runs.push(run.clone()),
            None if args.names.names.is_empty() => {}
            None => outcome.failed(&format!("{sandbox} is not running")),
        }
    }
    Ok(runs)
}

fn show(args: &StatsArgs, figures: &[Figures], outcome: &Outcome) -> Result<(), Failure> {
    let objects = || figures.iter().map(Figures::object).collect::<Value>();
    match (args.json, args.watch) {
        (true, false) => print_json(&objects()),
        (true, true) => print(&format!("{}\n", json_line(&objects()))),
        (false, watch) => {
            let rows = figures.iter().map(|it| (it.row(), waits::cell(&it.answer)));
            let list = waits::table_with_waits(HEADER, rows);
            if !watch || !io::stdout().is_terminal() {
                return print(&list);
            }
            // Failures printed before the first list were overwritten by it.
            let failures = outcome.failures().iter().map(|text| messages::failure_line(text));
            let size = Terminal::open().ok().flatten().and_then(|terminal| terminal.size());
            let size = size.map(|size| (size.rows, size.columns));
            print(&redrawn(&(list + &failures.collect::<String>()), size))
        }
    }
}

/// Formats the list to replace the one before: cursor home, each line erased to its end, then the
/// rest of the screen. A larger list is cut to the window's rows and columns, so that it neither
/// scrolls nor wraps.
fn redrawn(list: &str, size: Option<(u16, u16)>) -> String {
    let (rows, columns) = size.map_or((usize::MAX, usize::MAX), |(rows, columns)| {
        (usize::from(rows), usize::from(columns))
    });
    let lines: Vec<&str> = list.lines().collect();
    // The cursor needs a row below.
    let fits = rows.saturating_sub(1);
    let shown = if lines.len() > fits { fits.saturating_sub(1) } else { lines.len() };
    let mut screen = "\x1b[H".to_owned();
    let mut add = |line: &str| {
        screen.extend(line.chars().take(columns));
        // In the last column, erasing would remove the last character.
        screen.push_str(if line.chars().count() < columns { "\x1b[K\n" } else { "\n" });
    };
    lines.iter().take(shown).for_each(|line| add(line));
    if lines.len() > shown {
        add(&format!("... and {} more: the window is too small", lines.len() - shown));
    }
    screen + "\x1b[J"
}

/// The CPU time of each run at the last measurement.
#[derive(Debug, Default)]
struct Samples(HashMap<Option<i64>, (Instant, Duration)>);

impl Samples {
    fn take(&mut self, run: &Run, processes: &ProcessSnapshot) {
        if let Ok((at, usage)) = processes.measure(run) {
            self.0.insert(run.id, (at, usage.cpu));
        }
    }

    fn figures(&mut self, runs: &[Run]) -> Vec<Figures> {
        let processes = ProcessSnapshot::new();
        let answers = live::answers(&runs.iter().collect::<Vec<_>>());
        let runs = runs.iter().zip(answers);
        runs.map(|(run, answer)| self.figures_of(run, answer, &processes)).collect()
    }

    fn figures_of(&mut self, run: &Run, answer: Answer, processes: &ProcessSnapshot) -> Figures {
        let measured = processes.measure(run);
        let mut cpu_percent = None;
        if let Ok((now, usage)) = &measured
            && let Some((at, cpu)) = self.0.insert(run.id, (*now, usage.cpu))
        {
            // The sum decreases when a process leaves the tree.
            let used = usage.cpu.saturating_sub(cpu).as_secs_f64();
            let time = now.saturating_duration_since(at).as_secs_f64();
            cpu_percent = (time > 0.0).then(|| (used / time * 1000.0).round() / 10.0);
        }
        let live = answer.as_ref().and_then(|answer| answer.as_ref().ok());
        let (usage, error) = match measured {
            Ok((_, usage)) => (Some(usage), None),
            Err(error) => (None, Some(error)),
        };
        Figures {
            time: Utc::now(),
            cpu_percent,
            usage,
            error,
            bytes_logged: live.map(|live| live.bytes_logged).or(run.bytes_logged),
            bytes_dropped: live.map(|live| live.bytes_dropped).or(run.bytes_dropped),
            run: run.clone(),
            answer,
        }
    }
}

/// A row of the list.
struct Figures {
    time: DateTime<Utc>,
    run: Run,
    cpu_percent: Option<f64>,
    usage: Option<Usage>,
    error: Option<String>,
    bytes_logged: Option<u64>,
    bytes_dropped: Option<u64>,
    answer: Answer,
}

impl Figures {
    fn uptime(&self) -> Option<Duration> {
        self.time.signed_duration_since(self.run.running_at?).to_std().ok()
    }

    fn row(&self) -> [String; 10] {
        let usage = self.usage.as_ref();
        [
            self.run.name.clone(),
            self.run.config_file.clone(),
            or_dash(self.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            or_dash(usage.map(|usage| bytes(usage.resident))),
            or_dash(usage.map(|usage| usage.threads)),
            or_dash(usage.map(|usage| usage.processes)),
            or_dash(usage.and_then(|usage| usage.read_bytes).map(bytes)),
            or_dash(usage.and_then(|usage| usage.write_bytes).map(bytes)),
            or_dash(self.uptime().map(duration)),
            or_dash(self.bytes_logged.map(bytes)),
        ]
    }

    fn object(&self) -> Value {
        let figures = json!({
            "time": stamp(self.time),
            "name": self.run.name,
            "config_file": self.run.config_file,
            "run": self.run.id,
            "pid": self.run.pid,
            "cpu_percent": self.cpu_percent,
            "uptime_seconds": self.uptime().map(|uptime| uptime.as_secs_f64()),
            "bytes_logged": self.bytes_logged,
            "bytes_dropped": self.bytes_dropped,
            "labels": labels_object(labels(&self.run)),
            "waits": waits::of(&self.run, &self.answer),
            "error": self.error,
        });
        merged(figures, usage::object(self.usage.as_ref()))
    }
}

/// `17B`, `1.5KiB`, `200MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_time_spans_are_short() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (200 << 20, "200MiB")] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(7, "7s"), (187, "3m07s"), (7_380, "2h03m"), (439_200, "5d02h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_new_list_erases_longer_lines_of_the_one_before() {
        let drawn = "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J";
        assert_eq!(redrawn("a\nb\n", None), drawn);
        assert_eq!(redrawn("a\nb\n", Some((3, 80))), drawn);
    }

    #[test]
    fn a_large_list_is_cut_to_the_window() {
        let drawn = redrawn("head\nfirst\nsecond\nthird\n", Some((4, 5)));
        assert_eq!(drawn, "\x1b[Hhead\x1b[K\nfirst\n... a\n\x1b[J");
        assert_eq!(redrawn("ä\nb\n", Some((3, 1))), "\x1b[Hä\nb\n\x1b[J");
    }
}
