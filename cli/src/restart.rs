//! `vmon restart`: a sandbox stopped, and started again as the record says it was started.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::AccessFlags;
use vmon::child::Signal;
use vmon::logfile::Format;
use vmon::monitor::{Input, LogRate, Name, OnLogError, OverRate, Restart, Rootfs, STDIO};
use vmon::registry::{Registry, Run, Spec};
use vmon::terminal::Messages;

use super::restarting::Restarting;
use super::run::detach::{self, Started};
use super::run::options::{Options, argument};
use super::select::{Names, Record, Recorded, Tally};
use super::shared::{Places, SharedArgs, check_directory};
use super::{Failure, args, live, owner, reason, stop};

/// Stop sandboxes if they run, and start them again in the background
///
/// The command, its directory and all options are those on record. The environment is never
/// recorded: it is the one of this 'vmon restart', also where --env had changed it. What had a
/// terminal gets one of its own, for 'vmon attach'. Prints NAME PID of each, as 'vmon run -d' does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vmon restart web              stop it, and start it again
  vmon restart web --timeout 2  killed when it has not stopped after two seconds")]
pub struct RestartArgs {
    #[command(flatten)]
    names: Names,

    /// How long after the stop signal the command is killed [default: as the sandbox was started]
    #[arg(long, short, value_name = "TIME", value_parser = args::time)]
    timeout: Option<Duration>,

    #[command(flatten)]
    pub shared: SharedArgs,
}

/// Why a sandbox can't be started from its record. Nothing has been stopped then.
#[derive(Debug, thiserror::Error)]
enum SpecError {
    #[error("another program runs it, and the record has no command: restart it there")]
    NoSpec,
    #[error("its host has started the command itself, and the record has none: restart it there")]
    NoCommand,
    #[error("an earlier vmon recorded it, and not every byte: start it anew with 'vmon run'")]
    NotExact,
    #[error("the options on record are not of 'vmon run': start it anew with 'vmon run'")]
    NotOurs,
    #[error(
        "the record is of another user (uid {0}), whose command is not to run as ours: restart it as that user"
    )]
    Stranger(u32),
    #[error(
        "another user could have written its record, whose command is not to run as ours: see that no other user can write to the database and its directory"
    )]
    Exposed,
    #[error("can't use its working directory {path}: {reason}", path = .0.display(), reason = .1)]
    Directory(PathBuf, &'static str),
}

/// Stops those that can be started again, all at once, and starts each.
pub fn restart(args: RestartArgs, messages: &Messages) -> Result<u8, Failure> {
    let places = args.shared.places()?;
    let mut tally = Tally::new(messages);
    // The owner of the record chooses the command: root in particular is not to run it.
    if let Some(owner) = owner::foreign(&places.db.path) {
        for name in &args.names.names {
            tally.failed(&format!("can't restart {name}: {}", SpecError::Stranger(owner)));
        }
        return Ok(tally.code());
    }
    let record = Record::read(&args.shared)?;
    let trust = record.registry().map_or(Ok(()), Registry::check_trust);
    let mut commands: Vec<(&Recorded, Vec<OsString>)> = Vec::new();
    let mut told = Vec::new();
    for sandbox in record.select(&args.names.names, &mut tally) {
        if let Err(error) = &trust {
            tally.failed(&format!("can't restart {sandbox}: {error}"));
            continue;
        }
        match sandbox.latest().ok_or(SpecError::NoSpec).and_then(|run| arguments(run, &places)) {
            Ok(arguments) => {
                commands.push((sandbox, arguments));
                told.push(Restarting::tell(&places, sandbox));
            }
            Err(error) => tally.failed(&format!("can't restart {sandbox}: {error}")),
        }
    }
    let sandboxes: Vec<&Recorded> = commands.iter().map(|(sandbox, _)| *sandbox).collect();
    let stopped = stop::stop_all(&record, &sandboxes, args.timeout, &mut tally);
    for ((sandbox, arguments), _told) in commands.into_iter().zip(told) {
        if stopped.iter().any(|other| std::ptr::eq(*other, sandbox)) {
            start(sandbox, arguments, messages, &mut tally);
        }
    }
    Ok(tally.code())
}

fn start(sandbox: &Recorded, arguments: Vec<OsString>, messages: &Messages, tally: &mut Tally<'_>) {
    // It writes the exit file and runs the command of --on-exit after the end.
    let last = sandbox.latest().filter(|run| live::is_commands(run));
    if let Some(Err(error)) = last.map(live::supervisor_gone) {
        tally.failed(&format!("can't restart {sandbox}: {error}"));
        return;
    }
    match detach::start(arguments, Some(&sandbox.name), messages) {
        // The others have been stopped, and are to be started whether anybody reads this or not.
        Ok(Started::Running { name, pid }) => {
            if let Err(failure) = detach::tell_start(&name, pid) {
                tally.failed(&failure.to_string());
            }
        }
        Ok(Started::Failed { why, .. }) => {
            tally.failed(&format!("can't restart {sandbox}: {why}"));
        }
        Err(failure) => tally.failed(&format!("can't restart {sandbox}: {failure}")),
    }
}

