//! Child processes: spawning on pipes or a PTY, in a session of their own; signals; reaping.
//!
//! The module knows neither the event loop nor the registry. It never blocks on a child, and never
//! reaps a process that it does not monitor (`waitpid(-1)` would reap a host's children).

// clone, pre_exec, ioctl and pidfd calls without a safe wrapper.
#![allow(unsafe_code)]
// The registry kills the processes of lost runs, and consoles open PTYs.
#![cfg_attr(not(all(feature = "consoles", feature = "registry")), allow(dead_code))]

mod attributes;
mod cgroup;
mod command;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod console_socket;
mod descriptors;
mod error;
mod identity;
mod left;
mod limits;
pub(crate) mod lost;
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "child/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "child/bsd.rs")]
mod platform;
mod pty;
mod setup;
mod signal;
mod stdio;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpgid};

#[cfg(feature = "codec")]
pub(crate) use attributes::{Attributes, PassedDescriptor};
pub use cgroup::CgroupError;
use command::Background;
pub use command::Command;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub use console_socket::{ConsoleConnection, ConsoleSocket, PtyMaster};
use descriptors::{above_stdio, null_input, pipe};
pub(crate) use descriptors::{bytes_available, set_blocking, set_nonblocking};
pub use error::SpawnError;
use error::SpawnFailure;
pub use identity::{Identity, Liveness, ProcessEnd};
pub(crate) use left::{Counted, FinalSignal, KillScope, Orphans, reap_orphans};
pub use limits::{Resource, ResourceLimit};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub use platform::reap_children;
pub(crate) use platform::{Cgroup, OomKills, realtime_signals};
pub(crate) use pty::{PTY_CAPACITY, resize, terminal_eof, window_size};
#[cfg(feature = "consoles")]
pub(crate) use pty::{Pty, make_raw, open_raw_pty};
pub use signal::{Signal, SignalError, restore_sigchld, unblock_signals};
pub(crate) use signal::{block_signals, is_ignored};
pub use stdio::ChildIo;
use stdio::ChildStdio;
#[cfg(feature = "consoles")]
pub(crate) use stdio::give_to;
pub(crate) use stdio::{SpawnIo, Stdio};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(Signal),
    /// It has ended with an unknown status: the host reaps all children itself
    /// ([`Builder::host_reaps`]), or ignores `SIGCHLD` (wait(2)).
    ///
    /// [`Builder::host_reaps`]: crate::monitor::Builder::host_reaps
    Unknown,
}

impl ExitStatus {
    /// From the status that wait(2) returns for a child that has ended.
    fn from_wait(status: libc::c_int) -> Self {
        let status = std::process::ExitStatus::from_raw(status);
        match (status.code(), status.signal().and_then(Signal::from_number)) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    /// From the `si_code` and `si_status` that waitid(2) returns for a child that has ended.
    fn from_info(code: libc::c_int, status: libc::c_int) -> Self {
        match (code, Signal::from_number(status)) {
            (libc::CLD_EXITED, _) => Self::Code(status & 0xff),
            (_, Some(signal)) => Self::Signal(signal),
            (_, None) => Self::Unknown,
        }
    }

    /// The exit code, unless a signal ended the child.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) | Self::Unknown => None,
        }
    }

    /// The signal that ended the child.
    pub fn signal(self) -> Option<Signal> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::Code(_) | Self::Unknown => None,
        }
    }

    /// The exit code in the convention of shells: the code, or 128+n for signal n; 125 if unknown.
    pub fn exit_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal.number(),
            Self::Unknown => 125,
        };
        // Always within 0..=255: wait(2) keeps eight bits of a code, and the last signal is 64.
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl From<std::process::ExitStatus> for ExitStatus {
    /// Unknown for a status of a child that has not ended.
    fn from(status: std::process::ExitStatus) -> Self {
        Self::from_wait(status.into_raw())
    }
}

/// A child that has not been reaped, so its pid can't be reused; or one that the host reaps.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    exit: platform::ExitWatch,
    reaper: Reaper,
}

/// What reaps a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaper {
    /// Its monitor.
    Monitor,
    /// The host, which hands in the status if it reaps the child before its end has been seen.
    Host,
    /// The host has reaped the child, which ended with this status.
    Done(ExitStatus),
}

