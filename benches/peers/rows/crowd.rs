//! Row 10: many children on one reactor.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;

use crate::bench::Bench;
use crate::modes::{self, Crowd};
use crate::process::{self, Running};
use crate::row::{Goal, Row, Unit, Verdict};
use crate::{Result, tools};

/// How long one host may take.
const LIMIT: Duration = Duration::from_secs(300);

const HEAP: &str = "heap a child";
const ANONYMOUS: &str = "Anonymous a child";
const IDLE: &str = "CPU when idle";
const WAKEUPS: &str = "wake-ups when idle";
const LINE: &str = "CPU a line";
const FLOOD: &str = "flood";
const FAIR: &str = "slowest to mean";
const LIMIT_RESTORED: &str = "file limit restored";

pub fn row(bench: &Bench) -> Result<Row> {
    let crowds: &[usize] = bench.size(&[1, 10, 100, 1000, 4000], &[1, 30]);
    let mut row = Row::new(10, "Many children on one reactor");
    for &children in crowds {
        if let Err(error) = may_open(children) {
            row.gaps.push(format!("{children} children: {error}"));
            continue;
        }
        match host(bench, children) {
            Ok(result) => take(&mut row, children, &result),
            Err(error) => row.failures.push(format!("{children} children: {error}")),
        }
        process::sweep();
        process::check_interrupted()?;
    }
    let most = crowds.last().copied().unwrap_or(1);
    goals(&mut row, crowds, &tool(most));
    Ok(row)
}

/// Whether the limit of open files suffices for a host of this many children.
fn may_open(children: usize) -> Result<()> {
    // Two pipes, a pidfd and a log each, and some of the host's own.
    let needed = 4 * children as u64 + 100;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < needed {
        return Err(format!("{needed} open files are needed, and the limit is {hard}").into());
    }
    Ok(())
}

fn tool(children: usize) -> String {
    match children {
        1 => "1 child".to_owned(),
        n => format!("{n} children"),
    }
}

fn goals(row: &mut Row, crowds: &[usize], most: &str) {
    let values = row.values(most, HEAP);
    row.own(most, HEAP, Unit::Kibibytes, values, Goal::AtMost(4.0));
    let values = row.values(most, IDLE);
    // What is left of it is the measuring itself.
    row.own(most, IDLE, Unit::Percent, values, Goal::AtMost(0.05));
    let values = row.values(most, WAKEUPS);
    row.own(most, WAKEUPS, Unit::Number, values, Goal::AtMost(0.0));

    // One child alone pays a whole wake-up for each line; from some on it is to be flat.
    let some = crowds.iter().copied().find(|&n| n >= 100).or(crowds.last().copied()).unwrap_or(1);
    let (ours, theirs) = (row.values(most, LINE), row.values(&tool(some), LINE));
    row.verdicts.push(Verdict {
        tool: most.to_owned(),
        peer: Some(tool(some)),
        measure: LINE.to_owned(),
        unit: Unit::Micros,
        values: ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect(),
        ours,
        theirs,
        goal: Some(Goal::AtMost(1.25)),
    });
    let worst = crowds.iter().flat_map(|&n| row.values(&tool(n), FAIR)).min_by(f64::total_cmp);
    let worst = worst.into_iter().collect();
    let restored = row.values(most, LIMIT_RESTORED);
    row.own(most, LIMIT_RESTORED, Unit::Number, restored, Goal::AtLeast(1.0));
    row.own("worst of all", FAIR, Unit::Number, worst, Goal::AtLeast(0.5));
}

fn take(row: &mut Row, children: usize, result: &Value) {
    let tool = tool(children);
    let mut figure = |measure, unit, value: &Value, scale: f64| {
        let values = value.as_f64().map(|value| value * scale);
        row.figure(&tool, measure, unit, values.into_iter().collect());
    };
    let restored = Value::from(u8::from(result["limit_restored"] == true));
    figure(HEAP, Unit::Kibibytes, &result["heap"], 1.0 / 1024.0);
    figure(ANONYMOUS, Unit::Kibibytes, &result["anonymous"], 1.0 / 1024.0);
    figure(IDLE, Unit::Percent, &result["idle"]["cpu_percent"], 1.0);
    figure(WAKEUPS, Unit::Number, &result["idle"]["wakeups"], 1.0);
    figure(LINE, Unit::Micros, &result["lines"]["cpu_per_line_us"], 1.0);
    figure(FLOOD, Unit::MbPerSecond, &result["flood"]["mb_per_second"], 1.0);
    figure(FAIR, Unit::Number, &result["flood"]["slowest_to_mean"], 1.0);
    // Raised for the host, and what it was before in each child.
    figure(LIMIT_RESTORED, Unit::Number, &restored, 1.0);
}

/// Runs one host of this many children.
fn host(bench: &Bench, children: usize) -> Result<Value> {
    let scratch = bench.scratch()?;
    // Few children flood fast, and their logs are not rotated; many need time for a turn each.
    let flood = if children < 100 { 1500 } else { 4000 };
    let crowd = Crowd {
        children,
        idle: Duration::from_millis(bench.size(4000, 300)),
        lines: Duration::from_millis(bench.size(6000, 1100)),
        flood: Duration::from_millis(bench.size(flood, 100)),
    };
    let dir = scratch.path().to_str().ok_or("the directory's name is not UTF-8")?.to_owned();
    let (mut read, write) = process::pipe()?;
    let mut command = tools::command(&modes::words("crowd", &[dir, crowd.to_word()])?);
    command.stdin(Stdio::null()).stdout(write);
    let running = Running::spawn(&mut command)?;
    drop(command); // it holds the pipe too
    running.wait_success(LIMIT)?;
    let mut text = String::new();
    read.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}
