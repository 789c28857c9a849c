//! What was asked for: the command of a run and every option, as the record's `spec` has them.
//!
//! The column is a JSON object, written by [`Spec::to_json`] and read by [`Spec::parse`]:
//!
//! - A word or a path is a string; one that is not UTF-8 is `{"bytes": [104, 255, …]}`, so that a
//!   command can be started again as it was.
//! - A console is a word as `--console` takes it, with its name.
//! - Durations are seconds. What is absent or `null` was not asked for.
//! - `options` is whatever the program that started the run has added for itself.
//! - `log_dir` is relative to the state directory where it lies in it, and absolute elsewhere.
//! - `version` is 3. In version 2 a path of `log_dir` that is relative is one to the working
//!   directory. Without a version it was written by an earlier vmon, which also replaced bytes that
//!   are not UTF-8 with U+FFFD.
//!
//! The environment is in none of it: it holds secrets.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::state_dir::StateDir;
use crate::child::{Command, Signal};
use crate::logfile::{Format, LogOptions, Retention};
use crate::monitor::{
    Console, DEFAULT_STOP_TIMEOUT, Forward, Input, LogRate, Name, NameError, OnLogError, OverRate,
    Restart, Rootfs, Sandbox, Starting,
};

const VERSION: u64 = 3;

/// The first version in which a relative `log_dir` is one to the state directory.
const RELATIVE_TO_STATE: u64 = 3;

/// The command of a run, and the options it was started with; never the environment.
///
/// ```
/// use vmon::registry::Spec;
///
/// let spec = Spec::parse(r#"{"version": 3, "command": ["echo", {"bytes": [255]}]}"#).unwrap();
/// assert!(spec.exact);
/// assert_eq!(spec.to_command().unwrap().program(), "echo");
/// assert_eq!(Spec::parse(&spec.to_json().to_string()).unwrap(), spec);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// The program and its arguments; `None` for a child that a host has started itself and
    /// handed over, which can't be started from here.
    pub command: Option<Vec<OsString>>,
    /// The working directory, absolute; `None` where there is no command, or it was not known.
    pub directory: Option<PathBuf>,
    /// Whether the command runs on a PTY of its own.
    pub tty: bool,
    /// The root file system.
    pub rootfs: Option<Rootfs>,
    /// The directory above `<config_file>/<name>.log`. Absolute in a
    /// [`Run::spec`](super::Run::spec); as it is recorded in what [`parse`](Self::parse) returns.
    pub log_dir: PathBuf,
    /// What the log looks like, and how much of it is kept.
    pub log: LogOptions,
    /// What is run with each generation that has been rotated away.
    pub log_rotate_command: Option<OsString>,
    /// What happens while the log can't be written.
    pub on_log_error: OnLogError,
    /// How fast each source may fill the log; `None` is without limit.
    pub log_rate: Option<LogRate>,
    /// What becomes of the output beside the log.
    pub forward: Forward,
    /// What the child reads.
    pub input: Input,
    /// The consoles beside the child's own streams; those on descriptors of a host's are not.
    pub consoles: Vec<Console>,
    /// The console that `forward` and `input` are about.
    pub interactive: Option<Name>,
    /// The signal of a stop.
    pub stop_signal: Signal,
    /// How long after it the child is killed.
    pub stop_timeout: Duration,
    /// Whether a command that has ended is started again.
    pub restart: Restart,
    /// How long one run may take.
    pub max_duration: Option<Duration>,
    /// How long there may be neither output nor input.
    pub idle_timeout: Option<Duration>,
    /// Whether what the child leaves behind goes on.
    pub leave_descendants: bool,
    /// The directory of the cgroup that the child is in.
    pub cgroup: Option<PathBuf>,
    /// What the program that started the run has added:
    /// [`RegistryObserver::options`](super::RegistryObserver::options). `Null` where it is nothing.
    pub options: Value,
    /// Whether all of it is what was asked for. An earlier vmon did not keep bytes that are not
    /// UTF-8.
    pub exact: bool,
}

