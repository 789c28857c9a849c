//! The files by which others follow a run: the PID file while the command runs, the exit file
//! when all is over.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;
use vmon::monitor::{Service, ServiceContext, Transition};
use vmon::reactor::Ready;

use crate::reason;

/// How much of a file's name that of the file which is to replace it has, in bytes.
const LONGEST: usize = 200;

/// Their paths, absolute in a checked plan.
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

/// Only transitions concern it.
impl Service for LifecycleFiles {
    /// The name is ours now, and so are the files: what an earlier run has left says nothing.
    fn open(&mut self, _: &mut ServiceContext<'_, '_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.remove_pid();
        if let Some(path) = &self.exit {
            remove(path, "exit file");
        }
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, _: &mut ServiceContext<'_, '_>) {}

    fn timer(&mut self, _: u32, _: &mut ServiceContext<'_, '_>) {}

    fn transition(&mut self, transition: &Transition, _: &mut ServiceContext<'_, '_>) {
        match transition {
            Transition::Running { child, .. } => self.write_pid(child.pid),
            // From here on the pid may become another's.
            Transition::Draining { .. } => self.remove_pid(),
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        true
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

/// Puts a file with this text at `path` in one step: whoever looks sees the former one or all of
/// this.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().as_bytes();
    // With what is added it must stay below NAME_MAX.
    name = name.get(..LONGEST).unwrap_or(name);
    let mut name = OsStr::from_bytes(name).to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    // A left-over of a process that had this pid.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
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
