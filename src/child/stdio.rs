//! The standard streams of a child: pipes or a PTY, both ends of each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::pty::Winsize;
use nix::sys::termios::{SetArg, Termios, tcsetattr};
use nix::unistd::{Uid, fchown};

use super::command::Command;
use super::descriptors::{above_stdio, null_input, pipe};
use super::error::{SpawnError, SpawnFailure};
use super::pty::{self, Pty, resize};

/// The parent's ends of a child's standard streams.
///
/// vmon takes ownership and sets `O_NONBLOCK` on each, so their open file descriptions must not be
/// shared with the child or another process.
///
/// Those of a [`std::process::Child`] are its piped streams. From [`Builder::start`] on the child is
/// reaped by the monitor, so a host gives up the `Child`, whose `wait` would take the exit status
/// away. A host that wants to wait for the child where the monitor leaves it to the host
/// ([`StartError`]) keeps the `Child` and converts a `&mut Child`.
///
/// ```
/// use std::process::{Command, Stdio};
/// use vmon::monitor::{Monitor, Sandbox};
/// use vmon::reactor::Reactor;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let log_dir = directory.path();
/// let child = Command::new("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
/// let mut reactor = Reactor::new()?;
/// let sandbox = Sandbox::new("web", log_dir)?;
/// let id = Monitor::builder(sandbox).start(&mut reactor, child.id(), child.into())?;
/// reactor.run()?;
/// let end = reactor.remove(id).and_then(Monitor::into_end).ok_or("no end")?;
/// assert_eq!((end.exit_code(), end.bytes_logged), (0, 6));
/// # Ok(())
/// # }
/// ```
///
/// [`Builder::start`]: crate::monitor::Builder::start
/// [`StartError`]: crate::monitor::StartError
#[derive(Debug)]
#[non_exhaustive]
pub enum ChildIo {
    /// Pipes or stream sockets. An absent stream is not relayed.
    Piped {
        /// The write end of the child's standard input.
        stdin: Option<OwnedFd>,
        /// The read end of the child's standard output.
        stdout: Option<OwnedFd>,
        /// The read end of the child's standard error.
        stderr: Option<OwnedFd>,
    },
    /// The master of the PTY that is the child's terminal.
    Tty {
        /// The descriptor for input and output.
        master: OwnedFd,
    },
}

impl From<std::process::Child> for ChildIo {
    /// The piped streams of a child. Dropping the `Child` neither ends nor reaps the process.
    fn from(mut child: std::process::Child) -> Self {
        Self::from(&mut child)
    }
}

impl From<&mut std::process::Child> for ChildIo {
    /// Takes the piped streams of a child.
    fn from(child: &mut std::process::Child) -> Self {
        Self::Piped {
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
        }
    }
}

/// The kind of standard streams of a spawned child.
pub(crate) enum SpawnIo {
    /// A pipe for each; the null device as input if `input` is false.
    Pipes { input: bool },
    /// A new PTY as its controlling terminal; the null device as input if `input` is false.
    Pty { input: bool, size: Winsize, modes: Option<Termios> },
}

/// The child's ends of its standard streams. They are opened before the child starts, so that
/// errors of both ends occur before a process exists. Close-on-exec, with numbers above 2.
#[derive(Debug)]
pub(crate) struct Stdio {
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// `None` for a PTY, which is both stdout and stderr.
    stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Opens the child's ends and ours.
    ///
    /// # Errors
    ///
    /// A pipe or PTY can't be created. The error names the program of `command`.
    pub(crate) fn open(command: &Command, io: SpawnIo) -> Result<(Self, ChildIo), SpawnError> {
        let owner = command.get_uid().map(Uid::from_raw);
        match io {
            SpawnIo::Pipes { input } => Self::pipes(input, owner),
            SpawnIo::Pty { input, size, modes } => Self::pty(input, &size, modes.as_ref(), owner),
        }
        .map_err(|error| command.spawn_error(SpawnFailure::System(error)))
    }

    fn pipes(input: bool, owner: Option<Uid>) -> io::Result<(Self, ChildIo)> {
        let (stdin, our_stdin) = match input {
            true => pipe().map(|(reader, writer)| (reader, Some(writer)))?,
            false => (null_input()?, None),
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        if let Some(owner) = owner {
            // Not the null device, which belongs to the system.
            let pipes = [input.then_some(&stdin), Some(&stdout), Some(&stderr)];
            pipes.into_iter().flatten().for_each(|pipe| give_to(pipe, owner));
        }
        let io =
            ChildIo::Piped { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr) };
        Ok((Self { stdin, stdout, stderr: Some(stderr) }, io))
    }

    fn pty(
        input: bool,
        size: &Winsize,
        modes: Option<&Termios>,
        owner: Option<Uid>,
    ) -> io::Result<(Self, ChildIo)> {
        let Pty { master, slave, .. } = pty::open()?;
        if let Some(owner) = owner {
            give_to(&slave, owner);
        }
        match modes {
            Some(modes) => tcsetattr(&slave, SetArg::TCSANOW, modes)?,
            None => pty::set_iutf8(slave.as_fd())?,
        }
        resize(master.as_fd(), size)?;
        let stdin = if input { above_stdio(slave.try_clone()?)? } else { null_input()? };
        Ok((Self { stdin, stdout: slave, stderr: None }, ChildIo::Tty { master }))
    }

    pub(super) fn borrowed(&self) -> ChildStdio<'_> {
        let stderr = self.stderr.as_ref().unwrap_or(&self.stdout).as_fd();
        ChildStdio {
            fds: [self.stdin.as_fd(), self.stdout.as_fd(), stderr],
            terminal: self.stderr.is_none(),
        }
    }
}

/// Gives a pipe or the slave of a PTY to the child's user, who could not open it again otherwise:
/// `/dev/stdout` and `/dev/pts/N` are checked like any other file. The group and the mode stay: those
/// of a slave let the group tty write to it (grantpt(3)), as login programs leave it.
///
/// A process without the right to do so can't set the user id either, and that is the error to report.
/// With `CAP_SETUID` but without `CAP_CHOWN`, the streams can be used and not opened again.
pub(crate) fn give_to(stream: &OwnedFd, owner: Uid) {
    let _ = fchown(stream, Some(owner), None);
}

/// The descriptors that become a child's standard streams.
pub(super) struct ChildStdio<'a> {
    /// The future descriptors 0, 1 and 2. Their current numbers are above 2.
    pub(super) fds: [BorrowedFd<'a>; 3],
    /// Whether descriptor 1 is a PTY that becomes the controlling terminal. Descriptor 0 may be the
    /// null device.
    pub(super) terminal: bool,
}
