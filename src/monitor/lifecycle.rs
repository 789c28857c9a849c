//! The lifecycle of a child: what each event does in each state.
//!
//! `STARTING → RUNNING → STOPPING → DRAINING → STOPPED`, and `RESTARTING` between two runs.
//! [`Lifecycle::handle`] is the table of transitions; the states and what they do are in the files
//! of this folder.

mod abandon;
mod cleanup;
mod draining;
mod launch;
mod limits;
mod process;
mod release;
mod requests;
mod stop_command;
mod waits;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tracing::{debug, info};

use super::keys::{Cx, OutputId, Timer};
use super::logs::end_mark;
use super::observer::{Claims, Starting};
use super::parts::Parts;
use super::report::{Phase, Report};
use super::transition::{End, Outcome, StartError, Transition};
use crate::child::{self, ExitStatus, Identity, KillScope};
use crate::reactor::TimerId;
use crate::relay::LogTarget;
use cleanup::Cleanup;
use draining::Draining;
pub(super) use launch::Launch;
use limits::Limits;
pub(super) use process::StopRequest;
use process::{Cause, Exit, Process, Stage};

/// How long observers may take to grant a claim.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a child, and what all states share.
pub(super) struct Lifecycle {
    state: State,
    pub(super) parts: Parts,
}

/// The state of a child.
enum State {
    /// `STARTING`.
    Starting(Launch, Step),
    /// `RUNNING` or `STOPPING`.
    Alive(Process, Stage),
    /// `DRAINING`.
    Draining(Draining),
    /// `RESTARTING`: the command is started again when the timer expires, at this time.
    Restarting(End, TimerId, DateTime<Utc>),
    /// `STOPPED`.
    Stopped(End),
}

/// How far a start has come.
enum Step {
    /// The observers are asked for the claim, until `give_up`, which the first claim sets.
    Claiming { give_up: Option<Instant> },
    /// The claim is granted; the services are to be opened.
    Claimed,
}

/// What happens to a child.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The observers are to be asked for the claim. The path is that of a service's socket.
    Claim(Option<&'a Path>),
    /// The services are open, or one of them can't be opened.
    ServicesOpen(Result<(), Box<dyn Error + Send + Sync>>),
    /// The logs or consoles are not usable.
    Unusable(StartError),
    /// A stop is asked for.
    Stop(StopRequest),
    /// The maximum duration has passed.
    MaxDuration,
    /// The idle timeout has passed since its timer was set.
    Idle,
    /// The child may have ended.
    Exit,
    /// The host has reaped a child of this pid.
    Reaped { pid: u32, status: ExitStatus },
    /// KILL is due.
    Kill,
    /// The stop command may have ended.
    StopCommand,
    /// Input has been passed on.
    Input,
    /// Output has been read, or only logged or forwarded.
    Output { read: bool },
    /// A stop timeout's worth of draining has passed.
    DrainLimit,
    /// The quiet period of a drain has passed.
    Quiet,
    /// Processes that the child left behind are to be polled.
    Leftovers,
    /// A process below this one has ended.
    OrphanEnded,
    /// The command is to be started again.
    Restart,
    /// An observer or a service has panicked: this may be reported more than once.
    Panicked,
}

impl Lifecycle {
    /// The lifecycle of a child that is to be launched.
    pub(super) fn new(launch: Launch, parts: Parts) -> Self {
        Self { state: State::starting(launch), parts }
    }

