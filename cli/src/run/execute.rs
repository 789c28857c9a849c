//! Executes a plan: creates the directories, opens the record, runs the monitor, and then writes the
//! exit file and runs the --on-exit command.

use std::ffi::OsString;
use std::time::Instant;

use tracing::debug;
use vmon::child::Command;
use vmon::control::Server;
use vmon::logfile::LogFile;
use vmon::monitor::{
    End, Monitor, Name, Outcome, Phase, Reason, StartError, forwarded_signals,
    hold_forwarded_signals, own_signals,
};
use vmon::process;
use vmon::reactor::{HandlerId, Reactor};
use vmon::registry::Registry;

use super::detach::StartReport;
use super::plan::Plan;
use super::silent_console;
use crate::metrics_sampler::Sampler;
use crate::notify::Notifier;
use crate::places::{NewDirectories, OptionPath};
use crate::supervisor_log::SupervisorLog;
use crate::supervisor_loop::{self, Activity, Noted};
use crate::{Failure, on_exit};

impl Plan {
    /// Runs the command until it ends, then writes the exit file and runs the --on-exit command.
    ///
    /// The soft limit of open files is the hard limit meanwhile; whatever is started has the former
    /// one.
    pub fn execute(mut self, starter: Option<&SupervisorLog>) -> Result<u8, Failure> {
        // One command needs few descriptors, so a failure is none of the run.
        let failed = |error| debug!("the file limit stays as it is: {error}");
        let limit = process::raise_file_limit().map_err(failed).ok();
        if let Some(limit) = limit {
            self.command = self.command.file_limit(limit);
        }
        // The end of the first process of a pid namespace ends all others (pid_namespaces(7)), and
        // until then they are its orphans to reap.
        if std::process::id() == 1 {
            self.sandbox.leave_descendants = false;
        }
        let mut name = self.name.first.clone();
        let begun = Instant::now();
        let end = self.supervise(&mut name, starter).and_then(|end| match &end.outcome {
            Outcome::NotStarted(error) => {
                Err(Failure::NotStarted { code: end.exit_code(), error: error.clone() })
            }
            Outcome::Ended { .. } => Ok(end),
        });
        if let Some(limit) = limit {
            let _ = limit.restore();
        }
        if let (Ok(end), None) = (&end, starter) {
            let mut sandbox = self.sandbox.clone();
            sandbox.name = name.clone();
            silent_console::explain(&sandbox, end, begun.elapsed());
        }
        self.follow(&name, &end);
        end.map(|end| end.exit_code())
    }

    /// Runs the command under the first free name, and stores that in `name`. Only a claim shows
    /// whether a name is free, so names are claimed in turn until one is granted.
    fn supervise(
        &mut self,
        name: &mut Name,
        starter: Option<&SupervisorLog>,
    ) -> Result<End, Failure> {
        // Orphaned descendants of the command are reparented to this process, which ends them with
        // the command. With --leave-descendants init should reap them.
        if !self.sandbox.leave_descendants
            && let Err(error) = process::become_subreaper()
        {
            debug!("only the command's process group will be ended with it: {error}");
        }
        let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
        // Before the first write, during which SIGXFSZ or SIGTERM would terminate this process.
        reactor.watch_signals(own_signals()).map_err(Failure::SetUp)?;
        // The command of --on-exit would inherit the signal mask.
        match self.options.on_exit {
            Some(_) => reactor.watch_signals(forwarded_signals()).map_err(Failure::SetUp)?,
            None => hold_forwarded_signals(),
        }
        let registry = self.open()?;
        let mut number = 1;
        loop {
            let activity = Activity::default();
            let id = self.spawn(name, &mut reactor, (&registry, &activity), starter)?;
            if self.command.get_descriptors().next().is_some() {
                self.give_descriptors_away(&mut reactor, id)?;
            }
            supervisor_loop::run(&mut reactor, &activity, !self.sandbox.leave_descendants)
                .map_err(Failure::Loop)?;
            // Dropping the monitor restores the terminal, before anything is printed.
            let end = reactor.remove(id).and_then(Monitor::into_end).ok_or(Failure::NoEnd)?;
            number += 1;
            match self.name.numbered(number) {
                Some(next) if end.error().is_some_and(is_taken) => *name = next,
                _ => return Ok(end),
            }
        }
    }

    /// Waits for the start, and then leaves the command's descriptors to the monitor, which keeps them
    /// only if it may start the command again: the reader of a pipe would wait for this process too.
    fn give_descriptors_away(
        &mut self,
        reactor: &mut Reactor<Monitor>,
        id: HandlerId,
    ) -> Result<(), Failure> {
        let starts = |reactor: &Reactor<Monitor>| {
            reactor.get(id).is_some_and(|monitor| monitor.report().phase == Phase::Starting)
        };
        while starts(reactor) {
            reactor.poll_once(None).map_err(Failure::Loop)?;
        }
        let ended = reactor.get(id).is_none_or(|monitor| monitor.end().is_some());
        if !ended {
            self.command = Command::new(OsString::new());
        }
        Ok(())
    }

