//! The lifecycle of one child: started, relayed, stopped, drained, reported.
//!
//! A [`Monitor`] is a [`Handler`] of a [`Reactor`]. It goes through the states `STARTING`,
//! `RUNNING`, `STOPPING`, `DRAINING` and `STOPPED`, tells its [`Observer`]s of each, and is done
//! when they are.
//!
//! What one thread can't avoid waiting for, and so holds up every monitor of the reactor for as
//! long as it takes: the write of a regular file while the kernel throttles dirty pages; open,
//! rename and unlink of log files; `exec` of a child; and in an [`Observer`] whatever that does.

mod observer;
mod reports;
mod sandbox;
mod streams;

use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tracing::{debug, info, warn};

pub use crate::child::{Identity, Liveness};
pub use observer::{
    Claim, End, Observer, Outcome, Progress, Reason, StartError, Starting, Transition,
};
pub use sandbox::{
    DEFAULT_CONFIG_FILE, DEFAULT_STOP_TIMEOUT, Forward, Input, Name, NameError, OnLogError, Rootfs,
    Sandbox,
};

use crate::child::{Child, ChildIo, Command, ExitStatus, Signal};
use crate::logfile::LogFile;
use crate::reactor::{Context, Handler, HandlerId, Interest, Reactor, Ready, SourceId, TimerId};
use crate::terminal;
use reports::{Claims, Reports};
use streams::Streams;

/// How long observers may take to grant a start.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the child's streams must be silent after its end to be at theirs, although somebody
/// still has them open.
const QUIET: Duration = Duration::from_millis(200);

/// A stop request that follows another one sooner is the same one, told twice: a signal to the
/// process group and one to the process, say.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// How often an ended child is looked for where the kernel has no descriptor that tells.
const LOOK: Duration = Duration::from_millis(50);

/// One stream of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Stream {
    Out,
    Err,
}

/// The sources of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Source {
    /// What the child writes.
    Output(Stream),
    /// Our own stream, while it does not take what is forwarded.
    Sink(Stream),
    /// Our stdin.
    Stdin,
    /// The child's input, while it does not take ours.
    ChildInput,
    /// The child's end.
    Exit,
}

/// The timers of a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Timer {
    /// Observers are asked again.
    Claim,
    /// The observer of this index goes on.
    Observer(usize),
    /// The log is tried again.
    Log,
    /// The child's end is looked for.
    Exit,
    /// The stop timeout.
    Kill,
    /// The streams have been silent since.
    Quiet,
    /// Descendants have had their time.
    DrainLimit,
}

/// Monitors one child. See the [module](self).
///
/// One that is taken off its reactor, or dropped, before its child has ended does not end it: the
/// child loses its streams and is the host's to stop and to reap.
///
/// ```no_run
/// use vmon::child::Command;
/// use vmon::monitor::{Monitor, Sandbox};
/// use vmon::reactor::Reactor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut reactor = Reactor::new()?;
/// let sandbox = Sandbox::new("web", "Sandboxfile", "/var/lib/host/log")?;
/// let id = Monitor::builder(sandbox).spawn(&mut reactor, Command::new("web-server"));
/// reactor.run()?;
/// println!("{:?}", reactor.remove(id).and_then(Monitor::into_end));
/// # Ok(())
/// # }
/// ```
pub struct Monitor {
    sandbox: Sandbox,
    reports: Reports,
    supervisor: Identity,
    asked: DateTime<Utc>,
    state: State,
    streams: Option<Streams>,
    /// Set while bytes wait for the log.
    log_retry: Option<TimerId>,
}

/// What is to be monitored.
enum Launch {
    Spawn(Command),
    Adopt(Child, ChildIo),
}

/// A live child and what tells its end.
struct Running {
    child: Child,
    exit: Option<SourceId>,
}

/// How far a stop has come.
struct Stop {
    asked: Instant,
    kill: TimerId,
    killed: bool,
}

/// What a drain ends with.
struct Drain {
    status: ExitStatus,
    reason: Reason,
    quiet: Option<TimerId>,
    limit: TimerId,
    limit_passed: bool,
    /// The last stop request before or during the drain.
    asked: Option<Instant>,
}