    /// Does what an event asks for in the current state.
    pub(super) fn handle(&mut self, event: Event<'_>, cx: &mut Cx<'_>) {
        let Self { state, parts } = self;
        match (state, event) {
            // Only a subreaper gets orphans.
            (_, Event::OrphanEnded) if parts.scope == KillScope::Group => {}

            // STARTING
            (State::Starting(_, Step::Claiming { .. }), Event::Claim(socket)) => {
                self.claim(socket, cx);
            }
            (State::Starting(launch, Step::Claimed), Event::ServicesOpen(Ok(()))) => {
                match launch.start(parts, cx) {
                    Ok(process) => self.run(process, cx),
                    Err(error) => self.fail(error, cx),
                }
            }
            (State::Starting(_, Step::Claimed), Event::ServicesOpen(Err(error))) => {
                self.fail(StartError::Service(error), cx);
            }
            (State::Starting(..), Event::Unusable(error)) => self.fail(error, cx),
            (State::Starting(..), Event::Stop(_)) => self.fail(StartError::Stopped, cx),

            // RUNNING
            (State::Alive(_, Stage::Running(_)), Event::Stop(request)) => {
                self.stop(Cause::Request, request.within(), cx);
            }
            (State::Alive(_, Stage::Running(_)), Event::MaxDuration) => {
                self.stop(Cause::MaxDuration, None, cx);
            }
            (State::Alive(_, Stage::Running(limits)), Event::Idle) => {
                let channels = &parts.channels;
                let waits = !channels.are_flushed() || channels.are_held_back();
                if limits.is_idle(waits, cx) {
                    self.stop(Cause::IdleTimeout, None, cx);
                }
            }
            (
                State::Alive(_, Stage::Running(limits)),
                Event::Input | Event::Output { read: true },
            ) => limits.note_activity(),

            // STOPPING
            (State::Alive(process, Stage::Stopping(stopping)), Event::Stop(request)) => {
                stopping.ask_again(process, request, cx);
            }
            (State::Alive(process, Stage::Stopping(stopping)), Event::Kill) => {
                stopping.kill(process, "the stop timeout has passed", cx);
            }
            (State::Alive(process, Stage::Stopping(stopping)), Event::StopCommand) => {
                stopping.poll_command(process, &parts.sandbox, cx);
            }

            // RUNNING and STOPPING
            (State::Alive(process, _), Event::Reaped { pid, status }) => {
                if process.hand_in(pid, status) {
                    self.handle(Event::Exit, cx);
                }
            }
            (State::Alive(process, stage), Event::Exit) => {
                if let Some(exit) = process.try_reap(stage, parts, cx) {
                    let asked = stage.stop_asked();
                    self.drain(exit, asked, cx);
                }
            }

            // DRAINING
            (State::Draining(draining), Event::Stop(_)) => {
                if draining.stop(&mut parts.channels, cx) {
                    self.output_moved(false, cx);
                }
            }
            (State::Draining(draining), Event::Output { read }) => {
                draining.renew_quiet(read, cx);
                self.end_drain(cx);
            }
            (State::Draining(draining), Event::Quiet) => {
                match draining.end_quiet(&mut parts.channels, cx) {
                    Some(read) => self.output_moved(read, cx),
                    None => self.end_drain(cx),
                }
            }
            (State::Draining(draining), Event::DrainLimit) => {
                let why = "the stop timeout has passed";
                draining.pass_limit(why, &mut parts.channels, cx);
                self.output_moved(false, cx);
            }
            (State::Draining(draining), event @ (Event::Leftovers | Event::OrphanEnded)) => {
                let early = matches!(event, Event::OrphanEnded);
                if draining.poll_leftovers(early, &mut parts.channels, cx) {
                    // More of their last output may still be in the pipes.
                    self.output_moved(true, cx);
                }
            }

            // RESTARTING
            (State::Restarting(..), Event::Restart) => self.restart(),
            (State::Restarting(end, timer, _), Event::Stop(_)) => {
                cx.timers.cancel(*timer);
                let end = end.clone();
                self.end(end, cx);
            }

            // A panic, in any state. Where the child has ended, the end notes it.
            (State::Starting(..), Event::Panicked) => {
                if let Some(panic) = parts.panic.clone() {
                    self.fail(StartError::Panic(panic), cx);
                }
            }
            (State::Alive(_, Stage::Running(_)), Event::Panicked) => {
                self.stop(Cause::Panic, None, cx);
            }
            (State::Restarting(end, timer, _), Event::Panicked) => {
                cx.timers.cancel(*timer);
                let end = End { panic: parts.panic.clone(), ..end.clone() };
                self.end(end, cx);
            }
            (State::Stopped(end), Event::Panicked) => end.panic = parts.panic.clone(),

            // Every other state: orphans of the current child are reaped as they end.
            (_, Event::OrphanEnded) => {
                if let Some((child, _)) = &parts.run.child {
                    child::reap_orphans(child, parts.scope);
                }
            }
            // A timer of an earlier state that expired in the turn of the transition, or a request
            // that has no effect any more.
            (
                State::Starting(..)
                | State::Alive(..)
                | State::Draining(_)
                | State::Restarting(..)
                | State::Stopped(_),
                _,
            ) => {}
        }
    }