impl Spec {
    pub(super) fn of(starting: &Starting<'_>, options: &Value) -> Self {
        let sandbox = starting.sandbox;
        let command = starting.command;
        Self {
            command: command.map(words),
            directory: command.and_then(directory),
            tty: command.is_some_and(Command::wants_pty),
            rootfs: sandbox.rootfs.clone(),
            log_dir: sandbox.log_dir.clone(),
            log: sandbox.log,
            log_rotate_command: sandbox.rotate_command.clone(),
            on_log_error: sandbox.on_log_error,
            log_rate: sandbox.log_rate,
            forward: sandbox.forward,
            input: sandbox.input,
            consoles: sandbox.consoles.clone(),
            interactive: sandbox.interactive.clone(),
            stop_signal: sandbox.stop_signal,
            stop_timeout: sandbox.stop_timeout,
            restart: sandbox.restart,
            max_duration: sandbox.max_duration,
            idle_timeout: sandbox.idle_timeout,
            leave_descendants: sandbox.leave_descendants,
            cgroup: sandbox.cgroup.clone(),
            options: options.clone(),
            exact: true,
        }
    }

    /// Whether there may be consoles on record: those of a host's descriptors are not in here, but
    /// only a host has those.
    pub(super) fn has_consoles(&self) -> bool {
        !self.consoles.is_empty() || !self.options.is_object()
    }

    /// The command, to be started again; `None` for a child that was handed over.
    pub fn to_command(&self) -> Option<Command> {
        let (program, arguments) = self.command.as_deref()?.split_first()?;
        let command = Command::new(program).args(arguments).pty(self.tty);
        Some(match &self.directory {
            Some(directory) => command.current_dir(directory),
            None => command,
        })
    }

    /// The sandbox that it describes, under these names.
    ///
    /// # Errors
    ///
    /// A [`NameError`] for either name.
    pub fn to_sandbox(
        &self,
        name: impl Into<String>,
        config_file: impl Into<String>,
    ) -> Result<Sandbox, NameError> {
        let sandbox = Sandbox::new(name, config_file, &self.log_dir)?;
        Ok(Sandbox {
            log: self.log,
            rotate_command: self.log_rotate_command.clone(),
            on_log_error: self.on_log_error,
            log_rate: self.log_rate,
            rootfs: self.rootfs.clone(),
            forward: self.forward,
            input: self.input,
            consoles: self.consoles.clone(),
            interactive: self.interactive.clone(),
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            restart: self.restart,
            max_duration: self.max_duration,
            idle_timeout: self.idle_timeout,
            leave_descendants: self.leave_descendants,
            cgroup: self.cgroup.clone(),
            ..sandbox
        })
    }

    /// The most bytes that the sandbox's logs may take on disk: see [`Sandbox::disk_bound`].
    pub fn disk_bound(&self) -> Option<u64> {
        // Any name will do.
        self.to_sandbox("x", "x").ok()?.disk_bound()
    }

    /// The form of the record, but that `log_dir` is the path as it is here.
    pub fn to_json(&self) -> Value {
        let words = |words: &Vec<OsString>| words.iter().map(|word| bytes(word)).collect::<Value>();
        json!({
            "version": VERSION,
            "command": self.command.as_ref().map(words),
            "directory": path(self.directory.as_deref()),
            "tty": self.command.is_some().then_some(self.tty),
            "rootfs": self.rootfs.as_ref().map(rootfs),
            "log_dir": bytes(self.log_dir.as_os_str()),
            "log_max_size": self.log.retention.max_size,
            "log_max_files": self.log.retention.max_files,
            "log_max_age_seconds": self.log.retention.max_age.map(|time| time.as_secs_f64()),
            "log_rotate_every_seconds": self.log.retention.rotate_every.map(|time| time.as_secs_f64()),
            "log_total_size": self.log.retention.total_size,
            "log_rotate_command": self.log_rotate_command.as_deref().map(bytes),
            "log_format": log_format(self.log.format),
            "log_index": self.log.index,
            "log_rate": self.log_rate.map(|rate| rate.per_second.get()),
            "log_burst": self.log_rate.map(|rate| rate.burst),
            "over_rate": self.log_rate.map(|rate| over_rate(rate.over)),
            "on_log_error": on_log_error(self.on_log_error),
            "forward": forward(self.forward),
            "stdin": input(self.input),
            "consoles": self.consoles.iter().map(console).collect::<Value>(),
            "interactive": self.interactive.as_ref().map(Name::as_str),
            "stop_signal": signal(self.stop_signal),
            "stop_timeout_seconds": self.stop_timeout.as_secs_f64(),
            "restart": restart(self.restart),
            "max_duration_seconds": self.max_duration.map(|time| time.as_secs_f64()),
            "idle_timeout_seconds": self.idle_timeout.map(|time| time.as_secs_f64()),
            "leave_descendants": self.leave_descendants,
            "cgroup": path(self.cgroup.as_deref()),
            "options": self.options,
        })
    }