enum State {
    Starting {
        launch: Launch,
        give_up: Instant,
    },
    Running(Running),
    Stopping(Running, Stop),
    Draining(Drain),
    Stopped(End),
    /// Between two states, within one method.
    Moving,
}

type Cx<'a> = Context<'a, Monitor>;

impl Monitor {
    /// A monitor of this sandbox, to be given observers and a child.
    pub fn builder(sandbox: Sandbox) -> Builder {
        Builder { sandbox, reports: Reports::default() }
    }

    /// Asks the child to end, as SIGTERM to the supervisor does: the stop signal, then KILL after
    /// the stop timeout. Asked again at least a second later, it kills at once; asked while the
    /// output of an ended child still waits for a reader or a full disk, it gives up on that.
    ///
    /// Returns at once. The end comes to the observers.
    pub fn stop(&mut self, cx: &mut Context<'_, Self>) {
        self.stop_requested(true, cx);
    }

    /// How it ended; `None` while it has not.
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Stopped(end) => Some(end),
            _ => None,
        }
    }

    /// How it ended; `None` if it has not.
    pub fn into_end(self) -> Option<End> {
        self.end().cloned()
    }

    /// The child's pid, from its start until it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running(running) | State::Stopping(running, _) => Some(running.child.pid()),
            _ => None,
        }
    }

    /// The sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }
}

/// A monitor that has no child yet. See [`Monitor::builder`].
pub struct Builder {
    sandbox: Sandbox,
    reports: Reports,
}

impl Builder {
    /// Tells `observer` of the transitions too.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.reports.add(Box::new(observer));
        self
    }

    /// Adds the monitor to `reactor`, which starts `command` as soon as the observers grant it.
    ///
    /// Never waits: whether the child was started comes to the observers, and to
    /// [`Monitor::end`] if it was not.
    ///
    /// On Linux the child is killed when the thread that runs the reactor ends
    /// (`PR_SET_PDEATHSIG`, prctl(2)).
    pub fn spawn(self, reactor: &mut Reactor<Monitor>, command: Command) -> HandlerId {
        self.add(reactor, Launch::Spawn(command))
    }

    /// Adds the monitor to `reactor`, which takes over a child that the host has started.
    ///
    /// From here on vmon relays, reaps and records: the host neither waits for the child nor reads
    /// its streams. If the name turns out to be another live supervisor's, the monitor ends with
    /// [`StartError::Taken`], closes `io` and leaves the child to the host.
    ///
    /// # Errors
    ///
    /// `pid` is not a child of this process.
    pub fn start(
        self,
        reactor: &mut Reactor<Monitor>,
        pid: u32,
        io: ChildIo,
    ) -> Result<HandlerId, StartError> {
        let child = Child::adopt(pid)
            .map_err(|error| StartError::Monitor(format!("pid {pid}: {error}")))?;
        Ok(self.add(reactor, Launch::Adopt(child, io)))
    }

    fn add(self, reactor: &mut Reactor<Monitor>, launch: Launch) -> HandlerId {
        reactor.add(Monitor {
            sandbox: self.sandbox,
            reports: self.reports,
            supervisor: Identity::current(),
            asked: Utc::now(),
            state: State::Starting { launch, give_up: Instant::now() + CLAIM_TIMEOUT },
            streams: None,
            log_retry: None,
        })
    }
}

/// The signals that a monitor understands: requests to stop (TERM, INT, QUIT and HUP), the
/// terminal's WINCH, TSTP and CONT, and XFSZ, which would end the process where the log meets a
/// file size limit. INT, QUIT, HUP and TSTP are left out where this process ignores them, as under
/// `nohup` and in a shell's background.
///
/// For [`Reactor::watch_signals`], in a program that is a command.
pub fn command_signals() -> Vec<Signal> {
    let always = [Signal::TERM, Signal::WINCH, Signal::CONT, Signal::XFSZ];
    let unless_ignored = [Signal::INT, Signal::QUIT, Signal::HUP, Signal::TSTP];
    let heeded = unless_ignored.into_iter().filter(|&signal| !crate::child::is_ignored(signal));
    always.into_iter().chain(heeded).collect()
}

