//! A supervisor that spawns and awaits its children itself, and has vmon relay and record them.
//!
//! It is the arrangement of microsandbox on tokio: `start` gets the pid and the streams of a child
//! that runs, and `stop` comes when the supervisor has awaited the child. All monitors share one
//! host.
//!
//! `cargo run --example process_monitor`

use std::error::Error;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tokio::process::Command;
use vmon::child::ChildIo;
use vmon::host::{Handle, Host, Started};
use vmon::monitor::{End, Monitor, Sandbox};
use vmon::registry::Registry;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The monitor of one child.
pub(crate) struct MicroVmMonitor {
    handle: Handle,
    registry: Registry,
    sandbox: Sandbox,
    running: Option<Started>,
    /// The status of the child, once it has been awaited.
    status: Option<ExitStatus>,
}

impl MicroVmMonitor {
    /// The monitor of a child that is started later.
    pub(crate) fn new(host: &Host, registry: &Registry, sandbox: Sandbox) -> Self {
        let (handle, registry) = (host.handle(), registry.clone());
        Self { handle, registry, sandbox, running: None, status: None }
    }

    /// Relays and records a child that runs.
    pub(crate) async fn start(&mut self, pid: u32, io: ChildIo) -> Result<()> {
        let builder = Monitor::builder(self.sandbox.clone());
        let builder = builder.observer(self.registry.observer()).host_reaps();
        self.running = Some(self.handle.adopt(builder, pid, io).await?);
        Ok(())
    }

    /// The child has been awaited.
    pub(crate) fn exited(&mut self, status: ExitStatus) {
        self.status = Some(status);
    }

    /// Asks a child that still runs to end. Waits until the output is in the log and the end is
    /// recorded.
    pub(crate) async fn stop(&mut self) -> Result<Arc<End>> {
        let running = self.running.take().ok_or("no child was started")?;
        match self.status.take() {
            Some(status) => self.handle.reaped(running.id, running.pid, status),
            None => self.handle.stop(running.id, None).await?,
        }
        Ok(running.end.await?)
    }
}

/// Spawns a child, and awaits it.
pub(crate) async fn supervise(
    mut monitor: MicroVmMonitor,
    mut command: Command,
) -> Result<Arc<End>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().ok_or("already reaped")?;
    let stdout = child.stdout.take().map(|it| it.into_owned_fd()).transpose()?;
    let stderr = child.stderr.take().map(|it| it.into_owned_fd()).transpose()?;
    monitor.start(pid, ChildIo::Piped { stdin: None::<OwnedFd>, stdout, stderr }).await?;
    monitor.exited(child.wait().await?);
    monitor.stop().await
}

async fn run() -> Result<()> {
    let directory = std::env::temp_dir().join("vmon-process-monitor");
    let registry = Registry::open(directory.join("sandbox.db"))?;
    let host = Host::new()?;
    let mut tasks = Vec::new();
    for (name, script) in [("first", "echo one; exit 7"), ("second", "echo two; kill -9 $$")] {
        let sandbox = Sandbox::new(name, directory.join("log"))?;
        let monitor = MicroVmMonitor::new(&host, &registry, sandbox);
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        tasks.push((name, tokio::spawn(supervise(monitor, command))));
    }
    for (name, task) in tasks {
        println!("{name}: {:?}", task.await??.status());
    }
    host.close().await?;
    Ok(())
}

fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run())
}
