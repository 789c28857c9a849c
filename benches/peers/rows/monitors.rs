//! Rows 14 to 18: vmon-conmon beside conmon, each called in the same way.
//!
//! Their runtime is this program ([`modes`]): an OCI runtime takes longer than both monitors.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;
use vmon::logfile::Format;

use super::idle::{Hall, pause_before};
use super::streams::{CPU, MEASURES, RATE, measured, records_of, show, supervise, warm_up};
use crate::bench::Bench;
use crate::modes;
use crate::pattern::{self, Checker, Flood};
use crate::peers::Peer;
use crate::process::{self, Running, pipe};
use crate::procfs;
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples, percentile};
use crate::scratch::Scratch;
use crate::tools;
use crate::{Error, Result};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(60);

const OURS: &str = "vmon-conmon";
const STATIC: &str = "vmon-conmon, static";
const THEIRS: &str = "conmon";

const PSS: (&str, Unit) = ("PSS", Unit::Kibibytes);
const ANONYMOUS: (&str, Unit) = ("Anonymous", Unit::Kibibytes);
const WAKEUPS: (&str, Unit) = ("wake-ups", Unit::Number);
const TIME: (&str, Unit) = ("time", Unit::Millis);

/// The log's limit, in the name of a tool.
const LIMITED: &str = ", log limited to 10 MiB";

/// The executable of vmon-conmon.
fn ours(bench: &Bench) -> Result<&Path> {
    let path = bench.peers.vmon_conmon.as_deref();
    path.ok_or_else(|| "vmon-conmon could not be built".into())
}

/// Both monitors, run in the same way.
fn both<'a>(
    bench: &'a Bench,
    form: &str,
    run: impl Fn(&Path) -> Result<Measured> + Clone + 'a,
) -> Vec<Contender<'a>> {
    let peer = run.clone();
    let ours = Contender::ours(&format!("{OURS}{form}"), move || run(ours(bench)?));
    let theirs = bench.peer(Peer::Conmon, &format!("{THEIRS}{form}"), peer);
    [ours].into_iter().chain(theirs).collect()
}

/// Row 14.
pub fn idle(bench: &Bench) -> Result<Row> {
    let count = bench.size(100, 5);
    let time = bench.options.idle.min(Duration::from_secs(5));
    let mut tools = both(bench, "", move |path| crowd(bench, path, count, time));
    if let Some(path) = &bench.peers.static_vmon_conmon {
        tools.insert(1, Contender::ours(STATIC, move || crowd(bench, path, count, time)));
    }
    let samples = Samples::in_turn(tools, bench.options.runs.min(3))?;

    let title = format!("{count} monitors of containers at once, of an idle child each");
    let mut row = Row::new(14, title);
    row.take(&samples, &[PSS, ANONYMOUS, WAKEUPS]);
    for measure in [PSS, ANONYMOUS] {
        row.ratio(&samples, (OURS, THEIRS), measure, Some(Goal::AtMost(0.5)));
        if bench.peers.static_vmon_conmon.is_some() {
            row.ratio(&samples, (STATIC, THEIRS), measure, Some(Goal::AtMost(1.0 / 3.0)));
        }
    }
    let (wakeups, unit) = WAKEUPS;
    row.own(OURS, wakeups, unit, samples.values(OURS, wakeups), Goal::AtMost(0.0));
    row.notes.push(format!(
        "A value of the memory is the mean of the {count} monitors, each in the background as \
         Podman has it; the wake-ups are those of all of them together within {} s",
        time.as_secs()
    ));
    Ok(row)
}

/// Starts this many monitors, which go to the background, and looks at them there.
fn crowd(bench: &Bench, monitor: &Path, count: usize, time: Duration) -> Result<Measured> {
    let hall = Hall::new(bench)?;
    let dirs: Vec<PathBuf> =
        (0..count).map(|number| hall.scratch.join(&format!("container-{number}"))).collect();
    for dir in &dirs {
        let mut command = tools::container(monitor, dir, &hall.child)?;
        command.arg("--conmon-pidfile").arg(dir.join("monitor"));
        Running::spawn(hall.prepare(&mut command))?.wait_success(LIMIT)?;
    }
    hall.await_children(count)?;
    process::pause(pause_before(bench))?;
    let pids = dirs.iter().map(|dir| pid(&dir.join("monitor"))).collect::<Result<Vec<_>>>()?;
    let switches =
        || -> Result<u64> { pids.iter().map(|pid| Ok(procfs::activity(*pid)?.switches)).sum() };
    let before = switches()?;
    process::pause(time)?;
    let wakeups = switches()? - before;
    let memory = pids.iter().map(|pid| procfs::memory(*pid)).collect::<Result<Vec<_>>>()?;
    let mean = |of: fn(&procfs::Memory) -> u64| {
        memory.iter().map(|memory| of(memory) as f64 / 1024.0).sum::<f64>() / count as f64
    };
    let (pss, anonymous) = (mean(|memory| memory.pss), mean(|memory| memory.anonymous));
    Ok(vec![(PSS.0, pss), (ANONYMOUS.0, anonymous), (WAKEUPS.0, wakeups as f64)])
}

/// The pid in a file.
fn pid(path: &Path) -> Result<Pid> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Pid::from_raw(text.trim().parse()?))
}

/// Row 15.
pub fn large(bench: &Bench) -> Result<Row> {
    let flood = Flood::lines(bench.size(500_000_000, 16 << 20));
    let size = show(flood.bytes());
    let title = format!("{size} of 100-byte lines in 64 KiB writes, in k8s-file");
    // The monitor sets the pace.
    log(bench, Row::new(15, title), flood, Goal::AtLeast(4.0))
}

