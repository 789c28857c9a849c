//! Rows 1 to 4: a flood through pipes, to a log and on.
//!
//! All logs are on one file system, and each is removed before the next tool runs, so that the
//! kernel has as little as possible to write back meanwhile. What noise that leaves falls on all:
//! the order is turned round every other time. Before each run as much is written and removed as
//! the run will write: a virtual machine takes memory that was not used for a while from its host
//! page by page, and the first tool after a slow one would pay for that.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use vmon::logfile::Format;

use crate::bench::Bench;
use crate::modes::{self, Written};
use crate::pattern::{Checker, Flood};
use crate::peers::Peer;
use crate::process::{Ended, Running, pipe, wait_readable};
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples};
use crate::tools::{self, AtTheEnd, Filter};
use crate::{Error, Result};

/// How long one run may take.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The measures of a stream. Wall time is from the writer's first write to the tool's end.
pub(super) const MEASURES: [(&str, Unit); 3] = [RATE, WALL, CPU];
pub(super) const RATE: (&str, Unit) = ("rate", Unit::MbPerSecond);
pub(super) const WALL: (&str, Unit) = ("wall", Unit::SecondsPerGb);
pub(super) const CPU: (&str, Unit) = ("CPU", Unit::SecondsPerGb);

const CAT: &str = "cat > file";
const TEE: &str = "tee file > /dev/null";
const ONE_KEPT: &str = "vmon, one generation kept";
const PAUSING: &str = "bare loop, 1 ms pauses";
const FLOOR: &str = "bare loop, 1 MiB pipe";

/// Row 1.
pub fn large(bench: &Bench) -> Result<Row> {
    let flood = Flood::large(bench.size(2_000_000_000, 32 << 20));
    // The slow ones get less; all figures are for 1 GB.
    let some = Flood::large(bench.size(500_000_000, 8 << 20));
    let few = Flood::large(bench.size(200_000_000, 8 << 20));
    let mut tools = vec![
        Contender::ours("vmon", move || vmon(bench, flood, None, Forwarded::No)),
        Contender::ours(ONE_KEPT, move || vmon(bench, flood, Some(1), Forwarded::No)),
    ];
    tools.extend(plain_filters(bench, flood));
    tools.extend(conmon(bench, some));
    tools.extend(loggers(bench, few));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let title = format!("{} in 64 KiB writes, log rotated at 10 MiB", show(flood.bytes()));
    let mut row = Row::new(1, title);
    row.take(&samples, &MEASURES);
    for tool in ["vmon", ONE_KEPT] {
        row.ratio(&samples, (tool, CAT), WALL, Some(Goal::AtMost(0.8)));
        row.ratio(&samples, (tool, CAT), CPU, Some(Goal::AtMost(0.7)));
    }
    row.ratio(&samples, ("vmon", "conmon"), RATE, Some(Goal::AtLeast(4.0)));
    row.ratio(&samples, ("vmon", FLOOR), WALL, None);
    row.ratio(&samples, ("vmon", FLOOR), CPU, None);
    row.notes.push(
        "cat, tee and the bare loop do not rotate; conmon truncates its log and loses what it had"
            .to_owned(),
    );
    Ok(row)
}

/// Row 2.
pub fn small(bench: &Bench) -> Result<Row> {
    let flood = Flood::small(bench.size(3_000_000, 100_000));
    let few = Flood::small(bench.size(500_000, 50_000));
    let mut tools = vec![Contender::ours("vmon", move || vmon(bench, flood, None, Forwarded::No))];
    tools.extend(plain_filters(bench, flood));
    tools.push(Contender::peer(PAUSING, move || {
        filter(bench, flood, Forwarded::No, |dir| tools::floor(dir, 1))
    }));
    tools.extend(conmon(bench, few));
    tools.extend(loggers(bench, few));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let mut row = Row::new(2, format!("{} writes of 100 bytes", flood.blocks));
    row.take(&samples, &MEASURES);
    row.ratio(&samples, ("vmon", CAT), WALL, Some(Goal::AtMost(1.0)));
    row.ratio(&samples, ("vmon", CAT), CPU, Some(Goal::AtMost(0.25)));
    row.ratio(&samples, (PAUSING, CAT), WALL, None);
    row.ratio(&samples, (PAUSING, CAT), CPU, None);
    Ok(row)
}

/// Row 3.
pub fn forwarded(bench: &Bench) -> Result<Row> {
    const TEE: &str = "tee file";
    let flood = Flood::large(bench.size(2_000_000_000, 32 << 20));
    let mut tools =
        vec![Contender::ours("vmon", move || vmon(bench, flood, None, Forwarded::ToPipe))];
    tools.extend(bench.peer(Peer::Tee, TEE, move |path| {
        filter(bench, flood, Forwarded::ToPipe, |dir| tools::tee(path, dir))
    }));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let title = format!("{} in 64 KiB writes, to a log and a pipe", show(flood.bytes()));
    let mut row = Row::new(3, title);
    row.take(&samples, &MEASURES);
    row.ratio(&samples, ("vmon", TEE), WALL, Some(Goal::AtMost(1.0)));
    row.ratio(&samples, ("vmon", TEE), CPU, Some(Goal::AtMost(1.0)));
    Ok(row)
}

