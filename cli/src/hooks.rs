//! The command of `--on-exit`: run when all is over, and never in the way for long.

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

/// How long the command may take; then it is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often its end is looked for.
const LOOK: u8 = 5;

/// Runs `command` with `sh -c` and these variables, and waits for its end, for half a minute at
/// most and until a stop is asked for. What goes wrong with it is a warning.
pub fn on_exit(command: &OsStr, variables: &[(&str, OsString)]) {
    let spawned = Command::new("sh")
        .arg("-c")
        .arg(command)
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        // Of its own, so that what it has started ends with it when it is killed.
        .process_group(0)
        .spawn();
    match spawned.and_then(wait) {
        Ok(Some(status)) if status.success() => {}
        Ok(Some(status)) => warn!("the command of --on-exit failed: {status}"),
        Ok(None) => {
            warn!("the command of --on-exit was killed: it took too long, or a stop was asked for")
        }
        Err(error) => warn!("can't run the command of --on-exit: {}", reason(&error)),
    }
}

/// `None` when it had to be killed.
fn wait(mut child: Child) -> io::Result<Option<ExitStatus>> {
    // The handlers of the loop that has ended are still there, and nobody listens to them.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop.load(Ordering::Relaxed) || Instant::now() >= give_up {
            kill(&mut child)?;
            return Ok(None);
        }
        let _ = poll(&mut [], PollTimeout::from(LOOK));
    }
}

/// Not reaped yet, so neither its pid nor its group can be a stranger's.
fn kill(child: &mut Child) -> io::Result<()> {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    child.wait().map(drop)
}
