//! Resource usage of the processes of runs.

use std::time::Instant;

use serde_json::{Value, json};
use vmon::registry::{Location, Run};
use vmon::usage::{self, Processes, Usage, UsageError};

/// The usage as JSON, for `inspect` and `stats`.
pub fn object(usage: Option<&Usage>) -> Value {
    json!({
        "cpu_seconds": usage.map(|usage| usage.cpu.as_secs_f64()),
        "memory_bytes": usage.map(|usage| usage.resident),
        "threads": usage.map(|usage| usage.threads),
        "processes": usage.map(|usage| usage.processes),
        "read_bytes": usage.and_then(|usage| usage.read_bytes),
        "written_bytes": usage.and_then(|usage| usage.write_bytes),
    })
}

/// The processes of the system at one moment. One snapshot serves all runs of a list: with one for
/// each run, the time would grow with the square of their number.
#[derive(Debug)]
pub struct ProcessSnapshot {
    at: Instant,
    processes: Result<Processes, String>,
}

impl ProcessSnapshot {
    pub fn new() -> Self {
        Self { at: Instant::now(), processes: Processes::now().map_err(|error| error.to_string()) }
    }

    /// The usage of a run's processes and the moment of the measurement, or why it is not known.
    pub fn measure(&self, run: &Run) -> Result<(Instant, Usage), String> {
        let child = run.child.as_ref().ok_or("its command is not running")?;
        if run.location == Some(Location::OtherMachine) {
            return Err("its command is on another machine".to_owned());
        }
        let text = |error: UsageError| error.to_string();
        if let Some(cgroup) = run.spec.as_ref().and_then(|spec| spec.sandbox.cgroup.as_deref()) {
            return Ok((Instant::now(), usage::of_cgroup(cgroup).map_err(text)?));
        }
        let processes = self.processes.as_ref().map_err(String::clone)?;
        Ok((self.at, processes.of_tree(child).map_err(text)?))
    }

    /// The usage of a run's processes, or why it is not known.
    pub fn usage(&self, run: &Run) -> Result<Usage, String> {
        Ok(self.measure(run)?.1)
    }
}
