//! The description of what is run and how: its name, its log, its streams, how it is stopped.
//!
//! Only a description: nothing here touches the disk or a process. Each option of a sandbox is a
//! field of [`Sandbox`] and a line of its codec (the module `codec`).

#[cfg(feature = "codec")]
pub mod codec;
mod options;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::console::Console;
use super::labels::{LabelError, Labels};
use super::name::{Name, NameError};
use crate::child::Signal;
use crate::logfile::{LogOptions, names};
pub use options::{Forward, Input, LogRate, OnLogError, OverRate, Restart, Rootfs};

/// The config file, and so the namespace, of a sandbox that names none: the ecosystem's default.
pub const DEFAULT_CONFIG_FILE: &str = "Sandboxfile";

/// How long after the stop signal a child is killed by default.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How many runs of a sandbox stay on record, unless it says otherwise.
pub const DEFAULT_KEEP_RUNS: u32 = 1000;

/// The description of one sandbox. A record holds it, and `vmon restart` starts it again.
///
/// Each field has a method of its name that sets it.
///
/// ```
/// use std::time::Duration;
/// use vmon::child::Signal;
/// use vmon::monitor::{Forward, Rootfs, Sandbox};
///
/// # fn main() -> Result<(), vmon::monitor::NameError> {
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?
///     .rootfs(Rootfs::Native("/srv/rootfs".into()))
///     .forward(Forward::Block)
///     .stop_signal(Signal::INT)
///     .stop_timeout(Duration::from_secs(3));
/// assert_eq!((sandbox.name.as_str(), sandbox.config_file.as_str()), ("web", "Sandboxfile"));
/// assert_eq!(sandbox.stop_timeout, Duration::from_secs(3));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sandbox {
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// When its config file was last modified; recorded.
    pub config_last_modified: DateTime<Utc>,
    /// Its labels; recorded, and of no effect on how it is run.
    pub labels: Labels,
    /// The directory above `<config_file>/<name>.log`.
    pub log_dir: PathBuf,
    /// Whether it has no logs.
    pub log_off: bool,
    /// The format and the retention of its logs, and whether they have an index.
    pub log: LogOptions,
    /// The command that is run with each rotated generation. An empty one is none.
    pub rotate_command: Option<OsString>,
    /// Whether the lines of the child's own output go to the journal of systemd too.
    pub journal: bool,
    /// What happens while the log can't be written.
    pub on_log_error: OnLogError,
    /// How fast each stream may fill the log; `None` is without limit.
    pub log_rate: Option<LogRate>,
    /// Its root file system; recorded, not mounted.
    pub rootfs: Option<Rootfs>,
    /// Where the output goes beside the log.
    pub forward: Forward,
    /// What the child reads.
    pub input: Input,
    /// The signal of a stop.
    pub stop_signal: Signal,
    /// What is run to stop the child, in place of the signal. An empty one is none.
    pub stop_command: Option<OsString>,
    /// How long after the stop signal the child is killed.
    pub stop_timeout: Duration,
    /// Whether a command that has ended is started again.
    pub restart: Restart,
    /// How long one run may take.
    pub max_duration: Option<Duration>,
    /// How long there may be neither output nor input.
    pub idle_timeout: Option<Duration>,
    /// Whether the processes that the child leaves behind go on running.
    pub leave_descendants: bool,
    /// The directory of the child's cgroup.
    pub cgroup: Option<PathBuf>,
    /// The consoles beside the child's own streams, without those on a host's descriptors.
    pub consoles: Vec<Console>,
    /// The console that `forward` and `input` apply to.
    pub interactive: Option<Name>,
    /// How many of its runs stay on record, the newest; 0 keeps all. A run whose output is in a log
    /// stays too.
    pub keep_runs: u32,
}