    /// Asks the observers for the claim: `STARTING` goes on when all of them grant it.
    fn claim(&mut self, socket: Option<&Path>, cx: &mut Cx<'_>) {
        let State::Starting(launch, step @ Step::Claiming { .. }) = &mut self.state else { return };
        let Step::Claiming { give_up } = step else { return };
        let give_up = *give_up.get_or_insert_with(|| Instant::now() + CLAIM_TIMEOUT);
        let Parts { sandbox, supervisor, run, observers, .. } = &mut self.parts;
        let command = launch.command();
        let starting = Starting {
            sandbox,
            command,
            supervisor,
            at: run.asked,
            restarts: run.restarts,
            socket,
        };
        // The record never keeps a child from running that runs already, or has run before.
        let claims = match command.is_none() || run.restarts > 0 {
            true => observers.claim_once(&starting),
            false => observers.claim(&starting),
        };
        match claims {
            Claims::Granted => *step = Step::Claimed,
            Claims::Refused(error) => self.fail(error, cx),
            Claims::Panicked(panic) => self.parts.note_panic(panic),
            Claims::Later(_, reason) if Instant::now() >= give_up => {
                self.fail(StartError::Claim(reason), cx);
            }
            Claims::Later(after, reason) => {
                debug!("the start waits: {reason}");
                cx.timers.set(after, Timer::Claim.key());
            }
        }
    }

    /// `STARTING → RUNNING`.
    fn run(&mut self, process: Process, cx: &mut Cx<'_>) {
        let parts = &mut self.parts;
        let pid = process.pid();
        info!(pid, "running");
        // The child has not been reaped, so there is a process of this pid.
        let child =
            Identity::of(pid).unwrap_or_else(|| Identity { pid, ..parts.supervisor.clone() });
        let at = Utc::now();
        parts.run.child = Some((child.clone(), at));
        if let Some(backoff) = &mut parts.backoff {
            backoff.runs();
        }
        let limits = Limits::new(&parts.sandbox, cx);
        self.state = State::Alive(process, Stage::Running(limits));
        parts.channels.start(pid, cx);
        // Generations of earlier runs may wait.
        parts.start_post_rotate(cx);
        parts.report(&Transition::Running { at, child }, cx);
    }

    /// `RUNNING → STOPPING`.
    fn stop(&mut self, cause: Cause, within: Option<Duration>, cx: &mut Cx<'_>) {
        let State::Alive(process, stage) = &mut self.state else { return };
        if !matches!(stage, Stage::Running(_)) {
            return;
        }
        match process.reap(stage, &self.parts) {
            // A child that has ended already has not ended because of the stop.
            Ok(Some(exit)) => {
                let asked = (cause == Cause::Request).then(Instant::now);
                return self.drain(exit, asked, cx);
            }
            // So has this one, and its status is to be handed in by the host.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return,
            Ok(None) | Err(_) => {}
        }
        let Stage::Running(limits) = stage else { return };
        let stopping = process.stop(limits, cause, within, &self.parts.sandbox, cx);
        *stage = Stage::Stopping(stopping);
        self.parts.report(&Transition::Stopping { at: Utc::now() }, cx);
    }

    /// `RUNNING → DRAINING` and `STOPPING → DRAINING`. `asked` is when a stop was last asked for.
    fn drain(&mut self, (status, left): Exit, asked: Option<Instant>, cx: &mut Cx<'_>) {
        let State::Alive(process, stage) = &mut self.state else { return };
        let parts = &mut self.parts;
        info!(pid = process.pid(), ?status, "ended; draining");
        let reason = process.reason(stage, status);
        let cgroup = process.release(stage, cx);
        let signal = stage.final_signal(&parts.sandbox);
        let cleanup = Cleanup::begin(left, cgroup, signal, parts, cx);
        let sandbox = &parts.sandbox;
        let draining = Draining::new(status, reason, asked, cleanup, parts.drain, sandbox, cx);
        self.state = State::Draining(draining);
        parts.channels.begin_drain(cx);
        parts.report(&Transition::Draining { at: Utc::now(), status }, cx);
        self.output_moved(true, cx);
    }

    /// `DRAINING → STOPPED` or `DRAINING → RESTARTING`, if the drain is over.
    fn end_drain(&mut self, cx: &mut Cx<'_>) {
        let State::Draining(draining) = &self.state else { return };
        if !draining.is_over(&mut self.parts.channels, cx) {
            return;
        }
        draining.release(cx);
        if draining.was_stopped() {
            self.parts.backoff = None;
        }
        let (status, reason) = (draining.status, draining.reason);
        self.end_run(Outcome::Ended { status, reason }, cx);
    }

    /// `STARTING → STOPPED`, or `STARTING → RESTARTING` after an earlier run.
    fn fail(&mut self, error: StartError, cx: &mut Cx<'_>) {
        debug!("not started: {error}");
        self.end_run(Outcome::NotStarted(Arc::new(error)), cx);
    }

