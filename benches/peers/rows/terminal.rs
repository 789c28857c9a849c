//! Row 5: a flood through a PTY to a PTY.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::streams::{LIMIT, measured, show};
use crate::bench::Bench;
use crate::modes::{self, Written};
use crate::pattern::{Checker, Flood};
use crate::peers::Peer;
use crate::process::Ended;
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples};
use crate::{Result, pty, tools};

const RATE: (&str, Unit) = ("rate", Unit::MbPerSecond);
const WALL: (&str, Unit) = ("wall", Unit::SecondsPerGb);
const CPU: (&str, Unit) = ("CPU", Unit::SecondsPerGb);
const FLOOR: &str = "bare loop";

pub fn row(bench: &Bench) -> Result<Row> {
    let flood = Flood::large(bench.size(200_000_000, 4 << 20));
    let mut tools = vec![Contender::ours("vmon", move || vmon(bench, flood))];
    tools.extend(bench.peer(Peer::Script, "script", move |path| script(bench, path, flood)));
    tools.push(Contender::peer(FLOOR, move || floor(bench, flood)));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let mut row = Row::new(5, format!("{} through a PTY to a PTY", show(flood.bytes())));
    row.take(&samples, &[RATE, WALL, CPU]);
    row.ratio(&samples, ("vmon", "script"), WALL, Some(Goal::AtMost(0.95)));
    row.ratio(&samples, ("vmon", "script"), CPU, Some(Goal::AtMost(0.9)));
    row.ratio(&samples, (FLOOR, "script"), WALL, None);
    row.ratio(&samples, (FLOOR, "script"), CPU, None);
    Ok(row)
}

fn vmon(bench: &Bench, flood: Flood) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &flood.words())?;
    let keeps = tools::vmon_keeps(None);
    let options: Vec<&str> = keeps.iter().map(String::as_str).collect();
    let command = tools::vmon(&bench.peers.vmon, scratch.path(), "flood", &options, &child);
    let result = run(command, &flood, scratch.path())?;
    check_log(&flood, &tools::vmon_log(scratch.path(), "flood")?)?;
    Ok(result)
}

fn script(bench: &Bench, path: &Path, flood: Flood) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &flood.words())?;
    let log = scratch.join("log");
    let result = run(tools::script(path, &log, &child)?, &flood, scratch.path())?;
    let typescript = std::fs::read(log)?;
    // One line before it and one after it are script's own.
    let first = typescript.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let bytes = flood.bytes_on_a_terminal() as usize;
    let mut checker = Checker::on_a_terminal(&flood);
    checker.take(typescript[first..].get(..bytes).unwrap_or_default());
    checker.finish().map_err(|error| format!("typescript: {error}"))?;
    Ok(result)
}

fn floor(bench: &Bench, flood: Flood) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let log = scratch.join("log");
    let child = modes::words("flood", &flood.words())?;
    let mut words = modes::words("floor-pty", &[])?;
    words.push(log.clone().into_os_string());
    words.extend(child);
    let result = run(tools::command(&words), &flood, scratch.path())?;
    check_log(&flood, &[log])?;
    Ok(result)
}

fn check_log(flood: &Flood, paths: &[PathBuf]) -> Result<()> {
    let mut checker = Checker::on_a_terminal(flood);
    checker.take_files(paths)?;
    checker.finish().map_err(|error| format!("log: {error}").into())
}

/// Runs a tool on a PTY and takes what it writes there, which is to be the whole stream.
fn run(mut command: Command, flood: &Flood, dir: &Path) -> Result<Measured> {
    let report = dir.join("written");
    command.env(modes::REPORT, &report);
    let pty = pty::open()?;
    let running = pty::spawn(&mut command, &pty.slave)?;
    drop(command); // it holds the slave too
    drop(pty.slave);
    drain(pty.master.into(), flood)?;
    let ended: Ended = running.wait_success(LIMIT)?;
    let written = Written::read(&report)?;
    Ok(measured(flood, &ended, &written, written.cpu))
}

fn drain(mut master: File, flood: &Flood) -> Result<()> {
    let mut checker = Checker::on_a_terminal(flood);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pty::read(&mut master, &mut buffer, LIMIT)? {
            0 => break,
            n => checker.take(&buffer[..n]),
        }
    }
    checker.finish().map_err(|error| format!("terminal: {error}").into())
}
