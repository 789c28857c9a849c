//! The stop command: what is run in place of the stop signal.

use std::io;

use tracing::{info, warn};

use crate::child::{Child, Command, ExitStatus, Signal};
use crate::monitor::background::{EndWatch, LeftCommand, reaped, report};
use crate::monitor::keys::{Cx, Source, Timer};
use crate::monitor::sandbox::Sandbox;

/// The words of a warning about a stop command that has failed.
const FAILED: &str = "the stop command failed, so the stop signal is sent";

/// The variables of a user, as systemd's `User=` sets them.
const OF_USER: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// The stop command of a sandbox whose child is started by `command`; `None` without one. Boxed:
/// few sandboxes have one.
pub(super) fn prepare(sandbox: &Sandbox, command: Option<&Command>) -> Option<Box<Command>> {
    let text = sandbox.command_of_stop()?;
    let shell = Command::new("sh").arg("-c").arg(text);
    let Some(of_child) = command else { return Some(Box::new(shell)) };
    let shell = Command {
        env_clear: of_child.env_clear,
        env: of_child.env.clone(),
        directory: of_child.directory.clone(),
        file_limit: of_child.file_limit,
        parent_death: of_child.parent_death,
        ..shell
    };
    Some(Box::new(match of_child.get_uid() {
        Some(_) => OF_USER.into_iter().fold(shell, with_own),
        None => shell,
    }))
}

/// Gives the command our value of a variable, or none if we have none. It runs with our ids: with the
/// home directory of the child's user, programs would run what that user has put there.
fn with_own(command: Command, variable: &str) -> Command {
    match std::env::var_os(variable) {
        Some(value) => command.env(variable, value),
        None => command.env_remove(variable),
    }
}

/// A stop command that runs.
#[derive(Debug)]
pub(super) struct StopCommand {
    child: Child,
    end: EndWatch,
}

impl StopCommand {
    /// Starts it for the child of this pid. `None`, and a warning, if that is not possible.
    pub(super) fn start(
        command: &Command,
        pid: u32,
        sandbox: &Sandbox,
        cx: &mut Cx<'_>,
    ) -> Option<Self> {
        let command = command
            .clone()
            .env("VMON_PID", pid.to_string())
            .env("VMON_NAME", sandbox.name.as_str())
            .env("VMON_CONFIG", sandbox.config_file.as_str());
        let started = Child::spawn_beside(command);
        let started = started.inspect_err(|error| {
            warn!("can't start the stop command, so the stop signal is sent: {error}");
        });
        let child = started.ok()?;
        info!(pid = child.pid(), "the stop command runs");
        let end = EndWatch::new(child.exit_fd(), Source::StopCommand, Timer::StopCommand, cx);
        Some(Self { child, end })
    }

    /// How it has ended; else its end is polled again later.
    pub(super) fn poll(&self, cx: &mut Cx<'_>) -> Option<ExitStatus> {
        let status = reaped(&self.child);
        if status.is_none() {
            self.end.poll_later(cx);
        }
        status
    }

    /// It has ended: watches it no more.
    pub(super) fn forget(self, cx: &mut Cx<'_>) {
        self.end.end(cx);
    }

    /// Ends it, with the processes of its group: the child has ended before it.
    pub(super) fn kill(self, cx: &mut Cx<'_>) {
        self.end.end(cx);
        // One that can't be signalled, by its user id for example, goes on by itself.
        let _: io::Result<()> = self.child.signal(Signal::KILL);
        cx.sources.detach(Box::new(LeftCommand { child: self.child, failed: None }));
    }
}

/// Reports a failure; returns whether there was none.
pub(super) fn has_succeeded(status: ExitStatus) -> bool {
    report(status, &FAILED)
}