    /// What is recorded: [`to_json`](Self::to_json), with a `log_dir` that lies in the state
    /// directory relative to that.
    pub(super) fn to_record(&self, state: &StateDir) -> String {
        let log_dir = state.record(&self.log_dir);
        Self { log_dir, ..self.clone() }.to_json().to_string()
    }

    /// Reads what [`to_record`](Self::to_record) or an earlier vmon has written. `None`, with a
    /// warning, where the path of the log leads out of the state directory.
    pub(super) fn read(text: &str, state: &StateDir) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let spec = Self::of_value(&value, text)?;
        if value["version"].as_u64().is_none_or(|version| version < RELATIVE_TO_STATE) {
            return Some(spec);
        }
        let Some(log_dir) = state.resolve(&spec.log_dir) else {
            tracing::warn!(
                log_dir = %spec.log_dir.display(),
                "the options of a run on record are ignored: the log directory is not in the state \
                 directory",
            );
            return None;
        };
        Some(Self { log_dir, ..spec })
    }

    /// Reads what [`to_json`](Self::to_json), a record or an earlier vmon has written; `None` for
    /// anything that is not a JSON object.
    ///
    /// A path of `log_dir` that is relative is left as it is. In a record of version 3 it is
    /// relative to the state directory: [`Registry::runs`](super::Registry::runs) resolves it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_value(&serde_json::from_str(text).ok()?, text)
    }

    fn of_value(value: &Value, text: &str) -> Option<Self> {
        value.is_object().then_some(())?;
        let log_size = Retention::default();
        Some(Self {
            command: read_words(&value["command"]),
            directory: read_path(&value["directory"]),
            tty: value["tty"].as_bool().unwrap_or(false),
            rootfs: read_rootfs(&value["rootfs"]),
            log_dir: read_path(&value["log_dir"]).unwrap_or_default(),
            log: LogOptions {
                retention: Retention {
                    max_size: value["log_max_size"].as_u64().unwrap_or(log_size.max_size),
                    max_files: value["log_max_files"]
                        .as_u64()
                        .and_then(|files| files.try_into().ok())
                        .unwrap_or(log_size.max_files),
                    max_age: read_seconds(&value["log_max_age_seconds"]),
                    rotate_every: read_seconds(&value["log_rotate_every_seconds"]),
                    total_size: value["log_total_size"].as_u64(),
                },
                format: match value["log_format"].as_str() {
                    Some("cri") => Format::Cri,
                    Some("json") => Format::Json,
                    _ => Format::Raw,
                },
                index: value["log_index"].as_bool().unwrap_or(true),
            },
            log_rotate_command: read_bytes(&value["log_rotate_command"]),
            log_rate: read_rate(value),
            on_log_error: match value["on_log_error"].as_str() {
                Some("drop") => OnLogError::Drop,
                _ => OnLogError::Pause,
            },
            forward: match value["forward"].as_str() {
                Some("block") => Forward::Block,
                Some("drop") => Forward::Drop,
                _ => Forward::Off,
            },
            input: match value["stdin"].as_str() {
                Some("forward") => Input::Forward,
                Some("attached") => Input::Attached,
                _ => Input::Null,
            },
            consoles: read_words(&value["consoles"])
                .unwrap_or_default()
                .iter()
                .filter_map(|word| Console::try_from(word.as_os_str()).ok())
                .collect(),
            interactive: value["interactive"].as_str().and_then(|name| name.parse().ok()),
            stop_signal: read_signal(&value["stop_signal"]).unwrap_or(Signal::TERM),
            stop_timeout: read_seconds(&value["stop_timeout_seconds"])
                .unwrap_or(DEFAULT_STOP_TIMEOUT),
            restart: read_restart(&value["restart"]),
            max_duration: read_seconds(&value["max_duration_seconds"]),
            idle_timeout: read_seconds(&value["idle_timeout_seconds"]),
            leave_descendants: value["leave_descendants"].as_bool().unwrap_or(false),
            cgroup: read_path(&value["cgroup"]),
            options: value["options"].clone(),
            exact: value["version"].is_u64() || !text.contains('\u{fffd}'),
        })
    }
}

fn console(console: &Console) -> Value {
    bytes(&console.to_os_string())
}

fn log_format(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Cri => "cri",
        Format::Json => "json",
    }
}

fn words(command: &Command) -> Vec<OsString> {
    let arguments = command.arguments().iter().map(OsString::as_os_str);
    std::iter::once(command.program()).chain(arguments).map(OsStr::to_owned).collect()
}

