//! `STARTING`: the claim, the log, the child, and what watches it.

use std::mem;
use std::time::Instant;

use chrono::Utc;
use tracing::{debug, info, warn};

#[cfg(feature = "consoles")]
use super::console_channels;
use super::keys::{Cx, Source, Timer};
use super::logs::LogOpener;
use super::post_rotate::PostRotate;
use super::reports::Claims;
use super::restarting::Again;
use super::running::LOOK;
use super::sandbox::OnLogError;
use super::stdio;
use super::{Launch, Monitor, Outcome, Restart, Running, StartError, Starting, State, Transition};
use crate::child::lost::{RUN_VARIABLE, run_marker};
use crate::child::{Cgroup, Child, ChildIo, Identity, Stdio};
use crate::logfile::LogFile;
use crate::reactor::{Interest, SourceId};
use crate::relay::Log;
use crate::terminal::Terminal;

impl Monitor {
    /// Asks the observers, and goes on when they grant the start.
    pub(super) fn claim(&mut self, cx: &mut Cx<'_>) {
        let State::Starting { launch, give_up } = &self.state else { return };
        let give_up = *give_up;
        let again = self.restarts > 0;
        let command = match launch {
            Launch::Spawn(command) => Some(command),
            Launch::Adopt(..) => None,
        };
        let starting = Starting {
            sandbox: &self.sandbox,
            command,
            supervisor: &self.supervisor,
            at: self.asked,
            restarts: self.restarts,
            socket: self.services.iter().flatten().find_map(|service| service.address()),
        };
        // The record of what runs already, or has run before, never keeps it from running.
        if command.is_none() || again {
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
                cx.timers.set(after, Timer::Claim.key());
            }
        }
    }

    pub(super) fn launch(&mut self, cx: &mut Cx<'_>) {
        let State::Starting { launch, .. } = mem::replace(&mut self.state, State::Moving) else {
            return;
        };
        if let Err(error) = self.open_services(cx) {
            return self.not_started(StartError::Service(error.to_string()), cx);
        }
        match self.try_launch(launch, cx) {
            Ok(running) => self.running(running, cx),
            Err(error) => self.not_started(error, cx),
        }
    }

    pub(super) fn try_launch(
        &mut self,
        launch: Launch,
        cx: &mut Cx<'_>,
    ) -> Result<Running, StartError> {
        if let Some(command) = &self.sandbox.rotate_command {
            self.post_rotate.get_or_insert_with(|| PostRotate::new(command, &launch));
        }
        match launch {
            Launch::Spawn(command) => {
                if self.sandbox.restart != Restart::No && self.again.is_none() {
                    self.again = Some(Box::new(Again::new(command.clone())));
                }
                let marker = run_marker(&self.supervisor, self.asked);
                let command = command.env(RUN_VARIABLE, marker);
                let terminal = self.open_consoles(command.wants_pty())?;
                let log = self.open_own_log()?;
                #[cfg(feature = "consoles")]
                let command = console_channels::fill_in(command, self.channels.pty_paths());
                let io = stdio::spawn_io(&self.sandbox, command.wants_pty(), terminal.as_ref());
                let (child_stdio, io) = Stdio::open(&command, io).map_err(StartError::Spawn)?;
                // Before the child: what can't be relayed is not started.
                self.connect(io, log, terminal, cx)?;
                let cgroup = self.open_cgroup()?;
                let child =
                    Child::spawn_on(&command, child_stdio, cgroup.as_ref()).map_err(|error| {
                        remove(cgroup.as_ref());
                        StartError::Spawn(error)
                    })?;
                let exit = watch(&child, cx);
                Ok(Running { child, exit, limits: self.limits(cx), cgroup })
            }
            Launch::Adopt(child, io) => {
                let tty = matches!(io, ChildIo::Tty { .. });
                let terminal = self.open_consoles(tty)?;
                let log = self.open_own_log()?;
                self.connect(io, log, terminal, cx)?;
                let cgroup = self.open_cgroup()?;
                if let Some(cgroup) = &cgroup {
                    child.join(cgroup).map_err(|error| {
                        cgroup.remove();
                        StartError::Cgroup(error.to_string())
                    })?;
                }
                let exit = watch(&child, cx);
                Ok(Running { child, exit, limits: self.limits(cx), cgroup })
            }
        }
    }

    /// Makes the channels of consoles. Returns the host's terminal, if it is at the child's own
    /// stdio and not at a console.
    fn open_consoles(&mut self, pty: bool) -> Result<Option<Terminal>, StartError> {
        let terminal = stdio::open_terminal(&self.sandbox, pty);
        #[cfg(feature = "consoles")]
        let terminal = {
            let (own, console) = match self.sandbox.interactive {
                Some(_) => (None, terminal),
                None => (terminal, None),
            };
            let Self { sandbox, post_rotate, given_consoles, .. } = self;
            let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
            let prepared = console_channels::prepare(sandbox, given_consoles, console, &mut logs)?;
            self.channels.begin(prepared.channels, prepared.host);
            own
        };
        Ok(terminal)
    }

    fn open_own_log(&mut self) -> Result<LogFile, StartError> {
        let Self { sandbox, post_rotate, .. } = self;
        let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
        let log = logs.open(sandbox.name.as_str())?;
        // Once, however often the command is started again.
        if self.restarts == 0
            && let Some((path, writers)) = log.foreign_writers()
        {
            warn!(
                name = %self.sandbox.name,
                "the log directory {} is not safe: {writers} can write into it and replace logs: \
                 {}choose another log directory",
                path.display(),
                writers.remedy()
            );
        }
        Ok(log)
    }

    fn open_cgroup(&self) -> Result<Option<Cgroup>, StartError> {
        // Whoever keeps what an earlier run has left finds it there.
        let empty = !self.sandbox.leave_descendants;
        let opened = self.sandbox.cgroup.as_deref().map(|path| Cgroup::open(path, empty));
        opened.transpose().map_err(|error| StartError::Cgroup(error.to_string()))
    }

    /// Relays the child's streams from now on. They are closed with the start if that fails later.
    fn connect(
        &mut self,
        io: ChildIo,
        log: LogFile,
        terminal: Option<Terminal>,
        cx: &mut Cx<'_>,
    ) -> Result<(), StartError> {
        let log = Log::new(log, self.sandbox.on_log_error == OnLogError::Drop);
        let channel = stdio::channel(&self.sandbox, log, io, terminal, &mut cx.sources);
        let channel = channel.map_err(|error| StartError::Monitor(error.to_string()))?;
        self.channels.add_stdio(channel);
        Ok(())
    }

    /// `STARTING → STOPPED`.
    pub(super) fn not_started(&mut self, error: StartError, cx: &mut Cx<'_>) {
        debug!(name = %self.sandbox.name, "not started: {error}");
        self.ended(Outcome::NotStarted(error), cx);
    }

    /// `STARTING → RUNNING`.
    pub(super) fn running(&mut self, running: Running, cx: &mut Cx<'_>) {
        let pid = running.child.pid();
        info!(name = %self.sandbox.name, pid, "running");
        // The child is unreaped, so there is a process of this pid.
        let child =
            Identity::of(pid).unwrap_or_else(|| Identity { pid, ..self.supervisor.clone() });
        let at = Utc::now();
        self.child = Some((child.clone(), at));
        self.state = State::Running(running);
        if let Some(again) = &mut self.again {
            again.runs();
        }
        self.channels.start(pid, cx);
        // What earlier ones have left.
        self.hand_on(cx);
        self.tell(&Transition::Running { at, child }, cx);
    }
}

/// Watches for the child's end. It runs already, so nothing keeps it from that: where the poller has
/// no room for it (epoll_ctl(2): `ENOSPC`, `ENOMEM`), its end is polled.
fn watch(child: &Child, cx: &mut Cx<'_>) -> Option<SourceId> {
    let watched =
        child.exit_fd().map(|fd| cx.sources.register(&fd, Interest::READ, Source::Exit.key()));
    match watched {
        Some(Ok(exit)) => return Some(exit),
        Some(Err(error)) => {
            let (pid, every) = (child.pid(), LOOK.as_millis());
            warn!(
                pid,
                "can't watch for the child's end, which is polled every {every} ms: {error}"
            );
        }
        None => {}
    }
    cx.timers.set(LOOK, Timer::Exit.key());
    None
}

fn remove(cgroup: Option<&Cgroup>) {
    if let Some(cgroup) = cgroup {
        cgroup.remove();
    }
}
