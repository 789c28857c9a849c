//! The options of `vmon run`, and what each of them means.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::unistd::AccessFlags;
use vmon::child::{Command, Signal};
use vmon::logfile::{Format, LogOptions, Retention};
use vmon::monitor::{
    Console, ConsoleError, DEFAULT_CONFIG_FILE, Forward, Input, LogRate, Name, OnLogError,
    OverRate, Restart, Rootfs,
};
use vmon::terminal;

use super::files::LifecycleFiles;
use crate::args::{self, ConsoleChoice, EnvArg};
use crate::shared::{Places, SharedArgs, absolute, check_directory};
use crate::{Failure, reason};

/// Run a command under a monitor until it ends, and exit as it did
///
/// The output goes to STATE/log/CONFIG/NAME.log first, then to our stdout and stderr.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "vmon run [OPTIONS] [--] COMMAND [ARG]...",
    after_help = "SIZE is whole bytes or a number with KiB, MiB or GiB (short: K, M, G).\n\
                  TIME is whole seconds or a number with ms, s, m or h.\n\
                  NAME is letters, digits, '_', '.', '+' and '-' after a letter or digit, at most 128 bytes.\n\n\
                  Examples:\n  \
                  vmon run -- make -j4                        at this terminal, and to a log\n  \
                  vmon run -d --name web -- ./server          in the background\n  \
                  vmon run -d --restart on-failure:5 -- ./db  and again when it fails\n  \
                  vmon run --log-format cri -- ./worker       with a log for a log shipper\n  \
                  vmon run -d --log-total-size 64MiB --log-rate 1MiB/s -- ./vm  with bounds\n  \
                  vmon run --console pty -- qemu-system-x86_64 ... -serial {console}\n  \
                  \u{20}                                           at a VM's serial port\n  \
                  vmon run --log-total-size 1G --log-rotate-command 'zstd -q --rm' -- ./db
                                              with all of its log that fits into a gigabyte"
)]
pub struct RunArgs {
    /// The command to run, and its arguments: everything from its name on is the command's
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,

    /// Go on in the background: return when the command runs, with its name and pid
    #[arg(short, long)]
    pub(super) detach: bool,

    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    pub(super) record: RecordArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
    #[command(flatten)]
    pub(super) streams: StreamArgs,
    #[command(flatten)]
    pub(super) child: ChildArgs,
    #[command(flatten)]
    pub(super) lifecycle: LifecycleArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Record")]
pub(super) struct RecordArgs {
    /// The sandbox's name [default: the command's base name, with -2, -3 … while that one runs]
    #[arg(long, value_name = "NAME", alias = "sandbox-name")]
    pub(super) name: Option<Name>,

