//! Files by which other programs follow a run: the PID file, while the command runs, and the exit
//! file, after the end of the run.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;
use vmon::monitor::{Service, ServiceContext, Transition};

use crate::reason;

/// The number of bytes of a file's name that the name of its temporary file starts with.
const LONGEST: usize = 200;

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
        if let Some(path) = &self.exit
            && let Err(error) = replace(path, &format!("{code}\n"))
        {
            warn!(path = %path.display(), "can't write the exit file: {}", reason(&error));
        }
    }

    fn write_pid(&self, pid: u32) {
        if let Some(path) = &self.pid
            && let Err(error) = replace(path, &format!("{pid}\n"))
        {
            warn!(path = %path.display(), "can't write the PID file: {}", reason(&error));
        }
    }

    fn remove_pid(&self) {
        if let Some(path) = &self.pid {
            remove(path, "PID file");
        }
    }
}

/// Uses transitions only; it has no sources and no timers.
impl Service for LifecycleFiles {
    /// Removes the files of an earlier run. The name has been claimed, so no live run uses them.
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.remove_pid();
        if let Some(path) = &self.exit {
            remove(path, "exit file");
        }
        Ok(())
    }

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        match transition {
            Transition::Running { child, .. } => self.write_pid(child.pid),
            // The child has been reaped, so its pid can be reused.
            Transition::Draining { .. } => self.remove_pid(),
            _ => {}
        }
    }
}

fn remove(path: &Path, what: &str) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), "can't remove the {what}: {}", reason(&error));
        }
        _ => {}
    }
}

/// Replaces the file at `path` atomically (rename(2)): a reader sees the previous contents or all of
/// the new ones.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().as_bytes();
    // The name with its suffix must not exceed NAME_MAX.
    name = name.get(..LONGEST).unwrap_or(name);
    let mut name = OsStr::from_bytes(name).to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by an earlier process with the same pid.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("exit");
        replace(&path, "1\n").unwrap();
        replace(&path, "22\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "22\n");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        fs::create_dir(scratch.path().join("directory")).unwrap();
        replace(&scratch.path().join("directory"), "x").unwrap_err();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}