impl Sandbox {
    /// A sandbox of this name, which logs to `<log_dir>/<config_file>/<name>.log`.
    ///
    /// By default its config file is [`DEFAULT_CONFIG_FILE`] and counts as modified now, it forwards
    /// nothing, takes no input, has no root file system on record, and is stopped with TERM and
    /// killed ten seconds later.
    ///
    /// # Errors
    ///
    /// A [`NameError`] that says what a name may be.
    pub fn new(name: impl Into<String>, log_dir: impl Into<PathBuf>) -> Result<Self, NameError> {
        Ok(Self {
            name: Name::new(name)?,
            config_file: Name::new(DEFAULT_CONFIG_FILE)?,
            config_last_modified: Utc::now().trunc_subsecs(6),
            labels: Labels::default(),
            log_dir: log_dir.into(),
            log_off: false,
            log: LogOptions::default(),
            rotate_command: None,
            journal: false,
            on_log_error: OnLogError::default(),
            log_rate: None,
            rootfs: None,
            forward: Forward::default(),
            input: Input::default(),
            stop_signal: Signal::TERM,
            stop_command: None,
            stop_timeout: DEFAULT_STOP_TIMEOUT,
            restart: Restart::No,
            max_duration: None,
            idle_timeout: None,
            leave_descendants: false,
            cgroup: None,
            consoles: Vec::new(),
            interactive: None,
            keep_runs: DEFAULT_KEEP_RUNS,
        })
    }

    /// The namespace of its log and record. Two sandboxes of one name differ in it.
    #[must_use]
    pub fn config_file(mut self, config_file: Name) -> Self {
        self.config_file = config_file;
        self
    }

    /// When the config file was last modified; recorded.
    #[must_use]
    pub fn config_last_modified(mut self, at: DateTime<Utc>) -> Self {
        self.config_last_modified = at;
        self
    }