impl Handler for Monitor {
    type Source = Source;
    type Timer = Timer;

    fn start(&mut self, cx: &mut Cx<'_>) {
        if let Err(error) = self.check_log() {
            return self.not_started(error, cx);
        }
        self.claim(cx);
    }

    fn ready(&mut self, source: Source, _: Ready, cx: &mut Cx<'_>) {
        match source {
            Source::Exit => self.look_for_exit(cx),
            Source::Output(stream) => {
                let read = self.streams.as_mut().is_some_and(|it| it.output_ready(stream, cx));
                self.output_moved(read, cx);
            }
            Source::Sink(stream) => {
                if let Some(streams) = &mut self.streams {
                    streams.sink_ready(stream, &mut cx.sources);
                }
                self.output_moved(false, cx);
            }
            Source::Stdin => {
                if let Some(streams) = &mut self.streams {
                    streams.input_ready(cx);
                }
            }
            Source::ChildInput => {
                if let Some(streams) = &mut self.streams {
                    streams.child_input_ready(&mut cx.sources);
                }
            }
        }
    }

    fn timer(&mut self, timer: Timer, cx: &mut Cx<'_>) {
        match timer {
            Timer::Claim => self.claim(cx),
            Timer::Observer(index) => {
                self.reports.retry(index, &mut cx.timers, Timer::Observer);
            }
            Timer::Log => self.retry_log(cx),
            Timer::Exit => self.look_for_exit(cx),
            Timer::Kill => self.kill("the stop timeout has passed"),
            Timer::Quiet => self.quiet(cx),
            Timer::DrainLimit => self.drain_limit(cx),
        }
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(Signal::TERM | Signal::INT | Signal::QUIT) => self.stop_requested(true, cx),
            Some(Signal::HUP) => self.stop_requested(false, cx),
            Some(Signal::WINCH) => {
                if let Some(streams) = &self.streams {
                    streams.resize();
                }
            }
            Some(Signal::TSTP) => {
                if let Some(streams) = &mut self.streams {
                    streams.leave_terminal();
                }
            }
            Some(Signal::CONT) => {
                if let Some(streams) = &mut self.streams {
                    streams.enter_terminal();
                    streams.resize();
                }
            }
            _ => {}
        }
    }

    fn after_signal(signal: i32) {
        if signal == Signal::TSTP.number()
            && let Err(error) = terminal::stop_process()
        {
            warn!("can't suspend: {error}");
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Stopped(_)) && self.reports.are_done()
    }
}

/// `STARTING`.
impl Monitor {
    fn check_log(&self) -> Result<(), StartError> {
        let Sandbox { log_dir, config_file, name, .. } = &self.sandbox;
        LogFile::check(log_dir, config_file.as_str(), name.as_str()).map_err(StartError::log)
    }

    /// Asks the observers, and goes on when they grant the start.
    fn claim(&mut self, cx: &mut Cx<'_>) {
        let State::Starting { launch, give_up } = &self.state else { return };
        let give_up = *give_up;
        let command = match launch {
            Launch::Spawn(command) => Some(command),
            Launch::Adopt(..) => None,
        };
        let starting = Starting {
            sandbox: &self.sandbox,
            command,
            supervisor: &self.supervisor,
            at: self.asked,
        };
        if command.is_none() {
            return match self.reports.claim_running(&starting) {
                Ok(()) => self.launch(cx),
                Err(error) => self.not_started(error, cx),
            };
        }
        match self.reports.claim(&starting) {
            Claims::Granted => self.launch(cx),
            Claims::Refused(error) => self.not_started(error, cx),
            Claims::Later(_, reason) if Instant::now() >= give_up => {
                self.not_started(StartError::Claim(reason.to_string()), cx);
            }
            Claims::Later(after, reason) => {
                debug!(name = %self.sandbox.name, "the start waits: {reason}");
                cx.timers.set(after, Timer::Claim);
            }
        }
    }

