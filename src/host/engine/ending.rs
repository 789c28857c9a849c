//! The end of an engine with its sandboxes: all are stopped, or killed after a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tracing::error;

use super::Engine;
use crate::child::Signal;
use crate::host::reply::Answer;
use crate::host::shared::Shared;
use crate::host::task::{Supervised, Task};
use crate::monitor::{Phase, SandboxId};

/// How long the end of killed children is awaited after a failure.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

impl Engine {
    /// Asks every child to end, as [`stop`](Self::stop) does, all at the same time.
    pub fn stop_all(&mut self, timeout: Option<Duration>) {
        self.stop_where(timeout, |_| true);
    }

    /// Stops the sandboxes that no stop has reached yet.
    pub(in crate::host) fn stop_rest(&mut self) {
        let is_rest = |phase| matches!(phase, Phase::Starting | Phase::Running | Phase::Restarting);
        self.stop_where(None, is_rest);
    }

    fn stop_where(&mut self, timeout: Option<Duration>, matches: impl Fn(Phase) -> bool) {
        let chosen = self.sandboxes().filter(|(_, monitor)| matches(monitor.phase()));
        for id in chosen.map(|(id, _)| id).collect::<Vec<SandboxId>>() {
            // It is there: only a turn removes sandboxes.
            let _ = self.stop(id, timeout);
        }
    }

    /// Children that are started from now on outlive the thread that starts them.
    pub(in crate::host) fn let_children_outlive(&mut self) {
        self.children_outlive = true;
    }

    /// The host is to end; the answer is sent when it has.
    pub(in crate::host) fn close(&mut self, answer: Option<Answer<()>>) {
        self.closing.get_or_insert_default().extend(answer);
    }

    pub(in crate::host) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// What is due when the host has ended.
    pub(in crate::host) fn take_closing(&mut self) -> Vec<Answer<()>> {
        self.closing.take().unwrap_or_default()
    }

    pub(in crate::host) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// After a failure of the thread that turned it: kills the children that it has started, as the
    /// parent-death signal would, and closes all runs. Those that are left are named in one message.
    pub(in crate::host) fn kill_all(&mut self, why: &str) {
        let ids: Vec<SandboxId> = self.reactor.handlers().map(|(id, _)| id).collect();
        // A task that has panicked may do so again.
        let caught = |task: Box<dyn FnOnce() -> Option<Killed> + '_>| {
            catch_unwind(AssertUnwindSafe(task)).ok().flatten()
        };
        let mut killed = Vec::new();
        for id in ids {
            killed.extend(caught(Box::new(|| match self.reactor.remove(id)? {
                Task::Sandbox(sandbox) => Some(Killed::new(sandbox)),
                #[cfg(all(feature = "control", feature = "codec"))]
                Task::Socket(_) => None,
            })));
        }
        let give_up = Instant::now() + KILLED_WITHIN;
        while Instant::now() < give_up && !killed.iter().all(|it| it.left || it.has_ended()) {
            let _ = poll(&mut [], PollTimeout::from(5_u8));
        }
        let count = killed.iter().filter(|it| !it.left && it.has_ended()).count();
        let left = killed.iter().filter(|it| it.left || !it.has_ended());
        let left: Vec<String> = left.map(Killed::name).collect();
        let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
        error!("{why}: {count} children were killed; left without a monitor: {left}");
        for it in killed {
            caught(Box::new(move || {
                it.close();
                None
            }));
        }
        self.sandboxes = 0;
    }
}

/// A sandbox after a failure.
struct Killed {
    sandbox: Box<Supervised>,
    pid: Option<u32>,
    /// Whether its child was not killed.
    left: bool,
}

impl Killed {
    fn new(mut sandbox: Box<Supervised>) -> Self {
        let pid = sandbox.monitor.pid();
        let left = pid.is_some()
            && !sandbox.monitor.child_has_ended()
            && (sandbox.adopted || sandbox.monitor.signal_child(Signal::KILL).is_err());
        Self { sandbox, pid, left }
    }

    fn has_ended(&self) -> bool {
        self.sandbox.monitor.child_has_ended()
    }

    fn name(&self) -> String {
        let sandbox = self.sandbox.monitor.sandbox();
        let pid = self.pid.unwrap_or_default();
        format!("{}/{} (pid {pid})", sandbox.config_file, sandbox.name)
    }

    /// Closes the run, and reaps the child. The run is closed first, which reads the exit status.
    fn close(self) {
        let ended = self.has_ended() && !self.sandbox.monitor.host_reaps();
        drop(self.sandbox);
        let Some(pid) = self.pid.filter(|_| ended).and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        // It is a zombie, so the pid is still its own. Nothing is lost if another thread comes first.
        while waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) == Err(Errno::EINTR) {}
    }
}
