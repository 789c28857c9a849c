//! The end: the exit files, and the exit command.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use nix::sys::stat::Mode;
use tracing::{debug, error};
use vmon::child::{reap_children, unblock_signals};

use crate::checks::Config;
use crate::failure::Failure;
use crate::process::{self, OomScore};
use crate::signals;

/// The name of the exit file in `--persist-dir`.
const PERSISTENT: &str = "exit";

/// Writes the exit code to the file in `--persist-dir`, and then to the one in `--exit-dir`, whose
/// creation the engine watches for.
///
/// # Errors
///
/// One of them can't be written.
pub fn write_exit_files(config: &Config, code: i32) -> Result<(), Failure> {
    let options = &config.options;
    let persistent =
        options.persist_dir.iter().map(|directory| Path::new(directory).join(PERSISTENT));
    let watched = options.exit_dir.iter().map(|directory| Path::new(directory).join(&config.cid));
    let text = code.to_string();
    // Each is written, whatever becomes of the other: the engine may read only one.
    let written = persistent.chain(watched).map(|path| {
        put_file(&path, text.as_bytes())
            .map_err(Failure::of(format!("can't write the exit file {}", path.display())))
    });
    written.fold(Ok(()), Result::and)
}

/// Writes the pid of the process in the background.
///
/// # Errors
///
/// The file can't be written.
pub fn write_pid_file(path: &Path, pid: u32) -> Result<(), Failure> {
    let what = format!("can't write the pid file {}", path.display());
    put_file(path, pid.to_string().as_bytes()).map_err(Failure::of(what))
}

/// Puts a file of this content at a path by a rename, so that no reader finds a part of it.
fn put_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = OsString::from(path);
    temporary.push(OsStr::from_bytes(format!(".{:x}", std::process::id()).as_bytes()));
    let temporary = PathBuf::from(temporary);
    let put = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if put.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&temporary);
    }
    put
}

/// The command that the engine wants to be run at the very end.
#[derive(Debug)]
pub struct ExitCommand {
    program: OsString,
    arguments: Vec<OsString>,
    delay: Duration,
    /// Whether this process is awaited for its exit code.
    in_foreground: bool,
}

impl ExitCommand {
    /// The exit command; `None` if there is none.
    pub fn of(config: &Config) -> Option<Self> {
        let options = &config.options;
        Some(Self {
            program: options.exit_command.clone()?,
            arguments: options.exit_args.clone(),
            delay: Duration::from_secs(u64::try_from(options.exit_delay).unwrap_or(0)),
            in_foreground: options.sync,
        })
    }

    /// Waits for the delay and runs the command. Nothing of this program is open any more.
    ///
    /// In the background this process becomes the command: the engine waits for the end of this
    /// process, and does not read its exit code. So the delay takes one process. In the foreground the
    /// command is a child, and this returns when it has ended.
    pub fn run(self, score: &OomScore) {
        process::be_subreaper(false);
        // What is not reaped here is adopted by init at the end.
        reap_children(None);
        if !self.delay.is_zero() {
            process::trim();
            wait(self.delay);
        }
        // Blocked still if the runtime has failed. Those of before are not the command's.
        signals::discard_pending();
        unblock_signals();
        score.restore();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let failed = match self.in_foreground {
            true => command.status().err(),
            false => Some(command.exec()),
        };
        if let Some(error) = failed {
            error!("can't run the exit command {}: {error}", self.program.display());
        }
    }
}

/// Sleeps, also when a signal arrives.
fn wait(delay: Duration) {
    let end = Instant::now() + delay;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if let Err(error) = poll(&mut [], timeout) {
            debug!("the delay of the exit command: {error}");
        }
    }
}

/// The umask of everything that this program makes.
pub fn set_umask() {
    nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_put_in_the_place_of_an_earlier_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("exit");
        fs::write(&path, "a longer content").unwrap();
        put_file(&path, b"-1").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"-1");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7022, 0);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        let none = scratch.path().join("none/exit");
        assert!(put_file(&none, b"0").is_err());
        fs::create_dir(scratch.path().join("taken")).unwrap();
        assert!(put_file(&scratch.path().join("taken"), b"0").is_err());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}