impl Child {
    /// Starts `command` on these streams, in a session of its own, and in this cgroup from the
    /// start.
    ///
    /// On Linux the child gets SIGKILL when the calling *thread* ends (`PR_SET_PDEATHSIG`,
    /// prctl(2)), unless it executes a set-uid program or [`Command::parent_death`] is false.
    pub(crate) fn spawn_on(
        command: &Command,
        stdio: Stdio,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, SpawnError> {
        command.check_directory()?;
        let spawned = platform::spawn(command, &stdio.borrowed(), cgroup);
        let (pid, exit) = spawned.map_err(|failure| command.spawn_error(failure))?;
        Ok(Self { pid, exit, reaper: Reaper::Monitor })
    }

    /// Opens the streams and starts `command` on them.
    #[cfg(test)]
    pub(crate) fn spawn(
        command: &Command,
        io: SpawnIo,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Self, ChildIo), SpawnError> {
        let (stdio, io) = Stdio::open(command, io)?;
        Ok((Self::spawn_on(command, stdio, cgroup)?, io))
    }

    /// Starts a command that does not belong to a sandbox and outlives this process. It has a
    /// process group of its own in our session, so that it is not taken for a leftover process of a
    /// sandbox; a [`StartGate`] as its input, the null device as its other two streams and no other
    /// descriptor; the default action of every signal; and the lowest priority.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub(crate) fn spawn_in_background(command: Command) -> Result<(Self, StartGate), SpawnError> {
        let command = Command { background: Some(Background::Low), ..command };
        let spawn = || {
            let (reader, writer) = pipe()?;
            let child = Self::spawn_with_input(&command, reader.as_fd())?;
            Ok((child, StartGate { writer, _reader: reader }))
        };
        spawn().map_err(|failure| command.spawn_error(failure))
    }

    /// Starts a command that serves a sandbox for a time: as with
    /// [`spawn_in_background`](Self::spawn_in_background), but at once, with the null device as its
    /// input, at the priority of this process, and with the parent-death signal of a child.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub(crate) fn spawn_beside(command: Command) -> Result<Self, SpawnError> {
        let command = Command { background: Some(Background::Normal), ..command };
        command.check_directory()?;
        let spawn = || Self::spawn_with_input(&command, null_input()?.as_fd());
        spawn().map_err(|failure| command.spawn_error(failure))
    }

    /// Starts a background command, whose output goes to the null device.
    fn spawn_with_input(command: &Command, input: BorrowedFd<'_>) -> Result<Self, SpawnFailure> {
        let null = above_stdio(File::options().write(true).open("/dev/null")?.into())?;
        let stdio = ChildStdio { fds: [input, null.as_fd(), null.as_fd()], terminal: false };
        let (pid, exit) = platform::spawn(command, &stdio, None)?;
        Ok(Self { pid, exit, reaper: Reaper::Monitor })
    }

    /// Takes over a child of this process that the host has started.
    ///
    /// # Errors
    ///
    /// `ECHILD` when `pid` is not an unreaped child of this process.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .filter(|&pid| pid > 0)
            .map(Pid::from_raw)
            .ok_or(Errno::ECHILD)?;
        platform::check_own_child(pid)?;
        // A child without a pidfd is polled.
        let exit = platform::ExitWatch::new(pid).unwrap_or_default();
        Ok(Self { pid, exit, reaper: Reaper::Monitor })
    }

    /// Leaves the child to be reaped by the host.
    pub(crate) fn reaped_by_host(self) -> Self {
        Self { reaper: Reaper::Host, ..self }
    }

    /// The host has reaped the child.
    pub(crate) fn has_been_reaped(&mut self, status: ExitStatus) {
        self.reaper = Reaper::Done(status);
    }

    /// Moves the running child into this cgroup.
    pub(crate) fn join(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        cgroup.admit(self.pid.as_raw())
    }

    /// Kills and reaps the child.
    #[cfg(test)]
    pub(crate) fn discard(&self) {
        let _ = self.signal(Signal::KILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// A descriptor that becomes readable when the child ends; `None` if the kernel has none, so
    /// that [`try_reap`](Self::try_reap) must be polled.
    pub(crate) fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.exit.fd()
    }

    /// Sends `signal` to the child's process group if it leads one, else to the child alone.
    ///
    /// The child is checked first: while it is unreaped, its pid and its group number can't be
    /// reused, and only this process reaps it.
    ///
    /// # Errors
    ///
    /// `ECHILD` if another thread has reaped it, `ESRCH` if it has ended, else those of kill(2);
    /// `EPERM` also if only other processes of its group could be signalled.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        platform::check_own_child(self.pid)?;
        // Checked each time: a child that the host started may become a group leader later.
        let leads_group = getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid);
        let target = if leads_group { -self.pid.as_raw() } else { self.pid.as_raw() };
        // SAFETY: kill takes two integers and accesses no memory. nix's wrapper is not used because
        // its Signal has no real-time signals.
        match Errno::result(unsafe { libc::kill(target, signal.number()) }) {
            // It succeeds if one process of the group was signalled (kill(2)), which need not be
            // the child: that may have another user's id.
            Ok(_) => match kill(self.pid, None) {
                Err(Errno::EPERM) if !platform::has_ended(self.pid)? => Err(Errno::EPERM.into()),
                _ => Ok(()),
            },
            // macOS refuses to signal a zombie.
            Err(Errno::EPERM) if platform::has_ended(self.pid)? => Err(Errno::ESRCH.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The frozen cgroup that keeps the child from acting on signals, if it is in one.
    pub(crate) fn frozen_cgroup(&self) -> Option<PathBuf> {
        platform::frozen_cgroup(self.pid)
    }

    /// The exit status of the child if that is known. The child is not reaped.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        match self.reaper {
            Reaper::Done(status) => Some(status),
            Reaper::Monitor | Reaper::Host => platform::ended_status(self.pid).ok().flatten(),
        }
    }

    /// The exit status of the child if it has ended. The child is reaped, unless the host does that.
    /// After that its pid may be reused, so the `Child` must not be used any more.
    ///
    /// # Errors
    ///
    /// `ECHILD` if the host has reaped the child and has not handed in its status yet, else those
    /// of waitpid(2).
    pub(crate) fn try_reap(&self) -> io::Result<Option<ExitStatus>> {
        let ended = match self.reaper {
            Reaper::Monitor => self.reap(),
            Reaper::Host | Reaper::Done(_) => platform::ended_status(self.pid),
        };
        match (ended, self.reaper) {
            (Err(Errno::ECHILD), Reaper::Monitor) => Ok(Some(ExitStatus::Unknown)),
            (Err(Errno::ECHILD), Reaper::Done(status)) => Ok(Some(status)),
            (ended, _) => Ok(ended?),
        }
    }

    fn reap(&self) -> nix::Result<Option<ExitStatus>> {
        let options = libc::WNOHANG | platform::ANY_CHILD;
        loop {
            let mut status: libc::c_int = 0;
            // SAFETY: waitpid writes one int to the pointer, which is a live exclusive reference.
            // nix's wrapper is not used: for a child that a real-time signal has ended, it reaps it
            // and then returns EINVAL, because its Signal has no real-time signals.
            let reaped = unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, options) };
            return match Errno::result(reaped) {
                Ok(0) => Ok(None),
                Ok(_) => Ok(Some(ExitStatus::from_wait(status))),
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error),
            };
        }
    }
}

