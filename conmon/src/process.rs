//! What concerns this process as a whole: its heap and stack, the descriptors that it was started
//! with, its stdio, its OOM score.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::prctl::set_child_subreaper;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use tracing::{debug, warn};
use vmon::process;

// The standard library's unwinder, which makes backtraces only, as a part of this program: two
// pages less of memory in each process than with `libgcc_s.so`.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")))]
#[allow(unsafe_code)] // declares nothing
#[link(name = "gcc_eh")]
unsafe extern "C" {}

/// Prepares the process, and returns the descriptors from 3 on that it was started with. Must be
/// called once, before anything else.
#[allow(unsafe_code)] // both calls have to be the first ones
pub fn prepare() -> io::Result<Inherited> {
    // SAFETY: the process has one thread, and this program never starts another one.
    unsafe { process::fix_heap_threshold() };
    // SAFETY: this program has not opened anything yet.
    let inherited = unsafe { process::inherited_descriptors() }?;
    vmon::child::restore_sigchld();
    vmon::child::unblock_signals();
    exit_on_panic();
    Ok(Inherited(inherited.into_iter().map(|fd| (fd.as_raw_fd(), fd)).collect()))
}

/// A panic is a message, and exit code 1.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        std::process::exit(1);
    }));
}

/// The descriptors that this process was started with, from 3 on. They are left as they are, and so
/// inherited by the runtime, which passes them on; dropping this closes them.
#[derive(Debug)]
pub struct Inherited(BTreeMap<RawFd, OwnedFd>);

impl Inherited {
    /// Takes a descriptor out of them; `None` if it is not open.
    pub fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        self.0.remove(&number)
    }
}

/// Returns memory that earlier work has taken to the system, before a long wait.
#[allow(unsafe_code)]
pub fn trim() {
    // SAFETY: the process has one thread, the main one, and no coroutines. All frames below this
    // one are unused.
    unsafe { process::trim_stack() };
    process::trim_heap();
}

/// The file of this process's OOM score (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// The OOM score that this process was started with, which its children get back.
#[derive(Debug, Clone)]
pub struct OomScore(Option<Vec<u8>>);

impl OomScore {
    /// Makes this process the last one to be killed when memory runs out. Not allowed to every
    /// user, which is no failure.
    pub fn protect() -> Self {
        let before = fs::read(OOM_SCORE);
        match before.and_then(|before| fs::write(OOM_SCORE, "-1000").map(|()| before)) {
            Ok(before) => Self(Some(before)),
            Err(error) => {
                debug!("the OOM score stays as it is: {error}");
                Self(None)
            }
        }
    }

    /// Gives the calling process its former score.
    pub fn restore(&self) {
        if let Some(before) = &self.0
            && let Err(error) = fs::write(OOM_SCORE, before)
        {
            debug!("can't restore the OOM score: {error}");
        }
    }
}

/// Leaves the session of the caller. A process that leads a process group stays in it.
pub fn leave_session() {
    if let Err(error) = setsid() {
        debug!("no session of its own: {error}");
    }
}

/// Makes this process the parent of what its descendants leave behind, or no longer.
pub fn be_subreaper(wanted: bool) {
    if let Err(error) = set_child_subreaper(wanted) {
        warn!("can't change the reaper of orphaned processes: {error}");
    }
}

/// Lets go of the caller's stdin, stdout and stderr, which it may be reading to their end.
///
/// # Errors
///
/// The null device can't be opened.
pub fn null_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
