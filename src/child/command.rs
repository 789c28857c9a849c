//! The description of a command to spawn, and the errors of starting it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::attributes::{Attributes, PassedDescriptor};
use super::error::{SpawnError, SpawnFailure};
use super::limits::{Resource, ResourceLimit};
use crate::process::FileLimit;
use crate::terminal::WindowSize;

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
    /// `None` if the command has none of them. Boxed: most commands of a host have none.
    pub(crate) attributes: Option<Box<Attributes>>,
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
            attributes: None,
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

    /// Sets the `TERM` of [`term`](Self::term). Without one, and if `is_detached` from a terminal of
    /// the host, as under a service manager, sets it if the child would have none: every terminal
    /// emulator of a client understands the sequences of `xterm`.
    pub(crate) fn with_term(self, is_detached: bool) -> Self {
        if self.env.iter().any(|(key, _)| key == "TERM") {
            return self;
        }
        if let Some(term) = self.attributes.as_ref().and_then(|it| it.term.clone()) {
            return self.env("TERM", term);
        }
        let inherited = !self.env_clear && std::env::var_os("TERM").is_some();
        if inherited || !is_detached { self } else { self.env("TERM", "xterm") }
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

    /// Sets the size of the child's PTY at its start, in characters, whatever the size of our
    /// terminal. A later change of that terminal's size applies, and so does the size of a client that
    /// attaches. Without a PTY it has no effect.
    #[must_use]
    pub fn pty_size(mut self, rows: u16, columns: u16) -> Self {
        self.attributes().pty_size = Some(WindowSize::new(rows, columns));
        self
    }

    /// Sets `TERM` for a child on a PTY, unless [`env`](Self::env) sets it. Unlike the environment it
    /// is a part of the record.
    #[must_use]
    pub fn term(mut self, term: impl Into<OsString>) -> Self {
        self.attributes().term = Some(term.into());
        self
    }

    /// Passes a descriptor to the child under a number from 3 on, such as a tap device, a memfd or a
    /// listening socket. A later descriptor of the same number replaces it.
    ///
    /// The number may be in use in this process: its descriptors do not change, except that this one
    /// is close-on-exec from now on. The child gets the same open file description. It is kept while
    /// the command may be started again ([`Sandbox::restart`]), and closed after the start otherwise,
    /// unless the caller keeps a reference or a copy of the command.
    ///
    /// A record has the number only. A command that was read from one can't be started until each of
    /// its [descriptors](Self::get_descriptors) has been passed again.
    ///
    /// ```
    /// use std::os::fd::OwnedFd;
    /// use std::os::unix::net::UnixListener;
    /// use vmon::child::Command;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let directory = tempfile::tempdir()?;
    /// let listener = UnixListener::bind(directory.path().join("web.sock"))?;
    /// let command = Command::new("web-server").arg("--fd=3").descriptor(3, OwnedFd::from(listener));
    /// assert!(command.get_descriptors().all(|(number, _)| number == 3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Sandbox::restart`]: crate::monitor::Sandbox::restart
    #[must_use]
    pub fn descriptor(mut self, number: RawFd, descriptor: impl Into<Arc<OwnedFd>>) -> Self {
        self.attributes().pass(PassedDescriptor::new(number, descriptor.into()));
        self
    }

    /// Sets the child's user id (setresuid(2)): real, effective and saved. Without
    /// [`groups`](Self::groups) a child of another user has no supplementary groups; the group is not
    /// changed without [`gid`](Self::gid). Capabilities change as in capabilities(7).
    ///
    /// The child's streams belong to this user, so that it can open `/dev/stdout` and its terminal
    /// again. The environment, `HOME` included, is not changed. The working directory is one that this
    /// process itself can enter.
    ///
    /// Another user needs `CAP_SETUID` and `CAP_SETGID`; the start fails with `EPERM` otherwise.
    /// Without `CAP_KILL` this process can't signal the child, so no stop ends it, and the kernel does
    /// not kill it when this process ends ([`parent_death`](Self::parent_death)). Without `CAP_CHOWN`
    /// the streams do not belong to its user.
    ///
    /// On Linux a child that changes its ids starts as a copy of this process, as by fork(2): the larger
    /// this process, the longer it takes. The child's user may stop it before it has executed its
    /// program; after a second it is monitored as one that runs, with a warning.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.attributes().uid = Some(uid);
        self
    }

    /// Sets the child's group id (setresgid(2)): real, effective and saved.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.attributes().gid = Some(gid);
        self
    }

    /// Sets the child's supplementary groups (setgroups(2)); an empty list removes all.
    #[must_use]
    pub fn groups(mut self, groups: impl Into<Vec<u32>>) -> Self {
        self.attributes().groups = Some(groups.into());
        self
    }

    /// Sets the child's file mode creation mask (umask(2)), of which the lowest nine bits count.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.attributes().umask = Some(mask & 0o777);
        self
    }

    /// Sets limits of a resource (setrlimit(2)). A hard limit above that of this process needs
    /// `CAP_SYS_RESOURCE`.
    ///
    /// ```
    /// use vmon::child::{Command, Resource, ResourceLimit};
    ///
    /// let limit = ResourceLimit::new(Some(1024), Some(4096));
    /// let command = Command::new("web-server").rlimit(Resource::NOFILE, limit);
    /// ```
    #[must_use]
    pub fn rlimit(mut self, resource: Resource, limit: ResourceLimit) -> Self {
        self.attributes().limits.insert(resource, limit);
        self
    }

    /// Sets how likely the kernel is to kill the child when memory runs out, from -1000 to 1000
    /// (`/proc/PID/oom_score_adj`, proc(5)). A lower value than that of this process needs
    /// `CAP_SYS_RESOURCE`. Linux only: elsewhere the start fails.
    #[must_use]
    pub fn oom_score_adj(mut self, score: i16) -> Self {
        self.attributes().oom_score_adj = Some(score);
        self
    }

    /// Sets the child's soft limit of open files, at most its hard limit. The default is that of
    /// this process. For a host that has [raised](crate::process::raise_file_limit) its own limit. An
    /// [`rlimit`](Self::rlimit) of open files replaces it.
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

    /// The attributes, to be set.
    fn attributes(&mut self) -> &mut Attributes {
        self.attributes.get_or_insert_default()
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

    /// The size of its PTY, if one was set.
    pub fn get_pty_size(&self) -> Option<WindowSize> {
        self.attributes.as_ref()?.pty_size
    }

    /// The user id, if one was set.
    pub fn get_uid(&self) -> Option<u32> {
        self.attributes.as_ref()?.uid
    }

    /// The descriptors for the child, by their numbers in it. `None` for one of a command from a
    /// record, which has the number only.
    pub fn get_descriptors(&self) -> impl Iterator<Item = (RawFd, Option<BorrowedFd<'_>>)> {
        let passed = self.attributes.iter().flat_map(|it| &it.descriptors);
        passed.map(|passed| (passed.number, passed.descriptor.as_ref().map(|it| it.as_fd())))
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
        let none = Attributes::default();
        let attributes = self.attributes.as_deref().unwrap_or(&none);
        match failure {
            SpawnFailure::System(source) => SpawnError::System { program, source },
            SpawnFailure::Cgroup(path, source) => SpawnError::Cgroup { path, source },
            SpawnFailure::Directory(source) => self.directory_error(source),
            SpawnFailure::Descriptor(number, source) => SpawnError::Descriptor { number, source },
            SpawnFailure::OomScore(source) => {
                let score = attributes.oom_score_adj.unwrap_or_default();
                SpawnError::OomScore { score, source }
            }
            SpawnFailure::Limit(resource, source) => match attributes.limits.get(&resource) {
                Some(limit) => SpawnError::Limit { resource, limit: *limit, source },
                // That of `file_limit`.
                None => SpawnError::System { program, source },
            },
            SpawnFailure::Groups(source) => {
                SpawnError::Groups { groups: attributes.groups.clone().unwrap_or_default(), source }
            }
            SpawnFailure::Group(source) => {
                SpawnError::Group { gid: attributes.gid.unwrap_or_default(), source }
            }
            SpawnFailure::User(source) => {
                SpawnError::User { uid: attributes.uid.unwrap_or_default(), source }
            }
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