/// The start condition of a background command: it waits for an empty line on its input. If the
/// line does not come, because this process was killed before it could record the command, the
/// command ends without doing anything.
#[derive(Debug)]
pub(crate) struct StartGate {
    writer: OwnedFd,
    /// While a reader exists, a write raises no SIGPIPE, also in a host that does not ignore it.
    _reader: OwnedFd,
}

impl StartGate {
    /// Starts the command. Never blocks, because the pipe is empty.
    pub(crate) fn open(self) {
        // A write to a pipe with room and a reader succeeds.
        let _ = File::from(self.writer).write_all(b"\n");
    }
}

/// A process that this one does not reap, and whose end is awaited.
#[derive(Debug)]
pub(crate) struct ForeignProcess {
    identity: Identity,
    exit: platform::ExitWatch,
}

impl ForeignProcess {
    /// Starts to watch a process; `None` if it has ended or can't be watched.
    pub(crate) fn watch(identity: Identity) -> Option<Self> {
        let pid = i32::try_from(identity.pid).ok().filter(|pid| *pid > 0)?;
        // Opened before the check, so that the pid can't be reused in between.
        let exit = platform::ExitWatch::new(Pid::from_raw(pid)).ok()?;
        (identity.liveness() == Liveness::Alive).then_some(Self { identity, exit })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// As [`Child::exit_fd`].
    pub(crate) fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.exit.fd()
    }

    /// Whether the process has ended, as far as is known. A readable pidfd is proof also if the
    /// process table can't be read: the pid may belong to a hidden process now (`hidepid`,
    /// proc(5)).
    pub(crate) fn has_ended(&self) -> bool {
        let is_readable = |exit| {
            let mut exit = [PollFd::new(exit, PollFlags::POLLIN)];
            poll(&mut exit, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        self.exit_fd().is_some_and(is_readable) || self.identity.liveness() == Liveness::Dead
    }
}

/// Whether this process group has a member. Zombies count.
pub(crate) fn has_members(group: u32) -> bool {
    let group = i32::try_from(group).ok().filter(|group| *group > 1);
    // EPERM also means that there is a member.
    group.is_some_and(|group| kill(Pid::from_raw(-group), None) != Err(Errno::ESRCH))
}

/// Reaps the ended children of this process in a process group.
pub(crate) fn reap_group(group: u32) {
    let Some(group) = i32::try_from(group).ok().filter(|group| *group > 1) else { return };
    let mut status: libc::c_int = 0;
    // SAFETY: waitpid writes one int to the pointer, which is a live exclusive reference. nix's
    // wrapper returns an error for a child that a real-time signal has ended.
    while unsafe { libc::waitpid(-group, &raw mut status, libc::WNOHANG) } > 0 {}
}
