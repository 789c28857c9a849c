//! The arguments of `vmon run`, and their conversion to a [`Plan`].

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use clap::{ArgAction, ValueEnum};
use vmon::child::Command;
use vmon::logfile::{Format, LogOptions, Retention};
use vmon::monitor::{
    Console, DEFAULT_CONFIG_FILE, DEFAULT_KEEP_RUNS, Forward, Input, LogRate, Name, OnLogError,
    OverRate, Restart, Rootfs, Sandbox,
};
use vmon::terminal::WindowSize;
use vmon::{terminal, values};

use super::child_args::ChildArgs;
use super::lifecycle_files::LifecycleFiles;
use super::options::Options;
use super::plan::Plan;
use crate::args::{self, ConsoleChoice, LabelArg, one_of, os};
use crate::name_choice::NameChoice;
use crate::shared_args::SharedArgs;
use crate::{Failure, notify};

/// Run a command, log its output, and exit with its exit code
///
/// Each byte of output is written to STATE/log/CONFIG/NAME.log first, then to stdout or stderr.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "vmon run [OPTIONS] [--] COMMAND [ARG]...",
    after_help = "SIZE is whole bytes or a number with KiB, MiB or GiB (short: K, M, G).\n\
                  TIME is whole seconds or a number with ms, s, m or h.\n\
                  NAME, CONFIG and CONSOLE are letters, digits, '_', '.', '+' and '-' after a letter or digit,\n\
                  at most 128 bytes.\n\n\
                  BACKEND of a console is one of\n  \
                  unix:PATH      a socket that the command listens on\n  \
                  unix-any:PATH  a socket that the command or another program listens on\n  \
                  listen:PATH    a socket that vmon listens on\n  \
                  pty            a new PTY, whose path replaces {CONSOLE} in the command's arguments\n  \
                  pty:PATH       a PTY that the command creates\n  \
                  fifo:PATH      a FIFO that the command writes to\n\
                  CONSOLE is 'console' if it is not given.\n\n\
                  Examples:\n  \
                  vmon run -- make -j4                        on this terminal, with a log\n  \
                  vmon run -d --name web -- ./server          in the background\n  \
                  vmon run -d --restart on-failure:5 -- ./db  restarted when it fails\n  \
                  vmon run -d --label app=shop -- ./server    with a label, for 'vmon ps --filter'\n  \
                  vmon run -d --via /run/vmon.sock -- ./job   in the process of a 'vmon serve'\n  \
                  vmon run --log-format cri -- ./worker       with a log that log shippers read\n  \
                  vmon run -d --log-total-size 64MiB --log-rate 1MiB/s -- ./vm  with limits\n  \
                  vmon run --console pty -- qemu-system-x86_64 ... -serial {console}\n  \
                  \u{20}                                           on a VM's serial port\n  \
                  vmon run --log-total-size 1G --log-rotate-command 'zstd -q --rm' -- ./db
                                              with at most 1 GiB of log, compressed"
)]
pub struct RunArgs {
    /// The command to run, and its arguments. Options after COMMAND are the command's
    #[arg(value_name = "COMMAND", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,

    /// Run in the background: print NAME and PID once the command runs, then exit
    #[arg(short, long)]
    pub(super) detach: bool,

    /// With --detach: have the 'vmon serve' at this socket supervise the command, instead of a
    /// process of its own [default: $VMON_HOST, else none]
    #[arg(long, value_name = "SOCKET")]
    pub(super) via: Option<PathBuf>,

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
    /// Name of the sandbox [default: the command's base name, with -2, -3 … appended while that name
    /// is in use]
    #[arg(long, value_name = "NAME", alias = "sandbox-name")]
    pub(super) name: Option<Name>,

    /// Namespace of the sandbox in the log directory and the record
    #[arg(long, value_name = "CONFIG", default_value = DEFAULT_CONFIG_FILE)]
    pub(super) config_file: Name,

