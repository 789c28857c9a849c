//! Waiting for events, and for processes that a test has started. It needs no crate of this project,
//! so tests of other packages use it too.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

/// How long anything may take before a test gives up on it: no more than a bound on failure.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Looks again and again until `event` has happened. The test waits for the event; the bound only
/// keeps a failure from hanging.
#[track_caller]
pub fn eventually(what: &str, mut event: impl FnMut() -> bool) {
    let give_up = Instant::now() + TIMEOUT;
    while !event() {
        assert!(Instant::now() < give_up, "it never came: {what}");
        let _ = poll(&mut [], PollTimeout::from(5_u8));
    }
}

pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || bytes.windows(needle.len()).any(|window| window == needle)
}

/// Waits for a process that a test has started, and kills it when it takes for ever.
#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    let give_up = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > give_up {
            let _ = child.kill();
            panic!("the process did not end");
        }
        let _ = poll(&mut [], PollTimeout::from(5_u8));
    }
}

/// A process that goes with the test. One that a failed test left behind would hold its stderr, and
/// keep its reader waiting for ever.
pub struct Process(pub Child);

impl Process {
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl std::ops::Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is signalled where it has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The exit code as a shell reports it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Whether a process with this pid exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// Whether nothing of it is left, not even a zombie.
pub fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Fails with the first difference instead of printing megabytes.
#[track_caller]
pub fn assert_same(left: &[u8], right: &[u8], what: &str) {
    let at = left.iter().zip(right).position(|(left, right)| left != right);
    assert!(
        at.is_none() && left.len() == right.len(),
        "{what}: {} and {} bytes, the first difference at {at:?}",
        left.len(),
        right.len()
    );
}
