//! Rows 7 and 8: supervisors of children that do nothing.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::bench::Bench;
use crate::peers::Peer;
use crate::process::{self, Running, wait_readable};
use crate::procfs::{self, Activity};
use crate::row::{Goal, Row, Unit, Verdict};
use crate::scratch::Scratch;
use crate::tools::{self, AtTheEnd};
use crate::{Result, modes};

/// How long a child may take to be there.
const LIMIT: Duration = Duration::from_secs(60);

const STATIC: &str = "vmon, static";
const S6: &str = "s6-supervise";

const ANONYMOUS: &str = "Anonymous";
const PSS: &str = "PSS";

/// How a supervisor is started: in a directory, under a number, of a child.
type Start<'a> = Box<dyn Fn(&Path, usize, &[OsString]) -> Result<Command> + 'a>;

struct Supervisor<'a> {
    name: &'static str,
    start: Start<'a>,
}

fn supervisors(bench: &Bench) -> Vec<Supervisor<'_>> {
    let ours = |name, path: &'static str, vmon: PathBuf| Supervisor {
        name,
        start: Box::new(move |dir, number, child| {
            let name = format!("idle-{number}");
            Ok(tools::vmon(&vmon, &dir.join(path), &name, &["--no-forward"], child))
        }),
    };
    let mut all = vec![ours("vmon", "plain", bench.peers.vmon.clone())];
    all.extend(bench.peers.static_vmon.clone().map(|path| ours(STATIC, "static", path)));
    let mut peer = |peer: Peer, start: fn(&Path, &Path, &[OsString]) -> Result<Command>| {
        let Some(path) = bench.peers.path(peer) else { return };
        let name = peer.program();
        let start: Start<'_> = Box::new(move |dir, number, child| {
            let dir = dir.join(format!("{name}-{number}"));
            start(path, &dir, child)
        });
        all.push(Supervisor { name, start });
    };
    peer(Peer::S6Supervise, tools::s6_supervise);
    peer(Peer::Tini, |path, _, child| Ok(tools::tini(path, child)));
    peer(Peer::Conmon, |path, dir, child| tools::conmon(path, dir, AtTheEnd::Fsync, child));
    all
}

/// Row 7.
pub fn one(bench: &Bench) -> Result<Row> {
    let time = bench.options.idle;
    let mut row = Row::new(7, format!("Idle for {} s, one child", time.as_secs()));
    let hall = Hall::new(bench)?;
    // They do not disturb each other: all are watched at once.
    let mut watched = Vec::new();
    for supervisor in supervisors(bench) {
        match hall.start(&supervisor, 1) {
            Ok(running) => watched.extend(running.into_iter().map(|it| (supervisor.name, it))),
            Err(error) => fault(&mut row, supervisor.name, &error.to_string()),
        }
    }
    process::pause(pause_before(bench))?;
    let before = activities(&watched)?;
    process::pause(time)?;
    let after = activities(&watched)?;
    for (((name, running), before), after) in watched.iter().zip(before).zip(after) {
        let memory = procfs::memory(running.pid())?;
        let kibibytes = |bytes: u64| vec![bytes as f64 / 1024.0];
        row.figure(name, "threads", Unit::Number, vec![after.threads as f64]);
        let wakeups = after.switches - before.switches;
        row.figure(name, "wake-ups", Unit::Number, vec![wakeups as f64]);
        row.figure(name, ANONYMOUS, Unit::Kibibytes, kibibytes(memory.anonymous));
        row.figure(name, PSS, Unit::Kibibytes, kibibytes(memory.pss));
    }
    for (tool, measure, unit, limit) in [
        ("vmon", "threads", Unit::Number, 1.0),
        ("vmon", "wake-ups", Unit::Number, 0.0),
        ("vmon", ANONYMOUS, Unit::Kibibytes, 200.0),
    ] {
        let values = row.values(tool, measure);
        row.own(tool, measure, unit, values, Goal::AtMost(limit));
    }
    beside_s6(&mut row, STATIC, ANONYMOUS, Some(Goal::AtMost(1.0)));
    Ok(row)
}

/// How long a supervisor may take to come to rest after the child is there: vmon gives back what
/// its start has taken once nothing has happened for two seconds.
pub(super) fn pause_before(bench: &Bench) -> Duration {
    Duration::from_millis(bench.size(3000, 200))
}