    fn launch(&mut self, cx: &mut Cx<'_>) {
        let State::Starting { launch, .. } = mem::replace(&mut self.state, State::Moving) else {
            return;
        };
        match self.try_launch(launch, cx) {
            Ok(running) => self.running(running, cx),
            Err(error) => self.not_started(error, cx),
        }
    }

    fn try_launch(&mut self, launch: Launch, cx: &mut Cx<'_>) -> Result<Running, StartError> {
        let log = self.open_log()?;
        match launch {
            Launch::Spawn(command) => {
                let terminal = streams::open_terminal(&self.sandbox, command.wants_pty());
                let io = streams::spawn_io(&self.sandbox, command.wants_pty(), terminal.as_ref());
                let (child, io) = Child::spawn(&command, io).map_err(StartError::Spawn)?;
                match self.watch(&child, io, log, terminal, cx) {
                    Ok(exit) => Ok(Running { child, exit }),
                    Err(error) => {
                        child.discard();
                        Err(error)
                    }
                }
            }
            Launch::Adopt(child, io) => {
                let tty = matches!(io, ChildIo::Tty { .. });
                let terminal = streams::open_terminal(&self.sandbox, tty);
                let exit = self.watch(&child, io, log, terminal, cx)?;
                Ok(Running { child, exit })
            }
        }
    }

    fn open_log(&self) -> Result<LogFile, StartError> {
        let Sandbox { log_dir, config_file, name, retention, .. } = &self.sandbox;
        LogFile::open(log_dir, config_file.as_str(), name.as_str(), *retention)
            .map_err(StartError::log)
    }

    /// Relays the child's streams and watches for its end.
    fn watch(
        &mut self,
        child: &Child,
        io: ChildIo,
        log: LogFile,
        terminal: Option<terminal::Terminal>,
        cx: &mut Cx<'_>,
    ) -> Result<Option<SourceId>, StartError> {
        let failed = |error: std::io::Error| StartError::Monitor(error.to_string());
        let streams = Streams::new(&self.sandbox, log, io, terminal, cx);
        let result = streams.and_then(|streams| {
            self.streams = Some(streams);
            match child.exit_fd() {
                Some(fd) => cx.sources.register(&fd, Interest::READ, Source::Exit).map(Some),
                None => {
                    cx.timers.set(LOOK, Timer::Exit);
                    Ok(None)
                }
            }
        });
        result.map_err(failed)
    }

    /// `STARTING → STOPPED`.
    fn not_started(&mut self, error: StartError, cx: &mut Cx<'_>) {
        debug!(name = %self.sandbox.name, "not started: {error}");
        self.stopped(Outcome::NotStarted(error), cx);
    }

    /// `STARTING → RUNNING`.
    fn running(&mut self, running: Running, cx: &mut Cx<'_>) {
        let pid = running.child.pid();
        info!(name = %self.sandbox.name, pid, "running");
        // The child is unreaped, so there is a process of this pid.
        let child =
            Identity::of(pid).unwrap_or_else(|| Identity { pid, ..self.supervisor.clone() });
        self.state = State::Running(running);
        if let Some(streams) = &mut self.streams {
            streams.enter_terminal();
        }
        self.tell(&Transition::Running { at: Utc::now(), child }, cx);
    }
}

/// `RUNNING` and `STOPPING`.
impl Monitor {
    fn stop_requested(&mut self, may_kill: bool, cx: &mut Cx<'_>) {
        let now = Instant::now();
        match &mut self.state {
            State::Starting { .. } => self.not_started(StartError::Stopped, cx),
            State::Running(_) => self.stopping(cx),
            State::Stopping(_, stop) => {
                if may_kill && now.duration_since(stop.asked) >= SAME_REQUEST {
                    stop.asked = now;
                    self.kill("a second stop was asked for");
                }
            }
            State::Draining(drain) => {
                let told_twice =
                    drain.asked.is_some_and(|asked| now.duration_since(asked) < SAME_REQUEST);
                if !told_twice {
                    self.abandon(cx);
                }
            }
            State::Stopped(_) | State::Moving => {}
        }
    }

