//! A supervisor on tokio that awaits its children itself, and has vmon relay and record them.
//!
//! It spawns a child, calls `start` of a monitor with the pid and the streams, awaits the child, and
//! calls `stop`: the arrangement of microsandbox. All monitors share one reactor, which a task
//! polls; no thread is blocked.
//!
//! `cargo run --example tokio`
//!
//! mio's poll(2) back end has no descriptor that can be nested: there the example prints a message.

#![cfg_attr(mio_unsupported_force_poll_poll, allow(unused))]

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::timeout_at;
use vmon::child::ChildIo;
use vmon::monitor::{End, Monitor, Sandbox, SandboxId};
use vmon::reactor::{Handler, Reactor, Waker};
use vmon::registry::Registry;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The reactor that all monitors share.
#[derive(Debug)]
pub(crate) struct Monitors {
    reactor: Mutex<Reactor<Monitor>>,
    /// Has [`drive`](Self::drive) poll the reactor after it was used elsewhere.
    waker: Waker,
    /// Notified after each turn.
    turned: Notify,
}

impl Monitors {
    /// Without monitors; for a multi-threaded runtime too.
    pub(crate) fn new() -> io::Result<Self> {
        let mut reactor = Reactor::new()?;
        let waker = reactor.waker()?;
        Ok(Self { reactor: Mutex::new(reactor), waker, turned: Notify::new() })
    }

    fn reactor(&self) -> MutexGuard<'_, Reactor<Monitor>> {
        self.reactor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the reactor whenever it has something to do. Runs as a task, for as long as there are
    /// monitors.
    #[cfg(not(mio_unsupported_force_poll_poll))]
    #[allow(unsafe_code)]
    pub(crate) async fn drive(self: Arc<Self>) -> io::Result<()> {
        let descriptor = self.reactor().as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd keeps its descriptor open. Before tokio 1.54 this is `AsyncFd::new`.
        let descriptor = unsafe { AsyncFd::register(descriptor) }?;
        loop {
            let deadline = self.reactor().next_deadline();
            let ready = match deadline {
                Some(at) => timeout_at(at.into(), descriptor.readable()).await.ok(),
                None => Some(descriptor.readable().await),
            };
            // Before the turn: what comes during it is reported again.
            if let Some(ready) = ready {
                ready?.clear_ready();
            }
            self.reactor().poll_once(Some(Duration::ZERO))?;
            self.turned.notify_waiters();
        }
    }
}

/// The monitor of one child.
#[derive(Debug)]
pub(crate) struct MicroVmMonitor {
    monitors: Arc<Monitors>,
    registry: Registry,
    sandbox: Sandbox,
    running: Option<(u32, SandboxId)>,
}

impl MicroVmMonitor {
    /// The monitor of a child that is started later.
    pub(crate) fn new(monitors: &Arc<Monitors>, registry: &Registry, sandbox: Sandbox) -> Self {
        Self { monitors: monitors.clone(), registry: registry.clone(), sandbox, running: None }
    }

    /// Relays and records a child that runs.
    pub(crate) async fn start(&mut self, pid: u32, io: ChildIo) -> Result<()> {
        let builder =
            Monitor::builder(self.sandbox.clone()).observer(self.registry.observer()).host_reaps();
        let id = builder.start(&mut self.monitors.reactor(), pid, io)?;
        self.running = Some((pid, id));
        Ok(self.monitors.waker.wake()?)
    }

    /// Hands in the status of the child, and waits until its output is in the log and its end is
    /// recorded.
    pub(crate) async fn stop(&mut self, status: ExitStatus) -> Result<End> {
        let (pid, id) = self.running.take().ok_or("no child was started")?;
        let monitors = &self.monitors;
        monitors.reactor().call(id, |monitor, cx| monitor.reaped(pid, status, cx));
        monitors.waker.wake()?;
        loop {
            let turned = monitors.turned.notified();
            if monitors.reactor().get(id).is_none_or(Handler::is_done) {
                let monitor = monitors.reactor().remove(id);
                return Ok(monitor.and_then(Monitor::into_end).ok_or("no end")?);
            }
            turned.await;
        }
    }
}

/// Spawns a child, and awaits it.
pub(crate) async fn supervise(mut monitor: MicroVmMonitor, mut command: Command) -> Result<End> {
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
    let status = child.wait().await?;
    monitor.stop(status).await
}

#[cfg(mio_unsupported_force_poll_poll)]
fn main() {
    eprintln!("mio's poll(2) back end has no descriptor that could be nested");
}

#[cfg(not(mio_unsupported_force_poll_poll))]
fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("vmon-tokio");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let monitors = Arc::new(Monitors::new()?);
        tokio::spawn(monitors.clone().drive());
        let registry = Registry::open(directory.join("sandbox.db"))?;
        let mut tasks = Vec::new();
        for (name, script) in [("first", "echo one; exit 7"), ("second", "echo two; kill -9 $$")] {
            let sandbox = Sandbox::new(name, directory.join("log"))?;
            let monitor = MicroVmMonitor::new(&monitors, &registry, sandbox);
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            tasks.push((name, tokio::spawn(supervise(monitor, command))));
        }
        for (name, task) in tasks {
            println!("{name}: {:?}", task.await??.status());
        }
        Ok(())
    })
}