fn activities(watched: &[(&str, Running)]) -> Result<Vec<Activity>> {
    watched.iter().map(|(_, running)| procfs::activity(running.pid())).collect()
}

/// Row 8.
pub fn many(bench: &Bench) -> Result<Row> {
    let count = bench.size(100, 5);
    let mut row = Row::new(8, format!("{count} supervisors at once, of an idle child each"));
    let hall = Hall::new(bench)?;
    for supervisor in supervisors(bench) {
        match hall.memory_of(&supervisor, count, pause_before(bench)) {
            Ok((anonymous, pss)) => {
                row.figure(supervisor.name, PSS, Unit::Kibibytes, pss);
                row.figure(supervisor.name, ANONYMOUS, Unit::Kibibytes, anonymous);
            }
            Err(error) => fault(&mut row, supervisor.name, &error.to_string()),
        }
        process::sweep();
        process::check_interrupted()?;
    }
    beside_s6(&mut row, STATIC, PSS, Some(Goal::AtMost(1.0)));
    beside_s6(&mut row, "vmon", PSS, None);
    Ok(row)
}

fn fault(row: &mut Row, name: &str, error: &str) {
    let list = if name.starts_with("vmon") { &mut row.failures } else { &mut row.gaps };
    list.push(format!("{name}: {error}"));
}

/// The ratio of the means: the supervisors of one tool are no pairs with those of another.
fn beside_s6(row: &mut Row, tool: &str, measure: &str, goal: Option<Goal>) {
    let (ours, theirs) = (row.values(tool, measure), row.values(S6, measure));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let known = !ours.is_empty() && !theirs.is_empty();
    row.verdicts.push(Verdict {
        tool: tool.to_owned(),
        peer: Some(S6.to_owned()),
        measure: measure.to_owned(),
        unit: Unit::Kibibytes,
        values: if known { vec![mean(&ours) / mean(&theirs)] } else { Vec::new() },
        ours,
        theirs,
        goal,
    });
}

/// Where supervisors are, and the FIFO in which their children report their start.
pub(super) struct Hall {
    pub(super) scratch: Scratch,
    ready: File,
    /// The child.
    pub(super) child: Vec<OsString>,
}

impl Hall {
    pub(super) fn new(bench: &Bench) -> Result<Self> {
        let scratch = bench.scratch()?;
        let fifo = scratch.join("ready");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let ready = OpenOptions::new().read(true).write(true).open(fifo)?;
        Ok(Self { scratch, ready, child: modes::words("idle", &[])? })
    }

    /// Starts this many supervisors of one kind, and waits until all children have started.
    fn start(&self, supervisor: &Supervisor<'_>, count: usize) -> Result<Vec<Running>> {
        let mut all = Vec::with_capacity(count);
        for number in 0..count {
            let mut command = (supervisor.start)(self.scratch.path(), number, &self.child)?;
            all.push(Running::spawn(self.prepare(&mut command))?);
        }
        self.await_children(count)?;
        Ok(all)
    }

    /// Has the child report its start here.
    pub(super) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(modes::READY, self.scratch.join("ready"));
        tools::silent(command)
    }

    /// Waits until this many children have started.
    pub(super) fn await_children(&self, count: usize) -> Result<()> {
        let mut missing = count;
        let mut buffer = [0; 1024];
        while missing > 0 {
            wait_readable(&self.ready, LIMIT)
                .map_err(|error| format!("{missing} children are not there: {error}"))?;
            missing -= (&self.ready).read(&mut buffer)?.min(missing);
        }
        Ok(())
    }

    /// Anonymous and PSS of each, in KiB.
    fn memory_of(
        &self,
        supervisor: &Supervisor<'_>,
        count: usize,
        pause_before: Duration,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let all = self.start(supervisor, count)?;
        process::pause(pause_before)?;
        let memory = all.iter().map(|running| procfs::memory(running.pid()));
        let memory = memory.collect::<Result<Vec<_>>>()?;
        let kibibytes = |of: fn(&procfs::Memory) -> u64| {
            memory.iter().map(|memory| of(memory) as f64 / 1024.0).collect()
        };
        Ok((kibibytes(|memory| memory.anonymous), kibibytes(|memory| memory.pss)))
    }
}
