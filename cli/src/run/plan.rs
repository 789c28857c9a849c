//! What the options ask for, checked before anything is made, and carried out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tracing::debug;
use vmon::child::{Command, Signal};
use vmon::control::Server;
use vmon::logfile::{LogFile, LogOptions};
use vmon::monitor::{
    Console, End, Forward, Input, LogRate, Monitor, Name, OnLogError, Outcome, Restart, Rootfs,
    Sandbox, StartError, command_signals,
};
use vmon::process;
use vmon::reactor::{HandlerId, Reactor};
use vmon::registry::Registry;

use super::args::RunArgs;
use super::detach::Ready;
use super::files::LifecycleFiles;
use super::options::Options;
use crate::name::NameChoice;
use crate::notify::{self, Notifier};
use crate::sample::Sampler;
use crate::settle::{self, Activity, Noted};
use crate::shared::{NewDirectories, Place, Places, absolute};
use crate::tell::LogLevel;
use crate::{Failure, hooks, reason};

/// What the options ask for, checked as far as that goes without touching the disk.
pub(super) struct Plan {
    places: Places,
    log_dir: Place,
    runtime_dir: PathBuf,
    name: NameChoice,
    config_file: Name,
    modified: DateTime<Utc>,
    rootfs: Option<Rootfs>,
    rotate_command: Option<OsString>,
    log: LogOptions,
    on_log_error: OnLogError,
    log_rate: Option<LogRate>,
    forward: Forward,
    input: Input,
    consoles: Vec<Console>,
    interactive: Option<Name>,
    stop_signal: Signal,
    stop_timeout: Duration,
    restart: Restart,
    max_duration: Option<Duration>,
    idle_timeout: Option<Duration>,
    leave_descendants: bool,
    cgroup: Option<PathBuf>,
    files: LifecycleFiles,
    on_exit: Option<OsString>,
    metrics_interval: Option<Duration>,
    log_level: LogLevel,
    command: Command,
}

impl Plan {
    pub(super) fn new(args: RunArgs) -> Result<Self, Failure> {
        let RunArgs { detach, shared, record, log, streams, child, lifecycle, command, .. } = args;
        let mut words = command.into_iter();
        // clap has seen to it that there is one.
        let program = words.next().unwrap_or_default();
        let places = shared.places()?;
        let log_dir = Place::new(log.log_dir.as_deref(), "--log-dir", &places.state_dir, "log")?;
        let name = match &record.name {
            Some(given) => NameChoice::Given(given.clone()),
            None => NameChoice::of_program(&program)?,
        };
        let command = Command::new(program).args(words).pty(streams.wants_pty(detach));
        Ok(Self {
            runtime_dir: record.runtime_dir(&places)?,
            places,
            log_dir,
            name,
            modified: record.modified(),
            rootfs: record.rootfs()?,
            config_file: record.config_file,
            log_rate: log.rate()?,
            log: log.options()?,
            rotate_command: log.log_rotate_command,
            on_log_error: log.on_log_error.into(),
            forward: streams.forward(detach)?,
            input: streams.input(detach),
            consoles: streams.consoles()?,
            interactive: streams.interactive().cloned(),
            stop_signal: child.stop_signal,
            stop_timeout: child.stop_timeout,
            leave_descendants: lifecycle.leave_descendants,
            cgroup: lifecycle.cgroup.as_deref().map(absolute).transpose()?,
            files: lifecycle.files()?,
            restart: lifecycle.restart,
            max_duration: lifecycle.max_duration,
            idle_timeout: lifecycle.idle_timeout,
            on_exit: lifecycle.on_exit,
            metrics_interval: lifecycle.metrics_interval,
            log_level: shared.log_level,
            command: child.apply(notify::hide(command))?,
        })
    }

    /// Takes all descriptors that we may have, and leaves the command the limit it would have had.
    pub(super) fn raise_file_limit(mut self) -> Self {
        match process::raise_file_limit() {
            Ok(former) => self.command = self.command.file_limit(former),
            // One command needs few.
            Err(error) => debug!("the file limit stays as it is: {error}"),
        }
        self
    }