/// Row 4.
pub fn cri(bench: &Bench) -> Result<Row> {
    const CRI: &str = "vmon --log-format cri";
    const JSON: &str = "vmon --log-format json";
    const RAW: &str = "vmon, raw";
    let flood = Flood::lines(bench.size(1_000_000_000, 16 << 20));
    let mut tools = vec![
        Contender::ours(CRI, move || formatted(bench, flood, Format::Cri)),
        Contender::ours(JSON, move || formatted(bench, flood, Format::Json)),
        Contender::ours(RAW, move || formatted(bench, flood, Format::Raw)),
    ];
    tools.extend(conmon(bench, flood));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let title = format!("{} of 100-byte lines in 64 KiB writes, in CRI", show(flood.bytes()));
    let mut row = Row::new(4, title);
    row.take(&samples, &MEASURES);
    row.ratio(&samples, (CRI, "conmon"), RATE, Some(Goal::AtLeast(3.0)));
    row.ratio(&samples, (CRI, "conmon"), CPU, None);
    row.ratio(&samples, (JSON, "conmon"), RATE, None);
    row.notes.push("rates are of the child's bytes: the logs are larger".to_owned());
    Ok(row)
}

/// One run of vmon in a format, which keeps all generations.
fn formatted(bench: &Bench, flood: Flood, format: Format) -> Result<Measured> {
    warm_up(bench, records_of(flood))?;
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &flood.words())?;
    let mut options = vec!["--no-forward".to_owned()];
    options.extend(tools::vmon_keeps(None));
    options.extend(["--log-format".to_owned(), format.to_string()]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut command = tools::vmon(&bench.peers.vmon, scratch.path(), "flood", &options, &child);
    let (ended, written) = supervise(tools::silent(&mut command), scratch.path())?;
    let mut checker = Checker::new(&flood);
    let paths = tools::vmon_log(scratch.path(), "flood")?;
    match format {
        Format::Raw => checker.take_files(&paths)?,
        _ => checker.take_records(&paths, format)?,
    }
    checker.finish().map_err(|error| format!("log: {error}"))?;
    Ok(measured(&flood, &ended, &written, written.cpu))
}

/// What does no more than copy.
fn plain_filters(bench: &Bench, flood: Flood) -> Vec<Contender<'_>> {
    let cat = bench.peer(Peer::Cat, CAT, move |path| {
        filter(bench, flood, Forwarded::No, |dir| tools::cat(path, dir))
    });
    let tee = bench.peer(Peer::Tee, TEE, move |path| {
        filter(bench, flood, Forwarded::No, |dir| tools::tee(path, dir))
    });
    let floor = Contender::peer(FLOOR, move || {
        filter(bench, flood, Forwarded::No, |dir| tools::floor(dir, 0))
    });
    cat.into_iter().chain([floor]).chain(tee).collect()
}

fn conmon(bench: &Bench, flood: Flood) -> Option<Contender<'_>> {
    bench.peer(Peer::Conmon, "conmon", move |path| {
        warm_up(bench, records_of(flood))?;
        let scratch = bench.scratch()?;
        let child = modes::words("flood", &flood.words())?;
        let mut command = tools::conmon(path, scratch.path(), AtTheEnd::NoFsync, &child)?;
        let (ended, written) = supervise(tools::silent(&mut command), scratch.path())?;
        Ok(measured(&flood, &ended, &written, written.cpu))
    })
}

/// What rotates, line by line: for information, so each runs twice at most.
fn loggers(bench: &Bench, flood: Flood) -> Vec<Contender<'_>> {
    type Make = fn(&Path, &Path) -> Result<Filter>;
    let makes: [(Peer, Make); 3] = [
        (Peer::S6Log, tools::s6_log),
        (Peer::Svlogd, tools::svlogd),
        (Peer::Multilog, tools::multilog),
    ];
    let contender = |(peer, make): (Peer, Make)| {
        let run = move |path: &Path| filter(bench, flood, Forwarded::No, |dir| make(path, dir));
        Some(bench.peer(peer, peer.program(), run)?.at_most(2))
    };
    makes.into_iter().filter_map(contender).collect()
}

/// Has the page cache hold as many bytes, for the run that follows.
pub(super) fn warm_up(bench: &Bench, bytes: u64) -> Result<()> {
    const BLOCK: usize = 1 << 20;
    let scratch = bench.scratch()?;
    let mut file = File::create(scratch.join("warm"))?;
    for _ in 0..bytes.div_ceil(BLOCK as u64) {
        file.write_all(&[0; BLOCK])?;
    }
    Ok(())
}

