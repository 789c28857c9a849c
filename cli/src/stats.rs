//! `vmon stats`: what the processes of a sandbox use.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use vmon::registry::Run;
use vmon::terminal::{Messages, Terminal};
use vmon::usage::{self, Processes, Usage};

use super::Failure;
use super::inspect::status;
use super::output::{json_line, or_dash, print, print_json, stamp, table};
use super::pause::{Next, Pause};
use super::select::{AnyNames, Record, Tally};
use super::shared::SharedArgs;
use super::tell;

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

/// The time over which the first CPU figure is taken.
const FIRST: Duration = Duration::from_millis(500);

/// The time between two lists.
const TICK: Duration = Duration::from_secs(1);

/// Show what running sandboxes use: CPU, memory, I/O, log
///
/// Of the command and all processes that it has started, or of its cgroup. CPU is taken over half
/// a second, or with --watch since the list before; 100 % is one processor.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
MEMORY is what is resident; READ and WRITTEN are bytes from and to storage.

With --json, an array of objects, null where a value is not known; with --watch, one on each line:
  time, name, config_file, run, pid, cpu_percent, cpu_seconds, memory_bytes, threads, processes,
  read_bytes, written_bytes, uptime_seconds, bytes_logged, bytes_dropped, error

Examples:
  vmon stats              what runs
  vmon stats web --watch  every second, until Ctrl-C")]
pub struct StatsArgs {
    #[command(flatten)]
    names: AnyNames,

    /// An array of objects instead of a table
    #[arg(long)]
    json: bool,

    /// Go on, with a new list each second, until INT, TERM or the end of the reader
    #[arg(long, short)]
    watch: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Prints one list, or one after the other.
pub fn stats(args: StatsArgs, messages: &Messages) -> Result<u8, Failure> {
    let pause = if args.watch { Some(Pause::new().map_err(Failure::SetUp)?) } else { None };
    let mut tally = Tally::new(messages);
    let mut samples = Samples::default();
    let runs = running(&args, &mut tally)?;
    let look = Look::new();
    runs.iter().for_each(|run| samples.take(run, &look));
    match &pause {
        Some(pause) if pause.wait(FIRST) == Next::Leave => return Ok(tally.code()),
        Some(_) => {}
        None => std::thread::sleep(FIRST),
    }
    show(&args, &runs, &tally, &mut samples)?;
    let Some(pause) = pause else { return Ok(tally.code()) };
    while pause.wait(TICK) == Next::Look {
        // What is wrong with a name has been told.
        let mut now = Tally::silent();
        let runs = running(&args, &mut now)?;
        show(&args, &runs, &now, &mut samples)?;
    }
    Ok(tally.code())
}

/// The runs that go on of the sandboxes that are named, or of all.
fn running(args: &StatsArgs, tally: &mut Tally<'_>) -> Result<Vec<Run>, Failure> {
    let record = Record::read(&args.shared)?;
    let mut runs = Vec::new();
    for sandbox in record.select_or_all(&args.names.names, tally) {
        match sandbox.running() {
            Some(run) => runs.push(run.clone()),
            None if args.names.names.is_empty() => {}
            None => tally.failed(&format!("{sandbox} does not run")),
        }
    }
    Ok(runs)
}

fn show(
    args: &StatsArgs,
    runs: &[Run],
    tally: &Tally<'_>,
    samples: &mut Samples,
) -> Result<(), Failure> {
    let look = Look::new();
    let figures: Vec<Figures> = runs.iter().map(|run| samples.figures(run, &look)).collect();
    let objects = || figures.iter().map(Figures::object).collect::<Value>();
    match (args.json, args.watch) {
        (true, false) => print_json(&objects()),
        (true, true) => print(&format!("{}\n", json_line(&objects()))),
        (false, watch) => {
            let list = table(HEADER, figures.iter().map(Figures::row));
            if !watch || !io::stdout().is_terminal() {
                return print(&list);
            }
            // What is wrong with a name was told above the first list, which went over it.
            let failures = tally.failures().iter().map(|text| tell::failure_line(text));
            let size = Terminal::open().and_then(|terminal| terminal.size());
            print(&redrawn(&(list + &failures.collect::<String>()), size))
        }
    }
}

/// The list in the place of the one before: home, each line to its end, and nothing below. Of one
/// that is larger than the window of so many rows and columns, what fits: nothing scrolls or wraps.
fn redrawn(list: &str, size: Option<(u16, u16)>) -> String {
    let (rows, columns) = size.map_or((usize::MAX, usize::MAX), |(rows, columns)| {
        (usize::from(rows), usize::from(columns))
    });
    let lines: Vec<&str> = list.lines().collect();
    // The cursor stands below.
    let fits = rows.saturating_sub(1);
    let shown = if lines.len() > fits { fits.saturating_sub(1) } else { lines.len() };
    let mut screen = "\x1b[H".to_owned();
    let mut add = |line: &str| {
        screen.extend(line.chars().take(columns));
        // At the margin it would take the last character away.
        screen.push_str(if line.chars().count() < columns { "\x1b[K\n" } else { "\n" });
    };
    lines.iter().take(shown).for_each(|line| add(line));
    if lines.len() > shown {
        add(&format!("... and {} more: the window has no room", lines.len() - shown));
    }
    screen + "\x1b[J"
}

/// The processes of the system at one moment, for the runs of a whole list: with a look for each
/// the time would grow with its square.
pub struct Look {
    at: Instant,
    processes: Result<Processes, String>,
}

impl Look {
    pub fn new() -> Self {
        Self { at: Instant::now(), processes: Processes::now().map_err(|error| error.to_string()) }
    }

