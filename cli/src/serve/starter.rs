//! Makes the monitors of the sandboxes that clients ask a host for, as `vmon run -d` makes its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use vmon::child::Command;
use vmon::control::{Server, Start};
use vmon::host::{Refusal, Starter};
use vmon::monitor::{Builder, Forward, Input, Monitor, Service, ServiceContext, Transition};
use vmon::process::FileLimit;
use vmon::registry::Registry;

use super::activation;
use crate::metrics_sampler::Sampler;
use crate::name_choice::NameChoice;
use crate::places::{NewDirectories, Places, check_directory};
use crate::run::lifecycle_files::LifecycleFiles;
use crate::run::options::Options;
use crate::run::plan::Plan;
use crate::supervisor_loop::{Activity, Noted};
use crate::{Failure, notify};

/// Prepares starts in the state directory of the host.
pub struct PlanStarter {
    pub places: Places,
    pub registry: Registry,
    /// The socket of the host, for the record.
    pub socket: PathBuf,
    /// The limit of open files that commands get.
    pub limit: Option<FileLimit>,
    pub activity: Activity,
}

impl Starter for PlanStarter {
    fn prepare(&mut self, start: &Start, attempt: u32) -> Result<(Builder, Command), Refusal> {
        let prepared = self.plan(start, attempt).and_then(|plan| {
            let mut made = NewDirectories::default();
            let prepared = self.monitor(plan, &mut made);
            if prepared.is_err() {
                made.remove();
            }
            prepared
        });
        prepared.map_err(|failure| Refusal {
            message: failure.to_string(),
            exit_code: failure.exit_code(),
        })
    }
}

impl PlanStarter {
    /// The plan of a start, checked as that of `vmon run`.
    fn plan(&self, start: &Start, attempt: u32) -> Result<Plan, Failure> {
        self.check_places(start)?;
        let mut sandbox = start.spec.sandbox.clone();
        if sandbox.forward != Forward::Off {
            return Err(Failure::NotInHost("output is not forwarded (forward)"));
        }
        if sandbox.input == Input::Forward {
            return Err(Failure::NotInHost("no stdin is forwarded (stdin)"));
        }
        let mut options = Options::from_json(&start.spec.options).ok_or(Failure::HostOptions)?;
        if options.on_exit.is_some() {
            return Err(Failure::NotInHost("no command is run at the end (--on-exit)"));
        }
        options.host = Some(self.socket.clone());
        let mut name = NameChoice { first: sandbox.name.clone(), is_given: !start.numbered };
        if attempt > 1 {
            name.first = name.numbered(attempt).unwrap_or(name.first);
        }
        sandbox.name = name.first.clone();
        if sandbox.log_dir.as_os_str().is_empty() {
            sandbox.log_dir = self.places.default_log_dir();
        }
        // That of a record is relative to the state directory. An absolute path stays as it is.
        sandbox.log_dir = self.places.state_dir.join(&sandbox.log_dir);
        let command = start.spec.command.clone().ok_or(Failure::HostOptions)?;
        if let Some(directory) = command.get_current_dir() {
            check_directory(directory, AccessFlags::X_OK).map_err(Failure::directory(
                "working directory",
                directory,
                "--cwd",
            ))?;
        }
        // Of the host's environment; what the client has given stays.
        let command = match command.get_env_clear() {
            true => command,
            false => activation::hide(notify::hide(command)),
        };
        let command = match self.limit {
            Some(limit) => command.file_limit(limit),
            None => command,
        };
        let places = self.places.clone();
        Plan { places, name, sandbox, command, options }.checked()
    }

    /// A client that expects its record elsewhere would not find it.
    fn check_places(&self, start: &Start) -> Result<(), Failure> {
        let Places { state_dir, db } = &self.places;
        for (given, used, option) in
            [(&start.state_dir, state_dir, "--state-dir"), (&start.db, &db.path, "--db")]
        {
            if given.as_ref().is_some_and(|given| !is_same(Path::new(given), used)) {
                return Err(Failure::OtherState { used: used.clone(), option });
            }
        }
        Ok(())
    }

    fn monitor(
        &self,
        plan: Plan,
        made: &mut NewDirectories,
    ) -> Result<(Builder, Command), Failure> {
        plan.make_log_dir(made)?;
        let Plan { sandbox, command, options, .. } = &plan;
        let record = self.registry.observer().options(options.to_json());
        let observer = Noted { registry: record, activity: self.activity.clone() };
        let mut monitor = Monitor::builder(sandbox.clone())
            .observer(observer)
            .control_socket(Server::new(plan.runtime_dir()))?;
        if !options.files.are_none() {
            monitor =
                monitor.service(options.files.clone()).service(ExitFile(options.files.clone()));
        }
        if let Some(interval) = options.metrics_interval {
            let (registry, activity) = (self.registry.clone(), self.activity.clone());
            monitor = monitor.service(Sampler::new(registry, sandbox.clone(), interval, activity));
        }
        Ok((monitor, command.clone()))
    }
}

/// Whether both paths lead to the same file or directory.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    one == other || matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

/// Writes the exit file at the end of a sandbox.
struct ExitFile(LifecycleFiles);

impl Service for ExitFile {
    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        if let Transition::Stopped { end, .. } = transition {
            self.0.write_exit(end.exit_code());
        }
    }
}