/// Row 16.
pub fn small(bench: &Bench) -> Result<Row> {
    let flood = Flood::small(bench.size(1_000_000, 50_000));
    let title = format!("{} writes of 100 bytes, in k8s-file", flood.blocks);
    // The child sets the pace: its writes take longer than all that the monitor does.
    log(bench, Row::new(16, title), flood, Goal::AtLeast(1.0))
}

/// A flood to a log without a limit, and to one with.
fn log(bench: &Bench, mut row: Row, flood: Flood, rate: Goal) -> Result<Row> {
    let mut tools = both(bench, "", move |path| logged(bench, path, flood, false));
    tools.extend(both(bench, LIMITED, move |path| logged(bench, path, flood, true)));
    let samples = Samples::in_turn(tools, bench.options.runs)?;
    row.take(&samples, &MEASURES);
    for form in ["", LIMITED] {
        let (ours, theirs) = (format!("{OURS}{form}"), format!("{THEIRS}{form}"));
        row.ratio(&samples, (&ours, &theirs), RATE, Some(rate));
        row.ratio(&samples, (&ours, &theirs), CPU, Some(Goal::AtMost(0.3)));
    }
    row.notes.push(
        "rates are of the child's bytes: the logs are larger. A log without a limit is checked to \
         be complete; at a limit conmon throws away what it had, and vmon-conmon keeps it as a \
         generation beside"
            .to_owned(),
    );
    Ok(row)
}

/// One flood to its end.
fn logged(bench: &Bench, monitor: &Path, flood: Flood, limited: bool) -> Result<Measured> {
    warm_up(bench, records_of(flood))?;
    let scratch = bench.scratch()?;
    let child = modes::words("flood", &flood.words())?;
    let mut command = tools::container(monitor, scratch.path(), &child)?;
    command.args(["--sync", "--no-sync-log"]);
    if limited {
        command.args(["--log-size-max", &tools::ROTATE_AT.to_string()]);
    }
    let (ended, written) = supervise(tools::silent(&mut command), scratch.path())?;
    let generation = scratch.join("log.1");
    let paths = [generation, scratch.join("log")].into_iter().filter(|path| path.exists());
    check(&flood, &paths.collect::<Vec<_>>(), limited)?;
    Ok(measured(&flood, &ended, &written, written.cpu))
}

/// Whether the log is the stream, or its end where what came before is gone.
fn check(flood: &Flood, paths: &[PathBuf], limited: bool) -> Result<()> {
    let mut checker = Checker::new(flood);
    if limited {
        let kept = pattern::bytes_of_records(paths, Format::Cri)?;
        checker = Checker::of_tail(flood, kept);
    }
    checker.take_records(paths, Format::Cri)?;
    checker.finish().map_err(|error| -> Error { format!("log: {error}").into() })
}

/// Row 17.
pub fn start(bench: &Bench) -> Result<Row> {
    let row = Row::new(17, "Start to end of a container of `true`");
    life(bench, row, |monitor, dir| {
        let exits = dir.join("exits");
        fs::create_dir(&exits)?;
        let mut command = tools::container(monitor, dir, &["true".into()])?;
        command.arg("--sync").arg("--exit-dir").arg(exits);
        Ok(command)
    })
}

/// Row 18.
pub fn exec(bench: &Bench) -> Result<Row> {
    let row = Row::new(18, "A probe of `true` in a container: exec, API version 0");
    life(bench, row, |monitor, dir| tools::exec(monitor, dir, &["true".into()]))
}

/// From start to end.
fn life(
    bench: &Bench,
    mut row: Row,
    make: impl Fn(&Path, &Path) -> Result<Command> + Copy,
) -> Result<Row> {
    let starts = bench.size(20, 3);
    let rounds = bench.size(2 * bench.options.runs, 1);
    let tools = both(bench, "", move |path| {
        let one = || time(&bench.scratch()?, |dir| make(path, dir));
        let mut times = (0..starts).map(|_| one()).collect::<Result<Vec<_>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(vec![(TIME.0, percentile(&times, 0.5))])
    });
    let samples = Samples::in_turn(tools, rounds)?;
    row.take(&samples, &[TIME]);
    row.ratio(&samples, (OURS, THEIRS), TIME, Some(Goal::AtMost(1.0)));
    row.notes.push(format!(
        "A value is the median of {starts} starts in a row, with this benchmark as the runtime, \
         which is a part of it"
    ));
    Ok(row)
}

/// One start, in milliseconds, to the end of the monitor, which has reported something by then.
fn time(scratch: &Scratch, make: impl Fn(&Path) -> Result<Command>) -> Result<f64> {
    let (mut reports, to_engine) = pipe()?;
    // Inherited, without a step between vfork and exec.
    fcntl(&to_engine, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = make(scratch.path())?;
    command.env("_OCI_SYNCPIPE", to_engine.as_raw_fd().to_string());
    let began = process::now();
    let running = Running::spawn_plain(tools::silent(&mut command))?;
    drop(to_engine);
    let ended = running.wait_success(LIMIT)?;
    let mut text = String::new();
    reports.read_to_string(&mut text)?;
    if !text.contains("\"pid\"") && !text.contains("\"exit_code\"") {
        return Err(format!("the engine was told {text:?}").into());
    }
    Ok((ended.at - began).as_secs_f64() * 1e3)
}