    /// Modification time of the config file, as RFC 3339 [default: that of the file CONFIG in the
    /// current directory, else now]
    #[arg(long, value_name = "TIME", value_parser = args::date)]
    config_last_modified: Option<DateTime<Utc>>,

    /// Label of the sandbox, to list and select it by; the value may be empty. May be repeated. KEY is
    /// letters, digits, '.', '_', '-' and '/'; VALUE has no control characters
    #[arg(long = "label", short, value_name = "KEY[=VALUE]", value_parser = args::label)]
    labels: Vec<LabelArg>,

    /// Directory of the root file system; recorded, not mounted
    #[arg(long, value_name = "PATH")]
    native_rootfs: Option<PathBuf>,

    /// Overlayfs layers of the root file system, lowest first; recorded, not mounted. May be repeated;
    /// '--' ends the paths
    #[arg(
        long,
        value_name = "PATH",
        num_args = 1..,
        conflicts_with = "native_rootfs",
        value_parser = os(args::layer)
    )]
    overlayfs_layer: Vec<PathBuf>,

    /// Directory of the control sockets, DIR/CONFIG/NAME.sock [default: $VMON_RUNTIME_DIR, else
    /// STATE/run]
    #[arg(long, value_name = "DIR", help_heading = "Paths")]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// A value of `--log-format`: a format of the log, or the journal.
#[derive(Debug, Clone, Copy)]
struct LogFormat(Option<Format>);

impl FromStr for LogFormat {
    type Err = <Format as FromStr>::Err;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "journald" { Ok(Self(None)) } else { word.parse().map(|it| Self(Some(it))) }
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogArgs {
    /// Directory of the logs, DIR/CONFIG/NAME.log [default: STATE/log]
    #[arg(long, value_name = "DIR")]
    pub(super) log_dir: Option<PathBuf>,

    /// Whether there is a log, of the consoles too. Without one, the output is only forwarded, and
    /// attached clients get it
    #[arg(
        long = "log",
        value_name = "SWITCH",
        default_value = "on",
        value_parser = args::switch(),
        action = ArgAction::Set
    )]
    log_switch: bool,

    /// Log format: the unchanged output, Kubernetes CRI log lines, or Docker json-file lines.
    /// 'journald' sends the lines to the journal of systemd too, and may be given beside one of them
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "raw",
        value_parser = one_of::<LogFormat>(&["raw", "cri", "json", "journald"]),
    )]
    log_format: Vec<LogFormat>,

    /// Rotate the log at this size; 0 disables rotation [default: 10MiB, at most an eighth of
    /// --log-total-size]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    log_max_size: Option<u64>,

    /// Number of rotated generations to keep; 0 keeps none [default: 1; with --log-total-size as
    /// many as fit]
    #[arg(long, value_name = "N")]
    log_max_files: Option<u32>,

    /// Remove generations whose last byte is older than this, at each rotation and at the start
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    log_max_age: Option<Duration>,

    /// Rotate the log this long after its first byte, even without new output
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    log_rotate_every: Option<Duration>,

    /// Maximum total size of the log, its generations and their indexes; the oldest generations are
    /// removed first
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    log_total_size: Option<u64>,

    /// Command to run with 'sh -c' after each rotation of a log, consoles included, such as 'gzip'
    /// or 'zstd -q --rm'. Its last argument is the path of the generation. One runs at a time, at
    /// low priority
    #[arg(long, value_name = "CMD", value_parser = os(args::shell_command))]
    pub(super) log_rotate_command: Option<OsString>,

    /// Write a time index beside the log: the time and stream of each byte, and where runs begin and
    /// end
    #[arg(
        long,
        value_name = "SWITCH",
        default_value = "on",
        value_parser = args::switch(),
        action = ArgAction::Set
    )]
    log_index: bool,

    /// Rate limit of each output stream, and the burst that is allowed after a pause [default: no
    /// limit; the burst is the rate for one second, at least 64KiB]
    #[arg(long, value_name = "SIZE/s[,burst=SIZE]")]
    log_rate: Option<LogRate>,

    /// What to do with output beyond --log-rate: block the command, or drop the output and write the
    /// number of dropped bytes in its place [default: block]
    #[arg(long, value_name = "POLICY", value_parser = one_of::<OverRate>(OverRate::WORDS))]
    over_rate: Option<OverRate>,

    /// What to do while the log can't be written: pause reading the output, so that nothing is lost,
    /// or drop it from the log and write the number of dropped bytes later
    #[arg(
        long,
        value_name = "POLICY",
        default_value_t,
        value_parser = one_of::<OnLogError>(OnLogError::WORDS)
    )]
    on_log_error: OnLogError,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Streams")]
