//! The container's first process is monitored: its output is logged and relayed, clients are
//! served, and its end is awaited.

use std::fmt::Display;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal as ChildSignal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tracing::{info, warn};
use vmon::child::{ChildIo, ExitStatus, Signal, reap_children, unblock_signals};
use vmon::monitor::{
    Builder, Drain, Input, LogDriver, Monitor, Outcome, Sandbox, SourceKey, TimerKey,
};
use vmon::reactor::{Context, Handler, Reactor, Ready};

use crate::checks::Config;
use crate::failure::Failure;
use crate::logs;
use crate::process;
use crate::shape::Event;
use crate::signals::PASSED_ON;

/// The name of the sandbox, which nothing sees.
const NAME: &str = "container";

/// Time after the start at which memory is trimmed. Short commands avoid its cost and the page
/// faults that follow.
const TRIM_DELAY: Duration = Duration::from_millis(50);

/// Time without relayed output after which the scratch buffer is released.
const SCRATCH_DELAY: Duration = Duration::from_secs(2);

/// How long the end of a process is awaited that has been killed after `--timeout`. One in a frozen
/// cgroup does not end.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// A builder with what the options say of the monitor.
pub fn builder(config: &Config, drivers: Vec<LogDriver>) -> Result<Builder, Failure> {
    let options = &config.options;
    let input = if options.stdin { Input::Attached } else { Input::Null };
    // The directory of logs is not used: they are given.
    let sandbox = Sandbox::new(NAME, "/").map_err(Failure::of("can't describe the container"))?;
    let mut sandbox = sandbox.input(input).leave_descendants(true);
    if let Some(rate) = logs::rate() {
        sandbox = sandbox.log_rate(rate);
    }
    Ok(Monitor::builder(sandbox).log_drivers(drivers).drain(Drain::Available))
}

/// Whether this is a child of this process, perhaps one that has ended.
pub fn is_child(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Another error is that of a child which a real-time signal has ended.
    waitid(Id::Pid(Pid::from_raw(pid)), flags) != Err(Errno::ECHILD)
}

/// An event loop that watches the signals of a monitor. Signals stay blocked.
#[derive(Debug)]
pub struct EventLoop(Reactor<Task>);

fn failed<E: Display>() -> impl FnOnce(E) -> Failure {
    Failure::of("can't monitor the container")
}

impl EventLoop {
    /// Makes the loop, with all the descriptors that a monitor takes.
    ///
    /// # Errors
    ///
    /// No descriptor is available.
    pub fn new() -> Result<Self, Failure> {
        let mut reactor = Reactor::new().map_err(failed())?;
        let watched = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::CHLD, Signal::XFSZ];
        reactor.watch_signals(watched).map_err(failed())?;
        Ok(Self(reactor))
    }

    /// Monitors this child to its end. `timeout` is the time after which it is killed. Returns the
    /// log drivers too, complete.
    ///
    /// # Errors
    ///
    /// It can't be monitored.
    pub fn monitor(
        self,
        builder: Builder,
        pid: u32,
        io: ChildIo,
        timeout: Option<Duration>,
    ) -> Result<(Event, Vec<LogDriver>), Failure> {
        let Self(mut reactor) = self;
        let monitor = builder.adopt(pid, io).map_err(|error| Failure::new(error.to_string()))?;
        // What has arrived since the runtime ended is delivered now.
        unblock_signals();
        let id = reactor.add(Task { monitor, pid, timeout, time: Time::Left });
        run(&mut reactor).map_err(failed())?;
        let task = reactor.remove(id).ok_or_else(|| Failure::new("the monitor is gone"))?;
        task.into_event()
    }
}

