//! The server's end: a service of one monitor.

use std::error::Error;
use std::path::{Path, PathBuf};

use super::ControlError;
use super::stream;
use crate::monitor::{Desk, Sandbox, Service, Transition};
use crate::reactor::Ready;

/// Serves the control socket of one sandbox, `<runtime dir>/<config file>/<name>.sock`.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// A server for this sandbox, to be given to its monitor. Touches nothing.
    ///
    /// # Errors
    ///
    /// [`ControlError::PathTooLong`], where the system has such a limit.
    pub fn new(runtime_dir: &Path, sandbox: &Sandbox) -> Result<Self, ControlError> {
        let directory = std::path::absolute(runtime_dir)
            .map_err(|error| ControlError::io("find the runtime directory", runtime_dir, error))?;
        let name = format!("{}.sock", sandbox.name());
        let path = directory.join(sandbox.config_file().as_str()).join(name);
        match stream::path_limit() {
            Some(limit) if path.as_os_str().len() > limit => {
                Err(ControlError::PathTooLong { path, limit })
            }
            _ => Ok(Self { path }),
        }
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Service for Server {
    fn address(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn open(&mut self, _desk: &mut Desk<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    fn ready(&mut self, _key: u32, _ready: Ready, _desk: &mut Desk<'_, '_>) {}

    fn timer(&mut self, _key: u32, _desk: &mut Desk<'_, '_>) {}

    fn transition(&mut self, _transition: &Transition, _desk: &mut Desk<'_, '_>) {}

    fn is_done(&self) -> bool {
        true
    }
}