    /// `RUNNING → STOPPING`.
    fn stopping(&mut self, cx: &mut Cx<'_>) {
        let State::Running(running) = mem::replace(&mut self.state, State::Moving) else { return };
        info!(name = %self.sandbox.name, pid = running.child.pid(), "stopping");
        send(&running.child, self.sandbox.stop_signal);
        // A child that is stopped could not act on it.
        send(&running.child, Signal::CONT);
        let kill = cx.timers.set(self.sandbox.stop_timeout, Timer::Kill);
        self.state = State::Stopping(running, Stop { asked: Instant::now(), kill, killed: false });
        self.tell(&Transition::Stopping { at: Utc::now() }, cx);
    }

    fn kill(&mut self, why: &str) {
        let State::Stopping(running, stop) = &mut self.state else { return };
        if !mem::replace(&mut stop.killed, true) {
            info!(name = %self.sandbox.name, pid = running.child.pid(), "killing: {why}");
            send(&running.child, Signal::KILL);
        }
    }

    fn look_for_exit(&mut self, cx: &mut Cx<'_>) {
        let (State::Running(running) | State::Stopping(running, _)) = &self.state else { return };
        match running.child.try_reap() {
            Ok(Some(status)) => self.exited(status, cx),
            Ok(None) => match running.exit {
                // kqueue may tell of the end before waitpid(2) knows of it, and tells once.
                Some(exit) => {
                    cx.sources.would_block(exit, Interest::READ);
                    cx.timers.set(LOOK, Timer::Exit);
                }
                None => {
                    cx.timers.set(LOOK, Timer::Exit);
                }
            },
            Err(error) => {
                warn!(pid = running.child.pid(), "can't wait for the child: {error}");
                self.exited(ExitStatus::Unknown, cx);
            }
        }
    }

    /// `RUNNING → DRAINING` and `STOPPING → DRAINING`.
    fn exited(&mut self, status: ExitStatus, cx: &mut Cx<'_>) {
        let (running, stop) = match mem::replace(&mut self.state, State::Moving) {
            State::Running(running) => (running, None),
            State::Stopping(running, stop) => (running, Some(stop)),
            other => {
                self.state = other;
                return;
            }
        };
        info!(name = %self.sandbox.name, pid = running.child.pid(), ?status, "ended; draining");
        if let Some(exit) = running.exit {
            cx.sources.deregister(exit);
        }
        if let Some(stop) = &stop {
            cx.timers.cancel(stop.kill);
        }
        let limit = cx.timers.set(self.sandbox.stop_timeout, Timer::DrainLimit);
        self.state = State::Draining(Drain {
            status,
            reason: reason(status, stop.as_ref()),
            quiet: None,
            limit,
            limit_passed: false,
            asked: stop.map(|stop| stop.asked),
        });
        if let Some(streams) = &mut self.streams {
            streams.begin_drain(cx);
        }
        self.tell(&Transition::Draining { at: Utc::now(), status }, cx);
        self.output_moved(true, cx);
    }

    fn retry_log(&mut self, cx: &mut Cx<'_>) {
        self.log_retry = None;
        if let Some(streams) = &mut self.streams {
            streams.retry_log(&mut cx.sources);
        }
        self.output_moved(false, cx);
    }

    /// Output has been `read`, or only logged or forwarded: what follows from it.
    fn output_moved(&mut self, read: bool, cx: &mut Cx<'_>) {
        let Some(streams) = &self.streams else { return };
        if streams.log_needs_retry() && self.log_retry.is_none() {
            self.log_retry = Some(cx.timers.set(crate::relay::LOG_RETRY, Timer::Log));
        }
        if let State::Draining(drain) = &mut self.state {
            // Each byte renews the grace; a stream that waited for its sinks begins it anew.
            if read || drain.quiet.is_none() {
                let renewed = cx.timers.set(QUIET, Timer::Quiet);
                if let Some(quiet) = drain.quiet.replace(renewed) {
                    cx.timers.cancel(quiet);
                }
            }
            self.drain(cx);
        }
    }
}

