//! Processes that are measured: started, waited for with what they used, and never left behind.

#![allow(unsafe_code)] // wait4, pidfd_open and prctl, which no safe wrapper offers

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::{Result, procfs};

/// What one process and the descendants that it has waited for have used.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// User and system time.
    pub cpu: Duration,
    /// When, by [`now`].
    pub at: Duration,
}

/// The monotonic clock, which is the same in every process of this machine.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// A process in a group of its own, killed with what is left of that group when this is dropped.
pub struct Running {
    pid: Pid,
    exit: OwnedFd,
    reaped: bool,
}

impl Running {
    /// Starts it, to be killed when this process dies.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.process_group(0);
        Self::spawn_in_its_group(command)
    }

    /// As [`spawn`](Self::spawn), for a command that leads a session.
    pub fn spawn_in_its_group(command: &mut Command) -> Result<Self> {
        // SAFETY: prctl(2) is a plain system call: it takes no lock and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        Self::spawn_plain(command)
    }

    /// Starts it with nothing between vfork and exec, where the start itself is measured.
    pub fn spawn_plain(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| format!("can't start {program}: {error}"))?;
        let pid = Pid::from_raw(child.id() as i32);
        Ok(Self { pid, exit: pidfd(pid)?, reaped: false })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        wait_readable(&self.exit, limit).map_err(|error| format!("no end: {error}"))?;
        self.reap()
    }

    /// Waits for its end, which must be a success.
    pub fn wait_success(self, limit: Duration) -> Result<Ended> {
        let ended = self.wait(limit)?;
        if !ended.status.success() {
            return Err(format!("it ended with {}", ended.status).into());
        }
        Ok(ended)
    }

    /// Takes its status when it has ended.
    fn reap(&mut self) -> Result<Ended> {
        let mut status = 0;
        // SAFETY: rusage is plain integers, for which zeroes are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to locals that outlive the call.
            match unsafe { libc::wait4(self.pid.as_raw(), &mut status, 0, &mut usage) } {
                -1 if Errno::last() == Errno::EINTR => continue,
                -1 => return Err(io::Error::last_os_error().into()),
                _ => break,
            }
        }
        let at = now();
        self.reaped = true;
        let time = |tv: libc::timeval| {
            Duration::from_secs(tv.tv_sec as u64) + Duration::from_micros(tv.tv_usec as u64)
        };
        let cpu = time(usage.ru_utime) + time(usage.ru_stime);
        Ok(Ended { status: ExitStatus::from_raw(status), cpu, at })
    }

    /// Ends it and its group.
    pub fn kill(&mut self) {
        if self.reaped {
            return;
        }
        let _ = killpg(self.pid, Signal::SIGKILL);
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = self.reap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// For `pre_exec`, and for the hidden modes themselves.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers; the call sets a flag of the calling process.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn pidfd(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: no pointers; the child has not been reaped, so the pid is its.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(format!("pidfd_open: {}", io::Error::last_os_error()).into());
    }
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until there is something to read, or the end.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("nothing within {} s", limit.as_secs()).into());
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets time pass, for what is measured over time.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        // A signal ends it, where thread::sleep goes on.
        let _ = poll(&mut [], PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
}

/// One end for each: read and write.
pub fn pipe() -> Result<(File, File)> {
    let (read, write) = io::pipe()?;
    Ok((OwnedFd::from(read).into(), OwnedFd::from(write).into()))
}

static INTERRUPTED: std::sync::OnceLock<Arc<AtomicBool>> = std::sync::OnceLock::new();

/// An error after a termination signal.
pub fn check_interrupted() -> Result<()> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err("interrupted".into()),
        _ => Ok(()),
    }
}

/// Sees to it that nothing outlives us: what daemonizes becomes our child, and is killed.
pub struct Sweeper(());

impl Sweeper {
    /// Makes this process the one that orphans go to.
    pub fn install() -> Result<Self> {
        let flag = INTERRUPTED.get_or_init(Arc::default);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        // SAFETY: no pointers; the call sets a flag of the calling process.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } == -1 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self(()))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        sweep();
    }
}

/// Kills every child that is left, and theirs, which become ours.
pub fn sweep() {
    loop {
        let children = procfs::children();
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(child, None);
        }
    }
}
