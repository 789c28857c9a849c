//! Runs the command of `--on-exit` after the sandbox has stopped, with a timeout.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use tracing::warn;

use super::reason;

/// Time after which the command is killed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Interval at which the end of the command is polled, in milliseconds.
const POLL_INTERVAL: u8 = 5;

/// Runs `command` with `sh -c` and these environment variables. Waits until it ends, the timeout
/// has passed, or a stop is requested. Failures are warnings.
pub fn run(command: &OsStr, variables: &[(&str, OsString)]) {
    let spawned = Command::new("sh")
        .arg("-c")
        .arg(command)
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        // A process group of its own, so that a kill reaches the processes that it has started.
        .process_group(0)
        .spawn();
    match spawned.and_then(wait) {
        Ok(Some(status)) if status.success() => {}
        Ok(Some(status)) => warn!("the command of --on-exit failed: {status}"),
        Ok(None) => {
            warn!("the command of --on-exit was killed: it took too long, or a stop was requested")
        }
        Err(error) => warn!("can't run the command of --on-exit: {}", reason(&error)),
    }
}

/// Waits for the end; `None` if the command was killed.
fn wait(mut child: Child) -> io::Result<Option<ExitStatus>> {
    // The handlers of the event loop are still installed, but its signals are no longer read.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let give_up = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop.load(Ordering::Relaxed) || Instant::now() >= give_up {
            kill(&mut child)?;
            return Ok(None);
        }
        let _ = poll(&mut [], PollTimeout::from(POLL_INTERVAL));
    }
}

/// Kills the process group. The child has not been reaped, so the ids can't have been reused.
fn kill(child: &mut Child) -> io::Result<()> {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    child.wait().map(drop)
}