/// `DRAINING`.
impl Monitor {
    /// Ends the drain once everything has been read and has reached its sinks.
    fn drain(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&self.state, &mut self.streams) else {
            return;
        };
        if drain.limit_passed {
            streams.end_complete(&mut cx.sources);
        }
        if streams.are_finished() {
            self.drained(cx);
        }
    }

    /// Nothing has come for the grace time.
    fn quiet(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&mut self.state, &mut self.streams) else {
            return;
        };
        drain.quiet = None;
        // A stream that waits for its sinks is not quiet: the grace begins when it is read again.
        if streams.are_quiet() {
            streams.end_complete(&mut cx.sources);
        }
        self.drain(cx);
    }

    fn drain_limit(&mut self, cx: &mut Cx<'_>) {
        if let State::Draining(drain) = &mut self.state {
            drain.limit_passed = true;
        }
        self.drain(cx);
    }

    /// A stop request while the output drains: a reader that blocks gets no more, a descendant's
    /// bytes are taken no longer, and the rest of the child's own goes to the log, unless that
    /// can't be written.
    fn abandon(&mut self, cx: &mut Cx<'_>) {
        let (State::Draining(drain), Some(streams)) = (&mut self.state, &mut self.streams) else {
            return;
        };
        if !streams.are_flushed() {
            warn!(name = %self.sandbox.name, "stopped while output was still waiting to be written");
        }
        if streams.wait_for_log() {
            streams.close(&mut cx.sources);
            return self.drained(cx);
        }
        streams.abandon_sinks(&mut cx.sources);
        drain.limit_passed = true;
        self.output_moved(false, cx);
    }

    fn drained(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(drain) = mem::replace(&mut self.state, State::Moving) else { return };
        cx.timers.cancel(drain.limit);
        if let Some(quiet) = drain.quiet {
            cx.timers.cancel(quiet);
        }
        let Drain { status, reason, .. } = drain;
        self.stopped(Outcome::Ended { status, reason }, cx);
    }

    /// `DRAINING → STOPPED`, or `STARTING → STOPPED` for what never ran.
    fn stopped(&mut self, outcome: Outcome, cx: &mut Cx<'_>) {
        let mut bytes = (0, 0);
        if let Some(mut streams) = self.streams.take() {
            streams.close(&mut cx.sources);
            bytes = streams.bytes();
        }
        if let Some(retry) = self.log_retry.take() {
            cx.timers.cancel(retry);
        }
        let (bytes_logged, bytes_dropped) = bytes;
        let end = End { outcome, bytes_logged, bytes_dropped };
        info!(name = %self.sandbox.name, reason = end.reason(), "stopped");
        self.state = State::Stopped(end.clone());
        self.tell(&Transition::Stopped { at: Utc::now(), end }, cx);
    }

    fn tell(&mut self, transition: &Transition, cx: &mut Cx<'_>) {
        self.reports.tell(transition, &mut cx.timers, Timer::Observer);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Starting { .. } => "STARTING",
            State::Running(_) => "RUNNING",
            State::Stopping(..) => "STOPPING",
            State::Draining(_) => "DRAINING",
            State::Stopped(_) => "STOPPED",
            State::Moving => "MOVING",
        };
        f.debug_struct("Monitor").field("name", &self.sandbox.name).field("state", &state).finish()
    }
}

fn send(child: &Child, signal: Signal) {
    match child.signal(signal) {
        Ok(()) => {}
        // Already a zombie (macOS), or all of its group are: its end is on the way.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPERM)) => {
            debug!(pid = child.pid(), "{signal} not sent: {error}");
        }
        Err(error) => warn!(pid = child.pid(), "can't send {signal}: {error}"),
    }
}

fn reason(status: ExitStatus, stop: Option<&Stop>) -> Reason {
    match (status, stop) {
        (ExitStatus::Signal(Signal::KILL), Some(Stop { killed: true, .. })) => Reason::Killed,
        (_, Some(_)) => Reason::Stopped,
        (ExitStatus::Signal(_), None) => Reason::Signalled,
        (ExitStatus::Code(_) | ExitStatus::Unknown, None) => Reason::Exited,
    }
}