    /// What the processes of a run use, and the moment when, or why that is not known.
    fn measure(&self, run: &Run) -> Result<(Instant, Usage), String> {
        let child = run.child.as_ref().ok_or("its command does not run")?;
        let cgroup = run.spec.as_ref().and_then(|spec| spec.sandbox.cgroup.as_deref());
        let text = |error: usage::UsageError| error.to_string();
        match cgroup {
            Some(cgroup) => Ok((Instant::now(), usage::of_cgroup(cgroup).map_err(text)?)),
            None => {
                let processes = self.processes.as_ref().map_err(String::clone)?;
                Ok((self.at, processes.of_tree(child).map_err(text)?))
            }
        }
    }

    /// What the processes of a run use, or why that is not known.
    pub fn usage(&self, run: &Run) -> Result<Usage, String> {
        Ok(self.measure(run)?.1)
    }
}

/// The CPU time of each run when it was last looked at.
#[derive(Debug, Default)]
struct Samples(HashMap<Option<i64>, (Instant, Duration)>);

impl Samples {
    fn take(&mut self, run: &Run, look: &Look) {
        if let Ok((at, usage)) = look.measure(run) {
            self.0.insert(run.id, (at, usage.cpu));
        }
    }

    fn figures(&mut self, run: &Run, look: &Look) -> Figures {
        let measured = look.measure(run);
        let mut cpu_percent = None;
        if let Ok((now, usage)) = &measured
            && let Some((at, cpu)) = self.0.insert(run.id, (*now, usage.cpu))
        {
            // A process that has left the tree takes its time with it.
            let used = usage.cpu.saturating_sub(cpu).as_secs_f64();
            let time = now.saturating_duration_since(at).as_secs_f64();
            cpu_percent = (time > 0.0).then(|| (used / time * 1000.0).round() / 10.0);
        }
        let live = status(run).ok();
        let (usage, error) = match measured {
            Ok((_, usage)) => (Some(usage), None),
            Err(error) => (None, Some(error)),
        };
        Figures {
            time: Utc::now(),
            cpu_percent,
            usage,
            error,
            bytes_logged: live.as_ref().map(|live| live.bytes_logged).or(run.bytes_logged),
            bytes_dropped: live.as_ref().map(|live| live.bytes_dropped).or(run.bytes_dropped),
            run: run.clone(),
        }
    }
}

/// One line.
struct Figures {
    time: DateTime<Utc>,
    run: Run,
    cpu_percent: Option<f64>,
    usage: Option<Usage>,
    error: Option<String>,
    bytes_logged: Option<u64>,
    bytes_dropped: Option<u64>,
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
        let usage = self.usage.as_ref();
        json!({
            "time": stamp(self.time),
            "name": self.run.name,
            "config_file": self.run.config_file,
            "run": self.run.id,
            "pid": self.run.pid,
            "cpu_percent": self.cpu_percent,
            "cpu_seconds": usage.map(|usage| usage.cpu.as_secs_f64()),
            "memory_bytes": usage.map(|usage| usage.resident),
            "threads": usage.map(|usage| usage.threads),
            "processes": usage.map(|usage| usage.processes),
            "read_bytes": usage.and_then(|usage| usage.read_bytes),
            "written_bytes": usage.and_then(|usage| usage.write_bytes),
            "uptime_seconds": self.uptime().map(|uptime| uptime.as_secs_f64()),
            "bytes_logged": self.bytes_logged,
            "bytes_dropped": self.bytes_dropped,
            "error": self.error,
        })
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

/// `7s`, `3m07s`, `2h03m`, `5d02h`.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_times_are_short() {
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (200 << 20, "200MiB")] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(7, "7s"), (187, "3m07s"), (7_380, "2h03m"), (439_200, "5d02h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_list_in_the_place_of_another_clears_what_is_longer() {
        let drawn = "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J";
        assert_eq!(redrawn("a\nb\n", None), drawn);
        assert_eq!(redrawn("a\nb\n", Some((3, 80))), drawn);
    }

    #[test]
    fn a_list_neither_scrolls_nor_wraps() {
        let drawn = redrawn("head\nfirst\nsecond\nthird\n", Some((4, 5)));
        assert_eq!(drawn, "\x1b[Hhead\x1b[K\nfirst\n... a\n\x1b[J");
        assert_eq!(redrawn("ä\nb\n", Some((3, 1))), "\x1b[Hä\nb\n\x1b[J");
    }
}