    /// The namespace of the log and the record
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CONFIG_FILE)]
    pub(super) config_file: Name,

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

    /// Where the control sockets lie, as DIR/CONFIG/NAME.sock [default: $VMON_RUNTIME_DIR, else
    /// STATE/run]
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub(super) runtime_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArgs {
    /// Where the logs lie, as DIR/CONFIG/NAME.log [default: STATE/log]
    #[arg(long, value_name = "DIR")]
    pub(super) log_dir: Option<PathBuf>,

    /// The output as it is, as lines of the Kubernetes container runtime interface, or as lines of
    /// Docker's json-file driver
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormatArg::Raw)]
    log_format: LogFormatArg,

    /// The size at which the log is rotated; 0 never rotates it [default: 10MiB, and at most an
    /// eighth of --log-total-size]
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    log_max_size: Option<u64>,

    /// How many older generations are kept beside the current log; 0 keeps none [default: 1; with
    /// --log-total-size as many as that allows]
    #[arg(long, value_name = "N")]
    log_max_files: Option<u32>,

    /// Remove a generation whose last byte is older than this, at the next rotation or start
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    log_max_age: Option<Duration>,

    /// Rotate the log so long after its first byte, also when nothing more comes
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    log_rotate_every: Option<Duration>,

    /// The most that the log, its older generations and all their indexes may take together; the
    /// oldest generations go
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    log_total_size: Option<u64>,

    /// Run this with 'sh -c' for each generation, a console's too, when it has been rotated away, its
    /// path added as the last argument, one at a time and at low priority: 'gzip', or
    /// 'zstd -q --rm'
    #[arg(
        long,
        value_name = "CMD",
        value_parser = OsStringValueParser::new().try_map(args::shell_command)
    )]
    pub(super) log_rotate_command: Option<OsString>,

    /// Keep a time index beside the log: when each byte came, from which stream, and where runs
    /// begin and end
    #[arg(long, value_name = "SWITCH", value_enum, default_value_t = SwitchArg::On)]
    log_index: SwitchArg,

    /// How fast each of the command's streams may fill the log, and how much may come at once after
    /// a pause [default: without limit; for a rate alone what comes in a second, at least 64KiB]
    #[arg(long, value_name = "SIZE/s[,burst=SIZE]", value_parser = args::rate)]
    log_rate: Option<LogRate>,

    /// With output beyond --log-rate: block the command until its time has come, or drop it, with a
    /// line in its place that says how much that was [default: block]
    #[arg(long, value_name = "POLICY", value_enum)]
    over_rate: Option<OverRateArg>,

    /// While the log can't be written: stop reading the output and lose nothing, or go on and
    /// count what the log lacks
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = OnLogErrorArg::Pause)]
    pub(super) on_log_error: OnLogErrorArg,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Streams")]
pub(super) struct StreamArgs {
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

    /// What the command reads: our stdin, or nothing. With --detach, 'forward' is what those who
    /// attach send [default: forward; with --detach and without a terminal null]
    #[arg(long, value_name = "SOURCE", value_enum)]
    stdin: Option<StdinArg>,

    /// A console beside the command's own streams, with a log NAME@CONSOLE.log: a socket that the
    /// command listens at, or we; a PTY whose path takes the place of {CONSOLE} in the command's
    /// arguments, or one that the command makes; a FIFO. May be repeated
    #[arg(
        long = "console",
        value_name = "[CONSOLE=]unix:PATH|listen:PATH|pty|pty:PATH|fifo:PATH",
        value_parser = OsStringValueParser::new().try_map(args::console)
    )]
    consoles: Vec<Console>,

    /// Where our terminal, or our stdin and stdout, are: stdio for the command's own streams, or a
    /// console, with what the command itself prints in the log alone [default: stdio, or the
    /// console if there is exactly one]
    #[arg(long, value_name = "stdio|CONSOLE")]
    interactive: Option<ConsoleChoice>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
pub(super) struct ChildArgs {
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
    pub(super) stop_signal: Signal,

    /// How long after that signal the command is killed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = args::time)]
    pub(super) stop_timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Lifecycle")]
pub(super) struct LifecycleArgs {
    /// Start the command again when it has ended: no, on-failure[:N] (N times at most), always
    #[arg(long, value_name = "WHEN", default_value = "no", value_parser = args::restart)]
    pub(super) restart: Restart,

    /// Stop the command after this time
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) max_duration: Option<Duration>,