pub(super) struct StreamArgs {
    /// Write the output to the log only, not to stdout and stderr
    #[arg(long)]
    no_forward: bool,

    /// Forward the output (the default)
    #[arg(
        long,
        value_name = "BOOL",
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    forward_output: Option<bool>,

    /// What to do while stdout or the terminal is too slow: block the command, so that nothing is
    /// lost, or drop output and write the number of dropped bytes in its place
    #[arg(
        long,
        value_name = "POLICY",
        default_value_t = Forward::Block,
        value_parser = one_of::<Forward>(&["block", "drop"])
    )]
    forward_overflow: Forward,

    /// Allocate a PTY for the command; auto: if stdin and stdout are terminals
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = TtyArg::Auto)]
    tty: TtyArg,

    /// The same as '--tty always'
    #[arg(short = 't', conflicts_with_all = ["tty", "no_tty"])]
    always_tty: bool,

    /// The same as '--tty never'
    #[arg(short = 'T', id = "no_tty", conflicts_with = "tty")]
    never_tty: bool,

    /// Size of the PTY at the start, such as 24x80. It follows later changes of the terminal's size, and
    /// the size of clients that attach [default: that of the terminal, else 24x80]
    #[arg(long, value_name = "ROWSxCOLUMNS", value_parser = args::window_size)]
    tty_size: Option<WindowSize>,

    /// Input of the command: forward stdin (with --detach: the input of attached clients), or
    /// /dev/null [default: 'forward'; 'null' with --detach on pipes]
    #[arg(long, value_name = "SOURCE", value_parser = one_of::<Input>(&["forward", "null"]))]
    stdin: Option<Input>,

    /// Add a console beside the command's stdio, with the log NAME@CONSOLE.log. May be repeated
    #[arg(
        long = "console",
        value_name = "[CONSOLE=]BACKEND",
        value_parser = os(|text| Console::try_from(text.as_os_str()))
    )]
    consoles: Vec<Console>,

    /// Connect the terminal to the command's stdio or to this console. With a console, the command's
    /// own output goes to the log only [default: stdio, or the console if there is exactly one]
    #[arg(long, value_name = "stdio|CONSOLE")]
    interactive: Option<ConsoleChoice>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Lifecycle")]
pub(super) struct LifecycleArgs {
    /// Restart policy when the command ends: no, on-failure[:N] (at most N times), or always
    #[arg(long, value_name = "WHEN", default_value_t)]
    restart: Restart,

    /// Stop the command after this time
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) max_duration: Option<Duration>,

    /// Stop the command after this time without input and output
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) idle_timeout: Option<Duration>,

    /// Number of runs of the sandbox that stay on record, the newest; 0 keeps all. A run whose output
    /// is in a log or one of its generations stays too
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEEP_RUNS)]
    keep_runs: u32,

    /// Run the command in the cgroup (v2) of this directory, which is created if missing
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<PathBuf>,

    /// Leave processes that outlive the command running. Without this option they get the stop signal,
    /// and SIGKILL after the stop timeout
    #[arg(long)]
    pub(super) leave_descendants: bool,

    /// File that has the command's pid while it runs
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Write the exit code to this file after the end of the run
    #[arg(long, value_name = "FILE")]
    exit_file: Option<PathBuf>,

    /// Command to run with 'sh -c' after the end of the run, with $VMON_NAME, $VMON_REASON,
    /// $VMON_EXIT_CODE and others set
    #[arg(long, value_name = "CMD")]
    pub(super) on_exit: Option<OsString>,

    /// Record the command's CPU time and memory at this interval [default: never]
    #[arg(long, value_name = "TIME", value_parser = args::positive_time)]
    pub(super) metrics_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TtyArg {
    Auto,
    Always,
    Never,
}

