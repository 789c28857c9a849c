//! `@crowd DIR SPEC`: a host of many children on one reactor, and what each of them costs it.
//!
//! The children are all there before anything is measured. They are idle first, then write a line
//! a second each, then flood. What the host has measured goes to its stdout as JSON.

#![allow(unsafe_code)] // mallinfo2, which no safe wrapper offers

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use vmon::child::Command;
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{Monitor, Sandbox};
use vmon::process::{FileLimit, raise_file_limit};
use vmon::reactor::{HandlerId, Reactor};

use super::children::{LINE, READY};
use super::words;
use crate::pattern::Flood;
use crate::{Result, procfs};

/// How long children may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(120);

/// The pause before a measurement.
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked of a host.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// How many children.
    pub children: usize,
    /// How long they are idle.
    pub idle: Duration,
    /// How long each writes a line a second.
    pub lines: Duration,
    /// How long all flood.
    pub flood: Duration,
}

impl Crowd {
    /// As the argument of the hidden mode.
    pub fn to_word(self) -> String {
        let [idle, lines, flood] = [self.idle, self.lines, self.flood].map(|it| it.as_millis());
        format!("{},{idle},{lines},{flood}", self.children)
    }

    fn from_word(word: &str) -> Result<Self> {
        let numbers = word.split(',').map(str::parse).collect::<std::result::Result<Vec<u64>, _>>();
        match numbers?[..] {
            [children, idle, lines, flood] => Ok(Self {
                children: children as usize,
                idle: Duration::from_millis(idle),
                lines: Duration::from_millis(lines),
                flood: Duration::from_millis(flood),
            }),
            _ => Err("a crowd is four numbers".into()),
        }
    }
}

pub fn run(dir: &str, spec: &str) -> Result<()> {
    let spec = Crowd::from_word(spec)?;
    let dir = Path::new(dir);
    let mut host = Host::new(dir, spec.children)?;
    let before = Held::now()?;
    let usual = usual_file_limit()?;
    let former = raise_file_limit()?;
    host.start(former)?;
    host.turn_for(PAUSE)?;
    let after = Held::now()?;
    let limit = procfs::file_limit(host.pids()[0])?;
    let mut result = json!({
        "children": spec.children,
        "heap": (after.heap - before.heap) / spec.children as f64,
        "anonymous": (after.anonymous - before.anonymous) / spec.children as f64,
        "limit_restored": limit == usual.to_string(),
        "idle": host.idle(spec.idle)?,
        "lines": host.lines(spec.lines)?,
    });
    result["flood"] = host.flood(spec.flood)?;
    host.end()?;
    println!("{result}");
    Ok(())
}

/// What a login usually gives: the host is to have a limit to raise.
fn usual_file_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let usual = hard.min(1024);
    setrlimit(Resource::RLIMIT_NOFILE, usual, hard)?;
    Ok(usual)
}

/// Memory that the host holds, in bytes.
struct Held {
    heap: f64,
    anonymous: f64,
}

impl Held {
    fn now() -> Result<Self> {
        // SAFETY: no arguments; it returns plain numbers.
        let info = unsafe { libc::mallinfo2() };
        let anonymous = procfs::memory(Pid::this())?.anonymous as f64;
        Ok(Self { heap: (info.uordblks + info.hblkhd) as f64, anonymous })
    }
}

fn cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// What turning the loop for a while has cost.
struct Turned {
    cpu: f64,
    turns: u64,
    seconds: f64,
}

struct Host {
    reactor: Reactor<Monitor>,
    ids: Vec<HandlerId>,
    logs: PathBuf,
    fifo: PathBuf,
}

impl Host {
    fn new(dir: &Path, children: usize) -> Result<Self> {
        let fifo = dir.join("ready");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Room for all beforehand: what is measured is the library's.
        let ids = Vec::with_capacity(children);
        Ok(Self { reactor: Reactor::new()?, ids, logs: dir.join("log"), fifo })
    }

