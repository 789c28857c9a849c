//! What a sandbox is: its name, where its log goes, how its output is forwarded, how it is stopped.
//!
//! A description only. Nothing here touches the disk or a process.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::console::Console;
use crate::child::Signal;
use crate::logfile::{Format, LogOptions, Retention};

/// The namespace of a sandbox that names none: the ecosystem's default config file.
pub const DEFAULT_CONFIG_FILE: &str = "Sandboxfile";

/// How long a child has after the stop signal, unless told otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of a sandbox or of its config file.
///
/// Names become file names, so a name is exactly one path component:
/// `[A-Za-z0-9][A-Za-z0-9_.+-]*`, at most 128 bytes. No name can lead out of the log directory.
///
/// ```
/// use vmon::monitor::Name;
/// assert!("web-1".parse::<Name>().is_ok());
/// assert!("../../tmp/evil".parse::<Name>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// A name that could not be a file name of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name at all.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than [`Name::MAX_LEN`].
    #[error("the name {0:?} is too long: at most {max} bytes", max = Name::MAX_LEN)]
    TooLong(String),
    /// A byte that names do not have.
    #[error(
        "the name {0:?} is not allowed: a letter or digit first, then letters, digits, '_', '.', '+' and '-'"
    )]
    Character(String),
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] that says what a name may be.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let Some(first) = name.bytes().next() else {
            return Err(NameError::Empty);
        };
        if name.len() > Self::MAX_LEN {
            return Err(NameError::TooLong(name));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        if !first.is_ascii_alphanumeric() || !name.bytes().all(allowed) {
            return Err(NameError::Character(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The root file system of a sandbox. Recorded, never mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// One directory, used as it is.
    Native(PathBuf),
    /// Overlayfs layers, lowest first.
    Overlayfs(Vec<PathBuf>),
}

/// What becomes of the child's output beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forward {
    /// Log only.
    #[default]
    Off,
    /// To our stdout and stderr. While those do not keep up, the child is not read: it blocks on
    /// its full pipe, and nothing is lost.
    Block,
    /// To our stdout and stderr. What those do not take in time is left out, counted, and told to
    /// the reader in a line of its own; the child and its log go on.
    Drop,
}

/// What the child reads as its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Input {
    /// Nothing (but a terminal takes what is typed in a session): the null device (or, on a handed-over child, an input that is closed at once).
    #[default]
    Null,
    /// Our own stdin, up to its end. At most one sandbox of a process should take it.
    Forward,
    /// What those send who are attached: a pipe for that stays open, whether anybody is or not.
    Attached,
}

/// What happens while the log can't be written: a full disk, a quota, a file system gone
/// read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLogError {
    /// Stop reading the child and try again until it works. Nothing is lost.
    #[default]
    Pause,
    /// Go on, and count the bytes that the log lacks.
    Drop,
}

/// How fast each source of a sandbox may fill its log: by a token bucket.
///
/// Each of the child's streams has a bucket of its own, full at the start of each run. From the
/// child's end on, what it has left in its pipes is taken whatever the rate.
///
/// ```
/// use std::num::NonZeroU64;
/// use vmon::monitor::{LogRate, OverRate, Sandbox};
///
/// let rate = LogRate::new(NonZeroU64::new(1 << 20).unwrap());
/// assert_eq!((rate.burst, rate.over), (1 << 20, OverRate::Block));
/// let sandbox = Sandbox::new("web", "Sandboxfile", "/var/lib/host/log")?
///     .log_rate(LogRate { over: OverRate::Drop, ..rate });
/// # Ok::<(), vmon::monitor::NameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRate {
    /// Bytes a second.
    pub per_second: NonZeroU64,
    /// The most bytes at once, after a pause. Less than what comes within 10 ms at this rate (or
    /// the lesser of 4 KiB and what comes within 100 ms) counts as that.
    pub burst: u64,
    /// What happens to more.
    pub over: OverRate,
}

/// What happens to output beyond its [`LogRate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverRate {
    /// It is not read until its time has come. Whoever waits for its output to be taken waits;
    /// whoever does not leaves it out by himself.
    #[default]
    Block,
    /// It is read and left out: it gets neither into the log nor to anybody else. Once half of the
    /// burst may come again, or nothing is left, a line in its place says how many bytes those
    /// were; they count as dropped. It is read eight times as fast as the rate at most; more waits.
    Drop,
}