    fn sandbox(&self, name: &Name) -> Result<Sandbox, Failure> {
        let config_file = self.config_file.as_str();
        let sandbox = Sandbox::new(name.as_str(), config_file, &self.log_dir.path)?
            .config_last_modified(self.modified)
            .retention(self.log.retention)
            .log_format(self.log.format)
            .log_index(self.log.index)
            .on_log_error(self.on_log_error)
            .forward(self.forward)
            .input(self.input)
            .stop_with(self.stop_signal, self.stop_timeout)
            .restart(self.restart)
            .leave_descendants(self.leave_descendants);
        let sandbox = self.consoles.iter().cloned().fold(sandbox, Sandbox::console);
        let sandbox = with(sandbox, self.interactive.clone(), Sandbox::interactive);
        let sandbox = with(sandbox, self.rootfs.clone(), Sandbox::rootfs);
        let sandbox = with(sandbox, self.rotate_command.clone(), Sandbox::rotate_command);
        let sandbox = with(sandbox, self.log_rate, Sandbox::log_rate);
        let sandbox = with(sandbox, self.max_duration, Sandbox::max_duration);
        let sandbox = with(sandbox, self.idle_timeout, Sandbox::idle_timeout);
        Ok(with(sandbox, self.cgroup.clone(), Sandbox::cgroup))
    }

    /// Runs the command to its end, and does what is to follow that.
    pub(super) fn carry_out(&self, ready: Option<&Ready>) -> Result<u8, Failure> {
        let mut name = self.name.first().clone();
        let end = self.supervise(&mut name, ready).and_then(|end| match &end.outcome {
            Outcome::NotStarted(error) => {
                Err(Failure::NotStarted { code: end.exit_code(), error: error.clone() })
            }
            Outcome::Ended { .. } => Ok(end),
        });
        self.follow(&name, &end);
        end.map(|end| end.exit_code())
    }

    fn supervise(&self, name: &mut Name, ready: Option<&Ready>) -> Result<End, Failure> {
        // Daemons of the command's come down to us, to be ended with it. What is to be left alone is
        // better off with init.
        if !self.leave_descendants
            && let Err(error) = process::become_subreaper()
        {
            debug!("only the command's process group will be ended with it: {error}");
        }
        let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
        // Before anything is written: XFSZ would end us there, TERM in the middle of it.
        reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
        let registry = self.open()?;
        self.supervise_named(name, &mut reactor, &registry, ready)
    }

    /// What the record is to have of the options beside the sandbox.
    fn options(&self) -> Value {
        let mut options = Options::default();
        // The default is that of the state directory in use, also after this one was moved.
        let runtime_dir = Some(&self.runtime_dir).filter(|dir| **dir != self.places.runtime_dir());
        options.add("runtime-dir", runtime_dir);
        options.add("pid-file", self.files.pid.as_ref());
        options.add("exit-file", self.files.exit.as_ref());
        options.add("on-exit", self.on_exit.as_ref());
        let interval = self.metrics_interval.map(|time| format!("{}ms", time.as_millis()));
        options.add("metrics-interval", interval);
        options.add("log-level", Some(self.log_level.word()));
        options.to_json()
    }

    /// Makes the directories and opens the record; on an error nothing of it is left.
    #[inline(never)] // as `spawn`
    fn open(&self) -> Result<Registry, Failure> {
        // A path that no socket can have is told before anything is made.
        Server::new(&self.runtime_dir, &self.sandbox(self.name.first())?)?;
        let mut made = NewDirectories::default();
        let opened = self.open_into(&mut made);
        if opened.is_err() {
            made.remove();
        }
        opened
    }

    fn open_into(&self, made: &mut NewDirectories) -> Result<Registry, Failure> {
        let mut make = |path: &Path, what, option| {
            made.make(path).map_err(|error| Failure::Directory {
                what,
                path: path.to_owned(),
                reason: reason(&error),
                option,
            })
        };
        make(&self.log_dir.path, "log directory", self.log_dir.option)?;
        let logs = self.log_dir.path.join(self.config_file.as_str());
        make(&logs, "log directory", self.log_dir.option)?;
        let name = self.name.first().as_str();
        LogFile::check(&self.log_dir.path, self.config_file.as_str(), name)?;
        let db = &self.places.db;
        if let Some(parent) = db.path.parent() {
            make(parent, "directory of the database", db.option)?;
        }
        Ok(Registry::open_for_start(&db.path)?.state_dir(&self.places.state_dir))
    }

