//! The streams of the OCI runtime, which the container inherits: pipes, a terminal that the runtime
//! makes, or those of this process.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use vmon::child::{ChildIo, ConsoleSocket, PtyMaster};

use crate::checks::Config;
use crate::failure::Failure;

/// The most bytes of the runtime's stderr that are read when it fails: what a pipe holds (pipe(7)).
const WORDS: u64 = 64 << 10;

/// How many random names of a console socket are tried.
const NAMES: usize = 100;

/// The streams of the runtime, which the container inherits: this process's ends.
#[derive(Debug)]
pub enum Streams {
    /// Pipes, of which the input is missing without `-i`.
    Pipes { stdin: Option<OwnedFd>, stdout: File, stderr: File },
    /// A terminal that the runtime makes. The pipe is for its own words.
    Terminal { console: ConsoleSocket, stderr: File },
    /// Those of this process.
    Passthrough,
}

/// The streams of the runtime: its ends. Where there is none, it has that of this process, which is
/// the null device or with passthrough that of the caller.
#[derive(Debug, Default)]
pub struct RuntimeStdio {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl RuntimeStdio {
    /// Makes them those of the calling process.
    pub fn install(&self) -> nix::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), dup2_stdin)?;
        self.stdout.as_ref().map_or(Ok(()), dup2_stdout)?;
        self.stderr.as_ref().map_or(Ok(()), dup2_stderr)
    }
}

impl Streams {
    /// Makes the streams.
    ///
    /// # Errors
    ///
    /// No descriptor is available, or the console socket can't be made.
    pub fn open(config: &Config) -> Result<(Self, RuntimeStdio), Failure> {
        if config.drivers.passthrough {
            return Ok((Self::Passthrough, RuntimeStdio::default()));
        }
        let no_pipe = || Failure::of("can't make a pipe");
        let (stderr, their_stderr) = output().map_err(no_pipe())?;
        let mut theirs = RuntimeStdio { stderr: Some(their_stderr), ..RuntimeStdio::default() };
        if config.options.terminal {
            let console = console_socket()?;
            return Ok((Self::Terminal { console, stderr }, theirs));
        }
        let (stdout, their_stdout) = output().map_err(no_pipe())?;
        theirs.stdout = Some(their_stdout);
        let mut stdin = None;
        if config.options.stdin {
            let (their_stdin, ours) = input().map_err(no_pipe())?;
            (theirs.stdin, stdin) = (Some(their_stdin), Some(ours));
        }
        Ok((Self::Pipes { stdin, stdout, stderr }, theirs))
    }

    /// The path of the console socket.
    pub fn console(&self) -> Option<&Path> {
        match self {
            Self::Terminal { console, .. } => Some(console.path()),
            Self::Pipes { .. } | Self::Passthrough => None,
        }
    }

    /// The pipe of the runtime's stderr.
    pub fn stderr(&self) -> Option<&File> {
        match self {
            Self::Pipes { stderr, .. } | Self::Terminal { stderr, .. } => Some(stderr),
            Self::Passthrough => None,
        }
    }

    /// The pipe of the runtime's stdout.
    pub fn stdout(&self) -> Option<&File> {
        match self {
            Self::Pipes { stdout, .. } => Some(stdout),
            Self::Terminal { .. } | Self::Passthrough => None,
        }
    }

    /// The words of the runtime: what can be read from its stderr at once. Their end is what counts.
    pub fn words(&self) -> Vec<u8> {
        let mut words = Vec::new();
        if let Some(stderr) = self.stderr() {
            // What was read before an error, such as an empty pipe, is kept.
            let _ = stderr.take(WORDS).read_to_end(&mut words);
        }
        words
    }

    /// What the monitor relays.
    pub fn into_child_io(self, master: Option<PtyMaster>) -> ChildIo {
        match (self, master) {
            (_, Some(master)) => master.into(),
            (Self::Pipes { stdin, stdout, stderr }, None) => {
                ChildIo::Piped { stdin, stdout: Some(stdout.into()), stderr: Some(stderr.into()) }
            }
            (Self::Terminal { .. } | Self::Passthrough, None) => {
                ChildIo::Piped { stdin: None, stdout: None, stderr: None }
            }
        }
    }
}

/// A pipe to read from, without blocking, and its other end for the runtime.
fn output() -> io::Result<(File, OwnedFd)> {
    let (ours, theirs): (PipeReader, PipeWriter) = io::pipe()?;
    open_to_all(ours.as_fd())?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((OwnedFd::from(ours).into(), theirs.into()))
}

/// A pipe for the runtime to read from, and its other end.
fn input() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = io::pipe()?;
    open_to_all(theirs.as_fd())?;
    Ok((theirs.into(), ours.into()))
}

/// The container may run as any user, and opens `/dev/stdout` by its path.
fn open_to_all(pipe: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fchmod(pipe, Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO)?)
}

/// Makes the console socket, in the directory for temporary files.
fn console_socket() -> Result<ConsoleSocket, Failure> {
    let variables = ["TMPDIR", "TMP", "TEMP"];
    let given =
        variables.iter().find_map(|name| std::env::var_os(name).filter(|it| !it.is_empty()));
    let directory = PathBuf::from(given.unwrap_or_else(|| "/tmp".into()));
    let numbers = iter::repeat_with(|| RandomState::new().build_hasher().finish());
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let socket = bind_in(&directory, numbers.take(NAMES));
    umask(before);
    let what = format!("can't make the console socket in {}", directory.display());
    socket.map_err(Failure::of(what))
}

/// Listens below one of these numbers that is free. Other users may write into the directory, and a
/// process of another pid namespace may have the same pid.
fn bind_in(directory: &Path, numbers: impl IntoIterator<Item = u64>) -> io::Result<ConsoleSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for number in numbers {
        match ConsoleSocket::bind(directory.join(format!("conmon-term.{number:016x}"))) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_console_socket_takes_a_free_name_and_leaves_the_others_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let first = bind_in(scratch.path(), [7]).unwrap();
        fs::write(scratch.path().join("conmon-term.0000000000000008"), "").unwrap();
        let second = bind_in(scratch.path(), [7, 8, 9]).unwrap();
        assert!(first.path().exists());
        assert!(second.path().ends_with("conmon-term.0000000000000009"), "{second:?}");
        let taken = bind_in(scratch.path(), [7, 8]).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(bind_in(&scratch.path().join("missing"), [1]).is_err());
    }
}