    /// Stop the command when there was neither output nor input for this time
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) idle_timeout: Option<Duration>,

    /// The directory of a cgroup (v2) for the command and all that comes of it; made when missing
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<PathBuf>,

    /// Leave alone what the command has left behind when it ends; otherwise that gets the stop
    /// signal, and KILL after the stop timeout
    #[arg(long)]
    pub(super) leave_descendants: bool,

    /// Write the command's pid to this file while it runs
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Write the exit code to this file when all is over
    #[arg(long, value_name = "FILE")]
    exit_file: Option<PathBuf>,

    /// Run this with 'sh -c' when all is over; $VMON_NAME, $VMON_REASON and $VMON_EXIT_CODE tell
    /// how it ended
    #[arg(long, value_name = "CMD")]
    pub(super) on_exit: Option<OsString>,

    /// How often the command's CPU time and memory are put on record [default: never]
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) metrics_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SwitchArg {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Raw,
    Cri,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum OnLogErrorArg {
    Pause,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum OverRateArg {
    Block,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum OverflowArg {
    Block,
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TtyArg {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StdinArg {
    Forward,
    Null,
}

impl RecordArgs {
    /// Given, or of the environment, or in the state directory.
    pub(super) fn runtime_dir(&self, places: &Places) -> Result<PathBuf, Failure> {
        let variable = std::env::var_os("VMON_RUNTIME_DIR").filter(|value| !value.is_empty());
        match self.runtime_dir.clone().or(variable.map(PathBuf::from)) {
            Some(path) => absolute(&path),
            None => Ok(places.runtime_dir()),
        }
    }

    /// Given, or the time of the config file, or now: to the microsecond, as the record has it.
    pub(super) fn modified(&self) -> DateTime<Utc> {
        let of_file = || std::fs::metadata(self.config_file.as_str()).ok()?.modified().ok();
        self.config_last_modified
            .or_else(|| of_file().map(DateTime::<Utc>::from))
            .unwrap_or_else(Utc::now)
            .trunc_subsecs(6)
    }

    /// With absolute paths: whoever reads the record sits in another directory.
    pub(super) fn rootfs(&self) -> Result<Option<Rootfs>, Failure> {
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
    pub(super) fn forward(&self, detached: bool) -> Result<Forward, Failure> {
        match (self.no_forward, self.forward_output) {
            (true, Some(true)) => Err(Failure::ForwardBothWays),
            (false, Some(true)) if detached => Err(Failure::ForwardDetached),
            (true, _) | (false, Some(false)) => Ok(Forward::Off),
            (false, _) if detached => Ok(Forward::Off),
            (false, _) => Ok(match self.forward_overflow {
                OverflowArg::Block => Forward::Block,
                OverflowArg::Drop => Forward::Drop,
            }),
        }
    }

    /// No terminal is a detached run's, so there `auto` is never.
    pub(super) fn wants_pty(&self, detached: bool) -> bool {
        let tty = match (self.always_tty, self.never_tty) {
            (true, _) => TtyArg::Always,
            (_, true) => TtyArg::Never,
            _ => self.tty,
        };
        match tty {
            TtyArg::Always => true,
            TtyArg::Never => false,
            TtyArg::Auto => {
                let ours = !detached && self.interactive().is_none();
                ours && terminal::stdin().is_terminal() && terminal::stdout().is_terminal()
            }
        }
    }

    /// The consoles, with absolute paths: whoever reads the record sits in another directory.
    pub(super) fn consoles(&self) -> Result<Vec<Console>, Failure> {
        let console = |console: &Console| {
            let path = console.path().map(absolute).transpose()?;
            let console = match path {
                Some(path) => console.clone().at(path),
                None => console.clone(),
            };
            console.check()?;
            Ok(console)
        };
        let is_second = |at: usize, console: &Console| {
            self.consoles.iter().take(at).any(|other| other.name() == console.name())
        };
        let mut named = self.consoles.iter().enumerate();
        if let Some((_, second)) = named.find(|(at, console)| is_second(*at, console)) {
            return Err(ConsoleError::Duplicate(second.name().to_string()).into());
        }
        if let Some(name) = self.interactive()
            && !self.consoles.iter().any(|console| console.name() == name)
        {
            return Err(ConsoleError::NoSuchConsole(name.to_string()).into());
        }
        self.consoles.iter().map(console).collect()
    }

    /// The console that our terminal is at.
    pub(super) fn interactive(&self) -> Option<&Name> {
        match (&self.interactive, self.consoles.as_slice()) {
            (Some(choice), _) => choice.name(),
            (None, [only]) => Some(only.name()),
            (None, _) => None,
        }
    }

    pub(super) fn input(&self, detached: bool) -> Input {
        match (self.stdin, detached) {
            (Some(StdinArg::Null), _) => Input::Null,
            (_, false) => Input::Forward,
            (Some(StdinArg::Forward), true) => Input::Attached,
            // Whoever opens a terminal wants to type; a pipe without writers never ends.
            (None, true) if self.wants_pty(true) => Input::Attached,
            (None, true) => Input::Null,
        }
    }
}

impl LogArgs {
    pub(super) fn rate(&self) -> Result<Option<LogRate>, Failure> {
        let over = match (self.over_rate, self.log_rate) {
            (Some(_), None) => return Err(Failure::OverNoRate),
            (Some(OverRateArg::Drop), _) => OverRate::Drop,
            (Some(OverRateArg::Block) | None, _) => OverRate::Block,
        };
        Ok(self.log_rate.map(|rate| LogRate { over, ..rate }))
    }

    /// With what was left out filled in; what can't be true together is told.
    fn retention(&self) -> Result<Retention, Failure> {
        let defaults = Retention::default();
        let mut retention = Retention {
            max_size: self.log_max_size.unwrap_or(defaults.max_size),
            max_files: self.log_max_files.unwrap_or(defaults.max_files),
            max_age: self.log_max_age,
            rotate_every: self.log_rotate_every,
            total_size: self.log_total_size,
        };
        let command = self.log_rotate_command.is_some();
        if command && self.log_max_files == Some(0) {
            return Err(Failure::NothingToRotate);
        }
        let Some(total) = self.log_total_size else { return Ok(retention) };
        if total < Retention::SMALLEST_TOTAL {
            return Err(Failure::TotalTooSmall);
        }
        let most = Retention::largest_max_size(total, command);
        match self.log_max_size {
            Some(0) => return Err(Failure::TotalWithoutEnd),
            Some(max_size) if max_size > most => {
                return Err(Failure::LargerThanTotal { max_size, total, most, command });
            }
            Some(_) => {}
            None => retention.max_size = retention.max_size.min(total / 8),
        }
        // Whoever gives a total alone wants as many as that holds.
        retention.max_files = self.log_max_files.unwrap_or(u32::MAX);
        Ok(retention)
    }

    pub(super) fn options(&self) -> Result<LogOptions, Failure> {
        let retention = self.retention()?;
        let index = self.log_index == SwitchArg::On;
        Ok(LogOptions { retention, format: self.log_format.into(), index })
    }
}

impl LifecycleArgs {
    /// With absolute paths, in directories that we may write into.
    pub(super) fn files(&self) -> Result<LifecycleFiles, Failure> {
        let place = |path: &Option<PathBuf>, what, option| match path {
            Some(path) => file_place(path, what, option).map(Some),
            None => Ok(None),
        };
        Ok(LifecycleFiles {
            pid: place(&self.pid_file, "directory of the PID file", "--pid-file")?,
            exit: place(&self.exit_file, "directory of the exit file", "--exit-file")?,
        })
    }
}

fn file_place(path: &Path, what: &'static str, option: &'static str) -> Result<PathBuf, Failure> {
    let path = absolute(path)?;
    let failed =
        |path: &Path, reason| Failure::Directory { what, path: path.to_owned(), reason, option };
    let (Some(parent), Some(_), false) = (path.parent(), path.file_name(), path.is_dir()) else {
        return Err(failed(&path, "it names a directory, not a file"));
    };
    // What is there is replaced by a new file: not to happen to a device or a FIFO.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(failed(&path, "it is no regular file, and would be replaced by one"));
    }
    let flags = AccessFlags::W_OK | AccessFlags::X_OK;
    check_directory(parent, flags).map_err(|error| failed(parent, reason(&error)))?;
    Ok(path)
}

impl ChildArgs {
    pub(super) fn apply(&self, mut command: Command) -> Result<Command, Failure> {
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

impl From<LogFormatArg> for Format {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Raw => Self::Raw,
            LogFormatArg::Cri => Self::Cri,
            LogFormatArg::Json => Self::Json,
        }
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
