//! Child processes: spawn on pipes or a PTY, in a session of their own; signal; reap.
//!
//! One child at a time and nothing of the loop: no registration, no relay, no record. It never
//! waits for a child and never reaps one that is not its own (`waitpid(-1)` would steal a host's
//! children).

#![allow(unsafe_code)]
// clone, pre_exec, ioctl and pidfd calls that no safe wrapper offers
// The registry ends what lost runs have left, and consoles open PTYs of their own.
#![cfg_attr(not(all(feature = "consoles", feature = "registry")), allow(dead_code))]

mod cgroup;
mod command;
mod identity;
mod left;
pub(crate) mod lost;
#[cfg_attr(any(target_os = "linux", target_os = "android"), path = "child/linux.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "android")), path = "child/bsd.rs")]
mod platform;
mod pty;
mod signal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::Winsize;
use nix::sys::signal::kill;
use nix::sys::termios::{
    InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpgid};

pub(crate) use cgroup::CgroupError;
pub use command::Command;
pub use identity::{Identity, Liveness};
pub(crate) use left::{Left, Parting, Reach, reap_orphans};
pub(crate) use platform::Cgroup;
pub(crate) use pty::Pty;
#[cfg(feature = "consoles")]
pub(crate) use pty::{make_raw, open_raw_pty};
pub(crate) use signal::is_ignored;
pub use signal::{Signal, SignalError, restore_sigchld, unblock_signals};

/// The nice value of what runs in the background (setpriority(2)): nobody is less urgent.
const LEAST_URGENT: libc::c_int = 19;

/// The parent's ends of a child's standard streams.
///
/// vmon owns them from the hand-over on and sets `O_NONBLOCK` on each: they must be private to
/// the host, not shared with the child or another process.
#[derive(Debug)]
pub enum ChildIo {
    /// Pipes (or stream sockets). A stream that is absent is not relayed.
    Piped {
        /// The end that the child's input is written to.
        stdin: Option<OwnedFd>,
        /// The end that the child's output is read from.
        stdout: Option<OwnedFd>,
        /// The end that the child's errors are read from.
        stderr: Option<OwnedFd>,
    },
    /// The master of the PTY that the child has as its terminal.
    Tty {
        /// Read and written through this one descriptor.
        master: OwnedFd,
    },
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(Signal),
    /// It is gone, but somebody else took its exit status: a host that reaps all children, or
    /// one that ignores `SIGCHLD` (wait(2)).
    Unknown,
}

impl ExitStatus {
    /// From the status that wait(2) gives of a child that has ended.
    fn from_wait(status: libc::c_int) -> Self {
        let status = std::process::ExitStatus::from_raw(status);
        match (status.code(), status.signal().and_then(Signal::from_number)) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
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

    /// As a shell tells it: the code, or 128+n for signal n. 125 when it is unknown.
    pub fn exit_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal.number(),
            Self::Unknown => 125,
        };
        // Both lie in 0..=255: wait(2) keeps eight bits of a code, and signals end at 64.
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

/// Why a command could not be started. Nothing of it runs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpawnError {
    /// No such program, as a shell's 127.
    #[error("{program}: command not found")]
    NotFound {
        /// The program as it was given.
        program: String,
    },
    /// A program that can't be executed, as a shell's 126.
    #[error("{program}: can't be executed: {reason}")]
    NotExecutable {
        /// The program as it was given.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The working directory does not exist or can't be entered.
    #[error("can't enter the working directory {path}: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// It can't be put into its cgroup.
    #[error("can't put it into the cgroup {path}: {reason}")]
    Cgroup {
        /// The cgroup's directory.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// No process, pipe or PTY could be had.
    #[error("can't start {program}: {reason}")]
    System {
        /// The program as it was given.
        program: String,
        /// The system's reason.
        reason: String,
    },
}

impl SpawnError {
    /// 127 when the program was not found, 126 when it can't be executed, else 125.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Directory { .. } | Self::Cgroup { .. } | Self::System { .. } => 125,
        }
    }
}

/// What a spawned child gets as its standard streams.
pub(crate) enum SpawnIo {
    /// A pipe for each; the null device as input when `input` is false.
    Pipes { input: bool },
    /// A new PTY, its controlling terminal; the null device as input when `input` is false.
    Pty { input: bool, size: Winsize, modes: Option<Termios> },
}

