//! `vmon run`: one command under a monitor, from its claim of a name to its exit code.
//!
//! First everything is checked that can be wrong with the options, and only then anything is
//! made: the directories, the database, the child.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::unistd::AccessFlags;
use tracing::debug;
use vmon::child::{Command, Signal};
use vmon::logfile::{LogFile, Retention};
use vmon::monitor::{
    DEFAULT_CONFIG_FILE, End, Forward, Input, Monitor, Name, OnLogError, Outcome, Rootfs, Sandbox,
    StartError, command_signals,
};
use vmon::process;
use vmon::reactor::Reactor;
use vmon::registry::Registry;

use super::args::{self, EnvArg};
use super::name::NameChoice;
use super::settle::{self, Activity, Noted};
use super::shared::{NewDirectories, Place, Places, SharedArgs, absolute, check_directory};
use super::{Failure, reason};

/// Run a command under a monitor until it ends, and exit as it did
///
/// The output goes to STATE/log/CONFIG/NAME.log first, then to our stdout and stderr.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "vmon run [OPTIONS] [--] COMMAND [ARG]...",
    after_help = "SIZE is whole bytes or a number with KiB, MiB or GiB (short: K, M, G).\n\
                  TIME is whole seconds or a number with ms, s, m or h.\n\
                  NAME is letters, digits, '_', '.', '+' and '-' after a letter or digit, at most 128 bytes."
)]
pub struct RunArgs {
    /// The command to run, and its arguments: everything from its name on is the command's
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    command: Vec<OsString>,

    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    streams: StreamArgs,
    #[command(flatten)]
    child: ChildArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Record")]
struct RecordArgs {
    /// The sandbox's name [default: the command's base name, with -2, -3 … while that one runs]
    #[arg(long, value_name = "NAME", alias = "sandbox-name")]
    name: Option<Name>,

    /// The namespace of the log and the record
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CONFIG_FILE)]
    config_file: Name,

    /// When the config file was modified, in RFC 3339 [default: the time of the file of that name
    /// in the current directory, else now]
    #[arg(long, value_name = "TIME", value_parser = args::date)]
    config_last_modified: Option<DateTime<Utc>>,

    /// The directory that is the root file system; recorded, not mounted
    #[arg(long, value_name = "PATH")]
    native_rootfs: Option<PathBuf>,

    /// The overlayfs layers of the root file system, lowest first, in one option or several;
    /// recorded, not mounted. '--' ends them
    #[arg(
        long,
        value_name = "PATH",
        num_args = 1..,
        conflicts_with = "native_rootfs",
        value_parser = OsStringValueParser::new().try_map(args::layer)
    )]
    overlayfs_layer: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
struct LogArgs {
    /// Where the logs lie, as DIR/CONFIG/NAME.log [default: STATE/log]
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// The size at which the log is rotated; 0 never rotates it
    #[arg(long, value_name = "SIZE", default_value = "10MiB", value_parser = args::size)]
    log_max_size: u64,

    /// How many older generations are kept beside the current log; 0 keeps none
    #[arg(long, value_name = "N", default_value_t = Retention::default().max_files)]
    log_max_files: u32,

    /// While the log can't be written: stop reading the output and lose nothing, or go on and
    /// count what the log lacks
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = OnLogErrorArg::Pause)]
    on_log_error: OnLogErrorArg,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Streams")]
struct StreamArgs {
    /// Write the output to the log only
    #[arg(long)]
    no_forward: bool,

    /// Forward the output: the default
    #[arg(
        long,
        value_name = "BOOL",
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    forward_output: Option<bool>,

    /// When our stdout or terminal does not keep up: block the command and lose nothing, or drop
    /// what does not fit and say how much that is
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = OverflowArg::Block)]
    forward_overflow: OverflowArg,

    /// Whether the command gets a terminal of its own; auto: when our stdin and stdout are
    /// terminals
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = TtyArg::Auto)]
    tty: TtyArg,

    /// Short for --tty always
    #[arg(short = 't', conflicts_with_all = ["tty", "no_tty"])]
    always_tty: bool,

    /// Short for --tty never
    #[arg(short = 'T', id = "no_tty", conflicts_with = "tty")]
    never_tty: bool,

    /// What the command reads: our stdin, or nothing
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = StdinArg::Forward)]
    stdin: StdinArg,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