impl RunArgs {
    /// Makes the plan that these options describe, and checks it.
    pub(super) fn into_plan(self) -> Result<Plan, Failure> {
        let Self { command, detach, via: _, shared, record, log, streams, child, lifecycle } = self;
        let places = shared.places()?;
        let mut words = command.into_iter();
        // clap requires at least one word.
        let program = words.next().unwrap_or_default();
        let name = match &record.name {
            Some(given) => NameChoice { first: given.clone(), is_given: true },
            None => NameChoice::of_program(&program)?,
        };
        let mut command = Command::new(program).args(words).pty(streams.wants_pty(detach));
        if let Some(size) = streams.tty_size {
            if !command.get_pty() {
                return Err(Failure::SizeNoTty);
            }
            command = command.pty_size(size.rows, size.columns);
        }
        let log_dir = log.log_dir.clone().unwrap_or_else(|| places.default_log_dir());
        let mut sandbox = Sandbox::new(name.first.as_str(), log_dir)?
            .config_file(record.config_file.clone())
            .config_last_modified(record.modified())
            .log_off(log.is_off()?)
            .log(log.options())
            .journal(log.journal()?)
            .on_log_error(log.on_log_error)
            .forward(streams.forward(detach)?)
            .input(streams.input(detach))
            .stop_signal(child.stop_signal)
            .stop_timeout(child.stop_timeout)
            .restart(lifecycle.restart)
            .leave_descendants(lifecycle.leave_descendants)
            .keep_runs(lifecycle.keep_runs);
        if let Some(command) = &log.log_rotate_command {
            sandbox = sandbox.rotate_command(command);
        }
        sandbox.stop_command.clone_from(&child.stop_command);
        sandbox.log_rate = log.rate()?;
        sandbox.interactive = streams.interactive().cloned();
        sandbox.consoles = streams.consoles;
        sandbox.max_duration = lifecycle.max_duration;
        sandbox.idle_timeout = lifecycle.idle_timeout;
        sandbox.cgroup = lifecycle.cgroup;
        for LabelArg { key, value } in record.labels {
            sandbox.labels.insert(key, value)?;
        }
        sandbox.rootfs = match record.native_rootfs {
            Some(path) => Some(Rootfs::Native(path)),
            None if record.overlayfs_layer.is_empty() => None,
            None => Some(Rootfs::Overlayfs(record.overlayfs_layer)),
        };
        let variable = std::env::var_os("VMON_RUNTIME_DIR").filter(|value| !value.is_empty());
        let options = Options {
            runtime_dir: record.runtime_dir.or(variable.map(PathBuf::from)),
            files: LifecycleFiles { pid: lifecycle.pid_file, exit: lifecycle.exit_file },
            on_exit: lifecycle.on_exit,
            metrics_interval: lifecycle.metrics_interval,
            log_level: shared.log_level,
            host: None,
        };
        let command = child.apply(notify::hide(command))?;
        Plan { places, name, sandbox, command, options }.checked()
    }
}

impl RecordArgs {
    /// The given time, else that of the config file, else now; truncated to microseconds, as in the
    /// record.
    fn modified(&self) -> DateTime<Utc> {
        let of_file = || std::fs::metadata(self.config_file.as_str()).ok()?.modified().ok();
        self.config_last_modified
            .or_else(|| of_file().map(DateTime::<Utc>::from))
            .unwrap_or_else(Utc::now)
            .trunc_subsecs(6)
    }
}

