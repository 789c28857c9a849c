//! The arguments of `vmon run` that describe the process of the command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::AccessFlags;
use vmon::child::{Command, Signal};
use vmon::values;

use super::descriptors;
use super::user::{self, UserArg};
use crate::Failure;
use crate::args::{self, EnvArg, Ulimit, os};
use crate::places::check_directory;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
pub(super) struct ChildArgs {
    /// Set an environment variable of the command; KEY alone passes on the value that vmon has. May
    /// be repeated
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = os(args::env))]
    env: Vec<EnvArg>,

    /// Working directory of the command [default: the current directory]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// Run the command as this user: a name, or a UID. GROUP is a name or GID; without it, the user's
    /// group and supplementary groups. Sets $HOME, $USER, $LOGNAME and $SHELL
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<UserArg>,

    /// Add a supplementary group, a name or a GID, to those of the user. May be repeated
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,

    /// File mode creation mask of the command, in octal
    #[arg(long, value_name = "MASK", value_parser = args::umask)]
    umask: Option<u32>,

    /// Set the soft and the hard limit of a resource, such as nofile=1024:4096; one value sets both, -1
    /// is unlimited. May be repeated
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = args::ulimit)]
    ulimit: Vec<Ulimit>,

    /// How likely the kernel is to kill the command when memory runs out, from -1000 to 1000
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i16).range(-1000..=1000)
    )]
    oom_score_adj: Option<i16>,

    /// Pass on descriptors that vmon was started with, under the same numbers, from 3 on. They stay
    /// open for restarts by --restart. May be repeated
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        value_parser = clap::value_parser!(i32).range(3..)
    )]
    preserve_fd: Vec<i32>,

    /// Signal to stop the command, by name or number
    #[arg(long, value_name = "SIG", default_value = "TERM")]
    pub(super) stop_signal: Signal,

    /// Command to run with 'sh -c' in place of the stop signal, with $VMON_PID and $VMON_NAME set:
    /// 'ssh guest poweroff', for example. If it fails, the stop signal is sent
    #[arg(long, value_name = "CMD", value_parser = os(args::shell_command))]
    pub(super) stop_command: Option<OsString>,

    /// Time to wait after the stop signal, or the start of the stop command, before sending SIGKILL
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::time)]
    pub(super) stop_timeout: Duration,
}

impl ChildArgs {
    /// The command with these options. Its variables win over those of its user.
    pub(super) fn apply(self, command: Command) -> Result<Command, Failure> {
        let mut command = user::apply(self.user.as_ref(), &self.group_add, command)?;
        for EnvArg { key, value } in self.env {
            command = match value.or_else(|| std::env::var_os(&key)) {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(mask) = self.umask {
            command = command.umask(mask);
        }
        for Ulimit { resource, limit } in self.ulimit {
            command = command.rlimit(resource, limit);
        }
        if let Some(score) = self.oom_score_adj {
            command = command.oom_score_adj(score);
        }
        command = descriptors::pass(&self.preserve_fd, command)?;
        let Some(cwd) = self.cwd else { return Ok(command) };
        check_directory(&cwd, AccessFlags::X_OK).map_err(Failure::directory(
            "working directory",
            &cwd,
            "--cwd",
        ))?;
        Ok(command.current_dir(cwd))
    }
}