    /// Runs the command under the first name that is free, and leaves that in `name`. Only the
    /// claim of a name tells whether it is, so each is tried until one is granted.
    fn supervise_named(
        &self,
        name: &mut Name,
        reactor: &mut Reactor<Monitor>,
        registry: &Registry,
        ready: Option<&Ready>,
    ) -> Result<End, Failure> {
        let mut number = 1;
        loop {
            let end = self.supervise_as(name, reactor, registry, ready)?;
            if !matches!(end.outcome, Outcome::NotStarted(StartError::Taken { .. })) {
                return Ok(end);
            }
            number += 1;
            match self.name.numbered(number) {
                Some(next) => *name = next,
                None => return Ok(end),
            }
        }
    }

    fn supervise_as(
        &self,
        name: &Name,
        reactor: &mut Reactor<Monitor>,
        registry: &Registry,
        ready: Option<&Ready>,
    ) -> Result<End, Failure> {
        let activity = Activity::default();
        let id = self.spawn(name, reactor, (registry, &activity), ready)?;
        settle::run(reactor, &activity, !self.leave_descendants).map_err(Failure::Loop)?;
        // Dropped before anything is told: the terminal is back by then.
        reactor.remove(id).and_then(Monitor::into_end).ok_or(Failure::NoEnd)
    }

    #[inline(never)] // or its frame stays while the command runs
    fn spawn(
        &self,
        name: &Name,
        reactor: &mut Reactor<Monitor>,
        (registry, activity): (&Registry, &Activity),
        ready: Option<&Ready>,
    ) -> Result<HandlerId, Failure> {
        let record = registry.observer().options(self.options());
        let observer = Noted { registry: record, activity: activity.clone() };
        let sandbox = self.sandbox(name)?;
        let server = Server::new(&self.runtime_dir, &sandbox)?;
        let mut monitor = Monitor::builder(sandbox.clone()).observer(observer).service(server);
        if !self.leave_descendants {
            monitor = monitor.answer_for_descendants();
        }
        if !self.files.are_none() {
            monitor = monitor.service(self.files.clone());
        }
        if let Some(interval) = self.metrics_interval {
            let (registry, cgroup) = (registry.clone(), self.cgroup.clone());
            let activity = activity.clone();
            let sampler = Sampler::new(registry, sandbox.clone(), cgroup, interval, activity);
            monitor = monitor.service(sampler);
        }
        if let Some(notifier) = Notifier::from_environment() {
            monitor = monitor.service(notifier);
        }
        if let Some(ready) = ready {
            monitor = monitor.service(ready.service(&sandbox));
        }
        Ok(monitor.spawn(reactor, self.command.clone()))
    }

    /// The exit file and the command of --on-exit. A name that is another's has files of its own
    /// at their places: nothing follows then.
    #[inline(never)] // as `spawn`
    fn follow(&self, name: &Name, end: &Result<End, Failure>) {
        if let Err(Failure::NotStarted { error: StartError::Taken { .. }, .. }) = end {
            return;
        }
        let code = end.as_ref().map_or_else(Failure::exit_code, End::exit_code);
        self.files.write_exit(code);
        if let Some(command) = &self.on_exit {
            let log = self.log_dir.path.join(self.config_file.as_str()).join(format!("{name}.log"));
            let end = end.as_ref().ok();
            let signal = end.and_then(End::signal).map(|signal| signal.to_string());
            let variables = [
                ("VMON_NAME", name.as_str().into()),
                ("VMON_CONFIG", self.config_file.as_str().into()),
                ("VMON_REASON", end.map_or("start-failed", End::reason).into()),
                ("VMON_EXIT_CODE", code.to_string().into()),
                ("VMON_SIGNAL", signal.unwrap_or_default().into()),
                ("VMON_LOG", log.into()),
                ("VMON_STATE_DIR", self.places.state_dir.clone().into()),
            ];
            hooks::on_exit(command, &variables);
        }
    }
}

/// `sandbox` with this setting, where there is one.
fn with<T>(sandbox: Sandbox, value: Option<T>, set: impl FnOnce(Sandbox, T) -> Sandbox) -> Sandbox {
    match value {
        Some(value) => set(sandbox, value),
        None => sandbox,
    }
}
