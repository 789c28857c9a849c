//! Row 12: the last seconds of a log of 1 GiB, found without reading the rest.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::bench::Bench;
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples, percentile};
use crate::scratch::Scratch;
use crate::{Result, process};

const TIME: (&str, Unit) = ("time", Unit::Millis);

/// The size of a line, its newline included.
const LINE: u64 = 100;

/// When the first line came: 2026-01-31T12:00:00Z, in seconds.
const FIRST: u64 = 1_769_860_800;

/// A line each millisecond.
const STEP: u64 = 1_000_000;

/// How many lines are asked for.
const WANTED: u64 = 10;

const RAW: &str = "vmon logs --since, raw";
const CRI: &str = "vmon logs --since, cri";
const LAST: &str = "vmon logs -n, raw";

pub fn row(bench: &Bench) -> Result<Row> {
    let lines = bench.size(1 << 30, 8 << 20) / LINE;
    let looks = bench.size(20, 3);
    let (raw, cri) = (bench.scratch()?, bench.scratch()?);
    make(&raw, lines, Format::Raw)?;
    make(&cri, lines, Format::Cri)?;
    let since = stamp(lines - WANTED);
    let look = |scratch: &Scratch, option: &str, value: &str| {
        let mut times = Vec::new();
        for _ in 0..looks {
            times.push(time(&bench.peers.vmon, scratch.path(), option, value, lines)?);
        }
        times.sort_by(f64::total_cmp);
        Ok(vec![("time", percentile(&times, 0.5))])
    };
    let wanted = WANTED.to_string();
    let tools = vec![
        Contender::ours(RAW, || -> Result<Measured> { look(&raw, "--since", &since) }),
        Contender::ours(CRI, || look(&cri, "--since", &since)),
        Contender::ours(LAST, || look(&raw, "-n", &wanted)),
    ];
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let mut row = Row::new(12, "The last lines of a 1 GiB log");
    row.take(&samples, &[TIME]);
    for tool in [RAW, CRI, LAST] {
        row.own(tool, "time", Unit::Millis, samples.values(tool, "time"), Goal::AtMost(50.0));
    }
    row.notes.push(format!(
        "Lines of {LINE} bytes in one file. The raw one has an index of a record each line. A value is the median of {looks} looks in a row, each a process"
    ));
    Ok(row)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    Cri,
}

/// Makes the log of a sandbox that is on no record, and its index.
fn make(scratch: &Scratch, lines: u64, format: Format) -> Result<()> {
    let directory = scratch.join("log/Sandboxfile");
    fs::create_dir_all(&directory)?;
    let mut log = BufWriter::with_capacity(1 << 20, File::create(directory.join("web.log"))?);
    for number in 0..lines {
        let line = format!("{number:0width$}\n", width = LINE as usize - 1);
        match format {
            Format::Raw => log.write_all(line.as_bytes())?,
            Format::Cri => {
                let head = format!("{} stdout F ", stamp(number));
                log.write_all(head.as_bytes())?;
                log.write_all(&line.as_bytes()[head.len()..])?;
            }
        }
    }
    log.flush()?;
    if format == Format::Cri {
        return Ok(());
    }
    let mut index = BufWriter::with_capacity(1 << 20, File::create(directory.join("web.log.idx"))?);
    index.write_all(b"VMONIDX\n\x01\0\x18\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")?;
    for number in 0..lines {
        index.write_all(&(FIRST * 1_000_000_000 + number * STEP).to_le_bytes())?;
        index.write_all(&(number * LINE).to_le_bytes())?;
        index.write_all(&(LINE as u32).to_le_bytes())?;
        index.write_all(&[2, 0, 0, 0])?;
    }
    index.flush()?;
    Ok(())
}

/// The time of a line.
fn stamp(number: u64) -> String {
    let milliseconds = FIRST * 1_000 + number * STEP / 1_000_000;
    let time = chrono::DateTime::from_timestamp_millis(milliseconds as i64).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// One look, in milliseconds.
fn time(vmon: &Path, state: &Path, option: &str, value: &str, lines: u64) -> Result<f64> {
    let mut command = Command::new(vmon);
    command.args(["logs", "web", option, value, "--state-dir"]).arg(state);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let began = process::now();
    let output = command.output()?;
    let took = (process::now() - began).as_secs_f64() * 1e3;
    let last = format!("{}\n", lines - 1);
    if !output.status.success()
        || !output.stdout.ends_with(last.as_bytes())
        || output.stdout.iter().filter(|&&byte| byte == b'\n').count() as u64 != WANTED
    {
        return Err(format!("vmon logs {option} {value}: {}", output.status).into());
    }
    Ok(took)
}