impl LogRate {
    /// The smallest burst that [`new`](Self::new) gives.
    const BURST: u64 = 64 << 10;

    /// So many bytes a second, at once what comes in a second, at least 64 KiB; more waits.
    pub fn new(per_second: NonZeroU64) -> Self {
        let burst = per_second.get().max(Self::BURST);
        Self { per_second, burst, over: OverRate::Block }
    }
}

/// Whether a command that has ended is started again. Never after a stop, whatever asked for it.
///
/// The first time after 100 ms, then after twice as long each time up to 30 s; once it has run for
/// ten seconds, the next time is a first one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// No.
    #[default]
    No,
    /// When it ended with another exit code than 0, or by a signal.
    OnFailure {
        /// How often at most, in all; `None` is without limit.
        max: Option<u32>,
    },
    /// However it ended.
    Always,
}

/// The description of one sandbox.
///
/// ```
/// use std::time::Duration;
/// use vmon::child::Signal;
/// use vmon::monitor::{Forward, Rootfs, Sandbox};
///
/// # fn main() -> Result<(), vmon::monitor::NameError> {
/// let sandbox = Sandbox::new("web", "Sandboxfile", "/var/lib/host/log")?
///     .rootfs(Rootfs::Native("/srv/rootfs".into()))
///     .forward(Forward::Block)
///     .stop_with(Signal::INT, Duration::from_secs(3));
/// assert_eq!(sandbox.name().as_str(), "web");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub(crate) name: Name,
    pub(crate) config_file: Name,
    pub(crate) config_last_modified: DateTime<Utc>,
    pub(crate) log_dir: PathBuf,
    pub(crate) log: LogOptions,
    pub(crate) rotate_command: Option<OsString>,
    pub(crate) on_log_error: OnLogError,
    pub(crate) log_rate: Option<LogRate>,
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) forward: Forward,
    pub(crate) input: Input,
    pub(crate) stop_signal: Signal,
    pub(crate) stop_timeout: Duration,
    pub(crate) restart: Restart,
    pub(crate) max_duration: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) leave_descendants: bool,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) consoles: Vec<Console>,
    pub(crate) interactive: Option<Name>,
}

impl Sandbox {
    /// A sandbox of this name in the namespace `config_file`, which logs to
    /// `<log_dir>/<config_file>/<name>.log`.
    ///
    /// Without further ado it forwards nothing, takes no input, has no root file system on
    /// record, is stopped with TERM and killed ten seconds later, and its config file counts as
    /// modified now.
    ///
    /// # Errors
    ///
    /// A [`NameError`] for either name.
    pub fn new(
        name: impl Into<String>,
        config_file: impl Into<String>,
        log_dir: impl Into<PathBuf>,
    ) -> Result<Self, NameError> {
        Ok(Self {
            name: Name::new(name)?,
            config_file: Name::new(config_file)?,
            config_last_modified: Utc::now().trunc_subsecs(6),
            log_dir: log_dir.into(),
            log: LogOptions::default(),
            rotate_command: None,
            on_log_error: OnLogError::default(),
            log_rate: None,
            rootfs: None,
            forward: Forward::default(),
            input: Input::default(),
            stop_signal: Signal::TERM,
            stop_timeout: DEFAULT_STOP_TIMEOUT,
            restart: Restart::No,
            max_duration: None,
            idle_timeout: None,
            leave_descendants: false,
            cgroup: None,
            consoles: Vec::new(),
            interactive: None,
        })
    }

    /// When the config file was last modified; recorded.
    #[must_use]
    pub fn config_last_modified(mut self, at: DateTime<Utc>) -> Self {
        self.config_last_modified = at;
        self
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

    /// How much of the log is kept: its size, and how many and which older generations stay.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.log.retention = retention;
        self
    }

