//! Periodic samples of the command's resource usage in the record, for --metrics-interval.

use std::time::{Duration, Instant};

use chrono::Utc;
use tracing::{debug, warn};
use vmon::monitor::{Identity, Sandbox, Service, ServiceContext, Transition};
use vmon::reactor::TimerId;
use vmon::registry::{Registry, Sample};
use vmon::usage;

use super::supervisor_loop::Activity;

/// Timer key.
const NEXT: u32 = 0;

/// Adds a row to `sandbox_metrics` at each interval while the command is running.
pub struct Sampler {
    registry: Registry,
    sandbox: Sandbox,
    interval: Duration,
    activity: Activity,
    running: Option<Running>,
    /// Whether a permanent error has been reported.
    reported: bool,
}

/// The command being sampled.
struct Running {
    child: Identity,
    timer: TimerId,
    /// The time of the last sample and the CPU time at that moment.
    before: (Instant, Duration),
}

impl Sampler {
    pub fn new(
        registry: Registry,
        sandbox: Sandbox,
        interval: Duration,
        activity: Activity,
    ) -> Self {
        Self { registry, sandbox, interval, activity, running: None, reported: false }
    }

    /// Usage of the cgroup if there is one, which includes processes that have left the process
    /// tree.
    fn usage(&self, child: &Identity) -> Result<usage::Usage, usage::UsageError> {
        match &self.sandbox.cgroup {
            Some(cgroup) => usage::of_cgroup(cgroup),
            None => usage::of_tree(child),
        }
    }

    fn sample(&mut self, running: &mut Running) {
        let usage = match self.usage(&running.child) {
            Ok(usage) => usage,
            Err(error) => return debug!("no sample: {error}"),
        };
        let now = (Instant::now(), usage.cpu);
        let before = std::mem::replace(&mut running.before, now);
        let time = now.0.duration_since(before.0).as_secs_f64();
        let cpu = now.1.saturating_sub(before.1).as_secs_f64();
        let mut sample = Sample::new(Utc::now());
        sample.cpu_usage_percent = (time > 0.0).then(|| cpu / time * 100.0);
        sample.memory_usage_bytes = Some(usage.resident);
        self.record(&sample);
    }

    /// Adds a row. A sample that can't be written is dropped.
    fn record(&mut self, sample: &Sample) {
        let (config_file, name) = (&self.sandbox.config_file, &self.sandbox.name);
        self.activity.note();
        match self.registry.add_metrics(config_file.as_str(), name.as_str(), sample) {
            Ok(_) => {}
            Err(error) if error.is_passing() || self.reported => {
                debug!("a sample was dropped: {error}")
            }
            Err(error) => {
                self.reported = true;
                warn!("samples are dropped: {error}");
            }
        }
    }

    fn stop(&mut self, desk: &mut ServiceContext<'_, '_>) {
        if let Some(running) = self.running.take() {
            desk.cancel_timer(running.timer);
        }
    }
}

impl Service for Sampler {
    fn timer(&mut self, _: u32, desk: &mut ServiceContext<'_, '_>) {
        if let Some(mut running) = self.running.take() {
            self.sample(&mut running);
            running.timer = desk.set_timer(self.interval, NEXT);
            self.running = Some(running);
        }
    }

    fn transition(&mut self, transition: &Transition, desk: &mut ServiceContext<'_, '_>) {
        match transition {
            Transition::Running { child, .. } => {
                self.stop(desk);
                let used = self.usage(child).map(|usage| usage.cpu).unwrap_or_default();
                let timer = desk.set_timer(self.interval, NEXT);
                let before = (Instant::now(), used);
                self.running = Some(Running { child: child.clone(), timer, before });
            }
            Transition::Stopping { .. } => {}
            _ => self.stop(desk),
        }
    }
}
