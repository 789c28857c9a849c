//! A child that runs or is being stopped.

use std::io;
use std::mem;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::cleanup::RepeatedError;
use super::limits::Limits;
use super::stop_command::{self, StopCommand};
use crate::child::{Cgroup, Child, Command, ExitStatus, FinalSignal, OomKills, Orphans, Signal};
use crate::monitor::keys::{Cx, Source, Timer};
use crate::monitor::parts::Parts;
use crate::monitor::sandbox::Sandbox;
use crate::monitor::transition::Reason;
use crate::monitor::wait::{Wait, WaitKind};
use crate::reactor::{Interest, SourceId, TimerId};

/// A stop request that follows another one within this time is the same one, delivered twice: a
/// signal to the process group and one to the process, for example.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The stop timeout that stands for one beyond the clock's range.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The time between two KILLs, if the first one has not ended the child.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// How long the status of a child that the host has reaped is awaited.
const HANDED_IN_WITHIN: Duration = Duration::from_secs(5);

/// How often the end of a process is polled if no descriptor reports it.
const EXIT_POLL: Duration = Duration::from_millis(50);

/// A live child.
pub(super) struct Process {
    pub(super) child: Child,
    /// Reports its end, if the kernel and the poller have a descriptor for that.
    exit: Option<SourceId>,
    cgroup: Option<Cgroup>,
    oom_kills: Option<OomKills>,
    /// What is run in place of the stop signal.
    stop_command: Option<Box<Command>>,
    /// Whether SIGKILL was sent to it from here.
    kill_sent: bool,
    /// When it was seen that the host had reaped the child, whose status is awaited since.
    reaped: Option<Instant>,
}

/// What a live child is about to do.
pub(super) enum Stage {
    Running(Limits),
    Stopping(Stopping),
}

/// How far a stop has come.
pub(super) struct Stopping {
    cause: Cause,
    means: Means,
    /// The last request.
    asked: Instant,
    kill: TimerId,
    kill_at: Instant,
    /// When KILL was first sent, or tried.
    killed: Option<Instant>,
    /// A signal that could not be sent.
    error: RepeatedError,
}

/// What asks the child to end.
enum Means {
    /// The stop signal: it was sent, or that has failed.
    Signal,
    /// The stop command, which runs.
    Command(Box<StopCommand>),
    /// The stop command, which has succeeded, or has been ended with the child.
    Done,
}

/// Why a child is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Request,
    MaxDuration,
    IdleTimeout,
    Panic,
}

/// How a stop is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum StopRequest {
    /// A repeated request kills at once.
    Urgent,
    /// A repeated request changes nothing.
    Once,
    /// Kills after this time, or after the sandbox's stop timeout. Of several such requests the
    /// earliest time counts.
    Within(Option<Duration>),
}

impl StopRequest {
    /// The timeout that the request gives.
    pub(super) fn within(self) -> Option<Duration> {
        match self {
            Self::Within(time) => time,
            Self::Urgent | Self::Once => None,
        }
    }
}

/// Whether a further request is another one than the last one.
pub(super) fn is_further_request(last: Option<Instant>) -> bool {
    last.is_none_or(|asked| asked.elapsed() >= SAME_REQUEST)
}

/// The end of a child, and the processes that it left behind.
pub(super) type Exit = (ExitStatus, Option<Orphans>);

impl Process {
    /// Watches for the end of a child that runs. If the poller has no room for it (epoll_ctl(2):
    /// `ENOSPC`, `ENOMEM`), its end is polled.
    pub(super) fn new(
        child: Child,
        cgroup: Option<Cgroup>,
        oom_kills: Option<OomKills>,
        stop_command: Option<Box<Command>>,
        cx: &mut Cx<'_>,
    ) -> Self {
        let key = Source::Exit.key();
        let watched = child.exit_fd().map(|fd| cx.sources.register(&fd, Interest::READ, key));
        if let Some(Err(error)) = &watched {
            let (pid, every) = (child.pid(), EXIT_POLL.as_millis());
            warn!(
                pid,
                "can't watch for the child's end, which is polled every {every} ms: {error}"
            );
        }
        let exit = watched.and_then(Result::ok);
        if exit.is_none() {
            cx.timers.set(EXIT_POLL, Timer::Exit.key());
        }
        Self { child, exit, cgroup, oom_kills, stop_command, kill_sent: false, reaped: None }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The host has reaped the child, if this is its pid. Returns whether it is.
    pub(super) fn hand_in(&mut self, pid: u32, status: ExitStatus) -> bool {
        let is_child = pid == self.pid();
        if is_child {
            self.child.has_been_reaped(status);
        }
        is_child
    }

    /// Begins a stop: the stop signal now, KILL after `within` or the sandbox's stop timeout.
    pub(super) fn stop(
        &mut self,
        limits: &Limits,
        cause: Cause,
        within: Option<Duration>,
        sandbox: &Sandbox,
        cx: &mut Cx<'_>,
    ) -> Stopping {
        info!(pid = self.pid(), ?cause, "stopping");
        limits.lift(cx);
        let mut error = RepeatedError::default();
        let command = self.stop_command.take();
        let command =
            command.and_then(|command| StopCommand::start(&command, self.pid(), sandbox, cx));
        let means = match command {
            Some(command) => {
                // A stopped process does not act on what the command asks for.
                self.send(Signal::CONT, &mut error);
                Means::Command(Box::new(command))
            }
            None => {
                self.send_stop(sandbox, &mut error);
                Means::Signal
            }
        };
        self.thaw();
        let timeout = within.unwrap_or(sandbox.stop_timeout);
        let asked = Instant::now();
        Stopping {
            cause,
            means,
            asked,
            kill: cx.timers.set(timeout, Timer::Kill.key()),
            kill_at: asked.checked_add(timeout).unwrap_or(asked + FAR),
            killed: None,
            error,
        }
    }

    fn send_stop(&mut self, sandbox: &Sandbox, error: &mut RepeatedError) {
        self.send(sandbox.stop_signal, error);
        // A stopped process does not act on other signals.
        if error.last().is_none() {
            self.send(Signal::CONT, error);
        }
    }

    /// Sends a signal to the process group, as [`Child::signal`].
    pub(super) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.child.signal(signal)?;
        self.kill_sent |= signal == Signal::KILL;
        Ok(())
    }

