//! Files by which other programs follow a run: the PID file, while the command runs, and the exit
//! file, after the end of the run.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;
use vmon::monitor::{Service, ServiceContext, Transition};

use crate::atomic_file::{AtomicFile, WriteError};
use crate::reason;

/// The paths of the files; absolute in a checked plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LifecycleFiles {
    pub pid: Option<PathBuf>,
    pub exit: Option<PathBuf>,
}

impl LifecycleFiles {
    pub fn are_none(&self) -> bool {
        self.pid.is_none() && self.exit.is_none()
    }

    pub fn write_exit(&self, code: u8) {
        write(self.exit.as_deref(), "exit file", code.into());
    }
}

/// Uses transitions only; it has no sources and no timers.
impl Service for LifecycleFiles {
    /// Removes the files of an earlier run. The name has been claimed, so no live run uses them.
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        remove(self.pid.as_deref(), "PID file");
        remove(self.exit.as_deref(), "exit file");
        Ok(())
    }

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        match transition {
            Transition::Running { child, .. } => {
                write(self.pid.as_deref(), "PID file", child.pid);
            }
            // The child has been reaped, so its pid can be reused.
            Transition::Draining { .. } => remove(self.pid.as_deref(), "PID file"),
            _ => {}
        }
    }
}

fn remove(path: Option<&Path>, what: &str) {
    let Some(path) = path else { return };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), "can't remove the {what}: {}", reason(&error));
        }
        _ => {}
    }
}

/// Replaces the file: a reader sees the previous contents or all of the new ones.
fn write(path: Option<&Path>, what: &str, number: u32) {
    let Some(path) = path else { return };
    let written = AtomicFile::create(path).and_then(|mut file| {
        file.write(format!("{number}\n").as_bytes())?;
        file.keep()
    });
    if let Err(WriteError { reason, .. }) = written {
        warn!(path = %path.display(), "can't write the {what}: {reason}");
    }
}
