//! The description of a command to spawn, and the errors of starting it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::error::{SpawnError, SpawnFailure};
use crate::process::FileLimit;

/// The nice value of background commands (setpriority(2)): the lowest priority.
pub(super) const LOWEST_PRIORITY: libc::c_int = 19;

/// A command for a monitor to spawn.
///
/// The child inherits the environment and the working directory of this process, with the changes
/// that are made here. Methods and getters have the names of [`std::process::Command`].
///
/// ```
/// use vmon::child::Command;
/// let command = Command::new("qemu-system-x86_64")
///     .args(["-M", "microvm"])
///     .arg("-nodefaults")
///     .env("QEMU_AUDIO_DRV", "none")
///     .pty(true);
/// assert_eq!(command.get_args(), ["-M", "microvm", "-nodefaults"]);
/// assert!(command.get_pty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// Whether the child starts without the variables of this process.
    pub(crate) env_clear: bool,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) pty: bool,
    pub(crate) file_limit: Option<FileLimit>,
    pub(crate) parent_death: bool,
    pub(crate) background: Option<Background>,
}

/// The priority of a command that runs beside the sandboxes, in a process group of its own in our
/// session, so that it is not taken for a leftover process of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Background {
    /// The lowest one. It outlives this process.
    Low,
    /// That of this process. It is killed with the thread that has started it, as a child is.
    Normal,
}

impl Command {
    /// A command that runs `program`, which is looked up in `PATH` if it has no slash.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            directory: None,
            pty: false,
            file_limit: None,
            parent_death: true,
            background: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(self, arg: impl Into<OsString>) -> Self {
        self.args([arg])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the child.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), Some(value.into())));
        self
    }

    /// Sets environment variables of the child.
    #[must_use]
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        variables.into_iter().fold(self, |command, (key, value)| command.env(key, value))
    }

    /// Removes all variables from the child's environment, also those that were set here before.
    ///
    /// A program without a slash is then looked up in a `PATH` that is set afterwards, else in
    /// `/bin:/usr/bin`.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Sets `TERM` if the child would have none: on a PTY without a terminal behind it, as under a
    /// service manager. Every terminal emulator of a client understands the sequences of `xterm`.
    pub(crate) fn default_term(self) -> Self {
        let is_set = self.env.iter().any(|(key, _)| key == "TERM");
        let inherited = !self.env_clear && std::env::var_os("TERM").is_some();
        if is_set || inherited { self } else { self.env("TERM", "xterm") }
    }

    /// Removes an environment variable from the child's environment.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.push((key.into(), None));
        self
    }

    /// Sets the child's working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Whether the child runs on a new PTY, with the size and modes of our terminal (80x24 without
    /// one). The default is pipes.
    #[must_use]
    pub fn pty(mut self, pty: bool) -> Self {
        self.pty = pty;
        self
    }

    /// Sets the child's soft limit of open files, at most its hard limit. The default is that of
    /// this process. For a host that has [raised](crate::process::raise_file_limit) its own limit.
    #[must_use]
    pub fn file_limit(mut self, limit: FileLimit) -> Self {
        self.file_limit = Some(limit);
        self
    }

    /// Whether the child is killed when the thread that has started it ends (`PR_SET_PDEATHSIG`,
    /// prctl(2)); the default is true. On Linux only: elsewhere a child always outlives a process
    /// that is killed.
    ///
    /// It is the thread and not the process. A host whose reactor is polled by the threads of a pool
    /// sets it to false: such a thread ends when it has nothing to do, and its children with it. A
    /// child then outlives a host that is killed, until the next claim of its name ends it.
    #[must_use]
    pub fn parent_death(mut self, parent_death: bool) -> Self {
        self.parent_death = parent_death;
        self
    }

    /// Replaces each argument.
    pub(crate) fn map_arguments(mut self, change: impl FnMut(OsString) -> OsString) -> Self {
        self.args = self.args.into_iter().map(change).collect();
        self
    }

    /// The program, as passed to [`new`](Self::new).
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// The arguments.
    pub fn get_args(&self) -> &[OsString] {
        &self.args
    }

    /// The working directory, if one was set.
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Whether it runs on a PTY.
    pub fn get_pty(&self) -> bool {
        self.pty
    }

    /// The changes to the environment, in the order in which they were made: a variable, and its
    /// new value or `None` to remove it. Later entries take precedence.
    pub fn get_envs(&self) -> &[(OsString, Option<OsString>)] {
        &self.env
    }

    /// Whether the child starts without the variables of this process.
    pub fn get_env_clear(&self) -> bool {
        self.env_clear
    }

    /// Checks the working directory before a process exists. On platforms where std spawns, its
    /// errors can't be distinguished from those of exec.
    pub(super) fn check_directory(&self) -> Result<(), SpawnError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let failed = |error: Errno| self.directory_error(error.into());
        access(directory, AccessFlags::X_OK).map_err(failed)?;
        if !directory.is_dir() {
            return Err(failed(Errno::ENOTDIR));
        }
        Ok(())
    }

    pub(super) fn spawn_error(&self, failure: SpawnFailure) -> SpawnError {
        let program = self.program.clone();
        match failure {
            SpawnFailure::System(source) => SpawnError::System { program, source },
            SpawnFailure::Cgroup(path, source) => SpawnError::Cgroup { path, source },
            SpawnFailure::Directory(source) => self.directory_error(source),
            SpawnFailure::Execute(source) => self.exec_error(source),
        }
    }

    fn directory_error(&self, source: io::Error) -> SpawnError {
        SpawnError::Directory { path: self.directory.clone().unwrap_or_default(), source }
    }

    fn exec_error(&self, source: io::Error) -> SpawnError {
        let program = self.program.clone();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if !self.exists() => SpawnError::NotFound { program, source },
            Some(errno) if errno == Errno::ENOENT || is_exec_error(errno) => {
                SpawnError::NotExecutable { program, source }
            }
            _ => SpawnError::System { program, source },
        }
    }

    /// Whether the program is an existing path.
    fn exists(&self) -> bool {
        let path = Path::new(&self.program);
        // A relative path is resolved in the child's working directory.
        let directory = self.directory.as_deref().unwrap_or(Path::new(""));
        self.program.as_bytes().contains(&b'/') && directory.join(path).exists()
    }
}

/// Whether this is an error of execve(2), and not of fork, chdir or descriptors.
fn is_exec_error(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EACCES
            | Errno::EPERM
            | Errno::ENOEXEC
            | Errno::EISDIR
            | Errno::ENOTDIR
            | Errno::ELOOP
            | Errno::ENAMETOOLONG
            | Errno::E2BIG
            | Errno::ETXTBSY
            | Errno::EINVAL
    )
}