    /// Creates the directories and opens the record. On an error the new directories are removed.
    #[inline(never)] // as `spawn`
    fn open(&self) -> Result<Registry, Failure> {
        // Reports a path that is too long for a socket before anything is created.
        Server::new(self.runtime_dir()).path(&self.sandbox)?;
        let mut made = NewDirectories::default();
        let opened = self.open_into(&mut made);
        if opened.is_err() {
            made.remove();
        }
        opened
    }

    /// Creates the directories of the log, and checks that it can be opened.
    pub fn make_log_dir(&self, made: &mut NewDirectories) -> Result<(), Failure> {
        let (log_dir, config_file) = (&self.sandbox.log_dir, self.sandbox.config_file.as_str());
        let OptionPath { option, .. } =
            OptionPath::new(Some(log_dir), "--log-dir", &self.places.state_dir, "log")?;
        if self.sandbox.log_off {
            return Ok(());
        }
        for path in [log_dir, &log_dir.join(config_file)] {
            made.make(path).map_err(Failure::directory("log directory", path, option))?;
        }
        LogFile::check(log_dir, config_file, self.name.first.as_str())?;
        Ok(())
    }

    fn open_into(&self, made: &mut NewDirectories) -> Result<Registry, Failure> {
        self.make_log_dir(made)?;
        let db = &self.places.db;
        if let Some(parent) = db.path.parent() {
            made.make(parent).map_err(Failure::directory(
                "directory of the database",
                parent,
                db.option,
            ))?;
        }
        Ok(Registry::open_for_start(&db.path)?.state_dir(&self.places.state_dir))
    }

    #[inline(never)] // keeps its frame off the stack while the command runs
    fn spawn(
        &self,
        name: &Name,
        reactor: &mut Reactor<Monitor>,
        (registry, activity): (&Registry, &Activity),
        starter: Option<&SupervisorLog>,
    ) -> Result<HandlerId, Failure> {
        let record = registry.observer().options(self.options.to_json());
        let observer = Noted { registry: record, activity: activity.clone() };
        let mut sandbox = self.sandbox.clone();
        sandbox.name = name.clone();
        let mut monitor = Monitor::builder(sandbox.clone())
            .observer(observer)
            .control_socket(Server::new(self.runtime_dir()))?;
        if !self.sandbox.leave_descendants {
            monitor = monitor.answer_for_descendants();
        }
        if !self.options.files.are_none() {
            monitor = monitor.service(self.options.files.clone());
        }
        if let Some(interval) = self.options.metrics_interval {
            let (registry, activity) = (registry.clone(), activity.clone());
            monitor = monitor.service(Sampler::new(registry, sandbox.clone(), interval, activity));
        }
        if let Some(notifier) = Notifier::from_environment() {
            monitor = monitor.service(notifier);
        }
        if let Some(log) = starter {
            let (log, sandbox) = (log.clone(), sandbox.clone());
            monitor = monitor.service(StartReport { log, sandbox });
        }
        Ok(monitor.spawn(reactor, self.command.clone()))
    }

    /// Writes the exit file and runs the --on-exit command. Does neither if another run has the
    /// name: the files may be that run's.
    #[inline(never)] // as `spawn`
    fn follow(&self, name: &Name, end: &Result<End, Failure>) {
        if let Err(Failure::NotStarted { error, .. }) = end
            && is_taken(error)
        {
            return;
        }
        let code = end.as_ref().map_or_else(Failure::exit_code, End::exit_code);
        self.options.files.write_exit(code);
        if let Some(command) = &self.options.on_exit {
            let mut sandbox = self.sandbox.clone();
            sandbox.name = name.clone();
            let end = end.as_ref().ok();
            let log = (!sandbox.log_off).then(|| sandbox.log_path());
            let signal = end.and_then(End::signal).map(|signal| signal.to_string());
            let variables = [
                ("VMON_NAME", name.as_str().into()),
                ("VMON_CONFIG", sandbox.config_file.as_str().into()),
                ("VMON_REASON", end.map_or(Reason::StartFailed, End::reason).as_str().into()),
                ("VMON_EXIT_CODE", code.to_string().into()),
                ("VMON_SIGNAL", signal.unwrap_or_default().into()),
                ("VMON_LOG", log.map(OsString::from).unwrap_or_default()),
                ("VMON_STATE_DIR", self.places.state_dir.clone().into()),
            ];
            on_exit::run(command, &variables);
        }
    }
}

fn is_taken(error: &StartError) -> bool {
    matches!(error, StartError::Taken { .. } | StartError::Held { .. })
}