struct ChildArgs {
    /// A variable of the command's environment; KEY alone passes on our own value. May be repeated
    #[arg(
        long,
        value_name = "KEY[=VALUE]",
        value_parser = OsStringValueParser::new().try_map(args::env)
    )]
    env: Vec<EnvArg>,

    /// The command's working directory [default: ours]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// The signal that asks the command to stop, by name or number
    #[arg(long, value_name = "SIG", default_value = "TERM")]
    stop_signal: Signal,

    /// How long after that signal the command is killed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = args::time)]
    stop_timeout: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnLogErrorArg {
    Pause,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverflowArg {
    Block,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TtyArg {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StdinArg {
    Forward,
    Null,
}

/// Runs the command to its end; the exit code is the command's.
pub fn run(args: RunArgs) -> Result<u8, Failure> {
    let plan = Plan::new(args)?.raise_file_limit();
    let mut reactor = Reactor::new().map_err(Failure::SetUp)?;
    // Before anything is written: XFSZ would end us there, TERM in the middle of it.
    reactor.watch_signals(command_signals()).map_err(Failure::SetUp)?;
    let registry = plan.open()?;
    let end = plan.supervise(&mut reactor, &registry)?;
    let code = end.exit_code();
    match end.outcome {
        Outcome::NotStarted(error) => Err(Failure::NotStarted { error, code }),
        Outcome::Ended { .. } => Ok(code),
    }
}

/// What the options ask for, checked as far as that goes without touching the disk.
struct Plan {
    places: Places,
    log_dir: Place,
    name: NameChoice,
    config_file: Name,
    modified: DateTime<Utc>,
    rootfs: Option<Rootfs>,
    retention: Retention,
    on_log_error: OnLogError,
    forward: Forward,
    input: Input,
    stop_signal: Signal,
    stop_timeout: Duration,
    command: Command,
}

impl Plan {
    fn new(args: RunArgs) -> Result<Self, Failure> {
        let RunArgs { shared, record, log, streams, child, command } = args;
        let mut words = command.into_iter();
        // clap has seen to it that there is one.
        let program = words.next().unwrap_or_default();
        let places = shared.places()?;
        let log_dir = Place::new(log.log_dir.as_deref(), "--log-dir", &places.state_dir, "log")?;
        let name = match &record.name {
            Some(given) => NameChoice::Given(given.clone()),
            None => NameChoice::of_program(&program)?,
        };
        let command = Command::new(program).args(words).pty(streams.wants_pty());
        Ok(Self {
            places,
            log_dir,
            name,
            modified: record.modified(),
            rootfs: record.rootfs()?,
            config_file: record.config_file,
            retention: Retention { max_size: log.log_max_size, max_files: log.log_max_files },
            on_log_error: log.on_log_error.into(),
            forward: streams.forward()?,
            input: streams.stdin.into(),
            stop_signal: child.stop_signal,
            stop_timeout: child.stop_timeout,
            command: child.apply(command)?,
        })
    }

    /// Takes all descriptors that we may have, and leaves the command the limit it would have had.
    fn raise_file_limit(mut self) -> Self {
        match process::raise_file_limit() {
            Ok(former) => self.command = self.command.file_limit(former),
            // One command needs few.
            Err(error) => debug!("the file limit stays as it is: {error}"),
        }
        self
    }

    fn sandbox(&self, name: &Name) -> Result<Sandbox, Failure> {
        let config_file = self.config_file.as_str();
        let sandbox = Sandbox::new(name.as_str(), config_file, &self.log_dir.path)?
            .config_last_modified(self.modified)
            .retention(self.retention)
            .on_log_error(self.on_log_error)
            .forward(self.forward)
            .input(self.input)
            .stop_with(self.stop_signal, self.stop_timeout);
        Ok(match &self.rootfs {
            Some(rootfs) => sandbox.rootfs(rootfs.clone()),
            None => sandbox,
        })
    }

    /// Makes the directories and opens the record; on an error nothing of it is left.
    fn open(&self) -> Result<Registry, Failure> {
        let mut made = NewDirectories::default();
        let opened = self.open_into(&mut made);
        if opened.is_err() {
            made.remove();
        }
        opened
    }

    fn open_into(&self, made: &mut NewDirectories) -> Result<Registry, Failure> {
        let mut make = |path: &Path, what, option| {
            made.make(path).map_err(|error| Failure::Directory {
                what,
                path: path.to_owned(),
                reason: reason(&error),
                option,
            })
        };
        make(&self.log_dir.path, "log directory", self.log_dir.option)?;
        let logs = self.log_dir.path.join(self.config_file.as_str());
        make(&logs, "log directory", self.log_dir.option)?;
        let name = self.name.first().as_str();
        LogFile::check(&self.log_dir.path, self.config_file.as_str(), name)?;
        let db = &self.places.db;
        if let Some(parent) = db.path.parent() {
            make(parent, "directory of the database", db.option)?;
        }
        Ok(Registry::open_for_start(&db.path)?)
    }

    /// Runs the command under the first name that is free. Only the claim of a name tells that,
    /// so each is tried until one is granted.
    fn supervise(
        &self,
        reactor: &mut Reactor<Monitor>,
        registry: &Registry,
    ) -> Result<End, Failure> {
        let mut number = 1;
        let mut name = self.name.first().clone();
        loop {
            let end = self.supervise_as(&name, reactor, registry)?;
            if !matches!(end.outcome, Outcome::NotStarted(StartError::Taken { .. })) {
                return Ok(end);
            }
            number += 1;
            match self.name.numbered(number) {
                Some(next) => name = next,
                None => return Ok(end),
            }
        }
    }

    fn supervise_as(
        &self,
        name: &Name,
        reactor: &mut Reactor<Monitor>,
        registry: &Registry,
    ) -> Result<End, Failure> {
        let activity = Activity::default();
        let observer = Noted { registry: registry.observer(), activity: activity.clone() };
        let id = Monitor::builder(self.sandbox(name)?)
            .observer(observer)
            .spawn(reactor, self.command.clone());
        settle::run(reactor, &activity).map_err(Failure::Loop)?;
        // Dropped before anything is told: the terminal is back by then.
        reactor.remove(id).and_then(Monitor::into_end).ok_or(Failure::NoEnd)
    }
}

impl RecordArgs {
    /// Given, or the time of the config file, or now: to the microsecond, as the record has it.
    fn modified(&self) -> DateTime<Utc> {
        let of_file = || std::fs::metadata(self.config_file.as_str()).ok()?.modified().ok();
        self.config_last_modified
            .or_else(|| of_file().map(DateTime::<Utc>::from))
            .unwrap_or_else(Utc::now)
            .trunc_subsecs(6)
    }

    /// With absolute paths: whoever reads the record sits in another directory.
    fn rootfs(&self) -> Result<Option<Rootfs>, Failure> {
        if let Some(path) = &self.native_rootfs {
            return Ok(Some(Rootfs::Native(absolute(path)?)));
        }
        if self.overlayfs_layer.is_empty() {
            return Ok(None);
        }
        let layers = self.overlayfs_layer.iter().map(|path| absolute(path));
        Ok(Some(Rootfs::Overlayfs(layers.collect::<Result<_, _>>()?)))
    }
}

impl StreamArgs {
    fn forward(&self) -> Result<Forward, Failure> {
        match (self.no_forward, self.forward_output) {
            (true, Some(true)) => Err(Failure::ForwardBothWays),
            (true, _) | (false, Some(false)) => Ok(Forward::Off),
            (false, _) => Ok(match self.forward_overflow {
                OverflowArg::Block => Forward::Block,
                OverflowArg::Drop => Forward::Drop,
            }),
        }
    }

    fn wants_pty(&self) -> bool {
        let tty = match (self.always_tty, self.never_tty) {
            (true, _) => TtyArg::Always,
            (_, true) => TtyArg::Never,
            _ => self.tty,
        };
        match tty {
            TtyArg::Always => true,
            TtyArg::Never => false,
            TtyArg::Auto => io::stdin().is_terminal() && io::stdout().is_terminal(),
        }
    }
}

impl ChildArgs {
    fn apply(&self, mut command: Command) -> Result<Command, Failure> {
        for EnvArg { key, value } in &self.env {
            command = match value.clone().or_else(|| std::env::var_os(key)) {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let Some(cwd) = &self.cwd else {
            return Ok(command);
        };
        check_directory(cwd, AccessFlags::X_OK).map_err(|error| Failure::Directory {
            what: "working directory",
            path: cwd.clone(),
            reason: reason(&error),
            option: "--cwd",
        })?;
        Ok(command.current_dir(cwd))
    }
}

impl From<OnLogErrorArg> for OnLogError {
    fn from(policy: OnLogErrorArg) -> Self {
        match policy {
            OnLogErrorArg::Pause => Self::Pause,
            OnLogErrorArg::Drop => Self::Drop,
        }
    }
}

impl From<StdinArg> for Input {
    fn from(source: StdinArg) -> Self {
        match source {
            StdinArg::Forward => Self::Forward,
            StdinArg::Null => Self::Null,
        }
    }
}