    /// Adds a label, a key with a value of the user's choice, which replaces one of the same key.
    /// Labels are recorded, and commands list sandboxes with them and select sandboxes by them.
    ///
    /// ```
    /// use vmon::monitor::Sandbox;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sandbox = Sandbox::new("web", "/var/lib/host/log")?.label("app", "shop")?;
    /// assert_eq!(sandbox.labels.get("app"), Some("shop"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`LabelError`] that says what a label may be: see [`Labels`]. A sandbox has at most 256, of
    /// 64 KiB in all.
    pub fn label(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, LabelError> {
        self.labels.insert(key, value)?;
        Ok(self)
    }

    /// The root file system; recorded, not mounted.
    #[must_use]
    pub fn rootfs(mut self, rootfs: Rootfs) -> Self {
        self.rootfs = Some(rootfs);
        self
    }

    /// Whether the output also goes to our stdout and stderr, and what happens when they do not
    /// keep up.
    ///
    /// Where one of our stdin, stdout and stderr is a terminal, this (as [`input`](Self::input)
    /// and a command on a PTY) blocks `SIGTTIN` and `SIGTTOU` for the thread that runs the
    /// reactor, for good: from the background, the terminal must not stop the process.
    #[must_use]
    pub fn forward(mut self, forward: Forward) -> Self {
        self.forward = forward;
        self
    }

    /// What the child reads.
    #[must_use]
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// The format and the retention of its logs, and whether they have an index.
    #[must_use]
    pub fn log(mut self, options: LogOptions) -> Self {
        self.log = options;
        self
    }

    /// Whether the sandbox has no logs, of its consoles neither: no directory is made and no log
    /// claimed, its output is only forwarded, and an attached client gets no tail. Nothing counts as
    /// logged, except for what goes to the [journal](Self::journal), which then is the only log.
    ///
    /// [Log drivers](super::Builder::log_drivers) apply all the same.
    #[must_use]
    pub fn log_off(mut self, off: bool) -> Self {
        self.log_off = off;
        self
    }

    /// The command that is run with each rotated generation of the log, and of each console's:
    /// `gzip`, say, or `zstd -q --rm`. An empty command disables it.
    ///
    /// It is run by `sh -c` with the generation's absolute path added as its last argument
    /// (`"$@"`), one at a time for all logs of the sandbox, which take turns, and never waited for:
    /// in a process group of its own, with the null device as its streams and no other descriptor, every signal at its default, nice 19 and, on
    /// Linux, idle I/O priority. Generations that are removed before their turn are skipped. A
    /// failure is a warning that names the path and the status; of a generation that is still
    /// there as it was then, a compressed one beside it is removed.
    ///
    /// It is not part of the sandbox: a stop does not signal it, and the end of the run does not
    /// wait for it. One that runs then goes on by itself, followed, in one more shell, by those whose
    /// turn has not come. The reactor reaps them as long as it is polled. What a host or machine that
    /// went down has left undone is done when the log is opened again: the command is run once more
    /// for each generation without a recorded end.
    #[must_use]
    pub fn rotate_command(mut self, command: impl Into<OsString>) -> Self {
        self.rotate_command = Some(command.into()).filter(|command| !is_blank(command));
        self
    }

    /// What happens while the log can't be written.
    #[must_use]
    pub fn on_log_error(mut self, policy: OnLogError) -> Self {
        self.on_log_error = policy;
        self
    }

    /// How fast each of the child's streams may fill the log; without limit by default.
    #[must_use]
    pub fn log_rate(mut self, rate: LogRate) -> Self {
        self.log_rate = Some(rate);
        self
    }

    /// The signal of a stop.
    #[must_use]
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// The command that is run to stop the child, in place of the signal: for a guest that needs more
    /// than that, `ssh guest poweroff`, say, or a `system_powerdown` on its QMP socket. An empty
    /// command disables it.
    ///
    /// It is run by `sh -c` at each stop, also at that of [`max_duration`](Self::max_duration) and
    /// [`idle_timeout`](Self::idle_timeout), with the environment and the working directory of the
    /// child (those of this process, for a child that a host hands over) and `VMON_PID`, `VMON_NAME`
    /// and `VMON_CONFIG`, the child's pid and the sandbox's name and config file: in a process group
    /// of its own, with the null device as its streams and no other descriptor, every signal at its
    /// default, and the parent-death signal of the child. On Linux it is killed with this process.
    ///
    /// It runs as the user of this process. If the child has a user id of its own
    /// ([`Command::uid`](crate::child::Command::uid)), `HOME`, `USER`, `LOGNAME` and `SHELL` are those
    /// of this process, or not set, whatever the child has: a program that runs files of its user's
    /// home directory runs none of the child's user. A program that loads code from its working
    /// directory, as `python -c` does, loads that of the child's directory.
    ///
    /// The loop does not wait for it. Once it has succeeded the child is expected to end, and no
    /// signal is sent. If it can't be started, or fails, that is a warning with its status, and the
    /// stop signal follows. The [stop timeout](Self::stop_timeout) runs from the start of the
    /// command, and a second request kills the child as ever. A command that still runs when the
    /// child has ended is killed.
    #[must_use]
    pub fn stop_command(mut self, command: impl Into<OsString>) -> Self {
        self.stop_command = Some(command.into()).filter(|command| !is_blank(command));
        self
    }

    /// How long after the stop signal the child is killed.
    ///
    /// The same timeout bounds how long new bytes of a descendant are taken after the child's
    /// end.
    #[must_use]
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Whether the command is started again when it has ended. A child that a host hands over never
    /// is.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long one run may take; then it is stopped.
    #[must_use]
    pub fn max_duration(mut self, time: Duration) -> Self {
        self.max_duration = Some(time);
        self
    }

    /// How long there may be neither output nor input; then it is stopped.
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = Some(time);
        self
    }

    /// How many runs stay on record: the newest ones, and those whose output is in a log or one of its
    /// generations. Each start removes a few older ones. 0 keeps all.
    #[must_use]
    pub fn keep_runs(mut self, runs: u32) -> Self {
        self.keep_runs = runs;
        self
    }

