//! The logs of the container, opened before anything is started.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use tracing::{info, warn};
use vmon::logfile::{K8sFile, K8sFileOptions, Stream};
use vmon::monitor::{LogDriver, LogRate};

use crate::checks::Config;
use crate::failure::Failure;

/// The variable with a limit of the log's rate, such as `1MiB/s` or `1MiB/s,burst=4MiB,over=drop`.
/// An engine sets it for every container: `conmon_env_vars` of containers.conf, `monitor_env` of
/// crio.conf. Without `over` the container waits while it writes faster.
const RATE: &str = "VMON_CONMON_LOG_RATE";

/// The log drivers. They are lent to the monitor, and get the words of a runtime that failed.
#[derive(Debug)]
pub struct Logs {
    drivers: Vec<LogDriver>,
    /// Whether they are written to the disk at the end.
    sync: bool,
}

impl Logs {
    /// Opens the logs.
    ///
    /// # Errors
    ///
    /// The file can't be opened.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let mut drivers = Vec::new();
        if let Some(path) = &config.drivers.k8s_file {
            let file = K8sFile::open(path, file_options(config));
            let file = file.map_err(|error| Failure::new(error.to_string()))?;
            drivers.push(LogDriver::K8sFile(file));
        }
        Ok(Self { drivers, sync: !config.options.no_sync_log })
    }

    /// Lends the drivers to a monitor.
    pub fn lend(&mut self) -> Vec<LogDriver> {
        std::mem::take(&mut self.drivers)
    }

    /// Takes them back, complete.
    pub fn take_back(&mut self, drivers: Vec<LogDriver>) {
        self.drivers = drivers;
    }

    /// Has the system write the logs to the disk (fsync(2)), unless that is not wanted.
    pub fn sync(&self) {
        for driver in self.drivers.iter().filter(|_| self.sync) {
            if let Err(error) = driver.sync() {
                info!("{error}");
            }
        }
    }

    /// Logs what can be read now from a pipe that is not blocking: what a runtime has left in it.
    pub fn take_rest(&mut self, stream: Stream, mut pipe: &File) {
        let mut buffer = [0; 4096];
        // The end of the pipe, or nothing in it.
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            self.write(stream, buffer.get(..count).unwrap_or_default());
        }
    }

    /// Logs bytes of the runtime.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for driver in &mut self.drivers {
            let written = match driver {
                LogDriver::K8sFile(file) => file.write(stream, bytes),
                _ => Ok(()),
            };
            if let Err(error) = written {
                warn!("{error}");
            }
        }
    }
}

fn file_options(config: &Config) -> K8sFileOptions {
    let options = &config.options;
    let limit = |size: i64| u64::try_from(size).unwrap_or(0);
    let generations = options.log_max_files.unwrap_or(1);
    let generations = u32::try_from(generations).unwrap_or(1);
    K8sFileOptions {
        max_size: limit(options.log_size_max),
        global_max: limit(options.log_global_size_max),
        rotate: options.log_rotate.then_some(generations),
        allowed: options.log_allowlist_dirs.iter().map(PathBuf::from).collect(),
    }
}

/// The limit of the log's rate, if there is one.
pub fn rate() -> Option<LogRate> {
    let value = std::env::var_os(RATE)?;
    match value.to_string_lossy().parse() {
        Ok(rate) => Some(rate),
        Err(error) => {
            warn!("{RATE} is ignored: {error}");
            None
        }
    }
}
