//! Rows 6 and 13: one byte through the PTY and back, and beside a flood that is held to a rate.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::pattern::Flood;
use crate::peers::Peer;
use crate::process::{self, Running, check_interrupted};
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples, percentile};
use crate::scratch::Scratch;
use crate::{Result, modes, procfs, pty, tools};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How much a flood has written when it counts as one.
const FLOODING: u64 = 1 << 20;

/// Keys that no tool means anything by, and that are not in the escape sequences of tmux.
const KEYS: &[u8] = b"&|^+";

const P50: (&str, Unit) = ("p50", Unit::Micros);
const P99: (&str, Unit) = ("p99", Unit::Micros);
const VMON_FLOOD: &str = "vmon, beside a flood";
const VMON_PIPE_FLOOD: &str = "vmon, beside a flood on a pipe";
const SCRIPT_FLOOD: &str = "script, beside a flood";

const CPU: (&str, Unit) = ("CPU", Unit::Percent);
const LOGGED: (&str, Unit) = ("logged", Unit::MbPerSecond);
const IDLE: &str = "vmon, beside an idle sandbox";
const BLOCKED: &str = "vmon, beside a flood that waits";
const DROPPED: &str = "vmon, beside a flood that is left out";
const BLOCK: &str = "block, 8 KiB";
const BLOCK_SMALL: &str = "block, 100 bytes";
const DROP: &str = "drop, 8 KiB";
const DROP_SMALL: &str = "drop, 100 bytes";

/// The log of the sandbox that floods.
const FLOOD_LOG: &str = "log/Sandboxfile/flood.log";

pub fn row(bench: &Bench) -> Result<Row> {
    let keys = bench.size(5000, 200);
    let mut tools = vec![
        Contender::ours("vmon", move || {
            let options = ["--tty", "always"];
            alone(bench, keys, |dir, echo| {
                Ok(tools::vmon(&bench.peers.vmon, dir, "echo", &options, echo))
            })
        }),
        Contender::peer("no monitor", move || {
            alone(bench, keys, |_, echo| Ok(tools::command(echo)))
        }),
    ];
    tools.extend(bench.peer(Peer::Script, "script", move |path| {
        alone(bench, keys, |dir, echo| tools::script(path, &dir.join("log"), echo))
    }));
    tools.extend(bench.peer(Peer::Dtach, "dtach", move |path| {
        alone(bench, keys, |dir, echo| Ok(tools::dtach(path, dir, echo)))
    }));
    tools.extend(bench.peer(Peer::Tmux, "tmux", move |path| {
        alone(bench, keys, |dir, echo| tools::tmux(path, dir, echo))
    }));
    tools.push(Contender::ours(VMON_FLOOD, move || vmon_beside_a_flood(bench, keys, "pty")));
    tools.push(Contender::ours(VMON_PIPE_FLOOD, move || vmon_beside_a_flood(bench, keys, "pipe")));
    tools
        .extend(bench.peer(Peer::Script, SCRIPT_FLOOD, move |path| {
            script_beside_a_flood(bench, path, keys)
        }));
    let samples = Samples::in_turn(tools, bench.options.runs)?;

    let mut row = Row::new(6, format!("One byte through the PTY and back, {keys} times"));
    row.take(&samples, &[P50, P99]);
    for measure in [P50, P99] {
        row.ratio(&samples, ("vmon", "script"), measure, Some(Goal::AtMost(1.0)));
    }
    for measure in [P50, P99] {
        row.ratio(&samples, (VMON_FLOOD, SCRIPT_FLOOD), measure, Some(Goal::AtMost(1.0)));
    }
    row.notes.push(
        "the flood is another sandbox of the same reactor, or another script, each through a PTY; \
         through a pipe it is some twenty times as fast, and rotates its log as often"
            .to_owned(),
    );
    Ok(row)
}

fn alone(
    bench: &Bench,
    keys: usize,
    make: impl FnOnce(&Path, &[std::ffi::OsString]) -> Result<Command>,
) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let command = make(scratch.path(), &modes::words("echo", &[])?)?;
    Session::start(command)?.measure(keys)
}

/// Row 13.
pub fn limited(bench: &Bench) -> Result<Row> {
    let keys = bench.size(5000, 200);
    let tools = vec![
        Contender::ours(IDLE, move || vmon_beside_another(bench, keys, "idle")),
        Contender::ours(BLOCKED, move || vmon_beside_a_flood(bench, keys, "block")),
        Contender::ours(DROPPED, move || vmon_beside_a_flood(bench, keys, "drop")),
        Contender::ours(BLOCK, move || cost_of_a_limit(bench, "block", 8192)),
        Contender::ours(BLOCK_SMALL, move || cost_of_a_limit(bench, "block", 100)),
        Contender::ours(DROP, move || cost_of_a_limit(bench, "drop", 8192)),
        Contender::ours(DROP_SMALL, move || cost_of_a_limit(bench, "drop", 100)),
    ];
    let samples = Samples::in_turn(tools, bench.options.runs)?;
    let mut row = Row::new(13, "A flood at the 1 MiB/s that its log may have");
    row.take(&samples, &[P50, P99, CPU, LOGGED]);
    for other in [BLOCKED, DROPPED] {
        row.ratio(&samples, (other, IDLE), P99, Some(Goal::AtMost(2.0)));
    }
    for tool in [BLOCK, BLOCK_SMALL, DROP, DROP_SMALL] {
        row.own(tool, CPU.0, CPU.1, samples.values(tool, CPU.0), Goal::AtMost(10.0));
    }
    row.notes.push(format!(
        "one byte through the PTY and back, {keys} times, beside another sandbox of the same \
         reactor; and the processor time of a vmon, its flood in writes of 8 KiB or 100 bytes"
    ));
    Ok(row)
}