    /// What is run with each generation of the log, and of each console's, when it has been rotated
    /// away: `gzip`, say, or `zstd -q --rm`. One without a word in it is none.
    ///
    /// It is run by `sh -c` with the generation's absolute path added as its last argument
    /// (`"$@"`), one at a time for all logs of the sandbox, which take turns, and never waited for:
    /// in a process group of its own, with the null device as its streams and no other descriptor, every signal at its default, nice 19 and, on
    /// Linux, idle I/O priority. Generations that are removed before their turn are skipped. A
    /// failure is a warning that names the path and the status; of a generation that is still
    /// there as it was then, a compressed one beside it is removed.
    ///
    /// It is no part of the sandbox: a stop does not concern it, the end of the run does not wait
    /// for it, and one that runs then goes on by itself, with those whose turn has not come after
    /// it, in one more shell. The reactor reaps them as long as it is polled. What a host or
    /// machine that went down has left undone is done when the log is opened again: the command is
    /// run once more for a generation whose end nobody has seen.
    #[must_use]
    pub fn rotate_command(mut self, command: impl Into<OsString>) -> Self {
        let command = command.into();
        let is_empty = command.as_encoded_bytes().trim_ascii().is_empty();
        self.rotate_command = (!is_empty).then_some(command);
        self
    }

    /// What the log looks like on disk.
    #[must_use]
    pub fn log_format(mut self, format: Format) -> Self {
        self.log.format = format;
        self
    }

    /// Whether a raw log has a time index beside it; it does unless told otherwise.
    #[must_use]
    pub fn log_index(mut self, index: bool) -> Self {
        self.log.index = index;
        self
    }

    /// What happens while the log can't be written.
    #[must_use]
    pub fn on_log_error(mut self, policy: OnLogError) -> Self {
        self.on_log_error = policy;
        self
    }

    /// How fast each of the child's streams may fill the log; without limit unless told otherwise.
    #[must_use]
    pub fn log_rate(mut self, rate: LogRate) -> Self {
        self.log_rate = Some(rate);
        self
    }

    /// The signal of a stop, and how long after it the child is killed.
    ///
    /// The same timeout bounds how long new bytes of a descendant are taken after the child's
    /// end.
    #[must_use]
    pub fn stop_with(mut self, signal: Signal, timeout: Duration) -> Self {
        self.stop_signal = signal;
        self.stop_timeout = timeout;
        self
    }

    /// Whether the command is started again when it has ended. A child that a host hands over
    /// never is.
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

    /// Whether what the child has left behind when it ends goes on running. Otherwise it gets the
    /// stop signal, and KILL after the stop timeout.
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

    /// Has [`forward`](Self::forward) and [`input`](Self::input) be about the console of this name,
    /// and no longer about the child's own streams: what comes from it goes to our stdout, and what
    /// it gets is our stdin, while it is open. The child's own output goes to the log alone then;
    /// and it is where [attaching](super::Monitor::attach) leads to that names nothing else.
    #[cfg(feature = "consoles")]
    #[must_use]
    pub fn interactive(mut self, console: Name) -> Self {
        self.interactive = Some(console);
        self
    }

    /// The consoles beside the child's own streams.
    pub fn consoles(&self) -> impl Iterator<Item = &Console> {
        self.consoles.iter()
    }

    /// The path of a console's log, whether there is such a console or not.
    pub fn console_log_path(&self, console: &Name) -> PathBuf {
        self.log_dir.join(self.config_file.as_str()).join(format!("{}.log", self.log_of(console)))
    }

    /// What the name of a console's log is without its ending.
    pub(crate) fn log_of(&self, console: &Name) -> String {
        format!("{}@{console}", self.name)
    }

    /// What becomes of the child's own output beside the log.
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

    /// The path of the log.
    pub fn log_path(&self) -> PathBuf {
        self.log_dir.join(self.config_file.as_str()).join(format!("{}.log", self.name))
    }

    /// The most bytes that its logs take on disk, with all that belongs to them: what
    /// [`LogOptions::disk_bound`] says of its own log and of each console's, with the
    /// [rotate command](Self::rotate_command) where there is one. `None` where nothing bounds them. A
    /// console that a host gives a descriptor of is not counted.
    pub fn disk_bound(&self) -> Option<u64> {
        let each = self.log.disk_bound(self.rotate_command.is_some())?;
        Some(self.consoles().fold(each, |sum, _| sum.saturating_add(each)))
    }

    /// The sandbox's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The namespace of its log and record.
    pub fn config_file(&self) -> &Name {
        &self.config_file
    }

    /// When its config file was last modified.
    pub fn modified(&self) -> DateTime<Utc> {
        self.config_last_modified
    }

    /// The directory above `<config_file>/<name>.log`.
    pub fn log_dir(&self) -> &std::path::Path {
        &self.log_dir
    }

    /// Its root file system, where one was given.
    pub fn root(&self) -> Option<&Rootfs> {
        self.rootfs.as_ref()
    }
}