impl StreamArgs {
    fn forward(&self, detached: bool) -> Result<Forward, Failure> {
        match (self.no_forward, self.forward_output) {
            (true, Some(true)) => Err(Failure::ForwardBothWays),
            (false, Some(true)) if detached => Err(Failure::ForwardDetached),
            (true, _) | (false, Some(false)) => Ok(Forward::Off),
            (false, _) if detached => Ok(Forward::Off),
            (false, _) => Ok(self.forward_overflow),
        }
    }

    /// `auto` is `never` for a detached run, which has no terminal.
    fn wants_pty(&self, detached: bool) -> bool {
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

    /// The console that the terminal is connected to.
    fn interactive(&self) -> Option<&Name> {
        match (&self.interactive, self.consoles.as_slice()) {
            (Some(choice), _) => choice.name(),
            (None, [only]) => Some(only.name()),
            (None, _) => None,
        }
    }

    fn input(&self, detached: bool) -> Input {
        match (self.stdin, detached) {
            (Some(Input::Null), _) => Input::Null,
            (_, false) => Input::Forward,
            (Some(_), true) => Input::Attached,
            // A PTY gets the input of attached clients. A pipe does not: without a client, the command
            // would never read end of file.
            (None, true) if self.wants_pty(true) => Input::Attached,
            (None, true) => Input::Null,
        }
    }
}

impl LogArgs {
    fn rate(&self) -> Result<Option<LogRate>, Failure> {
        match (self.log_rate, self.over_rate) {
            (None, Some(_)) => Err(Failure::OverNoRate),
            (Some(rate), Some(over)) => Ok(Some(rate.over(over))),
            (rate, None) => Ok(rate),
        }
    }

    /// Whether there is no log. Then options that only a log has are an error.
    fn is_off(&self) -> Result<bool, Failure> {
        let formats = || self.log_format.iter().map(|format| format.0);
        // The journal can hold up the output as a log can.
        let has_journal = formats().any(|format| format.is_none());
        let given = [
            (self.log_max_size.is_some(), "--log-max-size"),
            (self.log_max_files.is_some(), "--log-max-files"),
            (self.log_max_age.is_some(), "--log-max-age"),
            (self.log_rotate_every.is_some(), "--log-rotate-every"),
            (self.log_total_size.is_some(), "--log-total-size"),
            (self.log_rotate_command.is_some(), "--log-rotate-command"),
            (formats().flatten().any(|format| format != Format::default()), "--log-format"),
            (self.on_log_error != OnLogError::default() && !has_journal, "--on-log-error"),
        ];
        match given.iter().find(|(given, _)| *given && !self.log_switch) {
            Some((_, option)) => Err(Failure::LogOff(option)),
            None => Ok(!self.log_switch),
        }
    }

    /// The options of the log, with defaults for those that were not given.
    fn options(&self) -> LogOptions {
        let defaults = Retention::default();
        let total = self.log_total_size;
        let max_size = total.map_or(defaults.max_size, |total| defaults.max_size.min(total / 8));
        // With a total size alone, only that limits the number of generations.
        let max_files = total.map_or(defaults.max_files, |_| u32::MAX);
        let retention = defaults
            .max_size(self.log_max_size.unwrap_or(max_size))
            .max_files(self.log_max_files.unwrap_or(max_files))
            .max_age(self.log_max_age)
            .rotate_every(self.log_rotate_every)
            .total_size(total);
        let format = self.log_format.iter().find_map(|format| format.0).unwrap_or_default();
        LogOptions::default().retention(retention).format(format).index(self.log_index)
    }

    /// Whether the lines go to the journal too. Of the formats of the file, one may be given.
    fn journal(&self) -> Result<bool, Failure> {
        match self.log_format.iter().filter(|format| format.0.is_some()).count() {
            0 | 1 => Ok(self.log_format.iter().any(|format| format.0.is_none())),
            _ => Err(Failure::LogFormats),
        }
    }
}