/// Runs the loop to its end. When idle, it has given back the memory that its work took, and sleeps
/// in the kernel.
fn run(reactor: &mut Reactor<Task>) -> std::io::Result<()> {
    let mut trim_at = Some(Instant::now() + TRIM_DELAY);
    let mut release_at: Option<Instant> = None;
    while !reactor.is_done() {
        let now = Instant::now();
        if trim_at.is_some_and(|at| now >= at) {
            trim_at = None;
            reactor.release_scratch();
            process::trim();
        } else if release_at.is_some_and(|at| now >= at) {
            reactor.release_scratch();
        }
        // Postponed by each turn that relayed something.
        release_at = reactor.has_scratch().then(|| now + SCRATCH_DELAY);
        let next = [trim_at, release_at].into_iter().flatten().min();
        reactor.poll_once(next.map(|at| at.saturating_duration_since(now)))?;
    }
    Ok(())
}

type Cx<'a> = Context<'a, SourceKey, TimerKey>;

/// The timer of `--timeout`, and the one that follows it.
const TIMEOUT: TimerKey = TimerKey::of_host(0);

/// The time of the monitored process.
#[derive(Debug, PartialEq, Eq)]
enum Time {
    Left,
    /// It has been killed.
    Up,
    /// It has not ended since.
    GivenUp,
}

/// A monitor whose signals are not requests to stop: they go to the container's first process, and
/// this program stays.
struct Task {
    monitor: Monitor,
    /// The monitored process, which the monitor reaps.
    pid: u32,
    timeout: Option<Duration>,
    time: Time,
}

impl Task {
    /// How the process has ended, and the log drivers.
    fn into_event(mut self) -> Result<(Event, Vec<LogDriver>), Failure> {
        let drivers = self.monitor.take_log_drivers();
        if self.time != Time::Left {
            return Ok((Event::TimedOut, drivers));
        }
        let code = match self.monitor.end().map(|end| &end.outcome) {
            Some(Outcome::NotStarted(error)) => return Err(Failure::new(error.to_string())),
            Some(Outcome::Ended { status: ExitStatus::Code(code), .. }) => *code,
            Some(Outcome::Ended { status: ExitStatus::Signal(signal), .. }) => {
                128 + signal.number()
            }
            _ => -1,
        };
        Ok((Event::Ended(code), drivers))
    }

    /// Passes a signal on. The process is not reaped yet, so its pid is its own.
    fn pass_on(&self, signal: ChildSignal) {
        let pid = self.monitor.pid().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.map(Pid::from_raw) else { return };
        match kill(pid, signal) {
            Ok(()) => info!("{signal} passed on"),
            Err(error) => warn!("{signal} not passed on: {error}"),
        }
    }

    fn time_is_up(&mut self, cx: &mut Cx<'_>) {
        match self.time {
            Time::Left => {
                self.time = Time::Up;
                info!("the time is up");
                if let Err(error) = self.monitor.signal_child(Signal::KILL) {
                    warn!("can't kill the container: {error}");
                }
                cx.timers.set(KILLED_WITHIN, TIMEOUT);
            }
            Time::Up | Time::GivenUp => self.time = Time::GivenUp,
        }
    }
}

impl Handler for Task {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = vmon::monitor::Event;

    fn start(&mut self, cx: &mut Cx<'_>) {
        self.monitor.start(cx);
        if let Some(timeout) = self.timeout {
            cx.timers.set(timeout, TIMEOUT);
        }
        // Those that have ended before the signal was watched for.
        reap_children(Some(self.pid));
    }

    fn ready(&mut self, source: SourceKey, ready: Ready, cx: &mut Cx<'_>) {
        self.monitor.ready(source, ready, cx);
    }

    fn timer(&mut self, timer: TimerKey, cx: &mut Cx<'_>) {
        match timer {
            TIMEOUT => self.time_is_up(cx),
            timer => self.monitor.timer(timer, cx),
        }
    }

    fn signal(&mut self, signal: i32, _: &mut Cx<'_>) {
        match ChildSignal::try_from(signal) {
            Ok(ChildSignal::SIGCHLD) => reap_children(Some(self.pid)),
            Ok(signal) if PASSED_ON.contains(&signal) => self.pass_on(signal),
            // A file that may not grow is an error of the log's write.
            _ => {}
        }
    }

    fn take_event(&mut self) -> Option<Self::Event> {
        self.monitor.take_event()
    }

    fn is_done(&self) -> bool {
        self.monitor.is_done() || self.time == Time::GivenUp
    }
}