/// A child's ends of its standard streams, made before it is started: what is wrong with ours shows
/// itself while nothing runs yet. Close-on-exec, and none of the numbers 0 to 2.
#[derive(Debug)]
pub(crate) struct Stdio {
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// `None` where it is a PTY, as stdout.
    stderr: Option<OwnedFd>,
}

impl Stdio {
    /// The child's ends and ours.
    ///
    /// # Errors
    ///
    /// No pipe or PTY could be had. `command` is named in the error.
    pub(crate) fn open(command: &Command, io: SpawnIo) -> Result<(Self, ChildIo), SpawnError> {
        match io {
            SpawnIo::Pipes { input } => Self::pipes(input),
            SpawnIo::Pty { input, size, modes } => Self::pty(input, &size, modes.as_ref()),
        }
        .map_err(|error| command.spawn_error(&SpawnFailure::System(error)))
    }

    fn pipes(input: bool) -> io::Result<(Self, ChildIo)> {
        let (stdin, our_stdin) = match input {
            true => pipe().map(|(reader, writer)| (reader, Some(writer)))?,
            false => (null_input()?, None),
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        let io =
            ChildIo::Piped { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr) };
        Ok((Self { stdin, stdout, stderr: Some(stderr) }, io))
    }

    fn pty(input: bool, size: &Winsize, modes: Option<&Termios>) -> io::Result<(Self, ChildIo)> {
        let Pty { master, slave, .. } = pty::open()?;
        if let Some(modes) = modes {
            tcsetattr(&slave, SetArg::TCSANOW, modes)?;
        }
        resize(master.as_fd(), size)?;
        let stdin = if input { above_stdio(slave.try_clone()?)? } else { null_input()? };
        Ok((Self { stdin, stdout: slave, stderr: None }, ChildIo::Tty { master }))
    }

    fn borrowed(&self) -> ChildStdio<'_> {
        let stderr = self.stderr.as_ref().unwrap_or(&self.stdout).as_fd();
        ChildStdio {
            fds: [self.stdin.as_fd(), self.stdout.as_fd(), stderr],
            terminal: self.stderr.is_none(),
        }
    }
}

/// What becomes a child's standard streams.
struct ChildStdio<'a> {
    /// Its descriptors 0, 1 and 2; here they have higher numbers.
    fds: [BorrowedFd<'a>; 3],
    /// Whether they are a PTY, to be its controlling terminal. That is descriptor 1: with a null
    /// input, 0 is not one.
    terminal: bool,
}

/// The step at which a spawn failed; nothing of the child is left.
enum SpawnFailure {
    /// Making a pipe, a PTY, a process.
    System(io::Error),
    /// Entering the cgroup of this directory.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Cgroup(PathBuf, io::Error),
    /// Entering the working directory.
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), expect(dead_code))]
    Directory(io::Error),
    /// Executing the program. Where std spawns, any step of the child's.
    Execute(io::Error),
}

impl From<io::Error> for SpawnFailure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for SpawnFailure {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A child that has not been reaped yet, so its pid can't belong to anyone else.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    exit: platform::ExitWatch,
}

impl Child {
    /// Starts `command` on these streams, in a session of its own, and in this cgroup from its first
    /// moment.
    ///
    /// On Linux the child gets SIGKILL when the calling *thread* ends (`PR_SET_PDEATHSIG`,
    /// prctl(2)), unless it executes a set-uid program.
    pub(crate) fn spawn_on(
        command: &Command,
        stdio: Stdio,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, SpawnError> {
        command.check_directory()?;
        let spawned = platform::spawn(command, &stdio.borrowed(), cgroup);
        let (pid, exit) = spawned.map_err(|failure| command.spawn_error(&failure))?;
        Ok(Self { pid, exit })
    }

    /// Makes the streams and starts `command` on them.
    #[cfg(test)]
    pub(crate) fn spawn(
        command: &Command,
        io: SpawnIo,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Self, ChildIo), SpawnError> {
        let (stdio, io) = Stdio::open(command, io)?;
        Ok((Self::spawn_on(command, stdio, cgroup)?, io))
    }

    /// Starts a command that is nobody's sandbox: in a process group of its own in our session,
    /// which keeps it from being taken for what a sandbox has left behind; with a [`Gate`] as its
    /// input, the null device as its other two streams and no other descriptor, every signal at its
    /// default, and at the lowest priority. It goes on when we have ended.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub(crate) fn spawn_in_background(command: Command) -> Result<(Self, Gate), SpawnError> {
        let command = command.in_background();
        let spawn = || {
            let (reader, writer) = pipe()?;
            let null = above_stdio(File::options().write(true).open("/dev/null")?.into())?;
            let fds = [reader.as_fd(), null.as_fd(), null.as_fd()];
            let stdio = ChildStdio { fds, terminal: false };
            let (pid, exit) = platform::spawn(&command, &stdio, None)?;
            Ok((Self { pid, exit }, Gate { writer, _reader: reader }))
        };
        spawn().map_err(|failure| command.spawn_error(&failure))
    }