    /// Sends a signal; a failure is reported once.
    fn send(&mut self, signal: Signal, error: &mut RepeatedError) {
        let pid = self.pid();
        match self.signal(signal) {
            Ok(()) => error.clear(),
            // It has ended, which is about to be reported.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                debug!(pid, "{signal} not sent: {error}");
            }
            Err(source) => {
                if let Some(error) = error.new_error(format!("can't send {signal}: {source}")) {
                    warn!(pid, "{error}; trying again");
                }
            }
        }
    }

    /// Processes in a frozen cgroup act on no signal. That of the sandbox itself is thawed.
    fn thaw(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.thaw();
        }
        if let Some(cgroup) = self.child.frozen_cgroup() {
            let (pid, cgroup) = (self.pid(), cgroup.display());
            warn!(pid, "the command is frozen by the cgroup {cgroup}: thaw it, or it may not end");
        }
    }

    /// Reaps the child if it has ended; else its end is polled again later.
    pub(super) fn try_reap(
        &mut self,
        stage: &Stage,
        parts: &Parts,
        cx: &mut Cx<'_>,
    ) -> Option<Exit> {
        match self.reap(stage, parts) {
            Ok(Some(exit)) => return Some(exit),
            Ok(None) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let since = *self.reaped.get_or_insert_with(Instant::now);
                if since.elapsed() >= HANDED_IN_WITHIN {
                    warn!(
                        pid = self.pid(),
                        "the host has reaped the child and has not handed in its exit status"
                    );
                    return Some((ExitStatus::Unknown, None));
                }
            }
            Err(error) => {
                warn!(pid = self.pid(), "can't wait for the child: {error}");
                return Some((ExitStatus::Unknown, None));
            }
        }
        // kqueue may report the end before waitpid(2) does, and reports it once.
        if let Some(exit) = self.exit {
            cx.sources.would_block(exit, Interest::READ);
        }
        cx.timers.set(EXIT_POLL, Timer::Exit.key());
        None
    }

    /// Reaps the child if it has ended.
    pub(super) fn reap(&self, stage: &Stage, parts: &Parts) -> io::Result<Option<Exit>> {
        match &parts.run.child {
            Some((identity, _)) if !parts.sandbox.leave_descendants => {
                self.child.try_end(identity, parts.scope, stage.final_signal(&parts.sandbox))
            }
            _ => Ok(self.child.try_reap()?.map(|status| (status, None))),
        }
    }

    /// The child has been reaped: releases what watched it, and returns its cgroup.
    pub(super) fn release(&mut self, stage: &mut Stage, cx: &mut Cx<'_>) -> Option<Cgroup> {
        match stage {
            Stage::Running(limits) => limits.lift(cx),
            Stage::Stopping(stopping) => stopping.release(cx),
        }
        if let Some(exit) = self.exit.take() {
            cx.sources.deregister(exit);
        }
        self.cgroup.take()
    }

    /// Why the child has ended with this status.
    pub(super) fn reason(&self, stage: &Stage, status: ExitStatus) -> Reason {
        let killed = status == ExitStatus::Signal(Signal::KILL);
        let grown = |kills: &OomKills| kills.have_grown(self.cgroup.as_ref());
        let out_of_memory = || self.oom_kills.as_ref().is_some_and(grown);
        match (stage, status) {
            _ if killed && !self.kill_sent && out_of_memory() => Reason::OutOfMemory,
            (Stage::Stopping(Stopping { cause: Cause::MaxDuration, .. }), _) => Reason::MaxDuration,
            (Stage::Stopping(Stopping { cause: Cause::IdleTimeout, .. }), _) => Reason::IdleTimeout,
            (Stage::Stopping(Stopping { cause: Cause::Panic, .. }), _) => {
                Reason::SupervisorPanicked
            }
            (Stage::Stopping(Stopping { killed: Some(_), .. }), _) if killed => Reason::Killed,
            (Stage::Stopping(_), _) => Reason::Stopped,
            (Stage::Running(_), ExitStatus::Signal(_)) => Reason::Signalled,
            (Stage::Running(_), ExitStatus::Code(_) | ExitStatus::Unknown) => Reason::Exited,
        }
    }
}