fn directory(command: &Command) -> Option<PathBuf> {
    // An empty path is the working directory.
    std::path::absolute(
        command.directory().map_or(PathBuf::from("."), |path| Path::new(".").join(path)),
    )
    .ok()
}

fn bytes(word: &OsStr) -> Value {
    match word.to_str() {
        Some(text) => text.into(),
        None => json!({ "bytes": word.as_bytes() }),
    }
}

fn read_bytes(value: &Value) -> Option<OsString> {
    if let Some(text) = value.as_str() {
        return Some(text.into());
    }
    let numbers = value["bytes"].as_array()?.iter();
    let bytes: Option<Vec<u8>> = numbers.map(|byte| byte.as_u64()?.try_into().ok()).collect();
    bytes.map(OsString::from_vec)
}

fn read_words(value: &Value) -> Option<Vec<OsString>> {
    value.as_array()?.iter().map(read_bytes).collect()
}

pub(super) fn path(path: Option<&Path>) -> Value {
    path.map_or(Value::Null, |path| bytes(path.as_os_str()))
}

pub(super) fn read_path(value: &Value) -> Option<PathBuf> {
    read_bytes(value).map(PathBuf::from)
}

fn rootfs(rootfs: &Rootfs) -> Value {
    match rootfs {
        Rootfs::Native(path) => json!({ "native": bytes(path.as_os_str()) }),
        Rootfs::Overlayfs(layers) => {
            let layers: Value = layers.iter().map(|layer| bytes(layer.as_os_str())).collect();
            json!({ "overlayfs": layers })
        }
    }
}

fn read_rootfs(value: &Value) -> Option<Rootfs> {
    // An earlier vmon wrote what `rootfs_paths` has.
    if let Some(text) = value.as_str() {
        let (kind, paths) = text.split_once(':')?;
        return match kind {
            "native" => Some(Rootfs::Native(paths.into())),
            "overlayfs" => Some(Rootfs::Overlayfs(paths.split(':').map(PathBuf::from).collect())),
            _ => None,
        };
    }
    let native = read_path(&value["native"]).map(Rootfs::Native);
    let layers = || read_words(&value["overlayfs"]);
    native.or_else(|| {
        layers().map(|layers| Rootfs::Overlayfs(layers.into_iter().map(PathBuf::from).collect()))
    })
}

/// A real-time signal has no name of its own.
fn signal(signal: Signal) -> String {
    let name = signal.to_string();
    if name.parse() == Ok(signal) { name } else { signal.number().to_string() }
}

fn read_signal(value: &Value) -> Option<Signal> {
    let text = value.as_str()?;
    text.strip_prefix("signal ").unwrap_or(text).parse().ok()
}

fn read_seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// `no`, `always`, `on-failure` or `on-failure:N`.
fn restart(restart: Restart) -> String {
    match restart {
        Restart::No => "no".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::OnFailure { max: None } => "on-failure".to_owned(),
        Restart::OnFailure { max: Some(max) } => format!("on-failure:{max}"),
    }
}

fn read_restart(value: &Value) -> Restart {
    match value.as_str().map(|word| word.split_once(':').unwrap_or((word, ""))) {
        Some(("always", _)) => Restart::Always,
        Some(("on-failure", max)) => Restart::OnFailure { max: max.parse().ok() },
        _ => Restart::No,
    }
}

fn on_log_error(policy: OnLogError) -> &'static str {
    match policy {
        OnLogError::Pause => "pause",
        OnLogError::Drop => "drop",
    }
}

fn over_rate(over: OverRate) -> &'static str {
    match over {
        OverRate::Block => "block",
        OverRate::Drop => "drop",
    }
}

fn read_rate(value: &Value) -> Option<LogRate> {
    let rate = LogRate::new(NonZeroU64::new(value["log_rate"].as_u64()?)?);
    Some(LogRate {
        burst: value["log_burst"].as_u64().unwrap_or(rate.burst),
        over: match value["over_rate"].as_str() {
            Some("drop") => OverRate::Drop,
            _ => OverRate::Block,
        },
        ..rate
    })
}

fn forward(forward: Forward) -> &'static str {
    match forward {
        Forward::Off => "off",
        Forward::Block => "block",
        Forward::Drop => "drop",
    }
}

fn input(input: Input) -> &'static str {
    match input {
        Input::Null => "null",
        Input::Forward => "forward",
        Input::Attached => "attached",
    }
}

#[cfg(test)]
mod tests;