/// The `vmon run` that starts the same again.
fn arguments(run: &Run, places: &Places) -> Result<Vec<OsString>, SpecError> {
    let spec = run.spec.as_ref().ok_or(SpecError::NoSpec)?;
    let command = spec.command.as_ref().ok_or(SpecError::NoCommand)?;
    if !spec.exact {
        return Err(SpecError::NotExact);
    }
    if !run.trusted {
        return Err(SpecError::Exposed);
    }
    let own = Options::arguments(&spec.options).ok_or(SpecError::NotOurs)?;
    if let Some(directory) = &spec.directory {
        check_directory(directory, AccessFlags::X_OK)
            .map_err(|error| SpecError::Directory(directory.clone(), reason(&error)))?;
    }
    let mut arguments: Vec<OsString> = vec!["vmon".into(), "run".into(), "--detach".into()];
    let mut add = |name: &str, value: &OsStr| arguments.push(argument(name, value));
    add("state-dir", places.state_dir.as_os_str());
    add("db", places.db.path.as_os_str());
    add("name", run.name.as_ref());
    add("config-file", run.config_file.as_ref());
    add_spec(spec, &mut add);
    if !Options::has(&spec.options, "runtime-dir") {
        // Without it VMON_RUNTIME_DIR would choose another one.
        add("runtime-dir", places.runtime_dir().as_os_str());
    }
    if spec.leave_descendants {
        arguments.push("--leave-descendants".into());
    }
    arguments.extend(own);
    arguments.push("--".into());
    arguments.extend(command.iter().cloned());
    Ok(arguments)
}

fn add_spec(spec: &Spec, add: &mut impl FnMut(&str, &OsStr)) {
    let retention = &spec.log.retention;
    add("log-dir", spec.log_dir.as_os_str());
    add("log-format", log_format(spec.log.format).as_ref());
    add("log-max-size", retention.max_size.to_string().as_ref());
    add("log-max-files", retention.max_files.to_string().as_ref());
    if let Some(total) = retention.total_size {
        add("log-total-size", total.to_string().as_ref());
    }
    if let Some(command) = &spec.log_rotate_command {
        add("log-rotate-command", command);
    }
    add("log-index", if spec.log.index { "on" } else { "off" }.as_ref());
    if let Some(LogRate { per_second, burst, over }) = spec.log_rate {
        add("log-rate", format!("{per_second}/s,burst={burst}").as_ref());
        add("over-rate", over_rate(over).as_ref());
    }
    add("on-log-error", on_log_error(spec.on_log_error).as_ref());
    add("tty", if spec.tty { "always" } else { "never" }.as_ref());
    add("stdin", stdin(spec).as_ref());
    for console in &spec.consoles {
        add("console", &console.to_os_string());
    }
    let interactive = spec.interactive.as_ref().map_or(STDIO, Name::as_str);
    add("interactive", interactive.as_ref());
    add("stop-signal", signal(spec.stop_signal).as_ref());
    add("stop-timeout", time(spec.stop_timeout).as_ref());
    add("restart", restart_word(spec.restart).as_ref());
    let mut add_path = |name, path: Option<&PathBuf>| {
        if let Some(path) = path {
            add(name, path.as_os_str());
        }
    };
    add_path("cwd", spec.directory.as_ref());
    add_path("cgroup", spec.cgroup.as_ref());
    match &spec.rootfs {
        Some(Rootfs::Native(path)) => add_path("native-rootfs", Some(path)),
        Some(Rootfs::Overlayfs(layers)) => {
            layers.iter().for_each(|layer| add_path("overlayfs-layer", Some(layer)));
        }
        None => {}
    }
    let times = [
        ("max-duration", spec.max_duration),
        ("idle-timeout", spec.idle_timeout),
        ("log-max-age", retention.max_age),
        ("log-rotate-every", retention.rotate_every),
    ];
    for (name, value) in times {
        if let Some(value) = value {
            add(name, time(value).as_ref());
        }
    }
}

fn log_format(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Cri => "cri",
        Format::Json => "json",
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

/// Our own stdin is gone with the terminal or shell where it was started. Of a terminal those who
/// attach take its place; a pipe that nobody writes to would only never end.
fn stdin(spec: &Spec) -> &'static str {
    match (spec.input, spec.tty) {
        (Input::Attached, _) | (Input::Forward, true) => "forward",
        (Input::Forward, false) | (Input::Null, _) => "null",
    }
}

/// A real-time signal has no name.
fn signal(signal: Signal) -> String {
    signal.number().to_string()
}

/// In milliseconds, rounded up: none becomes 0. What is longer than an option can say is as long
/// as it can.
fn time(time: Duration) -> String {
    let milliseconds = time.as_nanos().div_ceil(1_000_000).min(args::MAX_TIME.as_millis());
    format!("{milliseconds}ms")
}

fn restart_word(restart: Restart) -> String {
    match restart {
        Restart::No => "no".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::OnFailure { max: None } => "on-failure".to_owned(),
        Restart::OnFailure { max: Some(max) } => format!("on-failure:{max}"),
    }
}