    /// Takes over a child of this process that somebody else has started.
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
        // One that can't be watched is polled.
        Ok(Self { pid, exit: platform::ExitWatch::new(pid).unwrap_or_default() })
    }

    /// Makes a child that runs already a member of this cgroup.
    pub(crate) fn join(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        cgroup.admit(self.pid.as_raw())
    }

    /// Ends and reaps a child at once.
    #[cfg(test)]
    pub(crate) fn discard(&self) {
        let _ = self.signal(Signal::KILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// A descriptor that becomes readable when the child ends; `None` where the kernel gives none
    /// and [`try_reap`](Self::try_reap) has to be called from time to time.
    pub(crate) fn exit_fd(&self) -> Option<BorrowedFd<'_>> {
        self.exit.fd()
    }

    /// Sends `signal` to the child's process group if it leads one, else to the child alone.
    ///
    /// Sound because the child is looked at first: while it is unreaped, neither its pid nor its
    /// group's number can have gone to a stranger, and nobody but us is to reap it.
    ///
    /// # Errors
    ///
    /// `ECHILD` when another thread has reaped it, `ESRCH` when it has ended; kill(2)'s.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        platform::check_own_child(self.pid)?;
        // Asked each time: a child that was handed over may become a leader, or be moved, later.
        let leads_group = getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid);
        let target = if leads_group { -self.pid.as_raw() } else { self.pid.as_raw() };
        // SAFETY: kill takes two integers and touches no memory of ours. nix's wrapper is not
        // used because its Signal has no real-time signals.
        match Errno::result(unsafe { libc::kill(target, signal.number()) }) {
            Ok(_) => Ok(()),
            // macOS refuses to signal a zombie.
            Err(Errno::EPERM) if platform::has_ended(self.pid)? => Err(Errno::ESRCH.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The exit status once the child has ended; after that the pid is free for others, so the
    /// `Child` must not be used any more.
    pub(crate) fn try_reap(&self) -> io::Result<Option<ExitStatus>> {
        loop {
            let mut status: libc::c_int = 0;
            // SAFETY: waitpid writes one int to the pointer, which is a live exclusive reference.
            // nix's wrapper is not used: it reaps a child that a real-time signal has ended, and
            // then answers EINVAL, because its Signal has none of those.
            let reaped =
                unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, libc::WNOHANG) };
            return match Errno::result(reaped) {
                Ok(0) => Ok(None),
                Ok(_) => Ok(Some(ExitStatus::from_wait(status))),
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => Ok(Some(ExitStatus::Unknown)),
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// What a command in the background waits at: an empty line on its input. Where none comes, since
/// we were killed before we could note that it runs, it is to end without having begun.
#[derive(Debug)]
pub(crate) struct Gate {
    writer: OwnedFd,
    /// With a reader there is no SIGPIPE, also where a host does not ignore that.
    _reader: OwnedFd,
}

impl Gate {
    /// Lets it begin. Never waits: the pipe is empty.
    pub(crate) fn open(self) {
        // A pipe with room and a reader takes a byte.
        let _ = File::from(self.writer).write_all(b"\n");
    }
}

/// A process that is not ours to reap, and whose end we want to know.
#[derive(Debug)]
pub(crate) struct Bystander {
    identity: Identity,
    exit: platform::ExitWatch,
}

impl Bystander {
    /// `None` where it has ended, or nothing can be known of it.
    pub(crate) fn watch(identity: Identity) -> Option<Self> {
        let pid = i32::try_from(identity.pid).ok().filter(|pid| *pid > 0)?;
        // Before the look, so that it can't be exchanged any more.
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

    /// Whether it is known to have ended. A failed look at the process table is no end, but for a
    /// pidfd that is readable: the pid may be that of a hidden process by now (`hidepid`, proc(5)).
    pub(crate) fn has_ended(&self) -> bool {
        let is_readable = |exit| {
            let mut exit = [PollFd::new(exit, PollFlags::POLLIN)];
            poll(&mut exit, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        };
        self.exit_fd().is_some_and(is_readable) || self.identity.liveness() == Liveness::Dead
    }
}

/// Whether this process group has a member, dead or alive.
pub(crate) fn has_members(group: u32) -> bool {
    let group = i32::try_from(group).ok().filter(|group| *group > 1);
    // EPERM is an answer too.
    group.is_some_and(|group| kill(Pid::from_raw(-group), None) != Err(Errno::ESRCH))
}

/// Reaps the children of ours in this process group that have ended.
pub(crate) fn reap_group(group: u32) {
    let Some(group) = i32::try_from(group).ok().filter(|group| *group > 1) else { return };
    let mut status: libc::c_int = 0;
    // SAFETY: waitpid writes one int to the pointer, which is a live exclusive reference. nix's
    // wrapper answers an error for one that a real-time signal has ended.
    while unsafe { libc::waitpid(-group, &raw mut status, libc::WNOHANG) } > 0 {}
}
/// Makes `fd` non-blocking. Only for descriptions that are ours alone.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Sets the window size of a PTY; the kernel sends SIGWINCH to its foreground processes when the
/// size changes (ioctl_tty(2)).
pub(crate) fn resize(master: BorrowedFd<'_>, size: &Winsize) -> io::Result<()> {
    // SAFETY: TIOCSWINSZ reads one winsize from the pointer, which is a live reference.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, size) })?;
    Ok(())
}

/// The window size of a PTY.
pub(crate) fn window_size(master: BorrowedFd<'_>) -> io::Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is a live reference.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })?;
    Ok(size)
}

/// The most that a PTY holds between a writer and the master's reader: 64 KiB of flip buffers and
/// 4 KiB of the line discipline on Linux (`TTYB_DEFAULT_MEM_LIMIT`, `N_TTY_BUF_SIZE`), less
/// elsewhere; doubled, to be on the safe side.
pub(crate) const PTY_CAPACITY: usize = 128 * 1024;

/// Bytes that can be read from a pipe or socket right now.
pub(crate) fn bytes_available(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the pointer, which is a live exclusive reference.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// The bytes that are the end of input for a child on a PTY, after `last` went to it.
///
/// In canonical mode the EOF character ends a line that is unfinished, and only on an empty one it
/// is the end (termios(3)); so an unfinished line takes two.
pub(crate) fn terminal_eof(master: BorrowedFd<'_>, last: Option<u8>) -> Vec<u8> {
    /// Ctrl-D, where the terminal names none.
    const CTRL_D: u8 = 4;
    let Ok(modes) = tcgetattr(master) else { return vec![CTRL_D] };
    let character = |index: SpecialCharacterIndices| {
        modes.control_chars.get(index as usize).copied().filter(|&byte| byte != 0)
    };
    let eof = character(SpecialCharacterIndices::VEOF).unwrap_or(CTRL_D);
    let ends_line = |byte: u8| {
        byte == b'\n'
            || byte == eof
            || Some(byte) == character(SpecialCharacterIndices::VEOL)
            || (byte == b'\r' && modes.input_flags.contains(InputFlags::ICRNL))
    };
    let canonical = modes.local_flags.contains(LocalFlags::ICANON);
    let unfinished = last.is_some_and(|last| !ends_line(last));
    if canonical && unfinished { vec![eof, eof] } else { vec![eof] }
}

/// A pipe, its reader first, close-on-exec from the start.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((above_stdio(reader.into())?, above_stdio(writer.into())?))
}

fn null_input() -> io::Result<OwnedFd> {
    above_stdio(File::open("/dev/null")?.into())
}

/// The same under a number that is none of the three standard streams': where ours are closed, a
/// new descriptor would take their place, for us as well as on the way to the child's.
fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // try_clone gives a number of at least 3, close-on-exec.
    fd.try_clone()
}