/// What a vmon takes of a processor while its child floods a log that has a rate, and what it logs.
fn cost_of_a_limit(bench: &Bench, over: &str, write: usize) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let child =
        modes::words("flood", &Flood { blocks: 0, block: write, line: write.min(128) }.words())?;
    let options =
        ["--no-forward", "--log-max-size", "0", "--log-rate", "1MiB/s", "--over-rate", over];
    let mut vmon = tools::vmon(&bench.peers.vmon, scratch.path(), "flood", &options, &child);
    let running = Running::spawn(tools::silent(&mut vmon))?;
    wait_for_flood(&scratch, FLOOD_LOG)?;
    let log = scratch.join(FLOOD_LOG);
    let size = || Ok::<_, crate::Error>(std::fs::metadata(&log)?.len());
    let (began, cpu, before) = (Instant::now(), procfs::processor_time(running.pid())?, size()?);
    process::pause(Duration::from_millis(bench.size(5000, 1000)))?;
    let (cpu, grown) = (procfs::processor_time(running.pid())? - cpu, size()? - before);
    let seconds = began.elapsed().as_secs_f64();
    Ok(vec![(CPU.0, cpu.as_secs_f64() / seconds * 100.0), (LOGGED.0, grown as f64 / seconds / 1e6)])
}

fn vmon_beside_another(bench: &Bench, keys: usize, other: &str) -> Result<Measured> {
    let scratch = bench.scratch()?;
    two_sandboxes(&scratch, other)?.measure(keys)
}

fn vmon_beside_a_flood(bench: &Bench, keys: usize, through: &str) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let session = two_sandboxes(&scratch, through)?;
    wait_for_flood(&scratch, FLOOD_LOG)?;
    session.measure(keys)
}

fn two_sandboxes(scratch: &Scratch, other: &str) -> Result<Session> {
    let dir = scratch.path().to_str().ok_or("the directory's name is not UTF-8")?.to_owned();
    Session::start(tools::command(&modes::words("two-sandboxes", &[dir, other.to_owned()])?))
}

fn script_beside_a_flood(bench: &Bench, path: &Path, keys: usize) -> Result<Measured> {
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &Flood::endless().words())?;
    let mut flood = tools::script(path, &scratch.join("flood"), &child)?;
    let _flood = Running::spawn(tools::silent(&mut flood))?;
    wait_for_flood(&scratch, "flood")?;
    let echo = modes::words("echo", &[])?;
    Session::start(tools::script(path, &scratch.join("log"), &echo)?)?.measure(keys)
}

/// A file has no event for its size.
fn wait_for_flood(scratch: &Scratch, file: &str) -> Result<()> {
    let give_up = Instant::now() + LIMIT;
    let path = scratch.join(file);
    while std::fs::metadata(&path).map_or(0, |it| it.len()) < FLOODING {
        check_interrupted()?;
        if Instant::now() > give_up {
            return Err("the flood does not flow".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A tool on a PTY of ours, with a child that echoes.
struct Session {
    master: File,
    _running: Running,
}

impl Session {
    /// Starts it, and waits until its child listens.
    fn start(mut command: Command) -> Result<Self> {
        let pty = pty::open()?;
        let running = pty::spawn(&mut command, &pty.slave)?;
        let mut session = Self { master: pty.master.into(), _running: running };
        session.read_until(|seen| {
            seen.windows(modes::LISTENING.len()).any(|window| window == modes::LISTENING)
        })?;
        Ok(session)
    }

    fn read_until(&mut self, is_there: impl Fn(&[u8]) -> bool) -> Result<()> {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !is_there(&seen) {
            match pty::read(&mut self.master, &mut buffer, LIMIT)? {
                0 => {
                    let text = String::from_utf8_lossy(&seen);
                    return Err(format!("it ended, after {:?}", text.trim()).into());
                }
                n => seen.extend_from_slice(&buffer[..n]),
            }
        }
        Ok(())
    }

    fn measure(mut self, keys: usize) -> Result<Measured> {
        let mut times = Vec::with_capacity(keys);
        // The first ones warm up.
        for number in 0..keys + keys / 20 {
            check_interrupted()?;
            let key = KEYS[number % KEYS.len()];
            let began = Instant::now();
            self.master.write_all(&[key])?;
            self.read_until(|seen| seen.contains(&key))?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        let mut times = times.split_off(keys / 20);
        times.sort_by(f64::total_cmp);
        Ok(vec![("p50", percentile(&times, 0.5)), ("p99", percentile(&times, 0.99))])
    }
}