    fn start(&mut self, former: FileLimit) -> Result<()> {
        let mut ready = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&self.fifo)?;
        let child = words("phases", &[])?;
        for number in 0..self.ids.capacity() {
            let sandbox = Sandbox::new(name(number), &self.logs)?.log(
                LogOptions::default().retention(Retention::default().max_size(0).max_files(0)),
            );
            let command = Command::new(&child[0]).args(&child[1..]).env(READY, &self.fifo);
            let command = command.file_limit(former);
            self.ids.push(Monitor::builder(sandbox).spawn(&mut self.reactor, command));
        }
        self.wait_for_children(&mut ready)
    }

    fn wait_for_children(&mut self, ready: &mut File) -> Result<()> {
        let give_up = Instant::now() + LIMIT;
        let mut missing = self.ids.len();
        let mut buffer = [0; 4096];
        while missing > 0 {
            missing -= ready.read(&mut buffer).unwrap_or(0);
            self.reactor.poll_once(Some(Duration::from_millis(10)))?;
            if let Some(end) = self.ids.iter().find_map(|id| self.reactor.get(*id)?.end()) {
                return Err(format!("a child has ended: {end:?}").into());
            }
            if Instant::now() > give_up {
                return Err(format!("{missing} children have not started").into());
            }
        }
        Ok(())
    }

    fn turn_for(&mut self, time: Duration) -> Result<Turned> {
        let (began, before) = (Instant::now(), cpu()?);
        let end = began + time;
        let mut turns = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.reactor.poll_once(Some(left))?;
            turns += 1;
        }
        Ok(Turned { cpu: cpu()? - before, turns, seconds: began.elapsed().as_secs_f64() })
    }

    fn idle(&mut self, time: Duration) -> Result<Value> {
        let turned = self.turn_for(time)?;
        // The last turn is the one that this function has set an end to.
        Ok(
            json!({ "cpu_percent": 100.0 * turned.cpu / turned.seconds, "wakeups": turned.turns - 1 }),
        )
    }

    fn lines(&mut self, time: Duration) -> Result<Value> {
        self.signal(Signal::SIGUSR1)?;
        self.turn_for(Duration::from_secs(1))?;
        let before: u64 = self.sizes()?.iter().sum();
        let turned = self.turn_for(time)?;
        let after: u64 = self.sizes()?.iter().sum();
        let lines = (after - before) as f64 / LINE.len() as f64;
        Ok(json!({ "lines": lines, "cpu_per_line_us": 1e6 * turned.cpu / lines }))
    }

    fn flood(&mut self, time: Duration) -> Result<Value> {
        let quiet = self.sizes()?;
        self.signal(Signal::SIGUSR2)?;
        let before = self.wait_for_flood(&quiet)?;
        let turned = self.turn_for(time)?;
        let after = self.sizes()?;
        let grown: Vec<u64> = after.iter().zip(&before).map(|(now, then)| now - then).collect();
        let mean = grown.iter().sum::<u64>() as f64 / grown.len() as f64;
        let slowest = grown.iter().min().copied().unwrap_or(0) as f64;
        let rate = mean * grown.len() as f64 / turned.seconds / 1e6;
        Ok(json!({ "mb_per_second": rate, "mean_bytes": mean, "slowest_to_mean": slowest / mean }))
    }

    /// Waits until each child has written, so that a late start does not count as slowness. Returns
    /// the size of each log.
    fn wait_for_flood(&mut self, quiet: &[u64]) -> Result<Vec<u64>> {
        let give_up = Instant::now() + LIMIT;
        let block = Flood::endless().block as u64;
        loop {
            self.turn_for(Duration::from_millis(100))?;
            let sizes = self.sizes()?;
            if sizes.iter().zip(quiet).all(|(now, then)| now - then >= block) {
                return Ok(sizes);
            }
            if Instant::now() > give_up {
                return Err("not every child floods".into());
            }
        }
    }

    /// How much each child's log has.
    fn sizes(&self) -> Result<Vec<u64>> {
        let logs = self.logs.join("Sandboxfile");
        let size = |number| {
            let path = logs.join(format!("{}.log", name(number)));
            Ok(std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.len())
        };
        (0..self.ids.len()).map(size).collect()
    }

    fn pids(&self) -> Vec<Pid> {
        let pid = |id: &HandlerId| self.reactor.get(*id)?.pid();
        self.ids.iter().filter_map(pid).map(|pid| Pid::from_raw(pid as i32)).collect()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.pids().into_iter().try_for_each(|pid| kill(pid, signal))?)
    }

    fn end(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let give_up = Instant::now() + LIMIT;
        while !self.reactor.is_done() {
            if Instant::now() > give_up {
                return Err("the reactor did not end".into());
            }
            self.reactor.poll_once(Some(PAUSE))?;
        }
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("child-{number}")
}