/// Roughly the size of a log with a record for each 100 bytes of a flood.
pub(super) fn records_of(flood: Flood) -> u64 {
    flood.bytes() / 2 * 3
}

/// What becomes of the stream beside the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forwarded {
    No,
    ToPipe,
}

/// One run of vmon, which keeps this many generations, or all.
fn vmon(bench: &Bench, flood: Flood, kept: Option<u32>, forwarded: Forwarded) -> Result<Measured> {
    warm_up(bench, flood.bytes())?;
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &flood.words())?;
    let keeps = tools::vmon_keeps(kept);
    let mut options: Vec<&str> = keeps.iter().map(String::as_str).collect();
    if forwarded == Forwarded::No {
        options.push("--no-forward");
    }
    let mut command = tools::vmon(&bench.peers.vmon, scratch.path(), "flood", &options, &child);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let (ended, written) = match forwarded {
        Forwarded::No => supervise(&mut command, scratch.path())?,
        Forwarded::ToPipe => {
            let (read, write) = pipe()?;
            command.stdout(write).env(modes::REPORT, scratch.join("written"));
            let running = Running::spawn(&mut command)?;
            drop(command); // it holds the pipe too
            drain(read, Checker::new(&flood))?;
            let ended = running.wait_success(LIMIT)?;
            (ended, Written::read(&scratch.join("written"))?)
        }
    };
    let paths = tools::vmon_log(scratch.path(), "flood")?;
    check_log(&flood, &paths, kept.is_some())?;
    Ok(measured(&flood, &ended, &written, written.cpu))
}

/// Runs a tool that starts the writer itself.
pub(super) fn supervise(command: &mut Command, dir: &Path) -> Result<(Ended, Written)> {
    let report = dir.join("written");
    command.env(modes::REPORT, &report);
    let ended = Running::spawn(command)?.wait_success(LIMIT)?;
    Ok((ended, Written::read(&report)?))
}

/// One run of a tool that reads from a pipe.
fn filter(
    bench: &Bench,
    flood: Flood,
    forwarded: Forwarded,
    make: impl FnOnce(&Path) -> Result<Filter>,
) -> Result<Measured> {
    warm_up(bench, flood.bytes())?;
    let scratch = bench.scratch()?;
    let Filter { mut command, log } = make(scratch.path())?;
    let (from_writer, to_tool) = pipe()?;
    command.stdin(from_writer);
    let mut drained = None;
    if forwarded == Forwarded::ToPipe {
        let (read, write) = pipe()?;
        command.stdout(write);
        drained = Some(read);
    }
    let tool = Running::spawn(&mut command)?;
    drop(command); // it holds the pipes too
    let report = scratch.join("written");
    let mut writer = tools::command(&modes::words("flood", &flood.words())?);
    writer.stdin(Stdio::null()).stdout(to_tool).env(modes::REPORT, &report);
    let writer_running = Running::spawn(&mut writer)?;
    drop(writer);
    if let Some(read) = drained {
        drain(read, Checker::new(&flood))?;
    }
    let ended = tool.wait_success(LIMIT)?;
    writer_running.wait_success(LIMIT)?;
    let written = Written::read(&report)?;
    check_log(&flood, &log()?, false)?;
    Ok(measured(&flood, &ended, &written, Duration::ZERO))
}

/// Reads all there is, and compares it.
fn drain(mut from: File, mut checker: Checker) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        wait_readable(&from, LIMIT)?;
        match from.read(&mut buffer)? {
            0 => break,
            n => checker.take(&buffer[..n]),
        }
    }
    checker.finish().map_err(|error| format!("forwarded: {error}").into())
}

/// Whether the log is the stream, or its end where older generations are gone.
pub fn check_log(flood: &Flood, paths: &[std::path::PathBuf], tail_only: bool) -> Result<()> {
    let mut checker = if tail_only {
        let mut bytes = 0;
        for path in paths {
            bytes += std::fs::metadata(path)?.len();
        }
        if bytes < flood.bytes().min(tools::ROTATE_AT) {
            return Err(format!("the log has only {bytes} bytes").into());
        }
        Checker::of_tail(flood, bytes)
    } else {
        Checker::new(flood)
    };
    checker.take_files(paths)?;
    checker.finish().map_err(|error| -> Error { format!("log: {error}").into() })
}

/// The measures, for 1 GB; `not_its` is the writer's time where the tool's includes it.
pub fn measured(flood: &Flood, ended: &Ended, written: &Written, not_its: Duration) -> Measured {
    let bytes = flood.bytes() as f64;
    let wall = ended.at.saturating_sub(written.began).as_secs_f64();
    let cpu = ended.cpu.saturating_sub(not_its).as_secs_f64();
    vec![("rate", bytes / wall / 1e6), ("wall", wall * 1e9 / bytes), ("CPU", cpu * 1e9 / bytes)]
}

/// A size in a title.
pub fn show(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} GB", bytes as f64 / 1e9),
    }
}