    /// This run is over.
    fn end_run(&mut self, outcome: Outcome, cx: &mut Cx<'_>) {
        let parts = &mut self.parts;
        let (logs, (bytes_logged, bytes_dropped)) = parts.channels.close(end_mark(&outcome), cx);
        // What its pipes have taken: the timers that would give it back have no channel any more.
        cx.budget.give_back(usize::MAX);
        let rotated = logs.iter().filter_map(LogTarget::rotated).collect();
        parts.keep_logs(logs);
        parts.start_post_rotate(cx);
        let (consoles, panic) = (parts.channels.consoles(), parts.panic.clone());
        let end = End { outcome, bytes_logged, bytes_dropped, consoles, rotated, panic };
        let (policy, restarts) = (parts.sandbox.restart, parts.run.restarts);
        let backoff = parts.backoff.as_mut();
        match backoff.and_then(|backoff| backoff.delay_after(&end.outcome, policy, restarts)) {
            Some(after) => self.wait_for_restart(end, after, cx),
            None => self.end(end, cx),
        }
    }

    /// `DRAINING → RESTARTING`.
    fn wait_for_restart(&mut self, end: End, after: Duration, cx: &mut Cx<'_>) {
        let parts = &mut self.parts;
        info!(reason = %end.reason(), ?after, "starting again");
        let timer = cx.timers.set(after, Timer::Restart.key());
        let at = Utc::now();
        self.state = State::Restarting(end.clone(), timer, at + after);
        parts.report(&Transition::Restarting { at, end, after }, cx);
    }

    /// `RESTARTING → STARTING`.
    fn restart(&mut self) {
        let Some(backoff) = &self.parts.backoff else { return };
        let launch = Launch::Spawn(backoff.command().clone());
        let run = &mut self.parts.run;
        run.restarts = run.restarts.saturating_add(1);
        run.asked = Utc::now();
        run.child = None;
        self.state = State::starting(launch);
    }

    /// `STOPPED`.
    fn end(&mut self, end: End, cx: &mut Cx<'_>) {
        let parts = &mut self.parts;
        info!(reason = %end.reason(), "stopped");
        parts.channels.finish_attachments(cx);
        parts.backoff = None;
        parts.log_claim = None;
        if let Some(post_rotate) = parts.post_rotate.take() {
            post_rotate.leave(cx);
        }
        self.state = State::Stopped(end.clone());
        parts.report(&Transition::Stopped { at: Utc::now(), end }, cx);
    }

    /// Output has been read, or only logged or forwarded: does what follows from it.
    pub(super) fn output_moved(&mut self, read: bool, cx: &mut Cx<'_>) {
        self.parts.start_post_rotate(cx);
        // A write to a client may have shown that it has gone.
        self.parts.channels.follow_sizes();
        self.parts.channels.follow_packets(cx);
        self.parts.channels.follow_logs(cx);
        self.handle(Event::Output { read }, cx);
    }

    /// Reads an output.
    pub(super) fn read_output(&mut self, output: OutputId, cx: &mut Cx<'_>) {
        let read = self.parts.channels.read(output, cx);
        self.output_moved(read, cx);
    }

    fn process(&self) -> Option<&Process> {
        match &self.state {
            State::Alive(process, _) => Some(process),
            _ => None,
        }
    }

    /// Whether no child runs, also one that has not been reaped yet.
    #[cfg(feature = "host")]
    pub(super) fn child_has_ended(&self) -> bool {
        self.process().is_none_or(|process| process.child.status().is_some())
    }

    /// The child's pid, from its start until it has been reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process().map(Process::pid)
    }

    /// Whether the claim is granted and the services are to be opened.
    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.state, State::Starting(_, Step::Claimed))
    }

    /// How it ended; `None` while it has not.
    pub(super) fn end_of_all(&self) -> Option<&End> {
        match &self.state {
            State::Stopped(end) => Some(end),
            _ => None,
        }
    }

    /// The state, without its data.
    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Starting(..) => Phase::Starting,
            State::Alive(_, Stage::Running(_)) => Phase::Running,
            State::Alive(_, Stage::Stopping(_)) => Phase::Stopping,
            State::Draining(_) => Phase::Draining,
            State::Restarting(..) => Phase::Restarting,
            State::Stopped(_) => Phase::Stopped,
        }
    }

    /// What is known of the sandbox now.
    pub(super) fn report(&self) -> Report {
        let end = match &self.state {
            State::Stopped(end) | State::Restarting(end, ..) => Some(end),
            _ => None,
        };
        let restart_at = match self.state {
            State::Restarting(_, _, at) => Some(at),
            _ => None,
        };
        let waits = self.waits();
        Report { restart_at, waits, ..Report::new(&self.parts, self.phase(), end) }
    }
}

impl State {
    /// A start that is to be claimed.
    fn starting(launch: Launch) -> Self {
        Self::Starting(launch, Step::Claiming { give_up: None })
    }
}