    /// Whether the lines of the child's own output go to the journal of systemd too, beside the log, or
    /// [instead of it](Self::log_off).
    /// Their fields are `MESSAGE`, `PRIORITY` (6, or 3 for standard error), `SYSLOG_IDENTIFIER` and
    /// `VMON_NAME` (the name), `VMON_CONFIG_FILE`, `VMON_PARTIAL=true` for what ends no line, and
    /// `VMON_LEVEL` for the level of a line that begins with one, as in sd-daemon(3).
    ///
    /// A start fails with [`StartError::NoJournal`](super::StartError::NoJournal) if the library is
    /// built without its feature `journald`, or for another system than Linux. [Log
    /// drivers](super::Builder::log_drivers) take the place of this journal too.
    #[must_use]
    pub fn journal(mut self, journal: bool) -> Self {
        self.journal = journal;
        self
    }

    /// Whether the processes that the child leaves behind go on running. Otherwise they get the stop
    /// signal, and KILL after the stop timeout.
    #[must_use]
    pub fn leave_descendants(mut self, leave: bool) -> Self {
        self.leave_descendants = leave;
        self
    }

    /// The directory of the cgroup (v2, cgroups(7)) that the child is put into, made when it is
    /// missing. Whatever is in it belongs to the child.
    #[must_use]
    pub fn cgroup(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(directory.into());
        self
    }

    /// A console beside the child's own streams, with a log of its own. Any number, each with a
    /// name of its own; a second one of the same name keeps the sandbox from starting.
    #[cfg(feature = "consoles")]
    #[must_use]
    pub fn console(mut self, console: Console) -> Self {
        self.consoles.push(console);
        self
    }

    /// Applies [`forward`](Self::forward) and [`input`](Self::input) to the console of this name
    /// instead of the child's own streams: while it is open, its output goes to our stdout, and its
    /// input is our stdin. The child's own output goes to the log only. The console is also the
    /// default of [`attach`](super::Monitor::attach).
    #[cfg(feature = "consoles")]
    #[must_use]
    pub fn interactive(mut self, console: Name) -> Self {
        self.interactive = Some(console);
        self
    }

    /// The path of a console's log, whether there is such a console or not.
    pub fn console_log_path(&self, console: &Name) -> PathBuf {
        self.path_of_log(&self.log_of(console))
    }

    /// What the name of a console's log is without its ending.
    pub(crate) fn log_of(&self, console: &Name) -> String {
        names::further(self.name.as_str(), console.as_str())
    }

    /// Where the child's own output goes beside the log.
    pub(super) fn stdio_forward(&self) -> Forward {
        if self.interactive.is_some() { Forward::Off } else { self.forward }
    }

    /// What the child's own input is.
    pub(super) fn stdio_input(&self) -> Input {
        match self.input {
            Input::Forward if self.interactive.is_some() => Input::Null,
            input => input,
        }
    }

    /// The [rotate command](Self::rotate_command), unless it is empty.
    pub(super) fn post_rotate_command(&self) -> Option<&OsStr> {
        let command = self.rotate_command.as_deref();
        command.filter(|command| !is_blank(command))
    }

    /// The [stop command](Self::stop_command), unless it is empty.
    pub(super) fn command_of_stop(&self) -> Option<&OsStr> {
        let command = self.stop_command.as_deref();
        command.filter(|command| !is_blank(command))
    }

    /// The path of the log, whether there is [one](Self::log_off) or not.
    pub fn log_path(&self) -> PathBuf {
        self.path_of_log(self.name.as_str())
    }

    fn path_of_log(&self, name: &str) -> PathBuf {
        self.log_dir.join(self.config_file.as_str()).join(names::log(name))
    }

    /// The most bytes that its logs take on disk, with all that belongs to them: what
    /// [`LogOptions::disk_bound`] says of its own log and of each console's, with the
    /// [rotate command](Self::rotate_command) where there is one. 0 [without logs](Self::log_off);
    /// `None` where nothing bounds them. A console that a host gives a descriptor of is not counted.
    pub fn disk_bound(&self) -> Option<u64> {
        if self.log_off {
            return Some(0);
        }
        let each = self.log.disk_bound(self.post_rotate_command().is_some())?;
        Some(self.consoles.iter().fold(each, |sum, _| sum.saturating_add(each)))
    }
}

fn is_blank(command: &OsStr) -> bool {
    command.as_encoded_bytes().trim_ascii().is_empty()
}