impl Stage {
    fn is_killed(&self) -> bool {
        matches!(self, Self::Stopping(Stopping { killed: Some(_), .. }))
    }

    /// When a stop was last asked for.
    pub(super) fn stop_asked(&self) -> Option<Instant> {
        match self {
            Self::Running(_) => None,
            Self::Stopping(stopping) => Some(stopping.asked),
        }
    }

    /// The signal for the processes that the child leaves behind.
    pub(super) fn final_signal(&self, sandbox: &Sandbox) -> FinalSignal {
        let signal = if self.is_killed() { Signal::KILL } else { sandbox.stop_signal };
        let signalled = |stopping: &Stopping| {
            stopping.killed.is_some() || matches!(stopping.means, Means::Signal)
        };
        let group_signalled = matches!(self, Self::Stopping(stopping) if signalled(stopping));
        FinalSignal { signal, group_signalled }
    }
}

impl Stopping {
    /// A further stop request.
    pub(super) fn ask_again(
        &mut self,
        process: &mut Process,
        request: StopRequest,
        cx: &mut Cx<'_>,
    ) {
        let urgent = request == StopRequest::Urgent && is_further_request(Some(self.asked));
        let now = Instant::now();
        // KILL may have failed, so each request after it repeats it.
        if self.killed.is_some() || urgent {
            self.asked = now;
            self.kill(process, "a second stop was asked for", cx);
        } else if let Some(time) = request.within()
            && let Some(at) = now.checked_add(time).filter(|at| *at < self.kill_at)
        {
            cx.timers.cancel(self.kill);
            self.kill = cx.timers.set(time, Timer::Kill.key());
            self.kill_at = at;
        }
    }

    /// The stop command may have ended. If it has failed, the stop signal follows.
    pub(super) fn poll_command(
        &mut self,
        process: &mut Process,
        sandbox: &Sandbox,
        cx: &mut Cx<'_>,
    ) {
        let Means::Command(command) = &self.means else { return };
        let Some(status) = command.poll(cx) else { return };
        if let Means::Command(command) = mem::replace(&mut self.means, Means::Done) {
            command.forget(cx);
        }
        // A command that serves a child which is ending, or has ended, may fail for that reason.
        let is_ending = self.killed.is_some() || process.child.status().is_some();
        if !is_ending && !stop_command::has_succeeded(status) {
            process.send_stop(sandbox, &mut self.error);
            self.means = Means::Signal;
        }
    }

    /// The child has been reaped: cancels the timer, and ends the stop command.
    fn release(&mut self, cx: &mut Cx<'_>) {
        cx.timers.cancel(self.kill);
        if let Means::Command(command) = mem::replace(&mut self.means, Means::Done) {
            command.kill(cx);
        }
    }

    /// Sends KILL, and sends it again until the child has ended.
    pub(super) fn kill(&mut self, process: &mut Process, why: &str, cx: &mut Cx<'_>) {
        let pid = process.pid();
        if self.killed.is_none() {
            self.killed = Some(Instant::now());
            info!(pid, "killing: {why}");
        }
        process.send(Signal::KILL, &mut self.error);
        cx.timers.cancel(self.kill);
        self.kill = cx.timers.set(KILL_AGAIN, Timer::Kill.key());
    }

    /// What keeps the child from its end, as far as that is known.
    pub(super) fn wait(&self, process: &Process) -> Option<Wait> {
        let pid = process.pid();
        let (what, since) = match (self.error.last(), process.child.frozen_cgroup()) {
            (Some((error, since)), _) => (error.to_owned(), since),
            (None, Some(cgroup)) => {
                (format!("it is frozen by the cgroup {}", cgroup.display()), self.asked)
            }
            (None, None) => {
                let killed = self.killed.filter(|killed| killed.elapsed() >= KILL_AGAIN)?;
                ("SIGKILL has not ended it yet".to_owned(), killed)
            }
        };
        Some(Wait::new(WaitKind::Command, format!("pid {pid}: {what}"), since))
    }
}
